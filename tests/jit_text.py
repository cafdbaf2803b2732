"""A ``@triton.jit`` function from a module's text: Triton reads its source from a file."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
from typing import Any


def load_kernel(text: str, folder: pathlib.Path, name: str = "kernel") -> Any:
    """The function ``name`` of the module, which is written into ``folder``."""
    path = folder / f"kernel_{hashlib.sha256(text.encode()).hexdigest()[:16]}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)
