"""An index map as a sequence of ordinary tensor views, for emitting it into a graph that has no index maps.

Every index is read as a number in mixed radix whose digits are pieces of the result's indices: `2*d0 + d1 //
4` has the digits d0 and `d1 // 4`. Taking the operand's dimensions apart into digits, permuting the digits,
adding those that no index reads (broadcasts) and putting them together again gives any composition of slices,
selects, flips, permutes, expands and reshapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sympy

from headrace.ir.size import ONE, ZERO, FloorDiv, Mod, position, quotient
from headrace.ir.types import dim

Shape = tuple[sympy.Expr, ...]
Step = (
    tuple[Literal["permute"], tuple[int, ...]]
    | tuple[Literal["reshape"], Shape]
    | tuple[Literal["expand"], Shape]
    | tuple[Literal["unsqueeze"], int]
    | tuple[Literal["squeeze"], int]
    | tuple[Literal["select"], int, sympy.Expr]
    | tuple[Literal["flip"], tuple[int, ...]]
    | tuple[Literal["slice"], int, sympy.Expr, sympy.Expr, sympy.Expr]
)


@dataclass(frozen=True, slots=True)
class _Digit:
    """(d_at // low) % (high // low): one digit of a result dimension."""

    at: int
    low: sympy.Expr
    high: sympy.Expr

    @property
    def size(self) -> sympy.Expr:
        size = quotient(self.high, self.low)
        assert size is not None
        return size


def as_steps(index: tuple[sympy.Expr, ...], old: Shape, new: Shape) -> list[Step] | None:
    """Views that turn a tensor of shape `old` into its view of shape `new` by an index map, or None.

    Steps, to be applied in order: `("squeeze", at)`, `("select", at, place)`, `("slice", at, start, stop,
    step)`, `("flip", dims)`, `("permute", dims)`, `("unsqueeze", at)`, `("expand", shape)`, `("reshape",
    shape)`. Only a reshape may have to copy. None where one index is read twice (a diagonal) or no digits can
    be found.
    """
    if (order := _permutation(index, old, new)) is not None:
        return [] if list(order) == list(range(len(order))) else [("permute", order)]
    if any(extent == 0 for extent in (*old, *new)):
        return None
    steps: list[Step] = []
    taken: list[list[_Digit]] = []
    flips: list[int] = []
    shape: list[sympy.Expr] = []
    for at in range(len(index)):
        if not _indices(index[at]):
            continue
        read = _dimension(index[at], old[at], new)
        if read is None:
            return None
        digits, start, stride, backwards = read
        length = sympy.Mul(*(digit.size for digit in digits))
        if start != 0 or stride != 1 or length != old[at]:
            steps.append(("slice", at, start, start + (length - 1) * stride + 1, stride))
        if backwards:
            flips.append(len(taken))
        taken.append(digits)
        shape.append(length)
    for at in reversed(range(len(index))):
        if not _indices(index[at]):
            steps.append(("squeeze", at) if old[at] == 1 else ("select", at, index[at]))
    if flips:
        steps.append(("flip", tuple(flips)))
    found = [digit for digits in taken for digit in digits]
    wanted = _layout(found, new)
    if wanted is None:
        return None
    if any(len(digits) > 1 for digits in taken):
        steps.append(("reshape", tuple(digit.size for digit in found)))
    ordered = [digit for digits in wanted for digit in digits]
    present = [digit for digit in ordered if digit in found]
    order = tuple(found.index(digit) for digit in present)
    if list(order) != list(range(len(order))):
        steps.append(("permute", order))
    steps += [("unsqueeze", at) for at, digit in enumerate(ordered) if digit not in found]
    full = tuple(digit.size for digit in ordered)
    if any(digit not in found and digit.size != 1 for digit in ordered):
        steps.append(("expand", full))
    if any(len(digits) != 1 for digits in wanted):
        steps.append(("reshape", new))
    return steps


def _permutation(index: tuple[sympy.Expr, ...], old: Shape, new: Shape) -> tuple[int, ...] | None:
    """The order of a pure permutation; dimensions of size 1 go wherever there is room."""
    if len(old) != len(new):
        return None
    order: dict[int, int] = {}
    for at, expr in enumerate(index):
        place = next((k for k in range(len(new)) if expr == dim(k)), None)
        if place is not None and place not in order and old[at] == new[place]:
            order[place] = at
        elif old[at] != 1 or expr != 0:
            return None
    ones = [at for at in range(len(old)) if at not in order.values()]
    for place in range(len(new)):
        if place not in order:
            if new[place] != 1:
                return None
            # Where it already stands, if it can.
            order[place] = ones.pop(ones.index(place)) if place in ones else ones.pop(0)
    return tuple(order[place] for place in range(len(new)))


def _indices(expr: sympy.Expr) -> list[sympy.Symbol]:
    return [symbol for symbol in expr.free_symbols if position(symbol) is not None]


def _dimension(
    expr: sympy.Expr, extent: sympy.Expr, new: Shape
) -> tuple[list[_Digit], sympy.Expr, sympy.Expr, bool] | None:
    """(digits from high to low, start, stride, whether it runs backwards) of one operand index."""
    start = ZERO
    terms: list[tuple[sympy.Expr, _Digit]] = []
    for term in sympy.Add.make_args(expr):
        if not _indices(term):
            start = start + term
            continue
        atom = next((factor for factor in sympy.Mul.make_args(term) if _indices(factor)), None)
        digit = None if atom is None else _digit(atom, new)
        weight = quotient(term, atom) if digit is not None else None
        if digit is None or weight is None or _indices(weight):
            return None
        terms.append((weight, digit))
    if len(terms) == 1 and terms[0][0].is_negative:
        weight, digit = terms[0]
        first = sympy.expand(start + weight * (digit.size - 1))
        return [digit], first, -weight, True
    ordered = _chain(terms)
    if ordered is None or not ordered[-1][0].is_positive:
        return None
    return [digit for _, digit in ordered], start, ordered[-1][0], False


def _digit(atom: sympy.Expr, new: Shape) -> _Digit | None:
    """The digit that `d`, `d // c`, `d % m` or `(d // c) % m` is."""
    low, count = ONE, None
    if isinstance(atom, Mod):
        atom, count = atom.args
    if isinstance(atom, FloorDiv):
        atom, low = atom.args
    at = position(atom)
    if at is None or at >= len(new):
        return None
    high = new[at] if count is None else low * count
    if quotient(high, low) is None or quotient(new[at], high) is None:
        return None
    return _Digit(at, low, high)


def _chain(terms: list[tuple[sympy.Expr, _Digit]]) -> list[tuple[sympy.Expr, _Digit]] | None:
    """The terms from the heaviest to the lightest, each weight being the next one's times its size."""
    for first in terms:
        rest = [term for term in terms if term is not first]
        chain = [first]
        while rest:
            weight = chain[0][0] * chain[0][1].size
            above = next((term for term in rest if sympy.expand(term[0] - weight) == 0), None)
            if above is None:
                break
            rest.remove(above)
            chain.insert(0, above)
        if not rest:
            return chain
    return None


def _layout(found: list[_Digit], new: Shape) -> list[list[_Digit]] | None:
    """The digits of every result dimension from high to low, those that are broadcast included."""
    layout = []
    for at, extent in enumerate(new):
        rest = [digit for digit in found if digit.at == at]
        digits: list[_Digit] = []
        here = ONE
        while rest:
            following = next((digit for digit in rest if digit.low == here), None)
            if following is None:
                # A gap: the lowest of what is left, the one whose place divides every other's.
                following = next(
                    (d for d in rest if all(quotient(other.low, d.low) is not None for other in rest)), None
                )
                if following is None or quotient(following.low, here) is None:
                    return None
                digits.insert(0, _Digit(at, here, following.low))
            rest.remove(following)
            digits.insert(0, following)
            here = following.high
        if here != extent:
            if quotient(extent, here) is None:
                return None
            digits.insert(0, _Digit(at, here, extent))
        elif not digits:
            digits.append(_Digit(at, ONE, ONE))
        layout.append(digits)
    return layout
