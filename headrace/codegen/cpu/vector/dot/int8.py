"""int8 x int8 -> int32, exact.

* VNNI: ``vpdpbusd`` adds four products of an unsigned and a signed byte to each 32-bit lane. b is packed as
  b + 128, which is unsigned, and 128 times the sum of each row of a is taken off again:
  sum a b = sum a (b + 128) - 128 sum a.
* otherwise, and where k is short, both operands are widened to 16 bits and multiplied in pairs
  (``vpdpwssd``, or ``vpmaddwd`` and an addition).
* few rows against a b that is contiguous along k, and sizes that whole vectors do not divide: the
  operands are read where they are.

All sums wrap like 32-bit integers, in any order.
"""

from __future__ import annotations

import dataclasses

from headrace.codegen.cpu.vector.analysis.access import valid
from headrace.codegen.cpu.vector.context import Context
from headrace.codegen.cpu.vector.dot import panels
from headrace.codegen.cpu.vector.dot.product import Product, products, readable
from headrace.codegen.cpu.vector.expr import Broadcast, Buffer, ExpandDims, Expr, Uniform
from headrace.codegen.cpu.vector.lanes import vnni
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.reduction.accumulate import direct
from headrace.codegen.cpu.vector.reduction.combine import Combine
from headrace.codegen.cpu.vector.reduction.reduce import across, along
from headrace.codegen.cpu.vector.schedule import Scheduler

ADD = Combine("arith.addi", "i32")


class Quads:
    """Four bytes to a word; the right ones are packed with 128 added."""

    per = 4
    word = "i32"
    total = "i32"
    flip = str(0x80808080 - (1 << 32))

    def operand(self, g: Context, vector: str, width: int) -> str:
        """Words stay words until they are multiplied."""
        return vector

    def update(self, g: Context, acc: str, left: str, right: str, width: int) -> str:
        """acc + four products."""
        return vnni.multiply_quads(g, acc, right, left, width)


class Halves:
    """Two 16-bit numbers to a word."""

    per = 2
    word = "i32"
    total = "i32"
    flip = "0"

    def operand(self, g: Context, vector: str, width: int) -> str:
        """Words stay words until they are multiplied."""
        return vector

    def update(self, g: Context, acc: str, left: str, right: str, width: int) -> str:
        """acc + two products."""
        return vnni.multiply_pairs(g, acc, left, right, width)


def accepts(p: Product) -> bool:
    """True for matrices of signed bytes that are summed in 32 bits."""
    return p.a.element == p.b.element == "i8" and p.c.element == "i32" and len(p.c.shape) == 2


def product(s: Scheduler, a: Expr, b: Expr) -> Expr:
    """a[m, k] * b[k, n] as a lazy [m, n, k] product in 32 bits."""
    return products(s, _extended(a, "i32"), _extended(b, "i32"), "arith.muli")


def lower(p: Product) -> Expr:
    """Write the product; the buffer that holds the result."""
    for operand in (p.a, p.b, p.c):
        p.s.prepare(operand, fuse=False)
    w = p.machine.lanes
    by_k = direct(p.b, 0) and not direct(p.b, 1)
    if p.n % w or p.k % (2 * w) or p.m < 4 or (p.few_rows and by_k):
        return _in_place(p, by_k)
    a = readable(p.s, p.a, 1)
    if p.machine.vnni and p.k % (4 * w) == 0:
        taken = Broadcast(ExpandDims(_row_sums(p, a), 1), p.c.shape)
        c = Elementwise("arith.subi", (p.c, taken), p.c.shape, "i32", {})
        p.s.keep += [taken, c]
        return panels.multiply(dataclasses.replace(p, a=a, c=c), Quads())
    wide = [_extended(x, "i16") for x in (a, p.b)]
    p.s.keep += wide
    return panels.multiply(dataclasses.replace(p, a=wide[0], b=wide[1]), Halves())


def _extended(x: Expr, element: str) -> Expr:
    return Elementwise("arith.extsi", (x,), x.shape, element, {})


def _in_place(p: Product, by_k: bool) -> Expr:
    """Without packing: vectors along k that are reduced at the end, or along n."""
    s, into = p.s, p.buffer()
    a = readable(s, p.a, 1)
    lazy = product(s, a, p.b if by_k else readable(s, p.b, 1))
    names = valid(p.g, lazy, 2) or ()
    if by_k:
        blocks = (1, 8) if p.m == 1 else (4, 4)
        along(s, lazy, 2, ADD, names, p.limits, into, p.c, *blocks)
    else:
        across(s, lazy, 2, 1, ADD, names, p.limits, into, p.c, 1)
    return into


def _row_sums(p: Product, a: Expr) -> Expr:
    """128 times the sum over k of each row of a."""
    s = p.s
    one = _extended(Uniform("1", "i8", a.shape), "i32")
    wide = _extended(a, "i32")
    lazy = Elementwise("arith.muli", (wide, one), a.shape, "i32", {})
    sums = Buffer(p.g.alloca("i32", p.m), (p.m,), "i32")
    s.keep += [one, wide, lazy, sums]
    bound = {0: p.limits[0]} if 0 in p.limits else {}
    along(s, lazy, 1, ADD, valid(p.g, lazy, 1) or (), bound, sums, None, 1, 8)
    return Elementwise("arith.muli", (sums, Uniform("128", "i32", (p.m,))), (p.m,), "i32", {})
