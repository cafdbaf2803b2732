"""Integer division without traps, shifts by any amount, and the upper half of a product.

x / 0 is 0 and x % 0 is x; the most negative number divided by -1 wraps; shifting by the width or more gives 0
(or the sign). Vectors of up to 32 bits are divided as floats wide enough for an exact quotient.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import SIZES, Context, const, vector_type
from headrace.codegen.cpu.vector.errors import VectorDeclined

SHIFTS = {"arith.shli": "shl", "arith.shrsi": "ashr", "arith.shrui": "lshr"}
DIVISIONS = frozenset({"arith.divsi", "arith.remsi", "arith.divui", "arith.remui"})


def divide(g: Context, op: str, a: str, b: str, element: str, width: int) -> str:
    """Quotient or remainder."""
    if element not in ("i8", "i16", "i32", "i64"):
        raise VectorDeclined(f"{op} on {element} is not vectorised")
    vt = vector_type(element, width)
    unsigned = op.endswith("ui")
    if b.startswith("splat (") and b not in (g.splat(element, n, width) for n in ("0", "-1")):
        quotient = g.op("udiv" if unsigned else "sdiv", vt, a, b)  # LLVM multiplies by a constant's inverse
    elif width and element != "i64":
        quotient = _by_floats(g, a, b, element, width, unsigned)
    else:
        quotient = _guarded(g, a, b, element, width, unsigned)
    if op.startswith("arith.div"):
        return quotient
    return g.op("sub", vt, a, g.op("mul", vt, quotient, b))


def _by_floats(g: Context, a: str, b: str, element: str, width: int, unsigned: bool) -> str:
    """A quotient of n-bit integers that is no integer is at least 2^-n of itself away from one: f32 tells
    16 bits apart, f64 32."""
    vt, bt = vector_type(element, width), vector_type("i1", width)
    kind, whole = ("double", "i64") if element == "i32" else ("float", "i32")
    ft, wt = vector_type(kind, width), vector_type(whole, width)
    extend = "zext" if unsigned else "sext"

    def real(value: str, width: int) -> str:
        of, to = vector_type(whole, width), vector_type(kind, width)
        return g.cast("sitofp", of, g.cast(extend, vector_type(element, width), value, of), to)

    one = g.uniform.get(b)
    if one is not None and kind == "double":
        # A little more than 1 / b: exact quotients are not rounded below themselves, others not to the next.
        inverse = g.op("fdiv", kind, const(kind, 1.0 + 2.0**-50), real(one, 0))
        ratio = g.op("fmul", ft, real(a, width), g.splat(kind, inverse, width))
        zero = g.e.pure(f"icmp eq {element} {one}, 0", (one,))
        # 0 * (1 / 0) is NaN, and the rest infinite: neither may be converted.
        ratio = g.select("i1", zero, ft, g.splat(kind, const(kind, 0.0), width), ratio)
        return g.cast("trunc", wt, g.cast("fptosi", ft, ratio, wt), vt)
    zero = g.e.pure(f"icmp eq {vt} {b}, {g.splat(element, '0', width)}", (b,))
    safe = g.select(bt, zero, vt, g.splat(element, "1", width), b)
    ratio = g.op("fdiv", ft, real(a, width), real(safe, width))
    quotient = g.cast("trunc", wt, g.cast("fptosi", ft, ratio, wt), vt)
    return g.select(bt, zero, vt, g.splat(element, "0", width), quotient)


def _guarded(g: Context, a: str, b: str, element: str, width: int, unsigned: bool) -> str:
    vt, bt = vector_type(element, width), vector_type("i1", width)
    nothing, one, minus = (g.splat(element, n, width) for n in ("0", "1", "-1"))
    zero = g.e.pure(f"icmp eq {vt} {b}, {nothing}", (b,))
    if unsigned:
        plain = g.op("udiv", vt, a, g.select(bt, zero, vt, one, b))
    else:
        turns = g.e.pure(f"icmp eq {vt} {b}, {minus}", (b,))
        safe = g.select(bt, g.op("or", bt, zero, turns), vt, one, b)
        plain = g.op("sdiv", vt, a, safe)
        plain = g.select(bt, turns, vt, g.op("sub", vt, nothing, a), plain)
    return g.select(bt, zero, vt, nothing, plain)


def shift(g: Context, op: str, a: str, b: str, element: str, width: int) -> str:
    """A shift that is defined for every amount (poison in LLVM from the width on)."""
    vt, bt = vector_type(element, width), vector_type("i1", width)
    limit = g.splat(element, str(0 if element == "i1" else SIZES[element] * 8 - 1), width)
    if op == "arith.shrsi":
        suffix = f"v{width}{element}" if width else element
        amount = g.call(f"llvm.umin.{suffix}", vt, (vt, b), (vt, limit))
        return g.op("ashr", vt, a, amount)
    over = g.e.pure(f"icmp ugt {vt} {b}, {limit}", (b,))
    nothing = g.splat(element, "0", width)
    return g.select(bt, over, vt, nothing, g.op(SHIFTS[op], vt, a, g.select(bt, over, vt, nothing, b)))


def high_product(g: Context, a: str, b: str, element: str, width: int) -> str:
    """Upper half of the unsigned product; 64-bit numbers are multiplied in halves."""
    vt = vector_type(element, width)
    if element != "i64":
        bits = SIZES[element] * 8
        wide = vector_type(f"i{2 * bits}", width)
        product = g.op("mul", wide, g.cast("zext", vt, a, wide), g.cast("zext", vt, b, wide))
        shifted = g.op("lshr", wide, product, g.splat(f"i{2 * bits}", str(bits), width))
        return g.cast("trunc", wide, shifted, vt)
    half, mask = g.splat("i64", "32", width), g.splat("i64", str(0xFFFFFFFF), width)
    (ah, al), (bh, bl) = ((g.op("lshr", vt, x, half), g.op("and", vt, x, mask)) for x in (a, b))
    low = g.op("lshr", vt, g.op("mul", vt, al, bl), half)
    middle = g.op("add", vt, g.op("mul", vt, ah, bl), low)
    other = g.op("add", vt, g.op("mul", vt, al, bh), g.op("and", vt, middle, mask))
    high = g.op("add", vt, g.op("mul", vt, ah, bh), g.op("lshr", vt, middle, half))
    return g.op("add", vt, high, g.op("lshr", vt, other, half))
