"""Products whose operands are read where they are: few rows, or sizes that whole vectors do not divide.

* both operands contiguous along k, few rows: sums along k in vectors, reduced across lanes at the end
  (``along``);
* otherwise vectors along n, accumulators for a block of rows (``across``): f32 multiply-add, or bf16 in
  pairs.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.analysis.access import valid
from headrace.codegen.cpu.vector.context import SIZES, is_const_int
from headrace.codegen.cpu.vector.dot import upcoming
from headrace.codegen.cpu.vector.dot.product import Product, products, readable
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Transpose
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.lanes.pairs import PairProduct, Pairs, as_words
from headrace.codegen.cpu.vector.loops import upper
from headrace.codegen.cpu.vector.reduction.accumulate import direct
from headrace.codegen.cpu.vector.reduction.combine import Combine
from headrace.codegen.cpu.vector.reduction.reduce import across, along
from headrace.codegen.cpu.vector.schedule import Scheduler, numel

_ADD = Combine("arith.addf", "float")
_FROM_BYTES = ("arith.sitofp", "arith.uitofp", "tt.fp_to_fp")
_FLOATS = ("float", "bfloat", "half")


def widened(s: Scheduler, a: Expr, b: Expr) -> Expr:
    """a[m, k] * b[k, n] as a lazy [m, n, k] product in f32."""
    return products(s, in_f32(a), in_f32(b), "arith.mulf")


def in_f32(x: Expr) -> Expr:
    """A matrix of floats in f32. Bytes that were only converted to its type are converted to f32 at once:
    both types hold them exactly."""
    if x.element == "float":
        return x
    top = x.resolved()
    if isinstance(top, Transpose):
        return Transpose(in_f32(top.operands[0]), top.order)
    if isinstance(top, Elementwise) and top.op in _FROM_BYTES and SIZES[top.operands[0].element] == 1:
        return Elementwise(top.op, top.operands, x.shape, "float", top.attrs)
    return Elementwise("arith.extf", (x,), x.shape, "float", {})


def accepts(p: Product) -> bool:
    """Two matrices of floats."""
    return (
        len(p.c.shape) == 2 and p.c.element == "float" and p.a.element in _FLOATS and p.b.element in _FLOATS
    )


def lower(p: Product) -> Expr:
    """Sum with the operands in place, or put into memory whole where they cannot be read directly."""
    s, g, a, b, c = p.s, p.g, p.a, p.b, p.c
    m, n, k = p.m, p.n, p.k
    for d in (a, b, c):
        s.prepare(d, fuse=False)
    buffer = p.buffer()
    asks = upcoming.share(p) if p.few_rows else None
    by_k = direct(b, 0) and not direct(b, 1)
    if by_k:
        product = widened(s, readable(s, a, 1), b)
        m_block = 1 if m == 1 else 4
        names = valid(g, product, 2) or ()
        along(s, product, 2, _ADD, names, p.limits, buffer, c, m_block, 8 if m_block == 1 else 4, asks)
        return buffer
    m_block = 1 if m == 1 else 4 if n > g.machine.lanes else 8
    pairs = a.element == b.element == "bfloat" and g.machine.bf16_dot and k % 32 == 0 and n % 16 == 0
    if not pairs:
        product = widened(s, readable(s, a, 1), readable(s, b, 1))
        names = valid(g, product, 2) or ()
        across(s, product, 2, 1, _ADD, names, p.limits, buffer, c, m_block, asks=asks)
        return buffer
    right: Expr = Pairs(readable(s, b, 1))
    if not p.few_rows:
        packed_tile = Buffer(g.alloca("i32", numel(right.shape)), right.shape, "i32")
        s.materialise(right, into=packed_tile)
        right = packed_tile
    left = a.resolved()
    if not isinstance(left, Buffer) or left.source is not None or left.strides[1] != 1:
        left = Buffer(g.alloca("bfloat", numel(a.shape)), a.shape, "bfloat")
        s.materialise(a, into=left)
    product = PairProduct(as_words(left), right)
    s.keep += [left, right, product]
    hi = upper(g, p.bounds, k)
    halves = (
        str((int(hi) + 1) // 2)
        if is_const_int(hi)
        else g.e.pure(f"lshr i64 {g.add(hi, '1')}, 1", (g.add(hi, "1"),))
    )
    across(s, product, 2, 1, _ADD, (), p.limits, buffer, c, m_block, halves, asks)
    return buffer
