"""Element by element operations of the arith dialect (the math dialect is in ``lanes/math.py``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from headrace.codegen.cpu.vector.context import FLOATS, SIZES, Context, Index, const, text, vector_type
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Expr, Shape
from headrace.codegen.cpu.vector.lanes import external, float8, integer
from headrace.codegen.cpu.vector.lanes import math as vmath
from headrace.codegen.cpu.vector.lanes.convert import (
    NARROW,
    cast_float,
    float_to_int,
    flush_to_bf16,
    int_to_float,
    narrow,
    narrow_all,
    widen,
)

_INT = {
    "arith.addi": "add", "arith.subi": "sub", "arith.muli": "mul", "arith.andi": "and", "arith.ori": "or",
    "arith.xori": "xor",
}  # fmt: skip
_FLOAT = {"arith.addf": "fadd", "arith.subf": "fsub", "arith.mulf": "fmul", "arith.divf": "fdiv",
          "tt.precise_divf": "fdiv"}  # fmt: skip
_MINMAX_INT = {"arith.maxsi": "smax", "arith.minsi": "smin", "arith.maxui": "umax", "arith.minui": "umin"}
_MINMAX = {"arith.maxnumf": ("ogt", True), "arith.minnumf": ("olt", True), "arith.maximumf": ("ogt", False),
           "arith.minimumf": ("olt", False)}  # fmt: skip
_CASTS = {"arith.extsi": "sext", "arith.extui": "zext", "arith.trunci": "trunc", "arith.sitofp": "sitofp",
          "arith.uitofp": "uitofp", "arith.fptosi": "fptosi", "arith.fptoui": "fptoui",
          "arith.index_cast": "sext", "tt.int_to_ptr": "inttoptr", "tt.ptr_to_int": "ptrtoint"}  # fmt: skip
_FLOAT_CASTS = {"arith.extf", "arith.truncf", "tt.fp_to_fp"}
_OTHER = {"arith.negf", "arith.cmpi", "arith.cmpf", "arith.select", "tt.bitcast", "arith.bitcast",
"tt.addptr", "tt.clampf", "tt.mulhiui", "arith.remf", "tt.extern_elementwise"}  # fmt: skip

_IN_F32 = frozenset({*_FLOAT, *_MINMAX, "arith.negf", "tt.clampf", "arith.remf"})

NAMES = frozenset({*_INT, *_FLOAT, *_MINMAX_INT, *_MINMAX, *_CASTS, *_FLOAT_CASTS, *_OTHER, *integer.SHIFTS,
                   *integer.DIVISIONS, *vmath.NAMES})  # fmt: skip

# Relative cost of evaluating a node again; what costs more than a few loads is worth a buffer.
COSTS = {
    **dict.fromkeys(vmath.NAMES, 16), **dict.fromkeys(vmath.CHEAP, 1), **dict.fromkeys(integer.DIVISIONS, 20),
    "arith.divf": 8, "tt.precise_divf": 8, "arith.remf": 40, "arith.truncf": 3, "tt.extern_elementwise": 16,
}  # fmt: skip


class Elementwise(Expr):
    """``op`` applied to operands of one shape. ``attrs`` are the TTIR attributes; ``pointee`` is for
    addptr."""

    in_place = True

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


def evaluate(g: Context, expr: Expr, places: Sequence[Index], dim: int, width: int) -> list[str]:
    """``width`` elements along ``dim`` at each of several places; a final rounding is done for all of them
    together."""
    top = expr.resolved()
    if isinstance(top, Elementwise) and top.op in _FLOAT_CASTS and dim in top.varies:
        (source,) = top.operands
        if source.element == "float" and top.element in NARROW and width and not top.attrs:
            return narrow_all(g, [source.eval(g, p, dim, width) for p in places], width, top.element)
    return [expr.eval(g, p, dim, width) for p in places]


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
        return g.e.pure(f"getelementptr {text(pointee)}, {pt} {args[0]}, {ot} {offset}", (args[0], offset))
    if op in _INT:
        if width == 0 and op in ("arith.addi", "arith.muli"):
            return (g.add if op == "arith.addi" else g.mul)(args[0], args[1], element)
        return g.op(_INT[op], vt, *args)
    if op in _FLOAT_CASTS:
        if attrs.get("rounding") not in (None, "rtne", 0, 1):
            raise VectorDeclined("a float cast with a rounding mode is not vectorised")
        if (
            attrs.get("flush")
            and g.machine.bf16_dot
            and width >= 4
            and (source, element) == ("float", "bfloat")
        ):
            return flush_to_bf16(g, args[0], width)
        return cast_float(g, args[0], width, source, element)
    if source in NARROW and (op in _IN_F32 or op in vmath.NAMES):
        if op == "arith.negf" and source not in float8.NAMES:
            it = vector_type("i16", width)
            sign = g.splat("i16", "-32768", width)
            return g.bitcast(it, g.op("xor", it, g.bitcast(vt, args[0], it), sign), vt)
        wide = [widen(g, a, width, source) for a in args]
        value = apply(g, op, wide, ["float"] * len(args), "float", width, attrs)
        return narrow(g, value, width, element)
    if source in NARROW and op == "arith.cmpf":
        args = [widen(g, a, width, source) for a in args]
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
    if op in integer.SHIFTS:
        return integer.shift(g, op, args[0], args[1], element, width)
    if op in _MINMAX_INT:
        suffix = f"v{width}{element}" if width else element
        return g.call(f"llvm.{_MINMAX_INT[op]}.{suffix}", vt, (vt, args[0]), (vt, args[1]))
    if op == "tt.mulhiui":
        return integer.high_product(g, args[0], args[1], element, width)
    if op in integer.DIVISIONS:
        return integer.divide(g, op, args[0], args[1], element, width)
    if op == "tt.clampf":
        nan = "arith.maximumf" if attrs.get("propagateNan") in ("all", 0xFFFF, 65535) else "arith.maxnumf"
        low = minmax(g, nan, args[0], args[1], element, width)
        return minmax(g, nan.replace("max", "min"), low, args[2], element, width)
    if op == "arith.remf":
        return vmath.function(g, "fmod", args, element, width)
    if op == "tt.extern_elementwise":
        return external.apply(g, str(attrs["symbol"]), args, types, element, width)
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
    if name in ("sitofp", "uitofp"):
        return int_to_float(g, name, value, source, element, width)
    if name in ("fptosi", "fptoui"):
        return float_to_int(g, name, value, source, element, width)
    whole = width == 0 and not value.startswith("%") and source != "i1" and source not in FLOATS
    if whole and (name == "sext" or (name == "zext" and not value.startswith("-"))):
        return const(element, int(value))
    return g.cast(name, st, value, vt)
