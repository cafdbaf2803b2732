"""``tt.scan``: running combinations along a dimension, forwards or backwards, of one or several tensors.

Along the vector, a vector is scanned in log2 steps (each lane takes in the lane 1, 2, 4, ... before it) and
then takes in the last lane of the vector before it. Across vectors every lane runs down a column.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.codegen.cpu.vector.analysis.access import vector_dim
from headrace.codegen.cpu.vector.context import Index, Ix, const, stored, vector_type
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr
from headrace.codegen.cpu.vector.loops import rows
from headrace.codegen.cpu.vector.reduction.region import Region
from headrace.codegen.cpu.vector.schedule import Scheduler, numel


def scan(s: Scheduler, exprs: Sequence[Expr], axis: int, region: Region, reverse: bool) -> list[Buffer]:
    """Inclusive scan over ``axis``."""
    g = s.g
    for expr in exprs:
        s.prepare(expr, fuse=False)
    shape = exprs[0].shape
    dim = vector_dim(g, shape, exprs)
    others = [d for d in range(len(shape)) if d not in (axis, dim)]
    work = _Scan(s, exprs, axis, region, reverse, min(g.machine.lanes, shape[dim]))
    rows(g, shape, others, {}, work.row if dim == axis else lambda index: work.columns(index, dim))
    return work.made


class _Scan:
    def __init__(
        self, s: Scheduler, exprs: Sequence[Expr], axis: int, region: Region, reverse: bool, width: int
    ) -> None:
        self.g, self.exprs, self.axis, self.region = s.g, exprs, axis, region
        self.reverse, self.width = reverse, width
        self.size = exprs[0].shape[axis]
        shape = exprs[0].shape
        self.made: list[Buffer] = []
        for element in region.elements:
            kind = stored(element)
            self.made.append(Buffer(s.g.alloca(kind, numel(shape)), shape, kind))

    def at(self, index: Sequence[Ix], ix: Ix) -> Index:
        return (*index[: self.axis], ix, *index[self.axis + 1 :])

    def put(self, index: Index, dim: int, values: Values) -> None:
        g, width = self.g, self.width
        for buffer, element, value in zip(self.made, self.region.elements, values, strict=True):
            if element == "i1":
                value = g.cast("zext", vector_type("i1", width), value, vector_type("i8", width))
            buffer.put(g, index, dim, width, value)

    def position(self, iv: str, last: int) -> str:
        """Where step ``iv`` of the loop works: from the end when backwards."""
        return self.g.sub(str(last), iv) if self.reverse else iv

    def columns(self, index: list[Ix], dim: int) -> None:
        """Every lane along ``dim`` runs over the axis."""
        g, width, tag = self.g, self.width, self.g.tag()

        def some(iv: str, _: Values) -> Values:
            index[dim] = Ix(iv, 0, tag)
            here = self.at(index, Ix(None, self.size - 1 if self.reverse else 0))
            values = [e.eval(g, here, dim, width) for e in self.exprs]
            self.put(here, dim, values)
            inner = g.tag()

            def step(k: str, carried: Values) -> Values:
                place = self.at(index, Ix(self.position(k, self.size - 1), 0, inner))
                outs = self.region(g, carried, [e.eval(g, place, dim, width) for e in self.exprs], width)
                self.put(place, dim, outs)
                return outs

            types = [vector_type(e, width) for e in self.region.elements]
            g.e.loop("1", str(self.size), "1", list(zip(types, values, strict=True)), step)
            return []

        g.e.loop("0", str(self.exprs[0].shape[dim]), str(width), (), some)

    def row(self, index: list[Ix]) -> None:
        """One row along the vector."""
        g, width, tag = self.g, self.width, self.g.tag()
        end = 0 if self.reverse else width - 1

        def last(values: Values) -> Values:
            return [
                g.e.pure(f"extractelement {vector_type(e, width)} {v}, i64 {end}", (v,))
                for e, v in zip(self.region.elements, values, strict=True)
            ]

        here = self.at(index, Ix(None, self.size - width if self.reverse else 0))
        values = self.within([e.eval(g, here, self.axis, width) for e in self.exprs])
        self.put(here, self.axis, values)
        if self.size == width:
            return

        def step(iv: str, carried: Values) -> Values:
            place = self.at(index, Ix(self.position(iv, self.size - width), 0, tag))
            mine = self.within([e.eval(g, place, self.axis, width) for e in self.exprs])
            before = [g.splat(e, v, width) for e, v in zip(self.region.elements, carried, strict=True)]
            outs = self.region(g, before, mine, width)
            self.put(place, self.axis, outs)
            return last(outs)

        types = [vector_type(e, 0) for e in self.region.elements]
        inits = list(zip(types, last(values), strict=True))
        g.e.loop(str(width), str(self.size), str(width), inits, step)

    def within(self, values: Values) -> Values:
        """Scan the lanes of one vector."""
        g, width = self.g, self.width
        step = 1
        while step < width:
            sign = 1 if self.reverse else -1
            source = [n + sign * step for n in range(width)]
            inside = [0 <= n < width for n in source]
            lanes = [n if ok else -1 for n, ok in zip(source, inside, strict=True)]
            moved = [
                g.shuffle(e, width, v, "zeroinitializer", [n if n >= 0 else width for n in lanes])
                for e, v in zip(self.region.elements, values, strict=True)
            ]
            both = self.region(g, moved, values, width)
            mask = "<" + ", ".join(f"i1 {const('i1', ok)}" for ok in inside) + ">"
            values = [
                g.select(vector_type("i1", width), mask, vector_type(e, width), b, v)
                for e, b, v in zip(self.region.elements, both, values, strict=True)
            ]
            step *= 2
        return values
