"""Combining functions of reductions, their identities, and horizontal reduction of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.codegen.cpu.ttir import Op
from headrace.codegen.cpu.vector.context import FLOATS, SIZES, Context, const
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.lanes import elementwise

_COMMUTATIVE = frozenset({
    "arith.addf", "arith.addi", "arith.mulf", "arith.muli", "arith.maxnumf", "arith.minnumf",
    "arith.maximumf",
    "arith.minimumf", "arith.maxsi", "arith.minsi", "arith.maxui", "arith.minui", "arith.andi", "arith.ori",
    "arith.xori",
})  # fmt: skip


@dataclass(frozen=True)
class Combine:
    """A commutative, associative operation on one element type (f32 for 16-bit floats)."""

    op: str
    element: str

    @property
    def identity(self) -> str:
        """Constant that leaves any value unchanged."""
        e, name = self.element, self.op.removeprefix("arith.")
        if e in FLOATS:
            # NaN would be the neutral element of maxnum for NaN-only input; -inf and a NaN give NaN's loser.
            values = {"addf": -0.0, "mulf": 1.0, "maxnumf": math.nan, "minnumf": math.nan, "maximumf":
            -math.inf, "minimumf": math.inf}  # fmt: skip
            return const(e, values[name])
        bits = 1 if e == "i1" else SIZES[e] * 8
        ints = {"addi": 0, "muli": 1, "maxsi": -(1 << (bits - 1)), "minsi": (1 << (bits - 1)) - 1, "maxui": 0,
                "minui": -1, "andi": -1, "ori": 0, "xori": 0}  # fmt: skip
        return const(e, ints[name])

    def apply(self, g: Context, a: str, b: str, width: int) -> str:
        """a op b on ``width`` lanes."""
        if a == g.splat(self.element, self.identity, width):
            return b
        return elementwise.apply(g, self.op, [a, b], [self.element] * 2, self.element, width, {})


def is_simple(op: Op) -> bool:
    """True if :func:`combine_of` takes the ``tt.reduce``."""
    try:
        combine_of(op, "float")
    except VectorDeclined:
        return False
    return True


def combine_of(op: Op, element: str) -> Combine:
    """The combining function of a ``tt.reduce`` whose body is a single operation."""
    block = op.regions[0]
    inner = block.ops
    if len(inner) != 2 or inner[0].name not in _COMMUTATIVE or inner[1].operands != [inner[0].results[0]]:
        raise VectorDeclined("tt.reduce with a body of several operations is not vectorised")
    if {id(v) for v in inner[0].operands} != {id(v) for v in block.args}:
        raise VectorDeclined("tt.reduce with an unusual body is not vectorised")
    return Combine(inner[0].name, element)


def horizontal(g: Context, combine: Combine, vectors: Sequence[str], width: int) -> str:
    """Reduce each of R vectors (R a power of two, at most ``width``) to one lane: a vector of R results."""
    e = combine.element
    level = list(vectors)
    count = len(level)
    bit = 0
    while len(level) > 1:
        step = 1 << bit
        # Which elements within 128 bits are combined does not matter, and to interleave two vectors is one
        # instruction where to take every other element of both is two.
        quads = bit == 0 and width % 4 == 0
        left = [n if not n & step else width + (n & ~step) for n in range(width)]
        right = [n | step if not n & step else width + n for n in range(width)]
        if quads:
            left = [n // 4 * 4 + n % 4 // 2 + width * (n % 2) for n in range(width)]
            right = [n + 2 for n in left]
        level = [
            combine.apply(g, g.shuffle(e, width, a, b, left), g.shuffle(e, width, a, b, right), width)
            for a, b in zip(level[::2], level[1::2], strict=True)
        ]
        bit += 1
    value = level[0]
    size = width
    while size > count:
        size //= 2
        low = g.shuffle(e, size * 2, value, "poison", range(size))
        high = g.shuffle(e, size * 2, value, "poison", range(size, 2 * size))
        value = combine.apply(g, low, high, size)
    return value
