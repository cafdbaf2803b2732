"""``tt.store``: the loops that compute a tile and write it (several at once: ``memory/together.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Op
from headrace.codegen.cpu.vector.analysis import masks, overlap
from headrace.codegen.cpu.vector.analysis.access import vector_dim
from headrace.codegen.cpu.vector.context import Ix, pointee_of
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.lanes.elementwise import evaluate
from headrace.codegen.cpu.vector.loops import lanes, rows
from headrace.codegen.cpu.vector.memory import stream
from headrace.codegen.cpu.vector.memory.transfer import Pointers, store, store_all

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering


def lower(lowering: Lowering, op: Op) -> None:
    """Write the loops of a ``tt.store``: nothing that its value, addresses or mask read is overwritten before
    it has been read."""
    g, s = lowering.g, lowering.s
    pointer, value, mask = (op.segment(k) for k in range(3))
    assert pointer is not None
    assert value is not None
    target = Pointers(g, lowering.get(pointer), pointee_of(pointer))
    expr = lowering.get(value)
    box = masks.analyse(g, lowering.get(mask) if mask is not None else None)
    if not expr.shape:
        store(g, target, box, expr.scalar(g), expr.element, (), -1, 0)
        return
    addressing = [lowering.get(v) for v in (pointer, mask) if v is not None]
    overlap.settle_mask(addressing, s.materialise, target)
    fused = s.prepare(expr)
    reading = overlap.shifted(target, expr.shape, [expr])
    dim = vector_dim(g, expr.shape, [expr], target)
    elsewhere = overlap.condition(g, target, expr.shape, reading, dim)
    if elsewhere is None:
        s.materialise(expr, final=True)
        elsewhere = "false"
        fused = s.prepare(expr)
        dim = vector_dim(g, expr.shape, [expr], target)
    made = s.tee(fused)
    others = [d for d in range(len(expr.shape)) if d != dim]
    width = min(g.machine.lanes, expr.shape[dim])

    def write(streaming: bool, target: Pointers) -> None:
        def row(index: list[Ix]) -> None:
            def body(at: list[Ix], _: Values, tail: bool) -> Values:
                places = [(*index[:dim], ix, *index[dim + 1 :]) for ix in at]
                values = evaluate(g, expr, places, dim, width)
                store_all(g, target, box, values, expr.element, places, dim, width, streaming)
                return []

            lanes(g, expr.shape[dim], width, box.limits.get(dim, ()), (), body, s.unroll(expr))

        rows(g, expr.shape, others, box.limits, row)

    def nest(to: Pointers) -> None:
        stream.both(g, streams, lambda streaming: write(streaming, to))

    streams = lowering.streams.condition(g, pointer, target, expr.element, expr.shape, dim)
    overlap.guarded(g, target, box, expr.shape, expr.element, dim, elsewhere, nest)
    s.untee(made, box.limits)
