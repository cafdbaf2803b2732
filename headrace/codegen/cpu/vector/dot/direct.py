"""Products of a tile of our own with a matrix that is read where it lies: p @ v.

Nothing is packed. The words of the left operand were just computed, and are broadcast from their tile,
whichever way it lies; the right one is contiguous along n and used by all rows of the left one, so after the
first of them it is in a near cache. Where a loop moves it, its next tile is prefetched meanwhile. ::

    for j in columns, step NR:
        for i in rows, step MR:
            into[i : i + MR, j : j + NR] = c[...] + sum over k of a[i : i + MR, k] * b[k, j : j + NR]
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Ix
from headrace.codegen.cpu.vector.dot import fma, micro, panels
from headrace.codegen.cpu.vector.dot.place import place_of
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr
from headrace.codegen.cpu.vector.memory import ahead
from headrace.codegen.cpu.vector.memory.prefetch import LINE
from headrace.codegen.cpu.vector.memory.transfer import fetch
from headrace.codegen.cpu.vector.reduction.blocks import is_zero


def accepts(p: Product) -> bool:
    """f32, the left operand in memory of ours, the right one in global memory, unmasked and contiguous."""
    if not panels.accepts(p) or p.a.element != "float" or p.b.element != "float":
        return False
    a = p.a.resolved()
    if not isinstance(a, Buffer) or not panels.whole(p, a) or p.m % micro.tile_of(p.g, p.m, p.n).rows:
        return False
    place = place_of(p.g, p.b)
    return place is not None and place.strides[1] == "1" and place.bounds == ((), ())


def lower(p: Product) -> Expr:
    """Multiply; the result is where ``c`` is, or a tile with vectors along n."""
    g = p.g
    p.s.prepare(p.c, fuse=False)
    tile = micro.tile_of(g, p.m, p.n)
    a, place = p.a.resolved(), place_of(g, p.b)
    assert isinstance(a, Buffer)
    assert place is not None
    load = ahead.source(p.b)
    distance = ahead.distance(g, load) if load is not None else ""
    into = p.buffer()
    init = None if is_zero(p.c, g) else p.c

    def following(i: str, j: str) -> None:
        each = -(-p.k * tile.rows // p.m)
        first = g.gep(
            "i8", place.at(g, g.mul(g.e.pure(f"udiv i64 {i}, {tile.rows}", (i,)), str(each)), j), distance
        )
        for k in range(each):
            row = g.gep("float", first, g.mul(place.strides[0], str(k)))
            for byte in range(0, tile.columns * 4, LINE):
                fetch(g, g.gep("i8", row, str(byte)))

    def columns(j: str, _: Values) -> Values:
        right = place.at(g, "0", j)

        def rows(i: str, _: Values) -> Values:
            left = micro.Left(
                g.gep("float", a.pointer, g.mul(i, str(a.strides[0]))), str(a.strides[0]), step=a.strides[1]
            )
            if distance:
                following(i, j)
            values = micro.sums(g, fma, tile, left, right, str(p.k), apart=place.strides[0])
            for r in range(tile.rows):
                for v in range(tile.vectors):
                    value = values[r * tile.vectors + v]
                    at = (Ix(i, r), Ix(j, v * tile.width))
                    if init is not None:
                        before = init.eval(g, at, 1, tile.width)
                        value = g.op("fadd contract", f"<{tile.width} x float>", before, value)
                    into.put(g, at, 1, tile.width, value)
            return []

        g.e.loop("0", p.rows, str(tile.rows), (), rows)
        return []

    g.e.loop("0", p.columns, str(tile.columns), (), columns)
    return Buffer(into.pointer, into.shape, into.element, into.strides)
