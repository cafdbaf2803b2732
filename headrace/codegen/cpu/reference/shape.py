"""Operations that move elements without computing: result index space in, source index out."""

from __future__ import annotations

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference import numbers
from headrace.codegen.cpu.reference.emitter import Emitter
from headrace.codegen.cpu.ttir import Op, shape_of


def constant(e: Emitter, op: Op) -> None:
    element, value = ttir.element_of(op.result.type), op.attrs["value"]
    if not isinstance(op.result.type, ttir.TensorType):
        e.write(op.result, numbers.literal(value, element))
    elif isinstance(value, tuple):
        for k, item in enumerate(value):
            e.write(op.result, numbers.literal(item, element), str(k))
    else:
        with e.loop(op.result.type.numel) as i:
            e.write(op.result, numbers.literal(value, element), i)


def poison(e: Emitter, op: Op) -> None:
    op.attrs["value"] = 0
    constant(e, op)


def make_range(e: Emitter, op: Op) -> None:
    start = op.int_attr("start")
    with e.loop(op.int_attr("end") - start) as i:
        e.write(op.result, e.let(f"add i32 {e.let(f'trunc i64 {i} to i32')}, {start}"), i)


def same_order(e: Emitter, op: Op) -> None:
    """reshape, expand_dims: the row-major order of elements does not change."""
    e.copy(op.operands[0].type, e.place(op.operands[0]), e.place(op.result))


def unsplat(e: Emitter, op: Op) -> None:
    e.write(op.result, e.read(op.operands[0], "0"))


def broadcast(e: Emitter, op: Op) -> None:
    source, shape = shape_of(op.operands[0].type), shape_of(op.result.type)
    with e.nest(shape) as index:
        picked = ["0" if d == 1 else i for i, d in zip(index, source, strict=True)]
        e.write(op.result, e.read(op.operands[0], e.linear(picked, source)), e.linear(index, shape))


def trans(e: Emitter, op: Op) -> None:
    order = op.attrs["order"]
    assert isinstance(order, tuple)
    source, shape = shape_of(op.operands[0].type), shape_of(op.result.type)
    with e.nest(shape) as index:
        picked = [""] * len(order)
        for k, axis in enumerate(order):
            picked[axis] = index[k]
        e.write(op.result, e.read(op.operands[0], e.linear(picked, source)), e.linear(index, shape))


def join(e: Emitter, op: Op) -> None:
    """A new last dimension of size 2."""
    type_ = op.operands[0].type
    with e.loop(type_.numel if isinstance(type_, ttir.TensorType) else 1) as i:
        even = e.let(f"shl i64 {i}, 1")
        e.write(op.result, e.read(op.operands[0], i), even)
        e.write(op.result, e.read(op.operands[1], i), e.let(f"or i64 {even}, 1"))


def split(e: Emitter, op: Op) -> None:
    """The two halves of a last dimension of size 2."""
    assert isinstance(op.operands[0].type, ttir.TensorType)
    with e.loop(op.operands[0].type.numel // 2) as i:
        even = e.let(f"shl i64 {i}, 1")
        e.write(op.results[0], e.read(op.operands[0], even), i)
        e.write(op.results[1], e.read(op.operands[0], e.let(f"or i64 {even}, 1")), i)


def cat(e: Emitter, op: Op) -> None:
    """One after the other along the first dimension."""
    assert isinstance(op.operands[0].type, ttir.TensorType)
    count = op.operands[0].type.numel
    for k, operand in enumerate(op.operands):
        with e.loop(count) as i:
            e.write(op.result, e.read(operand, i), e.let(f"add i64 {i}, {k * count}"))


def gather(e: Emitter, op: Op) -> None:
    """result[.., i, ..] = source[.., index[.., i, ..], ..] along ``axis``.

    Triton leaves an index outside the dimension undefined; here it is clamped, so that nothing else is read.
    An index of fewer than 32 bits has no sign, as on a GPU.
    """
    source_value, index_value = op.operands
    source, shape, axis = shape_of(source_value.type), shape_of(op.result.type), op.int_attr("axis")
    element = ttir.element_of(index_value.type)
    with e.nest(shape) as index:
        at = e.linear(index, shape)
        raw = e.read(index_value, at)
        verb = "sext" if element.bits == 32 else "zext"
        wide = raw if element.bits == 64 else e.let(f"{verb} i{element.bits} {raw} to i64")
        low = e.call("i64", "llvm.smax.i64", ("i64", wide), ("i64", "0"))
        picked = list(index)
        picked[axis] = e.call("i64", "llvm.smin.i64", ("i64", low), ("i64", str(source[axis] - 1)))
        e.write(op.result, e.read(source_value, e.linear(picked, source)), at)


def histogram(e: Emitter, op: Op) -> None:
    """Counts of 0 .. bins-1 among the unmasked elements; values outside are not counted."""
    source = op.operands[0]
    assert isinstance(source.type, ttir.TensorType)
    assert isinstance(op.result.type, ttir.TensorType)
    element, bins = ttir.element_of(source.type), op.result.type.numel
    counter = f"i{ttir.element_of(op.result.type).bits}"
    with e.loop(bins) as i:
        e.write(op.result, "0", i)
    with e.loop(source.type.numel) as i:
        value = e.read(source, i)
        inside = e.let(f"icmp ult i{element.bits} {value}, {bins}") if bins < 1 << element.bits else "true"
        if len(op.operands) > 1:
            inside = e.let(f"and i1 {inside}, {e.read(op.operands[1], i)}")
        with e.when(inside):
            at = value if element.bits == 64 else e.let(f"zext i{element.bits} {value} to i64")
            e.write(op.result, e.let(f"add {counter} {e.read(op.result, at)}, 1"), at)
