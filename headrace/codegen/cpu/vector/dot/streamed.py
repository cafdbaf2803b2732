"""Few rows times weights that lie in memory, contiguous along k: eight to 32 rows, W[n, k] read in place.

The product is bound by reading the weights, so they are not packed. The roles are swapped: the few rows of
the left operand are packed into one panel, vectors along m, and every word of W is broadcast from where it
lies. ::

    P[k', M] = words of a
    for j in columns, step NB:
        T[j : j + NB, M] = sum over k' of W[j : j + NB, k'] * P[k']      the next rows of W are prefetched
    into = c + transposed T

Rows of W are often a power of two apart, so that the same column of all of them falls into one set of the
first cache: no more rows are read together than that has ways.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from headrace.codegen.cpu.vector.context import FLOATS, SIZES, Ix, is_const_int, vector_type
from headrace.codegen.cpu.vector.dot import micro, pack, panels
from headrace.codegen.cpu.vector.dot.place import Place, place_of
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.dot.squares import transpose
from headrace.codegen.cpu.vector.dot.words import Source, word_index
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Transpose
from headrace.codegen.cpu.vector.loops import lanes
from headrace.codegen.cpu.vector.memory.prefetch import LINE
from headrace.codegen.cpu.vector.memory.transfer import Load, fetch
from headrace.codegen.cpu.vector.reduction.blocks import is_zero

MOST_ROWS = 32
_WAYS = 8


def accepts(p: Product) -> bool:
    """Eight to 32 rows, and weights whose words are in global memory as the multiplication wants them."""
    if not panels.accepts(p) or not 8 <= p.m <= MOST_ROWS:
        return False
    b, wanted = p.b.resolved(), panels.arithmetic_of(p)
    while isinstance(b, Transpose):
        b = b.operands[0].resolved()
    if not isinstance(b, Load) or SIZES[b.element] * wanted.per != 4:
        return False
    place = place_of(p.g, p.b)
    return place is not None and place.strides[0] == "1" and place.strides[1] != "1"


def lower(p: Product) -> Expr:
    """Pack the few rows, stream the weights."""
    g, s = p.g, p.s
    for operand in (p.a, p.b, p.c):
        s.prepare(operand, fuse=False)
    arithmetic = panels.arithmetic_of(p)
    w = min(g.machine.lanes, p.m)
    vectors = p.m // w
    tile = micro.Tile(min(_WAYS, (16 if g.machine.avx512 else 8) // vectors), vectors, w)
    left = panels.source(p, p.a, arithmetic.per, 0)
    # Where all columns are one, vectors along them are cheap, too; here words always lie along k.
    right = replace(panels.source(p, p.b, arithmetic.per, 1), along_k=True)
    panel = g.alloca(left.word, p.m * (p.k // arithmetic.per))
    pack.panel(g, left, "0", p.m, panel)
    place = place_of(g, right.x)
    assert place is not None
    weights = Weights(p, place, right, tile)
    extent = panels.extent(p, arithmetic.per)
    turned = Buffer(g.alloca(arithmetic.total, p.n * p.m), (p.n, p.m), arithmetic.total)

    def columns(j: str, _: Values) -> Values:
        def block(rows: micro.Left) -> None:
            values = micro.sums(g, arithmetic, tile, rows, panel, extent, weights.ahead(j))
            for r in range(tile.rows):
                for v in range(tile.vectors):
                    turned.put(g, (Ix(j, r), Ix(None, v * w)), 1, w, values[r * tile.vectors + v])

        weights.block(j, block)
        return []

    g.e.loop("0", p.columns, str(tile.rows), (), columns)
    return _turn(p, turned, arithmetic.total)


class Weights:
    """W[n, k] where it lies; rows that a mask cuts are copied to a place of their own."""

    def __init__(self, p: Product, place: Place, right: Source, tile: micro.Tile) -> None:
        self.p, self.g, self.place, self.right, self.tile = p, p.g, place, right, tile
        self.words = p.k // right.per
        self.stride, self.sure = _words(p, place.strides[0], right.per)
        self._copy: Buffer | None = None

    def block(self, j: str, body: Callable[[micro.Left], None]) -> None:
        """Run ``body(rows)`` for the rows from ``j`` on."""
        g, per = self.g, self.right.per
        conditions = [self.sure]
        for name in self.place.bounds[0]:
            conditions.append(g.cmp("sle", g.add(j, str(self.tile.rows)), name))
        for name in self.place.bounds[1]:
            odd = "0" if per == 1 else g.e.pure(f"and i64 {name}, {per - 1}", (name,))
            conditions.append(g.cmp("eq", odd, "0") if name in self.p.bounds else "false")
        whole = "true"
        for one in conditions:
            if "false" in (whole, one):
                whole = "false"
            elif one != "true":
                whole = one if whole == "true" else g.op("and", "i1", whole, one)

        def there() -> Values:
            body(micro.Left(self.place.at(g, j, "0"), self.stride, SIZES[self.right.x.element]))
            return []

        def copied() -> Values:
            body(self._masked(j))
            return []

        if whole == "true":
            there()
        elif whole == "false":
            copied()
        else:
            g.e.branch(whole, (), there, copied)

    def _masked(self, j: str) -> micro.Left:
        g, right = self.g, self.right
        if self._copy is None:
            shape = (self.tile.rows, self.words)
            self._copy = Buffer(g.alloca(right.word, shape[0] * shape[1]), shape, right.word)
        copy, w = self._copy, min(g.machine.lanes, self.words)

        def row(r: str, _: Values) -> Values:
            def chunk(at: list[Ix], _: Values, tail: bool) -> Values:
                for k in at:
                    vector = right.words(g, Ix(g.add(j, r), 0), k, w)
                    copy.put(g, (Ix(r, 0), word_index(g, k, right.per)), 1, w, vector)
                return []

            lanes(g, self.p.k, w * right.per, right.bounds, (), chunk, 1)
            return []

        g.e.loop("0", str(self.tile.rows), "1", (), row)
        return micro.Left(copy.pointer, str(self.words))

    def ahead(self, j: str) -> Callable[[str], None] | None:
        """Prefetches of what the next block reads; past the last block, of the next elements along k."""
        g, rows = self.g, self.tile.rows
        lines = self.words * 4 // LINE  # of one row
        if lines < 1:
            return None
        each = max(1, rows * micro.UNROLL // (LINE // 4))  # lines per turn of the loop along k
        turns = (LINE // 4) // rows if each == 1 else micro.UNROLL // each  # words per line
        following = g.add(j, str(rows))
        name = g.e.pure(f"icmp sge i64 {following}, {self.p.columns}", (following, self.p.columns))
        row = g.select("i1", name, "i64", "0", following)
        k = g.select("i1", name, "i64", str(self.p.k), "0")
        base = self.place.at(g, row, k)

        def ask(iv: str) -> None:
            first = g.e.pure(f"udiv i64 {iv}, {turns}", (iv,))
            for n in range(each):
                line = g.add(first, str(n))
                r = g.e.pure(f"udiv i64 {line}, {lines}", (line,))
                within = g.e.pure(f"urem i64 {line}, {lines}", (line,))
                offset = g.add(g.mul(r, g.mul(self.stride, "4")), g.mul(within, str(LINE)))
                fetch(g, g.gep("i8", base, offset))

        return ask


def _words(p: Product, stride: str, per: int) -> tuple[str, str]:
    """A stride in words, and whether rows do start at whole words from each other."""
    if per == 1:
        return stride, "true"
    if is_const_int(stride):
        return str(int(stride) // per), "true" if int(stride) % per == 0 else "false"
    odd = p.g.e.pure(f"and i64 {stride}, {per - 1}", (stride,))
    return p.g.e.pure(f"ashr i64 {stride}, {per.bit_length() - 1}", (stride,)), p.g.cmp("eq", odd, "0")


def _turn(p: Product, turned: Buffer, total: str) -> Expr:
    """into = c + transposed ``turned``, in squares."""
    g = p.g
    into, init = p.buffer(), None if is_zero(p.c, g) else p.c
    w = turned.shape[1] if turned.shape[1] < g.machine.lanes else g.machine.lanes
    add = "fadd" if total in FLOATS else "add"

    def square(n: str, _: Values) -> Values:
        for m in range(0, p.m, w):
            at = [turned.address(g, (Ix(n, r), Ix(None, m))) for r in range(w)]
            vectors = [g.e.here(f"load <{w} x {total}>, ptr {x}, align 4") for x in at]
            for r, value in enumerate(transpose(g, vectors, total)):
                here = (Ix(None, m + r), Ix(n, 0))
                if init is not None:
                    value = g.op(add, vector_type(total, w), init.eval(g, here, 1, w), value)
                into.put(g, here, 1, w, value)
        return []

    g.e.loop("0", p.columns, str(w), (), square)
    return Buffer(into.pointer, into.shape, into.element, into.strides)
