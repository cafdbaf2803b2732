"""Products of a matrix that a loop does not change with the transpose of one that it reads: q @ trans(k).

Neither is packed inside the loop. The left one is packed once, before it, in panels with vectors along m; the
words of the right one are contiguous along k and are broadcast from where they lie. The result is a tile with
vectors along m, so the maxima and sums of its rows that follow need no exchange between lanes. ::

    for i in rows, step NR:                               before the loop
        P[i][k', NR] = words of a[i : i + NR, :]
    for i in rows, step NR:
        for j in columns, step MR:
            into[i : i + NR, j : j + MR] = transposed sum over k' of b[:, j : j + MR] * P[i]
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Block, Op, Value, element_of, shape_of
from headrace.codegen.cpu.vector.context import Context, Ix
from headrace.codegen.cpu.vector.dot import bf16, fma, micro, pack, panels
from headrace.codegen.cpu.vector.dot.place import place_of
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.dot.streamed import Weights
from headrace.codegen.cpu.vector.dot.words import Source
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr
from headrace.codegen.cpu.vector.expr import packed as packed_strides
from headrace.codegen.cpu.vector.memory import ahead
from headrace.codegen.cpu.vector.memory.prefetch import LINE
from headrace.codegen.cpu.vector.memory.transfer import fetch
from headrace.codegen.cpu.vector.reduction.blocks import is_zero

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering

_THROUGH = frozenset({"tt.trans", "arith.extf", "arith.truncf", "tt.fp_to_fp"})


@dataclass(frozen=True)
class Panels:
    """A left operand in memory: panels of ``columns`` rows one after the other, ``words`` words along k."""

    pointer: str
    arithmetic: ModuleType
    columns: int
    words: int


def prepare(lowering: Lowering, loop: Op) -> None:
    """Pack the left operands of such products in a loop that is about to be written."""
    body = loop.regions[0]
    if not _only_products_read_tiles(body):
        return
    made = {result: op for op in body.ops for result in op.results}
    for op in body.ops:
        if op.name != "tt.dot":
            continue
        a, b = op.operands[:2]
        turned = made.get(b)
        outside = a in lowering.env and a not in made and a not in body.args
        if outside and turned is not None and turned.name == "tt.trans" and len(shape_of(a.type)) == 2:
            expr = lowering.get(a).resolved()
            arithmetic = _arithmetic(lowering.g, a, b)
            if arithmetic is not None and expr.uid not in lowering.s.turned:
                found = _pack(lowering, expr, arithmetic, shape_of(b.type)[1])
                if found is not None:
                    lowering.s.turned[expr.uid] = found


def _only_products_read_tiles(body: Block) -> bool:
    """True if every matrix that the loop loads goes into products alone: others may want vectors along n."""
    tiles = {op.result for op in body.ops if op.name == "tt.load" and len(shape_of(op.result.type)) > 1}
    for op in body.ops:
        if op.name in _THROUGH:
            tiles |= {op.result for operand in op.operands if operand in tiles}
        elif op.name != "tt.dot" and tiles & set(op.operands):
            return False
    return not any(op.regions and op.name != "tt.reduce" for op in body.ops)


def _arithmetic(g: Context, a: Value, b: Value) -> ModuleType | None:
    kinds = {str(element_of(v.type)) for v in (a, b)}
    if kinds == {"f32"}:
        return fma
    # Matrix registers, where there are any, take bf16 products before this family is asked.
    return bf16 if kinds == {"bf16"} and g.machine.bf16_dot and not g.machine.amx_bf16 else None


def _pack(lowering: Lowering, expr: Expr, arithmetic: ModuleType, n: int) -> Panels | None:
    g = lowering.g
    m, k = expr.shape
    w = g.machine.lanes
    if m % w or k % (w * arithmetic.per):
        return None
    tile = micro.tile_of(g, n, m)
    if m % tile.columns or n % tile.rows:
        return None
    words = k // arithmetic.per
    element = "float" if arithmetic is fma else "i32"
    pointer = g.alloca(element, m * words)
    source = Source(expr, arithmetic.per, True)

    def panel(i: str, _: Values) -> Values:
        pack.panel(g, source, i, tile.columns, g.gep(element, pointer, g.mul(i, str(words))))
        return []

    g.e.loop("0", str(m), str(tile.columns), (), panel)
    return Panels(pointer, arithmetic, tile.columns, words)


def _distance(g: Context, b: Expr) -> str:
    load = ahead.source(b)
    return ahead.distance(g, load) if load is not None else ""


def accepts(p: Product) -> bool:
    """The left operand has been packed, and the right one lies in memory, contiguous along k. It may have
    been packed for the sake of another product, with more or fewer columns than this one."""
    if p.a.resolved().uid not in p.s.turned or p.into is not None or not is_zero(p.c, p.g):
        return False
    if p.n % micro.tile_of(p.g, p.n, p.m).rows:
        return False
    place = place_of(p.g, p.b)
    return place is not None and place.strides[0] == "1"


def lower(p: Product) -> Expr:
    """Multiply; the result's vectors lie along m."""
    g = p.g
    entry = p.s.turned[p.a.resolved().uid]
    assert isinstance(entry, Panels)
    arithmetic = entry.arithmetic
    tile = micro.tile_of(g, p.n, p.m)
    right = panels.source(p, p.b, arithmetic.per, 1)
    place = place_of(g, right.x)
    assert place is not None
    keys = Weights(p, place, right, tile)
    words = panels.extent(p, arithmetic.per)
    distance = _distance(g, p.b)
    into = Buffer(g.alloca("float", p.m * p.n), (p.m, p.n), "float", packed_strides((p.m, p.n), 0))

    def rows(i: str, _: Values) -> Values:
        panel = g.gep(arithmetic.word, entry.pointer, g.mul(i, str(entry.words)))

        def columns(j: str, _: Values) -> Values:
            def following(iv: str) -> None:
                # One line per turn of the loop along k: that is all of these rows.
                turn = g.e.pure(f"udiv i64 {iv}, {micro.UNROLL}", (iv,))
                row = g.e.pure(f"urem i64 {turn}, {tile.rows}", (turn,))
                line = g.e.pure(f"udiv i64 {turn}, {tile.rows}", (turn,))
                start = g.gep("i8", place.at(g, g.add(j, row), "0"), distance)
                fetch(g, g.gep("i8", start, g.mul(line, str(LINE))))

            def block(left: micro.Left) -> None:
                values = micro.sums(g, arithmetic, tile, left, panel, words, following if distance else None)
                for r in range(tile.rows):
                    for v in range(tile.vectors):
                        at = (Ix(i, v * tile.width), Ix(j, r))
                        into.put(g, at, 0, tile.width, values[r * tile.vectors + v])

            keys.block(j, block)
            return []

        g.e.loop("0", p.columns, str(tile.rows), (), columns)
        return []

    g.e.loop("0", p.rows, str(tile.columns), (), rows)
    return into
