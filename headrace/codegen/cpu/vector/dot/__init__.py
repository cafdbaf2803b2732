"""``tt.dot``: the first family of micro-kernels that accepts a product lowers it.

A family is a module with ``accepts(p)`` (element types, shapes, what the processor has; writes no code) and
``lower(p)``. To add one, put it into ``FAMILIES`` in front of those that it is better than.
"""

from __future__ import annotations

from typing import Protocol

from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.dot import (
    amx,
    batched,
    converted,
    direct,
    double,
    int8,
    panels,
    streamed,
    turned,
    unpacked,
)
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Buffer, Expr
from headrace.codegen.cpu.vector.schedule import Scheduler

__all__ = ["FAMILIES", "Product", "lower", "product"]


class Family(Protocol):
    """A module that lowers some products."""

    def accepts(self, p: Product) -> bool:
        """Whether this family can do it, and well."""

    def lower(self, p: Product) -> Expr:
        """Write the code; the tile that holds the result."""


FAMILIES: tuple[Family, ...] = (
    converted,
    batched,
    amx,
    int8,
    double,
    direct,
    turned,
    streamed,
    panels,
    unpacked,
)


def product(s: Scheduler, a: Expr, b: Expr) -> Expr:
    """a[m, k] * b[k, n] as a lazy [m, n, k] product in f32, of bytes in i32."""
    return int8.product(s, a, b) if a.element == "i8" else unpacked.widened(s, a, b)


def lower(s: Scheduler, a: Expr, b: Expr, c: Expr, limits: Limits, into: Buffer | None) -> Expr:
    """c + a @ b; ``limits`` says which part of the result is needed.

    Raises:
        VectorDeclined: no family takes these element types.
    """
    return _by_family(Product(s, a, b, c, limits, into, _by_family))


def _by_family(p: Product) -> Expr:
    for family in FAMILIES:
        if family.accepts(p):
            return family.lower(p)
    kinds = f"{p.a.element} x {p.b.element} -> {p.c.element}"
    raise VectorDeclined(f"tt.dot of {kinds} is not vectorised")
