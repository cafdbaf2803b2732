"""Element by element operations of the arith dialect (the math dialect is in :mod:`.math`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headrace.codegen.cpu.vector import math as vmath
from headrace.codegen.cpu.vector.context import FLOATS, SIZES, Context, Index, const, vector_type
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Expr, Shape

_INT = {
    "arith.addi": "add", "arith.subi": "sub", "arith.muli": "mul", "arith.andi": "and", "arith.ori": "or",
    "arith.xori": "xor",
}  # fmt: skip
_SHIFT = {"arith.shli": "shl", "arith.shrsi": "ashr", "arith.shrui": "lshr"}
_FLOAT = {"arith.addf": "fadd", "arith.subf": "fsub", "arith.mulf": "fmul", "arith.divf": "fdiv",
          "tt.precise_divf": "fdiv"}  # fmt: skip
_MINMAX_INT = {"arith.maxsi": "smax", "arith.minsi": "smin", "arith.maxui": "umax", "arith.minui": "umin"}
_MINMAX = {"arith.maxnumf": ("ogt", True), "arith.minnumf": ("olt", True), "arith.maximumf": ("ogt", False),
           "arith.minimumf": ("olt", False)}  # fmt: skip
_DIVIDE = {"arith.divsi", "arith.remsi", "arith.divui", "arith.remui", "arith.ceildivsi", "arith.floordivsi"}
_CASTS = {"arith.extsi": "sext", "arith.extui": "zext", "arith.trunci": "trunc", "arith.sitofp": "sitofp",
          "arith.uitofp": "uitofp", "arith.fptosi": "fptosi", "arith.fptoui": "fptoui",
          "arith.index_cast": "sext", "tt.int_to_ptr": "inttoptr", "tt.ptr_to_int": "ptrtoint"}  # fmt: skip
_FLOAT_CASTS = {"arith.extf", "arith.truncf", "tt.fp_to_fp"}
_OTHER = {"arith.negf", "arith.cmpi", "arith.cmpf", "arith.select", "tt.bitcast", "arith.bitcast",
"tt.addptr", "tt.clampf", "arith.remf", "tt.mulhiui"}  # fmt: skip

NAMES = frozenset({*_INT, *_SHIFT, *_FLOAT, *_MINMAX_INT, *_MINMAX, *_DIVIDE, *_CASTS, *_FLOAT_CASTS, *_OTHER,
                   *vmath.NAMES})  # fmt: skip

# Relative cost of evaluating a node again; what costs more than a few loads is worth a buffer.
COSTS = {"arith.divf": 8, "tt.precise_divf": 8, "arith.divsi": 20, "arith.remsi": 20, "arith.divui": 20,
         "arith.remui": 20, "arith.truncf": 3, **dict.fromkeys(vmath.NAMES, 16), "math.fma": 1,
         "math.absf": 1}  # fmt: skip


class Elementwise(Expr):
    """``op`` applied to operands of one shape. ``attrs`` are the TTIR attributes; ``pointee`` is for
    addptr."""

    def __init__(
        self,
        op: str,
        operands: tuple[Expr, ...],
        shape: Shape,
        element: str,
        attrs: Mapping[str, object],
        pointee: str = "",
    ) -> None:
        varies: frozenset[int] = frozenset().union(*(o.varies for o in operands))
        super().__init__(shape, element, varies, operands)
        self.op = op
        self.attrs = attrs
        self.pointee = pointee

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        args = [o.eval(g, index, dim, width, out) for o in self.operands]
        types = [o.element for o in self.operands]
        return apply(g, self.op, args, types, self.element, width, self.attrs, self.pointee)


def widen_half(g: Context, value: str, width: int, element: str) -> str:
    """f16 or bf16 to f32."""
    if element == "bfloat":
        it = vector_type("i32", width)
        wide = g.cast("zext", vector_type("i16", width), value, it)
        return g.bitcast(it, g.op("shl", it, wide, g.splat("i32", "16", width)), vector_type("float", width))
    return g.cast("fpext", vector_type(element, width), value, vector_type("float", width))


def narrow(g: Context, value: str, width: int, element: str) -> str:
    """f32 to f16 or bf16, to nearest even, NaN kept (the bf16 instruction flushes f32 subnormals to zero)."""
    ft, vt = vector_type("float", width), vector_type(element, width)
    if element != "bfloat":
        return g.cast("fptrunc", ft, value, vt)
    if g.machine.bf16_dot and width >= 4:
        native = f"<{width} x bfloat>"
        return g.bitcast(native, g.cast("fptrunc", ft, value, native), vt)
    it, st = vector_type("i32", width), vector_type("i16", width)

    def k(n: int) -> str:
        return g.splat("i32", str(n), width)

    bits = g.bitcast(ft, value, it)
    odd = g.op("and", it, g.op("lshr", it, bits, k(16)), k(1))
    rounded = g.op("lshr", it, g.op("add", it, g.op("add", it, bits, k(0x7FFF)), odd), k(16))
    quiet = g.op("or", it, g.op("lshr", it, bits, k(16)), k(64))
    nan = g.e.pure(f"fcmp uno {ft} {value}, {value}", (value,))
    chosen = g.select(vector_type("i1", width), nan, it, quiet, rounded)
    return g.cast("trunc", it, chosen, st)


def cast_float(g: Context, value: str, width: int, source: str, target: str) -> str:
    """Between float types, through f32 where one side has 16 bits."""
    if source == target:
        return value
    if SIZES[source] == 2:
        value, source = widen_half(g, value, width, source), "float"
    if SIZES[target] == 2:
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


def minmax(g: Context, op: str, a: str, b: str, element: str, width: int) -> str:
    """maxnum/minnum (a NaN loses) and maximum/minimum (a NaN wins) with compares, which need no fix-up
    calls."""
    predicate, number = _MINMAX[op]
    vt, bt = vector_type(element, width), vector_type("i1", width)
    # With a NaN on the right of the compare the machine min/max returns its second operand.
    take = g.e.pure(f"fcmp {predicate} {vt} {a}, {b}", (a, b))
    best = g.select(bt, take, vt, a, b)  # b when either is NaN
    if number:
        nan = g.e.pure(f"fcmp uno {vt} {b}, {b}", (b,))
        return g.select(bt, nan, vt, a, best)
    nan = g.e.pure(f"fcmp uno {vt} {a}, {a}", (a,))
    return g.select(bt, nan, vt, a, best)


def _divide(g: Context, op: str, a: str, b: str, element: str, width: int) -> str:
    """Integer division that never traps: x / 0 and min / -1 give some value instead."""
    vt, bt = vector_type(element, width), vector_type("i1", width)
    unsigned = op in ("arith.divui", "arith.remui")
    remainder = op in ("arith.remsi", "arith.remui")
    one, zero = g.splat(element, "1", width), g.splat(element, "0", width)
    if op in ("arith.ceildivsi", "arith.floordivsi"):
        raise VectorDeclined(f"{op} is not vectorised")
    if width and element == "i32":
        dt = vector_type("double", width)
        safe = g.select(bt, g.e.pure(f"icmp eq {vt} {b}, {zero}", (b,)), vt, one, b)
        up, down = ("uitofp", "fptoui") if unsigned else ("sitofp", "fptosi")
        ratio = g.op("fdiv", dt, g.cast(up, vt, a, dt), g.cast(up, vt, safe, dt))
        lt = vector_type("i64", width)
        quotient = g.cast("trunc", lt, g.cast("fptosi" if not unsigned else down, dt, ratio, lt), vt)
    else:
        bad = g.e.pure(f"icmp eq {vt} {b}, {zero}", (b,))
        if not unsigned:
            minus = g.splat(element, "-1", width)
            bad = g.op("or", bt, bad, g.e.pure(f"icmp eq {vt} {b}, {minus}", (b,)))
        safe = g.select(bt, bad, vt, one, b)
        quotient = g.op("udiv" if unsigned else "sdiv", vt, a, safe)
        if not unsigned:
            minus = g.splat(element, "-1", width)
            is_minus = g.e.pure(f"icmp eq {vt} {b}, {minus}", (b,))
            quotient = g.select(bt, is_minus, vt, g.op("sub", vt, zero, a), quotient)
            safe = g.select(bt, is_minus, vt, b, safe)
    if not remainder:
        return quotient
    return g.op("sub", vt, a, g.op("mul", vt, quotient, safe))


def apply(
    g: Context,
    op: str,
    args: list[str],
    types: list[str],
    element: str,
    width: int,
    attrs: Mapping[str, object],
    pointee: str = "",
) -> str:
    """Write one operation on ``width`` lanes (0: scalars) and return its name."""
    vt, source = vector_type(element, width), types[0]
    st, bt = vector_type(source, width), vector_type("i1", width)
    if op == "tt.addptr":
        offset = args[1]
        if types[1] != "i64":
            offset = _sign_extend(g, offset, types[1], width)
        pt, ot = vector_type("ptr", width), vector_type("i64", width)
        if width == 0:
            return g.gep(pointee, args[0], offset)
        return g.e.pure(f"getelementptr {pointee}, {pt} {args[0]}, {ot} {offset}", (args[0], offset))
    if op in _INT:
        if width == 0 and op in ("arith.addi", "arith.muli"):
            return (g.add if op == "arith.addi" else g.mul)(args[0], args[1], element)
        return g.op(_INT[op], vt, *args)
    if op in _FLOAT_CASTS:
        if attrs.get("rounding") not in (None, "rtne", 0, 1):
            raise VectorDeclined("a float cast with a rounding mode is not vectorised")
        return cast_float(g, args[0], width, source, element)
    if source in ("bfloat", "half") and (
        op in _FLOAT or op in _MINMAX or op in vmath.NAMES or op == "arith.negf"
    ):
        if op == "arith.negf":
            it = vector_type("i16", width)
            sign = g.splat("i16", "-32768", width)
            return g.bitcast(it, g.op("xor", it, g.bitcast(vt, args[0], it), sign), vt)
        wide = [widen_half(g, a, width, source) for a in args]
        value = apply(g, op, wide, ["float"] * len(args), "float", width, attrs)
        return narrow(g, value, width, element)
    if source in ("bfloat", "half") and op == "arith.cmpf":
        args = [widen_half(g, a, width, source) for a in args]
        st = vector_type("float", width)
    if op in _FLOAT:
        flags = "" if op.endswith("divf") else "contract "
        return g.op(f"{_FLOAT[op]} {flags}".rstrip(), vt, *args)
    if op in vmath.NAMES:
        return vmath.apply(g, op, args, element, width)
    if op in _MINMAX:
        return minmax(g, op, args[0], args[1], element, width)
    if op in _CASTS:
        return _cast(g, op, args[0], source, element, width)
    rest: dict[str, Callable[[], str]] = {
        "arith.negf": lambda: g.e.pure(f"fneg {vt} {args[0]}", args),
        "arith.cmpi": lambda: _compare(g, "icmp", str(attrs["predicate"]), st, args),
        "arith.cmpf": lambda: _compare(g, "fcmp", str(attrs["predicate"]), st, args),
        "arith.select": lambda: g.select(bt if width else "i1", args[0], vt, args[1], args[2]),
        "tt.bitcast": lambda: g.bitcast(st, args[0], vt),
        "arith.bitcast": lambda: g.bitcast(st, args[0], vt),
    }
    if op in rest:
        return rest[op]()
    if op in _SHIFT:
        # Shifting by the width or more is poison in LLVM; zero (or the sign) is what the hardware gives.
        limit = g.splat(element, str(SIZES[element] * 8 - 1), width)
        over = g.e.pure(f"icmp ugt {vt} {args[1]}, {limit}", (args[1],))
        amount = g.select(bt, over, vt, limit, args[1])
        shifted = g.op(_SHIFT[op], vt, args[0], amount)
        return (
            shifted if op == "arith.shrsi" else g.select(bt, over, vt, g.splat(element, "0", width), shifted)
        )
    if op in _MINMAX_INT:
        suffix = f"v{width}{element}" if width else element
        return g.call(f"llvm.{_MINMAX_INT[op]}.{suffix}", vt, (vt, args[0]), (vt, args[1]))
    if op in _DIVIDE:
        return _divide(g, op, args[0], args[1], element, width)
    if op == "tt.clampf":
        nan = "arith.maximumf" if attrs.get("propagateNan") in ("all", 0xFFFF, 65535) else "arith.maxnumf"
        low = minmax(g, nan, args[0], args[1], element, width)
        return minmax(g, nan.replace("max", "min"), low, args[2], element, width)
    raise VectorDeclined(f"{op} is not vectorised")


def _compare(g: Context, name: str, predicate: str, type_: str, args: list[str]) -> str:
    return g.e.pure(f"{name} {predicate} {type_} {args[0]}, {args[1]}", args)


def _sign_extend(g: Context, value: str, element: str, width: int) -> str:
    if not value.startswith("%") and width == 0:
        return value
    return g.cast("sext", vector_type(element, width), value, vector_type("i64", width))


def _cast(g: Context, op: str, value: str, source: str, element: str, width: int) -> str:
    st, vt = vector_type(source, width), vector_type(element, width)
    name = _CASTS[op]
    if op == "arith.index_cast" and SIZES[source] >= SIZES[element]:
        return value if source == element else g.cast("trunc", st, value, vt)
    if name in ("sitofp", "uitofp") and SIZES[element] == 2:
        if SIZES[source] > 2:  # one rounding only: go through f64 and round to odd
            wide = g.cast(name, st, value, vector_type("double", width))
            return cast_float(g, wide, width, "double", element)
        return narrow(g, g.cast(name, st, value, vector_type("float", width)), width, element)
    if name in ("fptosi", "fptoui"):
        if source in ("half", "bfloat"):
            value, source = widen_half(g, value, width, source), "float"
            st = vector_type(source, width)
        if element == "i1":
            raise VectorDeclined("float to i1 is not vectorised")
        # Out-of-range values are poison for the plain instruction; the saturating form is defined.
        fs, is_ = {"float": "f32", "double": "f64"}[source], element
        suffix = f"v{width}{is_}.v{width}{fs}" if width else f"{is_}.{fs}"
        return g.call(f"llvm.{name}.sat.{suffix}", vt, (st, value))
    whole = width == 0 and not value.startswith("%") and source != "i1" and source not in FLOATS
    if whole and (name == "sext" or (name == "zext" and not value.startswith("-"))):
        return const(element, int(value))
    return g.cast(name, st, value, vt)
