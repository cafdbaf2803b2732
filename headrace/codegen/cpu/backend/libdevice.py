"""``triton.language.extra.libdevice`` for the CPU: C math functions under libdevice's names.

Each function takes float32 or float64, scalars or blocks. A name ending in ``f`` is the C function for
float32, as in the C library; predicates give int32, as libdevice's do. What the engine can express itself
starts with ``headrace_``.
"""

from __future__ import annotations

from typing import Any

from triton.language import core

_F32, _F64, _I32 = core.dtype("fp32"), core.dtype("fp64"), core.dtype("int32")


def _function(name: str, c_name: str, arity: int, *, integer: bool = False, last_int: bool = False) -> Any:
    table = {}
    for kind, suffix in ((_F32, "f"), (_F64, "")):
        args = (kind,) * (arity - 1) + (_I32,) if last_int else (kind,) * arity
        table[args] = (c_name + suffix, _I32 if integer else kind)

    def call(*args: Any, _semantic: Any = None) -> Any:
        if len(args) != arity:
            raise TypeError(f"libdevice.{name} takes {arity} arguments, not {len(args)}")
        return core.extern_elementwise("", "", list(args), table, is_pure=True, _semantic=_semantic)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Elementwise ``{c_name}``."
    return core.extern(call)


_SAME_NAME = [
    "floor",
    "ceil",
    "trunc",
    "exp",
    "exp2",
    "exp10",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "cbrt",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "erf",
    "erfc",
    "lgamma",
    "tgamma",
    "rint",
    "nearbyint",
    "round",
    "logb",
    "j0",
    "j1",
    "y0",
    "y1",
]
_TWO = ["pow", "atan2", "fmod", "remainder", "hypot", "copysign", "nextafter", "fdim"]
_RENAMED = {
    "abs": "fabs",
    "fast_tanhf": "tanh",
    "fast_expf": "exp",
    "fast_logf": "log",
    "fast_log2f": "log2",
    "fast_log10f": "log10",
    "fast_exp10f": "exp10",
    "fast_sinf": "sin",
    "fast_cosf": "cos",
    "fast_tanf": "tan",
    "sqrt_rn": "sqrt",
    "rsqrt": "headrace_rsqrt",
    "rsqrt_rn": "headrace_rsqrt",
}
_PREDICATES = {
    "isnan": "headrace_isnan",
    "isinf": "headrace_isinf",
    "signbit": "headrace_signbit",
    "finitef": "headrace_isfinite",
    "isfinited": "headrace_isfinite",
    "ilogb": "ilogb",
}

globals().update({n: _function(n, n, 1) for n in _SAME_NAME})
globals().update({n: _function(n, n, 2) for n in _TWO})
globals().update({n: _function(n, c, 1) for n, c in _RENAMED.items()})
globals().update({n: _function(n, c, 1, integer=True) for n, c in _PREDICATES.items()})
globals().update({n: _function(n, "ldexp", 2, last_int=True) for n in ("ldexp", "scalbn")})
fast_powf = _function("fast_powf", "pow", 2)
fma = _function("fma", "fma", 3)
