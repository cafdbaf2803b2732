"""Products whose operands or sums are converted first: 8-bit floats, operands of two types, f16 results.

An 8-bit float is exact as bf16, which is what is multiplied where the processor has bf16 products, and f32
elsewhere. Sums are f32 and rounded once, at the end. Input precisions (tf32, bf16x3, ...) never lower what is
computed: f32 is multiplied as f32.
"""

from __future__ import annotations

import dataclasses

from headrace.codegen.cpu.vector.dot.product import Product, as_floats
from headrace.codegen.cpu.vector.expr import Expr
from headrace.codegen.cpu.vector.lanes import float8

_FLOATS = frozenset({"float", "bfloat", "half"}) | float8.NAMES


def accepts(p: Product) -> bool:
    """True for floats of up to 32 bits that need a conversion."""
    if {p.a.element, p.b.element} - _FLOATS or p.c.element not in ("float", "half", "bfloat"):
        return False
    kinds = {p.a.element, p.b.element}
    return len(kinds) > 1 or bool(kinds & float8.NAMES) or p.c.element != "float"


def lower(p: Product) -> Expr:
    """Convert, multiply, and round the result."""
    result = p.c.element
    small = {p.a.element, p.b.element} <= float8.NAMES | {"bfloat"}
    if p.a.element != p.b.element or p.a.element in float8.NAMES:
        common = "bfloat" if small and p.machine.bf16_dot else "float"
        p = dataclasses.replace(p, a=as_floats(p.s, p.a, common), b=as_floats(p.s, p.b, common))
    if result == "float":
        return p.again(p)
    made = p.again(dataclasses.replace(p, c=as_floats(p.s, p.c, "float"), into=None))
    return as_floats(p.s, made, result)
