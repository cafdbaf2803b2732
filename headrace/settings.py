"""The one place that reads the environment. Imports nothing heavy: Triton reaches it while it is being
imported.
"""

from __future__ import annotations

import os


def cpu_engine_enabled() -> bool:
    """False when ``HEADRACE_CPU_ENGINE=off`` keeps the Triton CPU driver inactive."""
    return os.environ.get("HEADRACE_CPU_ENGINE", "on").strip().lower() not in ("off", "0", "false", "no")


def cpu_features() -> str:
    """``HEADRACE_CPU_FEATURES``: ``native`` (default), ``avx512``, ``avx2`` or ``baseline``."""
    return os.environ.get("HEADRACE_CPU_FEATURES", "native").strip().lower() or "native"


def environment() -> dict[str, str]:
    """Every ``HEADRACE_*`` variable. `headrace.configuration` gives them types, and the files their turn."""
    return {name: value for name, value in os.environ.items() if name.startswith("HEADRACE_")}


def kernel_directory() -> str:
    """Where rendered kernels are written: ``HEADRACE_CACHE_DIR/kernels``, by default in the user's cache
    directory.
    """
    base = os.environ.get("HEADRACE_CACHE_DIR", "").strip()
    if not base:
        import platformdirs

        base = platformdirs.user_cache_dir("headrace")
    return os.path.join(os.path.expanduser(base), "kernels")
