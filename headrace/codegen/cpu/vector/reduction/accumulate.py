"""How one more vector enters an accumulator: plain combine, fused multiply-add, or a product of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import SIZES, Context, Index, vector_type
from headrace.codegen.cpu.vector.expr import Broadcast, Buffer, ExpandDims, Expr, Transpose
from headrace.codegen.cpu.vector.lanes import byte_table
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.lanes.vnni import multiply_pairs
from headrace.codegen.cpu.vector.memory.transfer import Load
from headrace.codegen.cpu.vector.reduction.combine import Combine

# Conversions that cost no more than the load that feeds them.
_WIDENING = frozenset(
    {"arith.extf", "arith.extsi", "arith.extui", "arith.sitofp", "arith.uitofp", "tt.fp_to_fp"}
)
DOT = "llvm.x86.avx512bf16.dpbf16ps.512"


@dataclass(frozen=True)
class Accumulate:
    """Update of one accumulator of ``width`` lanes from ``step`` elements along the reduced dimension.

    With ``a`` and ``b`` it is acc + a * b; ``pairs`` multiplies bf16 elements two at a time into each
    f32 lane, or signed bytes two at a time into each i32 lane. With bf16 ``a`` and signed bytes ``b`` the
    bytes become bf16 on the way.
    """

    combine: Combine
    width: int
    step: int
    a: Expr | None = None
    b: Expr | None = None
    pairs: bool = False

    @property
    def type(self) -> str:
        return vector_type(self.combine.element, self.width)

    def neutral(self, g: Context) -> str:
        """Start value of an accumulator vector."""
        return g.splat(self.combine.element, self.combine.identity, self.width)

    def update(self, g: Context, expr: Expr, acc: str, index: Index, axis: int, bound: str | None) -> str:
        """``acc`` with the elements at ``index`` added; ``bound`` is the lane mask of a partial step."""
        e, w = self.combine.element, self.width
        if self.pairs and self.a is not None and self.b is not None:
            x = self.a.eval(g, index, axis, self.step)
            y = self.b.eval(g, index, axis, self.step)
            if bound is not None:
                x, y = (
                    g.select(
                        f"<{self.step} x i1>", bound, vector_type(o.element, self.step), v, "zeroinitializer"
                    )
                    for o, v in ((self.a, x), (self.b, y))
                )
            if e == "i32":
                wide = vector_type("i16", self.step)
                words = [
                    g.bitcast(wide, g.cast("sext", f"<{self.step} x i8>", v, wide), f"<{w} x i32>")
                    for v in (x, y)
                ]
                return multiply_pairs(g, acc, words[0], words[1], w)
            if self.b.element == "i8":
                for p, q in zip(byte_table.alike(g, x), byte_table.as_bf16(g, y), strict=True):
                    acc = _dot(g, acc, p, q)
                return acc
            x, y = (g.bitcast("<32 x i16>", v, "<32 x bfloat>") for v in (x, y))
            return _dot(g, acc, x, y)
        if self.a is not None and self.b is not None and bound is None:
            x = self.a.eval(g, index, axis, self.step)
            y = self.b.eval(g, index, axis, self.step)
            return g.fma(e, w, x, y, acc)
        value = expr.eval(g, index, axis, self.step)
        if bound is not None:
            identity = g.splat(e, self.combine.identity, w)
            value = g.select(f"<{self.step} x i1>", bound, vector_type(e, w), value, identity)
        return self.combine.apply(g, acc, value, w)


def _dot(g: Context, acc: str, x: str, y: str) -> str:
    """``acc`` plus the products of neighbouring bf16."""
    return g.call(DOT, "<16 x float>", ("<16 x float>", acc), ("<32 x bfloat>", x), ("<32 x bfloat>", y))


def widened_from(
    expr: Expr, element: str, conversions: tuple[str, ...] = ("arith.extf", "arith.extsi")
) -> Expr | None:
    """The expression of this element type that ``expr`` only widens (bf16 to f32, i8 to i32), if there is
    one."""
    expr = expr.resolved()
    widens = isinstance(expr, Elementwise) and expr.op in conversions
    if widens and expr.operands[0].element == element:
        return expr.operands[0]
    if isinstance(expr, ExpandDims | Broadcast | Transpose):
        inner = widened_from(expr.operands[0], element, conversions)
        if inner is None:
            return None
        if isinstance(expr, ExpandDims):
            return ExpandDims(inner, expr.axis)
        return Transpose(inner, expr.order) if isinstance(expr, Transpose) else Broadcast(inner, expr.shape)
    return None


def signed_bytes(expr: Expr) -> Expr | None:
    """The signed bytes that an f32 ``expr`` was made from, perhaps by way of bf16 (which is exact)."""
    short = widened_from(expr, "bfloat")
    return widened_from(expr if short is None else short, "i8", ("arith.sitofp",))


def direct(expr: Expr, dim: int) -> bool:
    """True when a vector of ``expr`` along ``dim`` is one plain load, widened perhaps, or a broadcast."""
    expr = expr.resolved()
    if dim not in expr.varies:
        return True
    if isinstance(expr, Load):
        return expr.pointers.contiguous(dim)
    if isinstance(expr, Buffer):
        return expr.strides[dim] == 1
    if isinstance(expr, ExpandDims | Broadcast | Transpose) or (
        isinstance(expr, Elementwise) and expr.op in _WIDENING and SIZES[expr.operands[0].element] <= 2
    ):
        return direct(expr.operands[0], expr.down(0, dim))
    return False


def accumulate(
    g: Context, combine: Combine, expr: Expr, axis: int, uses: Mapping[int, int], keep: list[Expr]
) -> Accumulate:
    """Choose the update for a reduction along the vector."""
    size = expr.shape[axis]
    width = min(g.machine.lanes, size)
    top = expr.resolved()
    factor = "arith.muli" if combine.element == "i32" else "arith.mulf"
    product = isinstance(top, Elementwise) and top.op == factor and uses.get(top.uid, 1) == 1
    if product and combine == Combine("arith.addi", "i32") and size >= 2 * g.machine.lanes:
        x, y = (widened_from(o, "i8") for o in top.operands)
        if x is not None and y is not None and direct(x, axis) and direct(y, axis):
            keep += [x, y]
            return Accumulate(combine, g.machine.lanes, 2 * g.machine.lanes, x, y, True)
    if product and combine == Combine("arith.addf", "float"):
        a, b = top.operands
        if g.machine.bytes_to_bf16 and size >= byte_table.STEP:
            for x, y in ((a, b), (b, a)):
                short, narrow = widened_from(x, "bfloat"), signed_bytes(y)
                if short is not None and narrow is not None and direct(short, axis) and direct(narrow, axis):
                    keep += [short, narrow]
                    return Accumulate(combine, 16, byte_table.STEP, short, narrow, True)
        if g.machine.bf16_dot and size >= 32:
            x, y = (widened_from(o, "bfloat") for o in (a, b))
            if x is not None and y is not None and direct(x, axis) and direct(y, axis):
                keep += [x, y]
                return Accumulate(combine, 16, 32, x, y, True)
        return Accumulate(combine, width, width, a, b)
    return Accumulate(combine, width, width)
