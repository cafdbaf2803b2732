"""f64 products, read where they are: vectors along k that are reduced at the end, or along n."""

from __future__ import annotations

from headrace.codegen.cpu.vector.analysis.access import valid
from headrace.codegen.cpu.vector.dot.product import Product, products, readable
from headrace.codegen.cpu.vector.expr import Expr
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
    a, b = readable(s, p.a, 1), p.b if by_k else readable(s, p.b, 1)
    product = products(s, a, b, "arith.mulf")
    names = valid(p.g, product, 2) or ()
    if by_k:
        along(s, product, 2, _ADD, names, p.limits, into, p.c, *((1, 4) if p.m == 1 else (2, 4)))
    else:
        across(s, product, 2, 1, _ADD, names, p.limits, into, p.c, 1)
    return into
