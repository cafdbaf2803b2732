"""``triton.language.extra.libdevice`` for the CPU: all of libdevice, with Triton's names and types.

The engine knows the functions by libdevice's symbols (:mod:`headrace.codegen.cpu.external`), so kernels that
import ``triton.language.extra.cuda.libdevice`` directly work as well.
"""

from __future__ import annotations

from typing import Any

from triton.language import core
from triton.language.extra.cuda import libdevice as _table

NAMES = tuple(
    n for n, f in vars(_table).items() if callable(f) and getattr(f, "__module__", "") == _table.__name__
)
globals().update({name: getattr(_table, name) for name in NAMES})


@core.extern  # type: ignore[untyped-decorator]  # triton ships no types
def fast_tanhf(arg0: Any, _semantic: Any = None) -> Any:
    """tanh of a float32; libdevice has it for AMD only."""
    kind = core.dtype("fp32")
    return core.extern_elementwise(
        "", "", [arg0], {(kind,): ("__nv_fast_tanhf", kind)}, is_pure=True, _semantic=_semantic
    )
