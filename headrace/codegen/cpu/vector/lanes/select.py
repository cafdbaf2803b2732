"""``arith.select``: where its condition is a bound on a dimension, it is decided by loops rather than by
lanes."""

from __future__ import annotations

from headrace.codegen.cpu.vector.analysis import masks
from headrace.codegen.cpu.vector.context import Context, Index, vector_type
from headrace.codegen.cpu.vector.expr import NONE, Expr, writing


class Select(Expr):
    """``condition ? yes : no`` with a condition of the result's shape (or a scalar one)."""

    in_place = True

    def __init__(self, condition: Expr, yes: Expr, no: Expr) -> None:
        varies = condition.varies | yes.varies | no.varies
        super().__init__(yes.shape, yes.element, varies, (condition, yes, no))
        self._box: masks.Box | None = None

    def box(self, g: Context) -> masks.Box:
        """Bounds within the condition."""
        if self._box is None:
            self._box = masks.analyse(g, self.operands[0]) if self.operands[0].shape else masks.EVERYTHING
        return self._box

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        condition, yes, no = self.operands
        if out != NONE and out in self.box(g).limits:
            return no.eval(g, index, dim, width, out)
        vt = vector_type(self.element, width)
        if not condition.shape:
            value = condition.eval(g, (), NONE, 0)
            return g.select(
                "i1", value, vt, yes.eval(g, index, dim, width, out), no.eval(g, index, dim, width, out)
            )
        if out != NONE and any(out in r.varies for r in self.box(g).rest):
            cond = condition.eval(g, index, dim, width, out)
            ct = vector_type("i1", width)
            return g.select(
                ct, cond, vt, yes.eval(g, index, dim, width, out), no.eval(g, index, dim, width, out)
            )
        scalar, vector = masks.condition(g, self.box(g), index, dim, width)
        if scalar == "false" or scalar == vector == "true":
            taken, left = (no, yes) if scalar == "false" else (yes, no)
            if g.tees and writing(left):
                left.eval(g, index, dim, width, out)
            return taken.eval(g, index, dim, width, out)
        value = yes.eval(g, index, dim, width, out)
        other = no.eval(g, index, dim, width, out)
        if vector != "true":
            value = g.select(vector_type("i1", width), vector, vt, value, other)
        return g.select("i1", scalar, vt, value, other)
