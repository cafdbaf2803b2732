"""Conversions between f32 and the 8-bit floats, for whole vectors; NaN stays NaN, what is too large becomes
the largest finite number.

To f32 the code is placed in an f16 of the same exponent range where there is one: every vector unit widens
that exactly, subnormals included and whatever the flush mode. From f32 the mantissa is rounded in integers.
"""

from __future__ import annotations

from headrace.codegen.cpu.float8 import FLOAT8, Float8
from headrace.codegen.cpu.vector.context import Context, const, vector_type

NAMES = frozenset(FLOAT8)


def widen(g: Context, value: str, width: int, element: str) -> str:
    """An 8-bit float as f32."""
    form = FLOAT8[element]
    if form.mantissa == 2:
        return _through_f16(g, value, width) if form.bias == 15 else _by_parts(g, value, width, form)
    bt, ht, st = (vector_type(t, width) for t in ("i8", "half", "i16"))
    ft = vector_type("float", width)
    # Sign-extended and shifted, the sign fills the bits above the magnitude: all but the top one are cleared.
    moved = g.op("shl", st, g.cast("sext", bt, value, st), g.splat("i16", "7", width))
    bits = g.op("and", st, moved, g.splat("i16", const("i16", 0x8000 | 0x7F << 7), width))
    small = g.cast("fpext", ht, g.bitcast(st, bits, ht), ft)
    scaled = g.op("fmul", ft, small, g.splat("float", const("float", 2.0 ** (15 - form.bias)), width))
    return _unless_nan(g, value, scaled, width, form)


def _through_f16(g: Context, value: str, width: int) -> str:
    """e5m2 is the upper half of an f16."""
    bt, ht, st = (vector_type(t, width) for t in ("i8", "half", "i16"))
    bits = g.op("shl", st, g.cast("zext", bt, value, st), g.splat("i16", "8", width))
    return g.cast("fpext", ht, g.bitcast(st, bits, ht), vector_type("float", width))


def _by_parts(g: Context, value: str, width: int, form: Float8) -> str:
    """The exponent is moved to that of an f32; where it is zero, one is added to the mantissa and taken off
    again."""
    bt, it, ft = (vector_type(t, width) for t in ("i8", "i32", "float"))

    def k(n: int) -> str:
        return g.splat("i32", const("i32", n), width)

    code = g.cast("zext", bt, value, it)
    moved = g.op("shl", it, g.op("and", it, code, k(127)), k(23 - form.mantissa))
    normal = g.op("add", it, moved, k((127 - form.bias) << 23))
    with_one = g.bitcast(it, g.op("add", it, moved, k((128 - form.bias) << 23)), ft)
    one = g.splat("float", const("float", 2.0 ** (1 - form.bias)), width)
    subnormal = g.bitcast(ft, g.op("fsub", ft, with_one, one), it)
    small = g.e.pure(f"icmp ult {it} {moved}, {k(1 << 23)}", (moved,))
    magnitude = g.select(vector_type("i1", width), small, it, subnormal, normal)
    sign = g.op("shl", it, g.op("and", it, code, k(128)), k(24))
    return _unless_nan(g, value, g.bitcast(it, g.op("or", it, magnitude, sign), ft), width, form)


def _unless_nan(g: Context, value: str, number: str, width: int, form: Float8) -> str:
    bt, ft = vector_type("i8", width), vector_type("float", width)
    code = value
    if form.nan < 0x80:  # of either sign
        code = g.op("and", bt, value, g.splat("i8", "127", width))
    is_nan = g.e.pure(f"icmp eq {bt} {code}, {g.splat('i8', const('i8', form.nan), width)}", (code,))
    quiet = g.splat("float", const("float", float("nan")), width)
    return g.select(vector_type("i1", width), is_nan, ft, quiet, number)


def narrow(g: Context, value: str, width: int, element: str) -> str:
    """f32 rounded to an 8-bit float, to nearest, ties to even."""
    form = FLOAT8[element]
    it, ft, ct = (vector_type(t, width) for t in ("i32", "float", "i1"))

    def k(n: int) -> str:
        return g.splat("i32", const("i32", n), width)

    shift = 23 - form.mantissa
    bits = g.bitcast(ft, value, it)
    magnitude = g.op("and", it, bits, k(0x7FFFFFFF))
    # Normal results: round the f32 mantissa, then take the difference of the biases off the exponent.
    lowest = g.op("and", it, g.op("lshr", it, magnitude, k(shift)), k(1))
    biased = g.op("add", it, magnitude, g.op("add", it, lowest, k((1 << (shift - 1)) - 1)))
    normal = g.op("sub", it, g.op("lshr", it, biased, k(shift)), k((127 - form.bias) << form.mantissa))
    # Subnormal results are a whole number of the smallest step: adding the float whose last place is one step
    # rounds to it.
    exponent = 1 - form.bias - form.mantissa + 23
    absolute = g.bitcast(it, magnitude, ft)
    rounded = g.op("fadd", ft, absolute, g.splat("float", const("float", 2.0**exponent), width))
    subnormal = g.op("sub", it, g.bitcast(ft, rounded, it), k((127 + exponent) << 23))
    least = g.splat("float", const("float", 2.0 ** (1 - form.bias)), width)
    small = g.e.pure(f"fcmp olt {ft} {absolute}, {least}", (absolute,))
    code = g.select(ct, small, it, subnormal, normal)
    name = f"llvm.umin.v{width}i32" if width else "llvm.umin.i32"
    code = g.call(name, it, (it, code), (it, k(form.top)))
    sign = g.op("and", it, g.op("lshr", it, bits, k(24)), k(128))
    if form.nan == 0x80:  # there is no -0
        zero = g.e.pure(f"icmp eq {it} {code}, {k(0)}", (code,))
        sign = g.select(ct, zero, it, k(0), sign)
    is_nan = g.e.pure(f"fcmp uno {ft} {value}, {value}", (value,))
    code = g.select(ct, is_nan, it, k(form.nan), code)
    return g.cast("trunc", it, g.op("or", it, code, sign), vector_type("i8", width))
