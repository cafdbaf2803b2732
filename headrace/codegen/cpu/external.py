"""Names of libdevice's functions: what a symbol of ``tt.extern_elementwise`` means.

``__nv_tanhf`` is tanh in f32, ``__nv_fadd_rd`` an addition rounded down, ``__nv_double2int_rz`` a conversion.
Operand types say the width, so a :class:`Function` does not repeat it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "__nv_"

# One result per element, the same in f32 (name with an f) and f64.
_MATH = """
abs floor ceil trunc rint nearbyint round exp exp2 exp10 expm1 log log2 log10 log1p sqrt rsqrt cbrt rcbrt
sin cos tan sinpi cospi asin acos atan sinh cosh tanh asinh acosh atanh erf erfc erfcx erfinv erfcinv
normcdf normcdfinv
lgamma tgamma logb ilogb j0 j1 y0 y1 cyl_bessel_i0 cyl_bessel_i1 llround llrint
pow atan2 fmod remainder hypot rhypot copysign nextafter fdim fma norm3d rnorm3d norm4d rnorm4d
jn yn ldexp scalbn powi isnan isinf isfinite signbit
"""
MATH = frozenset(_MATH.split())
INTEGER = {
    "clz": "clz", "clzll": "clz", "popc": "popc", "popcll": "popc", "brev": "brev", "brevll": "brev",
    "ffs": "ffs", "ffsll": "ffs", "abs": "iabs", "llabs": "iabs", "byte_perm": "byte_perm", "mulhi": "mulhi",
    "umulhi": "umulhi", "mul64hi": "mulhi", "umul64hi": "umulhi", "mul24": "mul24", "umul24": "umul24",
    "sad": "sad", "usad": "usad", "hadd": "hadd", "uhadd": "uhadd", "rhadd": "rhadd", "urhadd": "urhadd",
}  # fmt: skip
BITS = {
    "int_as_float": "bits", "float_as_int": "bits", "uint_as_float": "bits", "float_as_uint": "bits",
    "longlong_as_double": "bits", "double_as_longlong": "bits", "hiloint2double": "hiloint2double",
    "double2loint": "double2loint", "double2hiint": "double2hiint",
    "saturatef": "saturate", "rcp64h": "rcp64h",
}  # fmt: skip
# libdevice's own spellings of what MATH names otherwise.
_SPELLED = {
    "fabs": "abs", "isnand": "isnan", "isnanf": "isnan", "isinfd": "isinf", "isinff": "isinf",
    "finitef": "isfinite", "isfinited": "isfinite", "signbitf": "signbit", "signbitd": "signbit",
    "fast_fdividef": "divide", "powif": "powi",
    **{f"fast_{n}f": n for n in ("sin", "cos", "tan", "exp", "exp10", "log", "log2", "log10", "pow", "tanh")},
}  # fmt: skip
_DIRECTED = re.compile(r"[fd](add|sub|mul|div|rcp|sqrt|rsqrt)_(rn|rz|rd|ru)|(fma)f?_(rn|rz|rd|ru)")
_CONVERSION = re.compile(r"(double|float|int|uint|ll|ull)2(double|float|int|uint|ll|ull)_(rn|rz|rd|ru)")


@dataclass(frozen=True)
class Function:
    """``name`` with its rounding (empty where the name has none). For a conversion ``name`` is ``convert``,
    and the two flags say which side is unsigned."""

    name: str
    rounding: str = ""
    from_unsigned: bool = False
    to_unsigned: bool = False


def function_of(symbol: str) -> Function | None:
    """What a symbol means; None if it is none of libdevice's."""
    if not symbol.startswith(PREFIX):
        return None
    name = symbol[len(PREFIX) :]
    if found := _DIRECTED.fullmatch(name):
        return Function(found[1] or found[3], found[2] or found[4])
    if found := _CONVERSION.fullmatch(name):
        return Function("convert", found[3], found[1].startswith("u"), found[2].startswith("u"))
    if name in INTEGER:
        return Function(INTEGER[name])
    if name in BITS:
        return Function(BITS[name])
    name = _SPELLED.get(name, name)
    if name in MATH or name == "divide":
        return Function(name)
    if name.endswith("f") and _SPELLED.get(name[:-1], name[:-1]) in MATH:
        return Function(_SPELLED.get(name[:-1], name[:-1]))
    return None
