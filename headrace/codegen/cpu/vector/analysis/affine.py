"""Pointers and integers as base + stride * i along one dimension.

The stride is found on the expression; the base is the expression itself evaluated at i = 0, so it is computed
with exactly the widths that the kernel has (an i32 offset wraps before it is extended). Within one tile the
addresses along a dimension of stride s are taken as base + s * i in 64 bits.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import ZERO, Context, Index
from headrace.codegen.cpu.vector.expr import (
    NONE,
    Broadcast,
    ExpandDims,
    Expr,
    Range,
    Scalar,
    Transpose,
    Uniform,
)
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise

Stride = int | str | None


def stride_along(g: Context, expr: Expr, dim: int) -> Stride:
    """How much one step along ``dim`` adds: an integer, the SSA name of an i64, or None when it is not
    constant."""
    expr = expr.resolved()
    if dim == NONE or dim not in expr.varies:
        return 0
    if isinstance(expr, Range):
        return 1
    if isinstance(expr, ExpandDims | Broadcast | Transpose):
        return stride_along(g, expr.operands[0], expr.down(0, dim))
    if not isinstance(expr, Elementwise):
        return None
    op, operands = expr.op, expr.operands
    if op in ("arith.addi", "tt.addptr"):
        return _sum(g, stride_along(g, operands[0], dim), stride_along(g, operands[1], dim))
    if op == "arith.subi":
        right = stride_along(g, operands[1], dim)
        return _sum(g, stride_along(g, operands[0], dim), -right if isinstance(right, int) else None)
    if op == "arith.extsi":
        return stride_along(g, operands[0], dim)
    if op == "arith.muli":
        for a, b in (operands, operands[::-1]):
            if not b.varies:
                return _product(g, stride_along(g, a, dim), b)
    return None


def _sum(g: Context, a: Stride, b: Stride) -> Stride:
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return g.add(str(a), str(b))


def _product(g: Context, a: Stride, factor: Expr) -> Stride:
    if a is None or a == 0:
        return a
    value = factor.scalar(g)
    if factor.element != "i64" and value.startswith("%"):
        value = g.cast("sext", factor.element, value, "i64")
    product = g.mul(str(a), value)
    return product if product.startswith("%") else int(product)


def address(g: Context, pointer: Expr, pointee: str, index: Index, dim: int, stride: int | str) -> str:
    """Address of the element at ``index`` of a pointer tensor with ``stride`` along ``dim``."""
    if dim == NONE:
        return pointer.eval(g, index, NONE, 0)
    ix = index[dim]
    base = pointer.eval(g, (*index[:dim], ZERO, *index[dim + 1 :]), NONE, 0)
    if ix.base is not None:
        base = g.gep(pointee, base, g.mul(ix.base, str(stride)))
    return g.gep(pointee, base, g.mul(str(ix.off), str(stride)))


def root(expr: Expr) -> Expr:
    """The scalar pointer that a pointer tensor starts from (for aliasing); the expression itself when
    unknown."""
    expr = expr.resolved()
    while isinstance(expr, Elementwise | ExpandDims | Broadcast | Transpose) and expr.operands:
        expr = expr.operands[0].resolved()
    return expr


def root_name(expr: Expr) -> str:
    """SSA name of :func:`root`, or "" when it is not a plain scalar."""
    found = root(expr)
    return found.name if isinstance(found, Scalar | Uniform) else ""
