"""Sums of rows of signed bytes by the digits of x: all of them everywhere, or the lowest in a few places.

The middle digits are multiplied at every step of 64 numbers. The lowest are zero for all but the smallest
numbers: of 4096 normally distributed ones some forty have any. The bytes of w that meet these are put
together from several steps, each in its place among 64, and multiplied when a place is wanted again. So a
line of w costs two multiplications and a little, three cycles with three; from the third cache it can be read
in two and a half (Zen 4).
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import Context
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.lanes.vnni import multiply_quads
from headrace.codegen.cpu.vector.reduction.digits import BYTES, STEP, WORDS, Digits


@dataclass(frozen=True)
class Merging:
    """The sums of some rows by two digits, and bytes of them put together from several steps: those that have
    lowest digits.

    Attributes:
        sums: two vectors per row. kept: the bytes, one vector per row. lowest: their sums, one per row.
        at: where the digits of the bytes in ``kept`` are among all those merged, in bytes.
    """

    sums: Values
    kept: Values
    lowest: Values
    at: str

    @staticmethod
    def of(values: Values) -> Merging:
        """The same from :attr:`values`."""
        rows = len(values) // 4
        return Merging(values[: 2 * rows], values[2 * rows : 3 * rows], values[3 * rows : -1], values[-1])

    @property
    def values(self) -> Values:
        return [*self.sums, *self.kept, *self.lowest, self.at]

    @property
    def types(self) -> Values:
        """Of :attr:`values`."""
        return [WORDS] * (4 * len(self.kept)) + ["i64"]


def flipped(g: Context, w: str) -> str:
    """64 signed bytes and 128, as vector of words."""
    return g.bitcast(BYTES, g.op("xor", BYTES, w, "splat (i8 -128)"), WORDS)


def add_three(g: Context, digits: Digits, at: str, rows: Values, sums: Values, four: str) -> Values:
    """The sums of rows, four each, with 64 more bytes of each (see :func:`flipped`) multiplied by the
    digits of the numbers from ``at`` on; by the highest only where ``four`` holds."""
    three = [digits.digit(g, at, q) for q in range(3)]
    low = [
        [multiply_quads(g, sums[4 * r + q], row, three[q], 16) for q in range(3)]
        for r, row in enumerate(rows)
    ]

    def fourth() -> Values:
        digit = digits.digit(g, at, 3)
        return [multiply_quads(g, acc, row, digit, 16) for acc, row in zip(sums[3::4], rows, strict=True)]

    high = g.e.branch(four, [WORDS] * len(rows), fourth, lambda: sums[3::4])
    return [value for three, one in zip(low, high, strict=True) for value in (*three, one)]


def add_two(g: Context, digits: Digits, at: str, rows: Values, state: Merging) -> Merging:
    """The sums after 64 more bytes of each row (see :func:`flipped`). Those with a lowest digit are put
    beside those of other steps; where a place is taken, what is there is multiplied first."""
    two = [digits.digit(g, at, q) for q in (1, 2)]
    sums = [
        multiply_quads(g, state.sums[2 * r + q], row, two[q], 16)
        for r, row in enumerate(rows)
        for q in (0, 1)
    ]
    step = g.op("lshr", "i64", at, str(STEP.bit_length() - 1))
    some = g.load("i64", 0, g.gep("i64", digits.some, step))
    kinds = [WORDS] * len(rows)

    def put() -> Values:
        full = g.load("i8", 0, g.gep("i8", digits.full, step))

        def empty() -> Values:
            return [*_lowest(g, digits, state), g.add(state.at, str(STEP))]

        full = g.cmp("eq", full, "1", "i8")
        lowest = g.e.branch(full, [*kinds, "i64"], empty, lambda: [*state.lowest, state.at])
        lanes = g.bitcast("i64", some, f"<{STEP} x i1>")
        kept = []
        for row, before in zip(rows, state.kept, strict=True):
            new, old = g.bitcast(WORDS, row, BYTES), g.bitcast(WORDS, before, BYTES)
            # Not shared: it would be done at every step.
            both = g.e.here(f"select <{STEP} x i1> {lanes}, {BYTES} {new}, {BYTES} {old}")
            kept.append(g.bitcast(BYTES, both, WORDS))
        return [*kept, *lowest]

    def leave() -> Values:
        return [*state.kept, *state.lowest, state.at]

    out = g.e.branch(g.cmp("ne", some, "0"), [*kinds, *kinds, "i64"], put, leave)
    return Merging.of([*sums, *out])


def _lowest(g: Context, digits: Digits, state: Merging) -> Values:
    """The sums of the lowest digits, with those of the bytes put together."""
    digit = g.bitcast(BYTES, g.load("i8", STEP, g.gep("i8", digits.merged, state.at)), WORDS)
    pairs = zip(state.lowest, state.kept, strict=True)
    return [multiply_quads(g, acc, row, digit, 16) for acc, row in pairs]


def finish(g: Context, digits: Digits, state: Merging) -> Values:
    """All sums, three per row, the lowest digit first."""
    lowest = _lowest(g, digits, state)
    pairs = zip(state.sums[::2], state.sums[1::2], strict=True)
    return [value for one, two in zip(lowest, pairs, strict=True) for value in (one, *two)]
