"""What the next iteration of a loop reads for its products of few rows: requests for all of it, spread out.

Attention of few queries computes little per line of memory, so how the lines are asked for decides how fast
they come. Measured on Zen 4 with two threads against a plain reader, by hand-written kernels and this engine:

* A request that finds too many others on their way is dropped without a trace (requests alone are taken at
  six times the memory's rate), and the read that comes later waits the whole way. So each line is asked for
  twice, the first time a few KiB before its turn, or three times where there is one row. With four rows,
  lines asked for once arrive at 0.77 of the reader's rate and twice at 0.95; with one row, twice at 0.89 and
  three times at 0.95. The price: with one row, what is in the third cache already takes 1.5 times as long.
* Tiles of keys and of values are asked for by turns during either product, so that two places in memory
  deliver all the time: 0.98, against 0.88 where each product asks for its own.
* Each request stands between two reads: bursts of 16 or 32 arrive at 0.6. Requests for the first cache
  instead of the second arrive at 0.5 to 0.75, and reads ahead of time, which hold up what follows, at 0.45.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Block, Op, element_of, shape_of
from headrace.codegen.cpu.vector.analysis import effects
from headrace.codegen.cpu.vector.context import Context, element_type
from headrace.codegen.cpu.vector.dot import spread
from headrace.codegen.cpu.vector.dot.product import FEW_ROWS, Product
from headrace.codegen.cpu.vector.dot.spread import Spread
from headrace.codegen.cpu.vector.loops import quotient
from headrace.codegen.cpu.vector.memory import ahead
from headrace.codegen.cpu.vector.memory.prefetch import LINE
from headrace.codegen.cpu.vector.memory.transfer import Load

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering

_FURTHER = (3072, 0)
_FURTHER_OF_ONE = (3072, 1024, 0)  # one row: its loop computes least, and asks in the quickest succession
_ONCE = (0,)  # where masks cut tiles: mostly there is one such tile, and code for it takes time to compile


@dataclass(frozen=True)
class Share:
    """Part ``part`` of ``parts`` equal parts of some tiles.

    Attributes:
        further: how many bytes beyond the line whose turn it is to ask for another, in this order.
    """

    g: Context
    tiles: tuple[Spread, ...]
    part: int = 0
    parts: int = 1
    further: tuple[int, ...] = _FURTHER

    def __call__(self, turn: str, turns: int) -> list[str]:
        """The addresses of turn ``turn`` of ``turns``, to be asked for one by one.

        All turns of all parts together are each line of each tile once per distance. Sizes are powers of two.
        """
        g = self.g
        count = self.parts * turns
        number = g.add(turn, str(self.part * turns))
        runs = [self._runs(tile, number, count) for tile in self.tiles]
        return [line for in_turn in zip_longest(*runs, fillvalue=()) for run in in_turn for line in run]

    def _runs(self, tile: Spread, number: str, count: int) -> list[list[str]]:
        """The addresses of piece ``number`` of ``count``, row by row. One piece serves several turns where
        lines are few."""
        g, total = self.g, tile.rows * tile.lines
        each = max(1, total // count)
        part = quotient(g, number, max(1, count // total))
        if each >= tile.lines:
            along, row = "0", g.mul(part, str(each // tile.lines))
        else:
            in_row = tile.lines // each
            row = quotient(g, part, in_row)
            along = g.mul(g.e.pure(f"urem i64 {part}, {in_row}", (part,)), str(each * LINE))
        start = g.gep("i8", tile.base, g.add(g.mul(row, tile.stride), along))
        further = [-(-distance // (tile.lines * LINE)) for distance in self.further]

        def run(down: int) -> list[str]:
            to = [g.mul(tile.stride, str(down + n)) for n in dict.fromkeys(further)]
            rows = [g.hidden(g.gep("i8", start, distance)) for distance in to]
            lines = range(min(each, tile.lines))
            return [g.gep("i8", row, str(line * LINE)) for line in lines for row in rows]

        return [run(down) for down in range(-(-each // tile.lines))]


@dataclass(frozen=True)
class Upcoming:
    """The tiles that the next iteration reads, by the address of this iteration's."""

    tiles: Mapping[str, Spread]


def find(lowering: Lowering, body: Block) -> Upcoming:
    """What products of few rows in ``body``, a loop that is being written, read next."""
    g = lowering.g
    made = {result: op for op in body.ops for result in op.results}
    tiles: dict[str, Spread] = {}
    lowering.forget(made)  # a body is written more than once; what it was the last time is not here
    for op in body.ops:
        if op.name != "tt.dot" or not _few_rows(op):
            continue
        source = made.get(op.operands[1])
        while source is not None and source.name == "tt.trans":
            source = made.get(source.operands[0])
        if source is None or source.name != "tt.load":
            continue
        pointer = lowering.early(source.operands[0])
        if pointer is None or effects.loads(pointer):
            continue
        load = Load(g, pointer, element_type(element_of(source.result.type)), None, None)
        lowering.s.keep.append(load)
        place, tile = ahead.moving(g, load), spread.of(g, load, hidden=True)
        if place is not None and tile is not None:
            tiles[place.pointer] = tile
    lowering.forget(made)
    return Upcoming(tiles)


def _few_rows(op: Op) -> bool:
    shape = shape_of(op.result.type)
    return len(shape) == 2 and shape[0] < FEW_ROWS and str(element_of(op.result.type)) == "f32"


def share(p: Product) -> Share | None:
    """What to ask for during a product; None if nothing that it reads moves."""
    load = ahead.source(p.b)
    place = ahead.moving(p.g, load) if load is not None else None
    if load is None or place is None:
        return None
    known = p.s.upcoming.tiles if isinstance(p.s.upcoming, Upcoming) else {}
    further = _ONCE if any(place.bounds) else _FURTHER_OF_ONE if p.m == 1 else _FURTHER
    if place.pointer in known:
        part = list(known).index(place.pointer)
        return Share(p.g, tuple(known.values()), part, len(known), further)
    alone = spread.of(p.g, p.b, hidden=True)
    return Share(p.g, (alone,), further=further) if alone is not None else None
