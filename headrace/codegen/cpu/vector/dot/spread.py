"""Prefetches of the tiles that the next iteration reads, spread evenly over the work of this one.

Packing reads a tile from memory in one go, while nothing is multiplied; if its lines are in the second cache
by then, that is several times as fast. :class:`Asks` asks for the lines in the order in which they lie.

Where little is computed per line, the order matters: what is on its way at a time is a few KiB, and where
that is one run of neighbours, it comes from few of the memory's banks.

Measured on Zen 4, two threads, against a plain reader with eight streams: tiles of keys and values that are
asked for in order arrive at 0.8 of its rate, in eight streams within a tile at 1.0 (16 KiB) to 1.1 (32 KiB),
if each request stands between two reads and these go through the tile in order; 16 or 32 requests in a burst
arrive at 0.6, and requests for the first cache instead of the second at 0.75. :class:`Interleaved` does that.
Requests themselves are scarce: with one row of queries, where the loop runs far ahead of memory and the
hardware's prefetchers with it, asking for every other line takes 0.77 to 1.0; with four rows asking for all
of them is better (0.8 against 0.55).
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import Context, is_const_int
from headrace.codegen.cpu.vector.dot.place import place_of
from headrace.codegen.cpu.vector.expr import Expr
from headrace.codegen.cpu.vector.loops import quotient
from headrace.codegen.cpu.vector.memory import ahead

_LINE = 64
_STREAMS = 8
_PAIR = 2


@dataclass(frozen=True)
class Spread:
    """The lines of a tile: ``rows`` runs of ``lines`` lines, ``stride`` bytes apart from ``base`` on."""

    base: str
    stride: str
    rows: int
    lines: int

    def each(self, count: int) -> int:
        """Lines in one of ``count`` equal parts."""
        return -(-self.rows * self.lines // count)

    def ask(self, g: Context, line: str) -> None:
        """Ask for a line, by its number."""
        g.e.declare("llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        row = g.e.pure(f"udiv i64 {line}, {self.lines}", (line,))
        within = g.e.pure(f"urem i64 {line}, {self.lines}", (line,))
        run = g.gep("i8", self.base, g.mul(row, self.stride))
        where = g.gep("i8", run, g.mul(within, str(_LINE)))
        g.e.effect(f"call void @llvm.prefetch.p0(ptr {where}, i32 0, i32 2, i32 1)")


@dataclass(frozen=True)
class Asks:
    """Part ``number`` of ``count`` equal parts of some tiles, in pieces while ``depth`` words are summed: one
    line at a time, since a burst of requests holds up what follows."""

    g: Context
    tiles: tuple[Spread, ...]
    number: str
    count: int
    depth: int

    @property
    def pieces(self) -> int:
        """In how many pieces to ask: a power of two."""
        return 1 << (max(tile.each(self.count) for tile in self.tiles) - 1).bit_length()

    @property
    def every(self) -> int:
        """Words along k between two pieces."""
        return self.depth // self.pieces

    def __call__(self, k: str) -> None:
        self._ask(self.g.e.pure(f"udiv i64 {k}, {self.every}", (k,)))

    def at_once(self) -> None:
        """The whole part."""
        for piece in range(self.pieces):
            self._ask(str(piece))

    def _ask(self, piece: str) -> None:
        g = self.g
        for tile in self.tiles:
            each = tile.each(self.count)
            share = g.mul(piece, str(each))
            within = (
                str(int(share) // self.pieces)
                if is_const_int(share)
                else g.e.pure(f"udiv i64 {share}, {self.pieces}", (share,))
            )
            tile.ask(g, g.add(g.mul(self.number, str(each)), within))


@dataclass(frozen=True)
class Interleaved:
    """The lines of a tile, a few from each of several places at a time.

    Attributes:
        light: so little is computed that the hardware's prefetchers keep up: every other line is enough.
    """

    g: Context
    tile: Spread
    light: bool

    def __call__(self, turn: str, turns: int) -> list[str]:
        """The addresses of part ``turn`` of ``turns``, to be asked for one by one. All parts together are
        each line once, or each pair of lines where the loop is ``light``; sizes are powers of two."""
        g, tile = self.g, self.tile
        size = _LINE * (_PAIR if self.light and tile.lines % _PAIR == 0 else 1)
        length = tile.lines * _LINE // size  # of a row
        total = tile.rows * length
        each = max(1, total // turns)
        streams = min(_STREAMS, each, tile.rows)
        run = each // streams
        first = quotient(g, turn, turns // total) if turns > total else g.mul(turn, str(run))
        row, within = quotient(g, first, length), g.e.pure(f"urem i64 {first}, {length}", (first,))
        start = g.gep("i8", tile.base, g.add(g.mul(row, tile.stride), g.mul(within, str(size))))
        lines = []
        for stream in range(streams):
            place = g.gep("i8", start, g.mul(tile.stride, str(stream * (tile.rows // streams))))
            for line in range(run):
                down, along = divmod(line, length)
                lines.append(g.gep("i8", place, g.add(g.mul(tile.stride, str(down)), str(along * size))))
        return lines


def of(g: Context, operand: Expr, *, hidden: bool = False) -> Spread | None:
    """The tile that the innermost loop reads next for ``operand``; None if it reads this one again, or
    if its elements are not neighbours in memory. ``hidden``: as :func:`.ahead.hidden_distance`."""
    load = ahead.source(operand)
    if load is None:
        return None
    distance = (ahead.hidden_distance if hidden else ahead.distance)(g, load)
    place = place_of(g, load)
    if not distance or place is None or "1" not in place.strides:
        return None
    run = 1 if place.strides[1] == "1" else 0
    lines = load.shape[run] * place.size // _LINE
    if lines < 1:
        return None
    stride = g.mul(place.strides[1 - run], str(place.size))
    return Spread(g.gep("i8", place.pointer, distance), stride, load.shape[1 - run], lines)
