"""Prefetches of the tiles that the next iteration reads, spread evenly over the work of this one.

Packing reads a tile from memory in one go, while nothing is multiplied; if its lines are in the second cache
by then, that is several times as fast. :class:`Asks` asks for the lines in the order in which they lie.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import Context, is_const_int
from headrace.codegen.cpu.vector.dot.place import place_of
from headrace.codegen.cpu.vector.expr import Expr
from headrace.codegen.cpu.vector.memory import ahead
from headrace.codegen.cpu.vector.memory.prefetch import LINE
from headrace.codegen.cpu.vector.memory.transfer import fetch


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
        row = g.e.pure(f"udiv i64 {line}, {self.lines}", (line,))
        within = g.e.pure(f"urem i64 {line}, {self.lines}", (line,))
        run = g.gep("i8", self.base, g.mul(row, self.stride))
        fetch(g, g.gep("i8", run, g.mul(within, str(LINE))))


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
    lines = load.shape[run] * place.size // LINE
    if lines < 1:
        return None
    stride = g.mul(place.strides[1 - run], str(place.size))
    return Spread(g.gep("i8", place.pointer, distance), stride, load.shape[1 - run], lines)
