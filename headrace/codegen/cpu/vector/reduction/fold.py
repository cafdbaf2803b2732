"""Reductions with any combine function over any number of tensors: argmax, argmin, Welford, custom ones.

Along the vector a row is folded lane by lane and its lanes in halves at the end; across vectors each lane
folds a column. The function is taken to be associative, as Triton takes it; where it is not commutative,
neighbours are folded first, so that elements keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.codegen.cpu.ttir import Op, Value
from headrace.codegen.cpu.vector.analysis.access import vector_dim
from headrace.codegen.cpu.vector.analysis.commute import commutes
from headrace.codegen.cpu.vector.context import Context, Index, Ix, stored, vector_type
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr
from headrace.codegen.cpu.vector.loops import rows
from headrace.codegen.cpu.vector.reduction.region import Region
from headrace.codegen.cpu.vector.schedule import Scheduler, numel

_SETS = 4


def fold(
    s: Scheduler, exprs: Sequence[Expr], axis: int, region: Region, makers: Mapping[Value, Op]
) -> Sequence[str | Buffer]:
    """Reduce over ``axis``: names of scalars for one-dimensional tensors, buffers otherwise.

    ``makers`` has the operations by their results.
    """
    g = s.g
    for expr in exprs:
        s.prepare(expr, fuse=False)
    shape = exprs[0].shape
    dim = vector_dim(g, shape, exprs)
    width = min(g.machine.lanes, shape[dim])
    row = _row if dim != axis or commutes(region.op.regions[0], makers) else _ordered_row
    if len(shape) == 1:
        return row(g, exprs, (Ix(None, 0),), 0, width, region)
    kept = tuple(n for d, n in enumerate(shape) if d != axis)
    made = []
    for element in region.elements:
        kind = stored(element)
        made.append(Buffer(g.alloca(kind, numel(kept)), kept, kind))

    def put(index: Sequence[Ix], along: int, lanes: int, values: Values) -> None:
        at = tuple(ix for d, ix in enumerate(index) if d != axis)
        for buffer, element, value in zip(made, region.elements, values, strict=True):
            if element == "i1":
                value = g.cast("zext", vector_type("i1", lanes), value, vector_type("i8", lanes))
            buffer.put(g, at, along, lanes, value)

    if dim == axis:
        others = [d for d in range(len(shape)) if d != axis]
        rows(g, shape, others, {}, lambda at: put(at, -1, 0, row(g, exprs, tuple(at), axis, width, region)))
        return made
    others = [d for d in range(len(shape)) if d not in (axis, dim)]

    def columns(index: list[Ix]) -> None:
        tag = g.tag()

        def some(iv: str, _: Values) -> Values:
            index[dim] = Ix(iv, 0, tag)
            put(
                index,
                dim if dim < axis else dim - 1,
                width,
                _column(g, exprs, index, axis, dim, width, region),
            )
            return []

        g.e.loop("0", str(shape[dim]), str(width), (), some)

    rows(g, shape, others, {}, columns)
    return made


def _at(index: Sequence[Ix], axis: int, ix: Ix) -> Index:
    return (*index[:axis], ix, *index[axis + 1 :])


def _column(
    g: Context, exprs: Sequence[Expr], index: Sequence[Ix], axis: int, dim: int, width: int, region: Region
) -> Values:
    """Fold over ``axis`` in every lane along ``dim``."""
    values = [e.eval(g, _at(index, axis, Ix(None, 0)), dim, width) for e in exprs]
    size, tag = exprs[0].shape[axis], g.tag()
    if size <= 8:
        for k in range(1, size):
            more = [e.eval(g, _at(index, axis, Ix(None, k)), dim, width) for e in exprs]
            values = region(g, values, more, width)
        return values

    def step(iv: str, carried: Values) -> Values:
        return region(
            g, carried, [e.eval(g, _at(index, axis, Ix(iv, 0, tag)), dim, width) for e in exprs], width
        )

    types = [vector_type(e, width) for e in region.elements]
    return g.e.loop("1", str(size), "1", list(zip(types, values, strict=True)), step)


def _row(g: Context, exprs: Sequence[Expr], index: Index, axis: int, width: int, region: Region) -> Values:
    """Fold one row to scalars."""
    chunks = exprs[0].shape[axis] // width
    sets = min(_SETS, chunks)

    def at(ix: Ix) -> Values:
        return [e.eval(g, _at(index, axis, ix), axis, width) for e in exprs]

    accs = [at(Ix(None, u * width)) for u in range(sets)]
    if chunks > sets:
        tag, count = g.tag(), len(exprs)

        def step(iv: str, carried: Values) -> Values:
            outs: Values = []
            for u in range(sets):
                outs += region(g, carried[u * count : (u + 1) * count], at(Ix(iv, u * width, tag)), width)
            return outs

        types = [vector_type(e, width) for e in region.elements] * sets
        inits = list(zip(types, [name for acc in accs for name in acc], strict=True))
        flat = g.e.loop(str(sets * width), str(chunks * width), str(sets * width), inits, step)
        accs = [flat[u * count : (u + 1) * count] for u in range(sets)]
    while len(accs) > 1:
        half = len(accs) // 2
        accs = [region(g, accs[n], accs[n + half], width) for n in range(half)]
    values, size = accs[0], width
    while size > 1:
        size //= 2
        halves = [
            [g.shuffle(e, 2 * size, v, "poison", range(first, first + size)) for first in (0, size)]
            for e, v in zip(region.elements, values, strict=True)
        ]
        values = region(g, [h[0] for h in halves], [h[1] for h in halves], size)
    return [
        g.e.pure(f"extractelement {vector_type(e, 1)} {v}, i64 0", (v,))
        for e, v in zip(region.elements, values, strict=True)
    ]


def _ordered_row(
    g: Context, exprs: Sequence[Expr], index: Index, axis: int, width: int, region: Region
) -> Values:
    """Fold one row to scalars in the order of its elements."""

    def together(ix: Ix) -> Values:
        values = [e.eval(g, _at(index, axis, ix), axis, width) for e in exprs]
        size = width
        while size > 1:
            pairs = [
                [g.shuffle(e, size, v, "poison", range(first, size, 2)) for first in (0, 1)]
                for e, v in zip(region.elements, values, strict=True)
            ]
            size //= 2
            values = region(g, [p[0] for p in pairs], [p[1] for p in pairs], size)
        return [
            g.e.pure(f"extractelement {vector_type(e, 1)} {v}, i64 0", (v,))
            for e, v in zip(region.elements, values, strict=True)
        ]

    first, size, tag = together(Ix(None, 0)), exprs[0].shape[axis], g.tag()
    if size == width:
        return first

    def step(iv: str, carried: Values) -> Values:
        return region(g, carried, together(Ix(iv, 0, tag)), 0)

    types = [vector_type(e, 0) for e in region.elements]
    return g.e.loop(str(width), str(size), str(width), list(zip(types, first, strict=True)), step)
