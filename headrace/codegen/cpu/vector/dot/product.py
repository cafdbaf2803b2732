"""One ``tt.dot`` as the micro-kernel families see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from headrace.codegen.cpu.vector.analysis.access import valid
from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.context import Context, Index, Ix, Machine, const, is_const_int
from headrace.codegen.cpu.vector.expr import NONE, Broadcast, Buffer, ExpandDims, Expr, Transpose
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.loops import upper
from headrace.codegen.cpu.vector.reduction.accumulate import direct
from headrace.codegen.cpu.vector.schedule import Scheduler, numel

FEW_ROWS = 8


def products(s: Scheduler, a: Expr, b: Expr, op: str) -> Expr:
    """a[m, k] * b[k, n], both of the sums' type, as a lazy [m, n, k] tile; ``op`` multiplies."""
    (m, k), n = a.shape, b.shape[1]
    left = Broadcast(ExpandDims(a, 1), (m, n, k))
    right = Broadcast(ExpandDims(Transpose(b, (1, 0)), 0), (m, n, k))
    made = Elementwise(op, (left, right), (m, n, k), a.element, {})
    s.keep += [a, b, left, right, made]
    return made


def readable(s: Scheduler, operand: Expr, dim: int) -> Expr:
    """An operand that can be read directly along ``dim``; put into memory if it cannot."""
    if not direct(operand, dim) or isinstance(operand.resolved(), Elementwise):
        s.materialise(operand, fast=dim)
    return operand.resolved()


def as_floats(s: Scheduler, x: Expr, element: str) -> Expr:
    """A tile of floats in another format, rounded to nearest."""
    if x.element == element:
        return x
    made = Elementwise("tt.fp_to_fp", (x,), x.shape, element, {})
    s.keep += [x, made]
    return made


@dataclass(frozen=True)
class Product:
    """c[m, n] + a[m, k] @ b[k, n]; ``limits`` says which part of the result is needed.

    ``into`` is the place where the result must go, if the caller has one. It may be the very tile that ``c``
    reads: element (i, j) is then read before it is written, and nothing else is read from it. ``again``
    lowers a product that a family makes of this one, by the first family that accepts it.
    """

    s: Scheduler
    a: Expr
    b: Expr
    c: Expr
    limits: Limits
    into: Buffer | None
    again: Callable[[Product], Expr]

    @property
    def g(self) -> Context:
        return self.s.g

    @property
    def machine(self) -> Machine:
        return self.s.g.machine

    @property
    def m(self) -> int:
        return self.c.shape[-2]

    @property
    def n(self) -> int:
        return self.c.shape[-1]

    @property
    def k(self) -> int:
        return self.a.shape[-1]

    @cached_property
    def rows(self) -> str:
        """How many rows of the result are needed."""
        return upper(self.g, self.limits.get(len(self.c.shape) - 2, ()), self.m)

    @cached_property
    def columns(self) -> str:
        """How many columns of the result are needed."""
        return upper(self.g, self.limits.get(len(self.c.shape) - 1, ()), self.n)

    @cached_property
    def bounds(self) -> tuple[str, ...]:
        """Bounds of k beyond which both operands are zero."""
        last = len(self.a.shape) - 1
        left = valid(self.g, self.a, last) or ()
        right = valid(self.g, self.b, last - 1) or ()
        common = tuple(name for name in left if name in right)
        quiet = common and _zero_beyond(self.g, self.a, last) and _zero_beyond(self.g, self.b, last - 1)
        return common if quiet else ()

    @property
    def few_rows(self) -> bool:
        """True if fewer than `FEW_ROWS` rows can be needed."""
        return (int(self.rows) if is_const_int(self.rows) else self.m) < FEW_ROWS

    def buffer(self) -> Buffer:
        """Where the result goes."""
        return self.into or Buffer(
            self.g.alloca(self.c.element, numel(self.c.shape)), self.c.shape, self.c.element
        )


def _zero_beyond(g: Context, operand: Expr, dim: int) -> bool:
    """True if ``operand`` is the constant zero beyond its bounds along ``dim``, wherever along others: it is
    written into the void at an index that is not known."""
    g.e.open("void", True)
    try:
        somewhere: Index = tuple(Ix(g.e.define(g.e.fresh()), 0) for _ in operand.shape)
        return operand.eval(g, somewhere, NONE, 0, dim) in (const(operand.element, 0), "0")
    finally:
        g.e.close()
