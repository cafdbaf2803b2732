"""``tt.dot``: the micro-kernel is chosen by element types, layouts and what the processor has.

* both operands contiguous along k, few rows: sums along k in vectors, reduced across lanes at the end
(``along``);
* otherwise vectors along n, accumulators for a block of rows (``across``): f32 multiply-add, or bf16 in
pairs. A right operand that is contiguous along k is transposed into a tile first.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.access import valid
from headrace.codegen.cpu.vector.accumulate import direct
from headrace.codegen.cpu.vector.combine import Combine
from headrace.codegen.cpu.vector.context import is_const_int
from headrace.codegen.cpu.vector.dot.pack import transposed
from headrace.codegen.cpu.vector.elementwise import Elementwise
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Broadcast, Buffer, ExpandDims, Expr, Transpose
from headrace.codegen.cpu.vector.loops import upper
from headrace.codegen.cpu.vector.masks import Limits
from headrace.codegen.cpu.vector.pairs import PairProduct, Pairs, as_words
from headrace.codegen.cpu.vector.reduce import across, along
from headrace.codegen.cpu.vector.schedule import Scheduler, numel

_ADD = Combine("arith.addf", "float")
_FEW_ROWS = 8


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


def _stored(s: Scheduler, operand: Expr, dim: int) -> Expr:
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
    k = a.shape[1]
    for d in (a, b, c):
        s.prepare(d, fuse=False)
    buffer = into or Buffer(g.alloca("float", numel(c.shape)), c.shape, "float")
    by_k = direct(b, 0) and not direct(b, 1)
    needed = upper(g, limits.get(0, ()), m)
    few = int(needed) < _FEW_ROWS if is_const_int(needed) else m < _FEW_ROWS
    w = g.machine.lanes
    pairs = a.element == "bfloat" and g.machine.bf16_dot and k % 32 == 0 and n % 16 == 0
    packable = by_k and not few and n % w == 0 and (pairs or (a.element == "float" and k % w == 0))
    if by_k and not packable:
        a = _stored(s, a, 1)
        p = product(s, a, b)
        m_block = 1 if m == 1 else 4
        along(s, p, 2, _ADD, valid(g, p, 2) or (), limits, buffer, c, m_block, 8 if m_block == 1 else 4)
        return buffer
    m_block = 1 if m == 1 else 4 if n > w else 8
    if not pairs:
        if packable:
            b = transposed(s, Transpose(b, (1, 0)), upper(g, limits.get(1, ()), n))
        else:
            b = _stored(s, b, 1)
        p = product(s, _stored(s, a, 1), b)
        across(s, p, 2, 1, _ADD, valid(g, p, 2) or (), limits, buffer, c, m_block)
        return buffer
    names = valid(g, product(s, a, b), 2) or ()
    if packable:
        right: Expr = transposed(s, Transpose(b, (1, 0)), upper(g, limits.get(1, ()), n))
    else:
        right = Pairs(_stored(s, b, 1))
        if not few:
            packed_tile = Buffer(g.alloca("i32", numel(right.shape)), right.shape, "i32")
            s.materialise(right, into=packed_tile)
            right = packed_tile
    left = a.resolved()
    if not isinstance(left, Buffer) or left.source is not None or left.strides[1] != 1:
        left = Buffer(g.alloca("bfloat", numel(a.shape)), a.shape, "bfloat")
        s.materialise(a, into=left)
    p = PairProduct(as_words(left), right)
    s.keep += [left, right, p]
    hi = upper(g, names, k)
    halves = (
        str((int(hi) + 1) // 2)
        if is_const_int(hi)
        else g.e.pure(f"lshr i64 {g.add(hi, '1')}, 1", (g.add(hi, "1"),))
    )
    across(s, p, 2, 1, _ADD, (), limits, buffer, c, m_block, halves)
    return buffer
