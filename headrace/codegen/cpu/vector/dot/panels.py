"""Products of matrices, packed: chosen when at least four rows and a vector of columns are needed.

For each panel of columns, as wide as the register tile: pack it, then run down the rows. The left operand
is packed once, before; the result tile is read and written once per panel. ::

    R[m, k'] = words of a
    for j in columns, step NR:
        P[k', NR] = words of b[:, j : j + NR]
        for i in rows, step MR:
            into[i : i + MR, j : j + NR] = c[...] + sum over k' of R[i, k'] * P[k']
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType

from headrace.codegen.cpu.vector.analysis.access import vector_dim
from headrace.codegen.cpu.vector.context import FLOATS, Context, Ix, is_const_int, vector_type
from headrace.codegen.cpu.vector.dot import bf16, fma, micro, pack, spread
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.dot.words import Source
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Transpose, packed
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.loops import upper
from headrace.codegen.cpu.vector.memory.transfer import Load
from headrace.codegen.cpu.vector.reduction.blocks import is_zero
from headrace.codegen.cpu.vector.schedule import numel

_PACKED = 1 << 16  # words of the right operand that are packed at a time: a quarter of a large second cache
_FLOATS = ("float", "bfloat", "half")


def arithmetic_of(p: Product) -> ModuleType:
    """The multiply-accumulate for these operands on this machine."""
    both = p.a.element == p.b.element == "bfloat"
    return bf16 if both and p.machine.bf16_dot and p.k % 2 == 0 else fma


def accepts(p: Product) -> bool:
    """Two matrices of floats, enough rows, sizes that whole vectors divide."""
    if len(p.c.shape) != 2 or p.c.element != "float":
        return False
    if p.a.element not in _FLOATS or p.b.element not in _FLOATS or p.m < 4 or p.few_rows:
        return False
    w = p.machine.lanes
    return p.n % w == 0 and p.k % (w * arithmetic_of(p).per) == 0


def lower(p: Product) -> Expr:
    """Pack and multiply."""
    for operand in (p.a, p.b, p.c):
        p.s.prepare(operand, fuse=False)
    return multiply(p, arithmetic_of(p))


def multiply(p: Product, arithmetic: micro.Arithmetic) -> Expr:
    """Pack the operands, which are prepared, and multiply."""
    g = p.g
    tile = micro.tile_of(g, p.m, p.n)
    left = source(p, p.a, arithmetic.per, 0)
    right = dataclasses.replace(source(p, p.b, arithmetic.per, 1), flip=arithmetic.flip)
    words = extent(p, arithmetic.per)
    # A right tile that is contiguous along n moves to other pages with every iteration: asking for it waits
    # for the page tables just as packing would (measured: 8 % slower), and packing looks ahead itself.
    moving = (p.a, p.b) if right.along_k else (p.a,)
    following = [found for found in (spread.of(g, operand) for operand in moving) if found is not None]
    rest = micro.rest_of(tile, p.m)
    count = _round_up(p, p.rows, (rest or tile).rows, p.m)
    rows = _left_rows(p, left)
    depth = p.k // arithmetic.per
    # What is contiguous along n is packed many panels at a time, or its rows would be read in small pieces.
    wide = tile.columns if right.along_k else max(tile.columns, min(p.n, _PACKED // depth))
    packed = pack.Panels(g.alloca(right.word, wide * depth), tile.columns, depth)
    into = p.buffer()
    init = None if is_zero(p.c, g) else p.c
    add = "fadd contract" if arithmetic.total in FLOATS else "add"

    def group(first: str, _: Values) -> Values:
        here = g.smin(g.sub(p.columns, first), str(wide)) if wide > tile.columns else str(wide)
        pack.panels(g, right, first, here, wide, packed)
        _loop(p, "0", here, tile.columns, lambda row, _: columns(g.add(first, row), row))
        return []

    def columns(j: str, row: str) -> Values:
        panel = packed.at(g, right.word, row)

        def block(i: str, tile: micro.Tile) -> Values:
            stride = str(rows.strides[0])
            top = micro.Left(
                g.gep(rows.element, rows.pointer, g.mul(i, stride)), stride, step=rows.strides[1]
            )
            ask: spread.Asks | None = None
            every = 0
            if following and rest is None:
                down, parts = p.m // tile.rows, p.m // tile.rows * (p.n // tile.columns)
                number = g.add(g.mul(_over(g, j, tile.columns), str(down)), _over(g, i, tile.rows))
                asks = spread.Asks(g, tuple(following), number, parts, depth)
                if words == str(depth) and asks.every >= micro.UNROLL:
                    ask, every = asks, asks.every
                else:
                    asks.at_once()
            values = micro.sums(g, arithmetic, tile, top, panel, words, ask, every=every)
            for r in range(tile.rows):
                for v in range(tile.vectors):
                    value = values[r * tile.vectors + v]
                    at = (_ix(i, r), _ix(j, v * tile.width))
                    if init is not None:
                        before = init.eval(g, at, 1, tile.width)
                        value = g.op(add, vector_type(arithmetic.total, tile.width), before, value)
                    into.put(g, at, 1, tile.width, value)
            return []

        if rest is None:
            _loop(p, "0", count, tile.rows, lambda i, _: block(i, tile))
        else:
            whole = _floor(p, count, tile.rows)
            _loop(p, "0", whole, tile.rows, lambda i, _: block(i, tile))
            _loop(p, whole, count, rest.rows, lambda i, _: block(i, rest))
        return []

    _loop(p, "0", p.columns, wide, group)
    return Buffer(into.pointer, into.shape, into.element, into.strides)


def _over(g: Context, index: str, step: int) -> str:
    if is_const_int(index):
        return str(int(index) // step)
    return g.e.pure(f"udiv i64 {index}, {step}", (index,))


def _loop(p: Product, start: str, end: str, step: int, body: Callable[[str, Values], Values]) -> None:
    if is_const_int(end) and is_const_int(start) and 0 < int(end) - int(start) <= step:
        body(start, [])
    elif start != end:
        p.g.e.loop(start, end, str(step), (), body)


def _ix(base: str, off: int) -> Ix:
    return Ix(None, int(base) + off) if is_const_int(base) else Ix(base, off)


def source(p: Product, operand: Expr, per: int, position: int) -> Source:
    """The operand as x[r, k]; its elements are computed while they are packed, each once."""
    k = 1 - position
    along_k = vector_dim(p.g, operand.shape, [operand]) == k or operand.shape[1 - k] < pack.LEAST_SQUARE
    if per == 1 and operand.element in ("bfloat", "half"):
        operand = Elementwise("arith.extf", (operand,), operand.shape, "float", {})
    x = operand if position == 0 else Transpose(operand, (1, 0))
    p.s.keep += [operand, x]
    return Source(x, per, along_k, p.bounds)


def extent(p: Product, per: int) -> str:
    """Words along k."""
    hi = upper(p.g, p.bounds, p.k)
    if is_const_int(hi):
        return str(-(-int(hi) // per))
    if per == 1:
        return hi
    more = p.g.add(hi, str(per - 1))
    return p.g.e.pure(f"lshr i64 {more}, {per.bit_length() - 1}", (more,))


def _round_up(p: Product, count: str, step: int, most: int) -> str:
    if is_const_int(count):
        return str(min(-(-int(count) // step) * step, most))
    return p.g.floor_to(p.g.add(count, str(step - 1)), step)


def _floor(p: Product, count: str, step: int) -> str:
    if is_const_int(count):
        return str(int(count) // step * step)
    return p.g.mul(p.g.e.pure(f"udiv i64 {count}, {step}", (count,)), str(step))


def _left_rows(p: Product, left: Source) -> Buffer:
    """R[m, k']: the operand itself where it already is such a tile."""
    g = p.g
    x = left.x.resolved()
    shape = (p.m, p.k // left.per)
    if isinstance(x, Buffer) and whole(p, x) and (x.strides[1] == 1 or left.per == 1):
        return Buffer(x.pointer, shape, left.word, (x.strides[0] // left.per, x.strides[1]))
    strides = packed(shape, 1 if left.along_k else 0)
    made = Buffer(g.alloca(left.word, numel(shape)), shape, left.word, strides)
    if left.along_k:
        pack.rows(g, left, p.rows, made)
    else:
        pack.columns(g, left, p.rows, made, p.limits.get(0, ()) if ours(x) else ())
    return made


def whole(p: Product, x: Buffer) -> bool:
    """True if all rows that are needed of a left operand are in memory. Rows beyond are read with the last of
    them, and what comes of it is not needed either."""
    return all(d == 0 and set(names) <= set(p.limits.get(0, ())) for d, names in x.limits.items())


def ours(expr: Expr) -> bool:
    """True for a tile of our own, or one computed from such: it may be read beyond its bounds."""
    expr = expr.resolved()
    if isinstance(expr, Buffer):
        return True
    return not isinstance(expr, Load) and all(ours(o) for o in expr.operands)
