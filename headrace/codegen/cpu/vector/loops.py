"""Loops over tiles: vectors along one dimension, rows along the others, stopping at the bounds of masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.context import ZERO, Context, Ix, is_const_int
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Shape

LaneBody = Callable[[list[Ix], Values, bool], Values]


def quotient(g: Context, index: str, by: int) -> str:
    """An index divided by a constant, rounded down."""
    if is_const_int(index):
        return str(int(index) // by)
    return index if by == 1 else g.e.pure(f"udiv i64 {index}, {by}", (index,))


def power_below(n: int) -> int:
    """The largest power of two that is not above a positive ``n``."""
    return 1 << (n.bit_length() - 1)


def upper(g: Context, names: Sequence[str], size: int) -> str:
    """The smallest of the bounds and the size."""
    value = str(size)
    for name in names:
        value = g.smin(name, value)
    return value


def lanes(
    g: Context,
    size: int,
    width: int,
    names: Sequence[str],
    inits: Sequence[tuple[str, str]],
    body: LaneBody,
    unroll: int,
) -> Values:
    """Run ``body(indices, carried, tail)`` over [0, min(names)) in steps of ``width``, several indices
    at a time.

    Within full vectors the bounds are known facts; the last, partial vector is a call of its own with
    ``tail`` true.
    """
    tag = g.tag()
    facts = [(name, tag) for name in names]
    chunks = size // width
    unroll = power_below(min(unroll, chunks))
    if not names and chunks <= (8 if unroll > 2 else 2 * unroll):
        values = [v for _, v in inits]
        for first in range(0, chunks, unroll):
            values = body([Ix(None, (first + u) * width, tag) for u in range(unroll)], values, False)
        return values
    hi = upper(g, names, size)
    types = [t for t, _ in inits]
    values = [v for _, v in inits]

    def run(lo: str, end: str, count: int, carried: Values) -> Values:
        def inner(iv: str, args: Values) -> Values:
            with g.knowing(facts):
                return body([Ix(iv, u * width, tag) for u in range(count)], args, False)

        return g.e.loop(lo, end, str(count * width), list(zip(types, carried, strict=True)), inner)

    start = g.floor_to(hi, width * unroll)
    if start != "0":
        values = run("0", start, unroll, values)
    last = g.floor_to(hi, width)
    if start != last:
        values = run(start, last, 1, values)
    more = g.cmp("slt", last, hi)
    if more == "false":
        return values
    tail = Ix(last, 0, g.tag())

    def partial() -> Values:
        return body([tail], values, True)

    if more == "true":
        return partial()
    return g.e.branch(more, types, partial, lambda: values)


def rows(
    g: Context, shape: Shape, dims: Sequence[int], limits: Limits, body: Callable[[list[Ix]], None]
) -> None:
    """Loop over the dimensions ``dims``, the first outermost; ``body`` gets an index with the others
    left at zero."""
    index = [ZERO] * len(shape)

    def step(k: int) -> None:
        if k == len(dims):
            body(list(index))
            return
        d = dims[k]
        names = limits.get(d, ())
        tag = g.tag()
        if shape[d] == 1 and not names:
            index[d] = Ix(None, 0, tag)
            step(k + 1)
            return

        def inner(iv: str, _: Values) -> Values:
            index[d] = Ix(iv, 0, tag)
            with g.knowing([(name, tag) for name in names]):
                step(k + 1)
            return []

        g.e.loop("0", upper(g, names, shape[d]), "1", (), inner)

    step(0)
