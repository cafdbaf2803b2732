"""Operations that move elements: join, split, cat, gather, reshape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Op, Value, element_of, shape_of
from headrace.codegen.cpu.vector.analysis.access import vector_dim
from headrace.codegen.cpu.vector.context import (
    SIZES,
    ZERO,
    Ix,
    element_type,
    stored,
    text,
    vector_type,
)
from headrace.codegen.cpu.vector.control.island import row_major, tile
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Buffer, Uniform
from headrace.codegen.cpu.vector.loops import rows
from headrace.codegen.cpu.vector.memory.transfer import suffix
from headrace.codegen.cpu.vector.schedule import numel

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering


def reshape(lowering: Lowering, op: Op) -> None:
    """``tt.reshape``: the same row-major memory under another shape."""
    source, shape = lowering.get(op.operands[0]), shape_of(op.result.type)
    if not source.varies:
        lowering.put(op.result, Uniform(source.scalar(lowering.g), source.element, shape))
        return
    if source.shape == shape:
        lowering.put(op.result, source)
        return
    lowering.s.demand.pop(source.resolved().uid, None)
    lowering.put(op.result, tile(row_major(lowering, op.operands[0]).view(shape), source.element))


def _flat(lowering: Lowering, value: Value) -> Buffer:
    buffer = row_major(lowering, value)
    return buffer.view((numel(buffer.shape),))


def _results(lowering: Lowering, op: Op) -> list[Buffer]:
    """Row-major memory for the results, one-dimensional, already defined as their values."""
    made = []
    for value in op.results:
        element, shape = element_type(element_of(value.type)), shape_of(value.type)
        kind = stored(element)
        buffer = Buffer(lowering.g.alloca(kind, numel(shape)), shape, kind)
        lowering.put(value, tile(buffer, element))
        made.append(buffer.view((numel(shape),)))
    return made


def join(lowering: Lowering, op: Op) -> None:
    """``tt.join``: two tensors side by side in a new last dimension."""
    if not shape_of(op.operands[0].type):
        raise VectorDeclined("tt.join of scalars is not vectorised")
    g = lowering.g
    left, right = (_flat(lowering, o) for o in op.operands)
    (into,) = _results(lowering, op)
    size = left.shape[0]
    width = min(g.machine.lanes, size)
    order = [n // 2 + width * (n % 2) for n in range(2 * width)]

    def step(iv: str, _: Values) -> Values:
        a, b = (x.eval(g, (Ix(iv, 0),), 0, width) for x in (left, right))
        both = g.shuffle(left.element, width, a, b, order)
        into.put(g, (Ix(g.mul(iv, "2"), 0),), 0, 2 * width, both)
        return []

    g.e.loop("0", str(size), str(width), (), step)


def split(lowering: Lowering, op: Op) -> None:
    """``tt.split``: the two halves of a last dimension of two."""
    if not shape_of(op.results[0].type):
        raise VectorDeclined("tt.split into scalars is not vectorised")
    g = lowering.g
    source = _flat(lowering, op.operands[0])
    made = _results(lowering, op)
    size = made[0].shape[0]
    width = min(g.machine.lanes, size)

    def step(iv: str, _: Values) -> Values:
        both = source.eval(g, (Ix(g.mul(iv, "2"), 0),), 0, 2 * width)
        for k, into in enumerate(made):
            lanes = range(k, 2 * width, 2)
            into.put(g, (Ix(iv, 0),), 0, width, g.shuffle(source.element, 2 * width, both, "poison", lanes))
        return []

    g.e.loop("0", str(size), str(width), (), step)


def cat(lowering: Lowering, op: Op) -> None:
    """``tt.cat``: one after the other along the first dimension."""
    g = lowering.g
    parts = [_flat(lowering, o) for o in op.operands]
    (into,) = _results(lowering, op)
    for k, part in enumerate(parts):
        size = part.shape[0]
        width = min(g.machine.lanes, size)

        def step(
            iv: str, _: Values, part: Buffer = part, width: int = width, start: int = k * size
        ) -> Values:
            into.put(g, (Ix(iv, start),), 0, width, part.eval(g, (Ix(iv, 0),), 0, width))
            return []

        g.e.loop("0", str(size), str(width), (), step)


def gather(lowering: Lowering, op: Op) -> None:
    """``tt.gather``: source[.., index[.., i, ..], ..] along an axis; a wrong index is clamped."""
    g, s = lowering.g, lowering.s
    axis = op.int_attr("axis")
    index = lowering.get(op.operands[1])
    source = row_major(lowering, op.operands[0])
    value = op.result
    element, shape = element_type(element_of(value.type)), shape_of(value.type)
    kind = source.element
    into = Buffer(g.alloca(kind, numel(shape)), shape, kind)
    s.prepare(index, fuse=False)
    dim = vector_dim(g, shape, [index, into])
    width = min(g.machine.lanes, shape[dim])
    vt, lt, pt, bt = (vector_type(t, width) for t in (kind, "i64", "ptr", "i1"))
    name = f"llvm.masked.gather.{suffix(kind, width)}.{suffix('ptr', width)}"

    def row(at: list[Ix]) -> None:
        tag = g.tag()

        def step(iv: str, _: Values) -> Values:
            at[dim] = Ix(iv, 0, tag)
            chosen = index.eval(g, tuple(at), dim, width)
            if index.element != "i64":
                # As on a GPU a narrow index has no sign: a byte counts to 255.
                extend = "sext" if index.element == "i32" else "zext"
                chosen = g.cast(extend, vector_type(index.element, width), chosen, lt)
            last = str(shape_of(op.operands[0].type)[axis] - 1)
            for limit, bound in (("smax", "0"), ("smin", last)):
                chosen = g.call(
                    f"llvm.{limit}.v{width}i64", lt, (lt, chosen), (lt, g.splat("i64", bound, width))
                )
            offset = g.op("mul", lt, chosen, g.splat("i64", str(source.strides[axis]), width))
            start = source.address(g, tuple(ZERO if d == axis else ix for d, ix in enumerate(at)))
            if dim != axis:
                steps = "<" + ", ".join(f"i64 {n * source.strides[dim]}" for n in range(width)) + ">"
                offset = g.op("add", lt, offset, steps)
            places = g.e.pure(f"getelementptr {text(kind)}, ptr {start}, {lt} {offset}", (start, offset))
            args = ((pt, places), ("i32", str(SIZES[kind])), (bt, "splat (i1 true)"), (vt, "zeroinitializer"))
            into.put(g, tuple(at), dim, width, g.call(name, vt, *args, read=True))
            return []

        g.e.loop("0", str(shape[dim]), str(width), (), step)

    rows(g, shape, [d for d in range(len(shape)) if d != dim], {}, row)
    lowering.put(value, tile(into, element))
