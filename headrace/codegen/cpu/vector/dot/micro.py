"""The register tile: ``rows`` x ``vectors`` sums that stay in registers over the whole of k.

Per step along k it reads ``vectors`` vectors of the right panel and one broadcast word per row of the left
tile, and multiplies each with each. Its size is chosen so that there are more than (latency x throughput)
independent sums, that reads stay below one per sum, and, where registers allow it, that any power of two
divides into whole tiles: measured with AVX-512 on packed operands, all sizes from 8 x 2 to 14 x 2 reach more
than 98 % of the peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from headrace.codegen.cpu.vector.context import FLOATS, SIZES, Context, const, is_const_int, vector_type
from headrace.codegen.cpu.vector.emit import Values

UNROLL = 2
_CHAINS = 12  # independent sums that hide the latency of a multiply-add


class Arithmetic(Protocol):
    """How words are multiplied and added: one file per instruction set extension."""

    per: int  # elements of an operand in a word
    word: str
    total: str  # element type of the sums
    flip: str  # what packed words of the right operand are exclusive-ored with

    def operand(self, g: Context, vector: str, width: int) -> str:
        """A vector of words as the instruction wants it."""

    def update(self, g: Context, acc: str, left: str, right: str, width: int) -> str:
        """``acc`` + left * right, lane by lane."""


@dataclass(frozen=True)
class Tile:
    """Registers of one micro-kernel call."""

    rows: int
    vectors: int
    width: int

    @property
    def columns(self) -> int:
        return self.vectors * self.width


@dataclass(frozen=True)
class Left:
    """Rows of words that are broadcast: ``stride`` words apart from ``pointer`` on, and ``step`` along k."""

    pointer: str
    stride: str
    align: int = 4
    step: int = 1


def tile_of(g: Context, m: int, n: int) -> Tile:
    """The register tile for an m x n result: 8 x 2 vectors of 16 lanes, or, with 16 registers, 6 x 2 of 8."""
    width = g.machine.lanes
    return Tile(min(m, 8 if g.machine.avx512 else 6), min(2, n // width), width)


def rest_of(tile: Tile, m: int) -> Tile | None:
    """The tile for what whole tiles leave of a power of two of rows; None if they leave nothing."""
    return None if m % tile.rows == 0 else Tile(2, tile.vectors, tile.width)


def sums(
    g: Context,
    arithmetic: Arithmetic,
    tile: Tile,
    left: Left,
    right: str,
    extent: str,
    ahead: Callable[[str], None] | None = None,
    apart: str = "",
    every: int = 0,
) -> Values:
    """The sums of a register tile, row by row: rows of ``left`` times the panel at ``right``.

    ``apart`` is the distance of the panel's rows in words where it is not packed. ``extent`` is the number
    of words along k. ``ahead`` writes prefetches: it is called with the index along k once per turn of the
    loop, which takes ``UNROLL`` words, or once for ``every`` words if that divides the extent.
    """
    vt = vector_type(arithmetic.total, tile.width)
    word, size = arithmetic.word, SIZES[arithmetic.word]
    columns, count = apart or str(tile.columns), tile.rows * tile.vectors
    align = size if apart else min(64, tile.width * size)
    sets = 2 if count < _CHAINS else 1
    pieces = ahead is not None and every >= UNROLL and is_const_int(extent) and int(extent) % every == 0
    pieces = pieces and sets == 1

    def run(lo: str, hi: str, step: int, carried: Values) -> Values:
        def inner(iv: str, args: Values) -> Values:
            args = list(args)
            if ahead is not None and step > 1 and not pieces:
                ahead(iv)
            here = g.gep(word, left.pointer, g.mul(iv, str(left.step)))
            panel = g.gep(word, right, g.mul(iv, columns))
            for u in range(step):
                vectors = []
                for v in range(tile.vectors):
                    at = g.gep(word, panel, g.add(g.mul(columns, str(u)), str(v * tile.width)))
                    text = f"load <{tile.width} x {word}>, ptr {at}, align {align}"
                    vectors.append(arithmetic.operand(g, g.e.read(text, (at,)), tile.width))
                for r in range(tile.rows):
                    row = g.gep(word, here, g.add(g.mul(left.stride, str(r)), str(u * left.step)))
                    one = g.e.read(f"load {word}, ptr {row}, align {left.align}", (row,))
                    spread = arithmetic.operand(g, g.splat(word, one, tile.width), tile.width)
                    for v in range(tile.vectors):
                        k = (u % sets) * count + r * tile.vectors + v
                        args[k] = arithmetic.update(g, args[k], spread, vectors[v], tile.width)
            return args

        return g.e.loop(lo, hi, str(step), [(vt, x) for x in carried], inner)

    def piece(iv: str, args: Values) -> Values:
        assert ahead is not None
        ahead(iv)
        return run(iv, g.add(iv, str(every)), UNROLL, args)

    zero = g.splat(arithmetic.total, const(arithmetic.total, 0), tile.width)
    values = [zero] * (sets * count)
    whole = g.floor_to(extent, UNROLL)
    if pieces:
        return g.e.loop("0", extent, str(every), [(vt, x) for x in values], piece)
    if whole != "0":
        values = run("0", whole, UNROLL, values)
    if whole != extent and not (is_const_int(extent) and int(extent) % UNROLL == 0):
        values = run(whole, extent, 1, values)
    if sets == 1:
        return values
    add = "fadd" if arithmetic.total in FLOATS else "add"
    return [g.op(add, vt, x, y) for x, y in zip(values[:count], values[count:], strict=True)]
