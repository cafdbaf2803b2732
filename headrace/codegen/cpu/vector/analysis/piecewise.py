"""Addresses that are affine but for quotients and remainders by constants: ``x % 16 + 64 * (x // 16)``.

Between two multiples of the divisor such a value grows by a constant, its slope. Where a vector is no longer
than the divisor it crosses one such place at most, so it is one run of memory exactly when its last address
lies where the slope says, seen from the first. That is asked at run time, which leaves nothing to be known
about where tiles begin or about signs, and takes two scalar addresses instead of a gather.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import SIZES, Context, Index, is_const_int
from headrace.codegen.cpu.vector.expr import NONE, Broadcast, ExpandDims, Expr, Range, Transpose
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise

_QUOTIENTS = ("arith.divsi", "arith.divui", "arith.shrsi", "arith.shrui")
_REMAINDERS = ("arith.remsi", "arith.remui", "arith.andi")
_TOWARDS_ZERO = ("arith.divsi", "arith.remsi")


@dataclass(frozen=True)
class Pieces:
    """How a value moves along a dimension.

    Attributes:
        slope: what a step adds inside a piece.
        period: the least length of a piece; 0 where there is only one.
        source: the expression (by its number) whose multiples of ``period`` begin the pieces.
        down: below zero, too, they begin there. Rounding towards zero ends them there instead: both together
            would be two steps next to each other, which may cancel out.
    """

    slope: int
    period: int = 0
    source: int = 0
    down: bool = True


Known = dict[tuple[int, int], Pieces | None]  # by expression and dimension; expressions share operands


def pieces(g: Context, expr: Expr, dim: int, known: Known) -> Pieces | None:
    """The Pieces of a value along ``dim``, or None where nothing can be said."""
    expr = expr.resolved()
    if (expr.uid, dim) not in known:
        known[expr.uid, dim] = _pieces(g, expr, dim, known)
    return known[expr.uid, dim]


def _pieces(g: Context, expr: Expr, dim: int, known: Known) -> Pieces | None:
    if dim == NONE or dim not in expr.varies:
        return Pieces(0)
    if isinstance(expr, Range):
        return Pieces(1)
    if isinstance(expr, ExpandDims | Broadcast | Transpose):
        return pieces(g, expr.operands[0], expr.down(0, dim), known)
    if not isinstance(expr, Elementwise):
        return None
    op, operands = expr.op, expr.operands
    if op in ("arith.addi", "tt.addptr", "arith.subi"):
        left, right = (pieces(g, operand, dim, known) for operand in operands)
        return _sum(left, right, -1 if op == "arith.subi" else 1)
    if op == "arith.extsi":
        return pieces(g, operands[0], dim, known)
    if op == "arith.muli":
        for a, b in (operands, operands[::-1]):
            if not b.varies:
                return _times(pieces(g, a, dim, known), b.scalar(g))
    if op in _QUOTIENTS or op in _REMAINDERS:
        return _divided(g, expr, dim, known)
    return None


def _sum(a: Pieces | None, b: Pieces | None, sign: int) -> Pieces | None:
    if a is None or b is None:
        return None
    slope = a.slope + sign * b.slope
    if not (a.period and b.period):
        broken = a if a.period else b
        return Pieces(slope, broken.period, broken.source, broken.down)
    low, high = sorted((a.period, b.period))
    alike = (a.source, a.down) == (b.source, b.down) and high % low == 0
    return Pieces(slope, low, a.source, a.down) if alike else None


def _times(a: Pieces | None, factor: str) -> Pieces | None:
    if a is None or a.slope == 0:
        return a
    return Pieces(a.slope * int(factor), a.period, a.source, a.down) if is_const_int(factor) else None


def _divided(g: Context, expr: Elementwise, dim: int, known: Known) -> Pieces | None:
    value, by = expr.operands
    if by.varies:
        return None
    text = by.scalar(g)
    found = pieces(g, value, dim, known)
    if found is None or not is_const_int(text):
        return None
    divisor = int(text)
    if expr.op in ("arith.shrsi", "arith.shrui"):
        divisor = 1 << divisor if 0 <= divisor < 63 else 0
    elif expr.op == "arith.andi":
        divisor = divisor + 1 if divisor > 0 and divisor & (divisor + 1) == 0 else 0
    if divisor <= 0:
        return None
    if found.slope == 0:
        return found
    if found.slope != 1 or found.period % divisor:
        return None
    slope, down = int(expr.op in _REMAINDERS), expr.op not in _TOWARDS_ZERO
    if not found.period:
        return Pieces(slope, divisor, value.resolved().uid, down)
    if not _remainder(value) or (down and not found.down):
        return None
    return Pieces(slope, divisor, found.source, found.down)


def _remainder(expr: Expr) -> bool:
    """Whether a value is zero where its pieces begin: a remainder, with nothing added to it."""
    expr = expr.resolved()
    while isinstance(expr, ExpandDims | Broadcast | Transpose) or (
        isinstance(expr, Elementwise) and expr.op == "arith.extsi"
    ):
        expr = expr.operands[0].resolved()
    return isinstance(expr, Elementwise) and expr.op in _REMAINDERS


def run(
    g: Context, expr: Expr, pointee: str, index: Index, dim: int, width: int, slope: int
) -> tuple[str, str]:
    """The first address of a vector of pointers, and an i1: each next one lies ``slope`` elements on."""
    first = expr.eval(g, index, NONE, 0)
    last = expr.eval(g, (*index[:dim], index[dim].plus(width - 1), *index[dim + 1 :]), NONE, 0)
    ends = [g.cast("ptrtoint", "ptr", address, "i64") for address in (first, last)]
    length = g.op("sub", "i64", ends[1], ends[0])
    return first, g.cmp("eq", length, str((width - 1) * slope * SIZES[pointee]))
