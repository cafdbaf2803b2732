"""f64 products, read where they are: vectors along k that are reduced at the end, or along n."""

from __future__ import annotations

from headrace.codegen.cpu.vector.analysis.access import valid
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.expr import Broadcast, ExpandDims, Expr, Transpose
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.reduction.accumulate import direct
from headrace.codegen.cpu.vector.reduction.combine import Combine
from headrace.codegen.cpu.vector.reduction.reduce import across, along

_ADD = Combine("arith.addf", "double")


def accepts(p: Product) -> bool:
    """True for matrices of doubles."""
    return p.a.element == p.b.element == p.c.element == "double" and len(p.c.shape) == 2


def lower(p: Product) -> Expr:
    """Write the product; the buffer that holds the result."""
    s = p.s
    for operand in (p.a, p.b, p.c):
        s.prepare(operand, fuse=False)
    into = p.buffer()
    by_k = direct(p.b, 0) and not direct(p.b, 1)
    a, b = _stored(p, p.a, 1), p.b if by_k else _stored(p, p.b, 1)
    full = (p.m, p.n, p.k)
    left = Broadcast(ExpandDims(a, 1), full)
    right = Broadcast(ExpandDims(Transpose(b, (1, 0)), 0), full)
    product = Elementwise("arith.mulf", (left, right), full, "double", {})
    s.keep += [a, b, left, right, product]
    names = valid(p.g, product, 2) or ()
    if by_k:
        along(s, product, 2, _ADD, names, p.limits, into, p.c, *((1, 4) if p.m == 1 else (2, 4)))
    else:
        across(s, product, 2, 1, _ADD, names, p.limits, into, p.c, 1)
    return into


def _stored(p: Product, operand: Expr, dim: int) -> Expr:
    """An operand that can be read directly along ``dim``; put into memory if it cannot."""
    if not direct(operand, dim) or isinstance(operand.resolved(), Elementwise):
        p.s.materialise(operand, fast=dim)
    return operand.resolved()
