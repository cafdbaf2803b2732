"""Matrices that lie in memory with constant distances between rows and between columns."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import SIZES, ZERO, Context, text
from headrace.codegen.cpu.vector.expr import NONE, Buffer, Expr, Transpose
from headrace.codegen.cpu.vector.memory.transfer import Load


@dataclass(frozen=True)
class Place:
    """Element (i, j) is at ``pointer`` + i * strides[0] + j * strides[1], and may be read if i and j are
    below all of ``bounds``. Strides, in elements, are constants or SSA names."""

    pointer: str
    strides: tuple[str, str]
    bounds: tuple[tuple[str, ...], tuple[str, ...]]
    element: str

    def at(self, g: Context, i: str, j: str) -> str:
        """Address of an element."""
        row = g.gep(self.element, self.pointer, g.mul(i, self.strides[0]))
        return g.gep(self.element, row, g.mul(j, self.strides[1]))

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return SIZES[self.element]

    @property
    def turned(self) -> Place:
        """The transposed matrix."""
        return Place(self.pointer, self.strides[::-1], self.bounds[::-1], self.element)


def place_of(g: Context, expr: Expr) -> Place | None:
    """Where a matrix lies; None if it has to be computed, or is masked by more than bounds."""
    expr = expr.resolved()
    if isinstance(expr, Transpose):
        inner = place_of(g, expr.operands[0])
        return inner if inner is None or expr.order == (0, 1) else inner.turned
    if len(expr.shape) != 2:
        return None
    if isinstance(expr, Buffer) and not expr.limits:
        strides = (str(expr.strides[0]), str(expr.strides[1]))
        return Place(expr.pointer, strides, ((), ()), text(expr.element))
    if not isinstance(expr, Load) or expr.element == "i1":
        return None
    box = expr.box(g)
    first, second = expr.pointers.stride(0), expr.pointers.stride(1)
    if box.rest or first is None or second is None:
        return None
    pointer = expr.pointers.expr.eval(g, (ZERO, ZERO), NONE, 0)
    bounds = (box.limits.get(0, ()), box.limits.get(1, ()))
    return Place(pointer, (str(first), str(second)), bounds, text(expr.element))
