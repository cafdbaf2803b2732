"""Conversions between number formats: floats of 8, 16, 32 and 64 bits, and integers.

To nearest, ties to even, NaN kept, each with a single rounding. bf16 lives in i16 lanes.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import FLOATS, SIZES, Context, vector_type
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.lanes import float8

NARROW = frozenset({"half", "bfloat"}) | float8.NAMES  # computed in f32


def widen(g: Context, value: str, width: int, element: str) -> str:
    """f16, bf16 or an 8-bit float as f32."""
    if element in float8.NAMES:
        return float8.widen(g, value, width, element)
    if element == "bfloat":
        it = vector_type("i32", width)
        wide = g.cast("zext", vector_type("i16", width), value, it)
        return g.bitcast(it, g.op("shl", it, wide, g.splat("i32", "16", width)), vector_type("float", width))
    return g.cast("fpext", vector_type(element, width), value, vector_type("float", width))


def narrow(g: Context, value: str, width: int, element: str) -> str:
    """f32 rounded to f16, bf16 or an 8-bit float."""
    return narrow_all(g, [value], width, element)[0]


def narrow_all(g: Context, values: Values, width: int, element: str) -> Values:
    """Several vectors of f32, rounded side by side."""
    if element in float8.NAMES:
        return [float8.narrow(g, v, width, element) for v in values]
    if element != "bfloat":
        ft, vt = vector_type("float", width), vector_type(element, width)
        return [g.cast("fptrunc", ft, v, vt) for v in values]
    # What exists outside of the loop is better rounded there, where a branch would not follow.
    if g.machine.bf16_dot and width >= 4 and all(g.e.depth(v) == g.e.level for v in values):
        return _native_bf16(g, values, width)
    return [_bf16_bits(g, v, width) for v in values]


def flush_to_bf16(g: Context, value: str, width: int) -> str:
    """f32 rounded to bf16 by the processor's instruction, which takes subnormal numbers for zero."""
    native = f"<{width} x bfloat>"
    return g.bitcast(
        native, g.cast("fptrunc", vector_type("float", width), value, native), f"<{width} x i16>"
    )


def _native_bf16(g: Context, values: Values, width: int) -> Values:
    """The processor's instruction, unless one of the numbers is subnormal, which hardly ever happens."""
    ft, bt, vt = (vector_type(t, width) for t in ("float", "i1", "bfloat"))
    quick = [flush_to_bf16(g, v, width) for v in values]
    # LLVM makes several instructions of its own llvm.is.fpclass.
    name, kind = (
        ("llvm.x86.avx512.fpclass.ps.512", 0x20) if width == 16 else (f"llvm.is.fpclass.v{width}f32", 0x90)
    )
    lanes = "zeroinitializer"
    for value in values:
        found = g.call(name, bt, (ft, value), ("i32", str(kind)))
        lanes = found if lanes == "zeroinitializer" else g.op("or", bt, lanes, found)
    some = g.bitcast(bt, lanes, f"i{width}")
    any_ = g.e.pure(f"icmp ne i{width} {some}, 0", (some,))

    def exact() -> Values:
        return [_bf16_bits(g, v, width) for v in values]

    return g.e.branch(any_, [vt] * len(values), exact, lambda: quick, rare=True)


def _bf16_bits(g: Context, value: str, width: int) -> str:
    ft, it = vector_type("float", width), vector_type("i32", width)

    def k(n: int) -> str:
        return g.splat("i32", str(n), width)

    bits = g.bitcast(ft, value, it)
    odd = g.op("and", it, g.op("lshr", it, bits, k(16)), k(1))
    rounded = g.op("lshr", it, g.op("add", it, g.op("add", it, bits, k(0x7FFF)), odd), k(16))
    quiet = g.op("or", it, g.op("lshr", it, bits, k(16)), k(64))
    nan = g.e.pure(f"fcmp uno {ft} {value}, {value}", (value,))
    chosen = g.select(vector_type("i1", width), nan, it, quiet, rounded)
    return g.cast("trunc", it, chosen, vector_type("bfloat", width))


def cast_float(g: Context, value: str, width: int, source: str, target: str) -> str:
    """Between float types, through f32 where one side has 16 bits or fewer."""
    if source == target:
        return value
    if source in float8.NAMES and target == "bfloat":  # exact: the upper half of the f32
        it = vector_type("i32", width)
        bits = g.bitcast(vector_type("float", width), widen(g, value, width, source), it)
        high = g.op("lshr", it, bits, g.splat("i32", "16", width))
        return g.cast("trunc", it, high, vector_type(target, width))
    if source in NARROW:
        value, source = widen(g, value, width, source), "float"
    if target in NARROW:
        if source == "double":
            value = _double_to_odd(g, value, width)
        return narrow(g, value, width, target)
    if source == target:
        return value
    name = "fpext" if SIZES[source] < SIZES[target] else "fptrunc"
    return g.cast(name, vector_type(source, width), value, vector_type(target, width))


def _double_to_odd(g: Context, value: str, width: int) -> str:
    """f64 to f32 rounded to odd, so that a second rounding to 16 bits is as good as one."""
    dt, ft, it = vector_type("double", width), vector_type("float", width), vector_type("i32", width)
    bt = vector_type("i1", width)
    single = g.cast("fptrunc", dt, value, ft)
    back = g.cast("fpext", ft, single, dt)
    exact = g.e.pure(f"fcmp ueq {dt} {back}, {value}", (back, value))
    absname = f"llvm.fabs.v{width}f64" if width else "llvm.fabs.f64"
    big = g.call(absname, dt, (dt, back))
    small = g.call(absname, dt, (dt, value))
    above = g.e.pure(f"fcmp ogt {dt} {big}, {small}", (big, small))
    bits = g.bitcast(ft, single, it)
    down = g.select(bt, above, it, g.op("sub", it, bits, g.splat("i32", "1", width)), bits)
    odd = g.select(bt, exact, it, bits, g.op("or", it, down, g.splat("i32", "1", width)))
    return g.bitcast(it, odd, ft)


def int_to_float(g: Context, name: str, value: str, source: str, element: str, width: int) -> str:
    """``sitofp`` or ``uitofp``."""
    st = vector_type(source, width)
    if element not in NARROW:
        return g.cast(name, st, value, vector_type(element, width))
    if SIZES[source] == 1 and element == "bfloat":  # exact: the upper half of the f32
        it, ft = vector_type("i32", width), vector_type("float", width)
        bits = g.bitcast(ft, g.cast(name, st, value, ft), it)
        high = g.op("lshr", it, bits, g.splat("i32", "16", width))
        return g.cast("trunc", it, high, vector_type(element, width))
    if SIZES[source] > 2:  # one rounding only: go through f64 and round to odd
        if source == "i64" and element == "bfloat":
            value = _within_double(g, value, width, name == "sitofp")
        wide = g.cast(name, st, value, vector_type("double", width))
        return cast_float(g, wide, width, "double", element)
    return narrow(g, g.cast(name, st, value, vector_type("float", width)), width, element)


def _within_double(g: Context, value: str, width: int, signed: bool) -> str:
    """A 64-bit integer that f64 holds exactly and bf16 rounds like ``value``: where it is large, one bit
    stands for all below it."""
    vt, bt = vector_type("i64", width), vector_type("i1", width)

    def k(n: int) -> str:
        return g.splat("i64", str(n), width)

    above, below = g.op("and", vt, value, k(-2048)), g.op("and", vt, value, k(2047))
    some = g.e.pure(f"icmp ne {vt} {below}, {k(0)}", (below,))
    odd = g.select(bt, some, vt, g.op("or", vt, above, k(2048)), above)
    size = g.op("add", vt, value, k(1 << 53)) if signed else value
    large = g.e.pure(f"icmp ugt {vt} {size}, {k(1 << (54 if signed else 53))}", (size,))
    return g.select(bt, large, vt, odd, value)


def float_to_int(g: Context, name: str, value: str, source: str, element: str, width: int) -> str:
    """``fptosi`` or ``fptoui``, saturating, NaN to zero: the plain instruction has no result there."""
    if source in NARROW:
        value, source = widen(g, value, width, source), "float"
    if element == "i1":
        raise VectorDeclined("float to i1 is not vectorised")
    assert source in FLOATS
    st, vt = vector_type(source, width), vector_type(element, width)
    kind = {"float": "f32", "double": "f64"}[source]
    suffix = f"v{width}{element}.v{width}{kind}" if width else f"{element}.{kind}"
    return g.call(f"llvm.{name}.sat.{suffix}", vt, (st, value))
