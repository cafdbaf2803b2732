"""``tt.dot``: the micro-kernel is chosen by element types, layouts and what the processor has."""

from __future__ import annotations

from headrace.codegen.cpu.vector.combine import Combine
from headrace.codegen.cpu.vector.elementwise import Elementwise
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Broadcast, Buffer, ExpandDims, Expr, Transpose
from headrace.codegen.cpu.vector.accumulate import direct
from headrace.codegen.cpu.vector.masks import Limits
from headrace.codegen.cpu.vector.reduce import across, along
from headrace.codegen.cpu.vector.schedule import Scheduler, numel, valid

_ADD = Combine("arith.addf", "float")


def product(s: Scheduler, a: Expr, b: Expr) -> Expr:
    """a[m, k] * b[k, n] as a lazy [m, n, k] product in f32."""
    if a.element != "float":
        a = Elementwise("arith.extf", (a,), a.shape, "float", {})
    if b.element != "float":
        b = Elementwise("arith.extf", (b,), b.shape, "float", {})
    m, k = a.shape
    n = b.shape[1]
    left = Broadcast(ExpandDims(a, 1), (m, n, k))
    right = Broadcast(ExpandDims(Transpose(b, (1, 0)), 0), (m, n, k))
    made = Elementwise("arith.mulf", (left, right), (m, n, k), "float", {})
    s.keep += [a, b, left, right, made]
    return made


def stored(s: Scheduler, operand: Expr, dim: int) -> Expr:
    """An operand that can be read directly along ``dim``; put into memory if it cannot."""
    if direct(operand, dim) and not isinstance(operand.resolved(), Elementwise):
        return operand
    s.materialise(operand, fast=dim)
    return operand.resolved()


def lower(s: Scheduler, a: Expr, b: Expr, c: Expr, limits: Limits, into: Buffer | None) -> Expr:
    """c + a @ b for matrices of floats; ``limits`` says which part of the result is needed."""
    g = s.g
    if len(a.shape) != 2:
        raise VectorDeclined("tt.dot of three-dimensional tensors is not vectorised")
    if c.element != "float" or a.element not in ("float", "bfloat", "half") or a.element != b.element:
        raise VectorDeclined(f"tt.dot of {a.element} x {b.element} -> {c.element} is not vectorised")
    m, n = c.shape
    for d in (a, b, c):
        s.prepare(d, fuse=False)
    rows_inner = direct(b, 0) and not direct(b, 1)
    buffer = into or Buffer(g.alloca("float", numel(c.shape)), c.shape, "float")
    if rows_inner:
        a = stored(s, a, 1)
        p = product(s, a, b)
        names = valid(g, p, 2) or ()
        m_block = 1 if m == 1 else 4
        along(s, p, 2, _ADD, names, limits, buffer, c, m_block, 8 if m_block == 1 else 4)
        return buffer
    b = stored(s, b, 1)
    a = stored(s, a, 1)
    p = product(s, a, b)
    names = valid(g, p, 2) or ()
    across(s, p, 2, 1, _ADD, names, limits, buffer, c, 1 if m == 1 else 4)
    return buffer
