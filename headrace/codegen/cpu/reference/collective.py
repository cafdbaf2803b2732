"""Reductions, scans and matrix products, in index order."""

from __future__ import annotations

import math
from collections.abc import Callable

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference import numbers
from headrace.codegen.cpu.reference.emitter import Emitter, register_type
from headrace.codegen.cpu.ttir import Block, Element, Op, ScalarType, TensorType, Value, shape_of

RunBlock = Callable[[Block], Op]


def _combine(e: Emitter, op: Op, run: RunBlock, left: list[str], right: list[str]) -> list[str]:
    """Run the combine region on registers (left..., right...)."""
    block = op.regions[0]
    for arg, register in zip(block.args, left + right, strict=True):
        e.write(arg, register)
    terminator = run(block)
    return [e.read(v) for v in terminator.operands]


def _at(index: list[str], axis: int, position: str) -> list[str]:
    return [*index[:axis], position, *index[axis:]]


def reduce(e: Emitter, op: Op, run: RunBlock) -> None:
    """Left fold along ``axis``: ((x0 . x1) . x2) ..."""
    shape, axis = shape_of(op.operands[0].type), op.int_attr("axis")
    kept = [*shape[:axis], *shape[axis + 1 :]]
    cells = [Value(-1, ttir.element_of(v.type)) for v in op.operands]
    with e.nest(kept) as index:
        first = e.linear(_at(index, axis, "0"), shape)
        for cell, operand in zip(cells, op.operands, strict=True):
            e.write(cell, e.read(operand, first))
        if shape[axis] > 1:
            with e.loop(shape[axis] - 1) as k:
                at = e.linear(_at(index, axis, e.let(f"add i64 {k}, 1")), shape)
                left = [e.read(cell) for cell in cells]
                out = _combine(e, op, run, left, [e.read(v, at) for v in op.operands])
                for cell, register in zip(cells, out, strict=True):
                    e.write(cell, register)
        position = e.linear(index, kept) if kept else None
        for result, cell in zip(op.results, cells, strict=True):
            e.write(result, e.read(cell), position)


def scan(e: Emitter, op: Op, run: RunBlock) -> None:
    """Inclusive scan along ``axis``, from the end when ``reverse``."""
    shape, axis = shape_of(op.operands[0].type), op.int_attr("axis")
    backward = bool(op.attrs.get("reverse"))
    kept, last = [*shape[:axis], *shape[axis + 1 :]], shape[axis] - 1
    cells = [Value(-1, ttir.element_of(v.type)) for v in op.operands]
    with e.nest(kept) as index:
        first = e.linear(_at(index, axis, str(last if backward else 0)), shape)
        for cell, operand, result in zip(cells, op.operands, op.results, strict=True):
            start = e.read(operand, first)
            e.write(cell, start)
            e.write(result, start, first)
        if last == 0:
            return
        with e.loop(last) as k:
            step = e.let(f"sub i64 {last - 1}, {k}") if backward else e.let(f"add i64 {k}, 1")
            at = e.linear(_at(index, axis, step), shape)
            out = _combine(e, op, run, [e.read(c) for c in cells], [e.read(v, at) for v in op.operands])
            for cell, register, result in zip(cells, out, op.results, strict=True):
                e.write(cell, register)
                e.write(result, register, at)


def map_elementwise(e: Emitter, op: Op, run: RunBlock) -> None:
    """Run the region on the operands' elements, ``pack`` neighbours in row-major order at a time.

    The region's arguments are the elements of the first operand, then those of the second, and so on; its
    results are grouped the same way.
    """
    pack, block = op.int_attr("pack"), op.regions[0]
    count = math.prod(shape_of(op.results[0].type))
    if count % pack:
        raise ttir.unsupported(op, f"packs of {pack} of {count} elements; the pack must divide the count")
    with e.loop(count // pack) as i:
        first = e.let(f"mul i64 {i}, {pack}")
        places = [e.let(f"add i64 {first}, {k}") for k in range(pack)]
        elements = [e.read(operand, place) for operand in op.operands for place in places]
        for arg, register in zip(block.args, elements, strict=True):
            e.write(arg, register)
        made = [e.read(value) for value in run(block).operands]
        targets = [(result, place) for result in op.results for place in places]
        for (result, place), register in zip(targets, made, strict=True):
            e.write(result, register, place)


def _accumulator(op: Op) -> ScalarType:
    element = ttir.element_of(op.result.type)
    assert isinstance(element, ScalarType)
    if element.is_int or element.name == "f64":
        return element
    return ttir.F32


def _as_accumulator(e: Emitter, op: Op, value: Value, element: ScalarType) -> Value:
    """A copy of a tensor in the accumulator's type."""
    assert isinstance(value.type, TensorType)
    source = value.type.element
    wide = Value(-1, TensorType(value.type.shape, element))
    with e.loop(value.type.numel) as i:
        e.write(wide, _to_accumulator(e, op, e.read(value, i), source, element), i)
    return wide


def _to_accumulator(e: Emitter, op: Op, register: str, source: Element, element: ScalarType) -> str:
    assert isinstance(source, ScalarType)
    if element.is_float:
        return numbers.convert(e, register, source, element, op)
    if source.bits == element.bits:
        return register
    return e.let(f"sext {register_type(source)} {register} to {register_type(element)}")


def dot(e: Emitter, op: Op) -> None:
    """D[.., m, n] = C[.., m, n] + sum over k, in order, of A[.., m, k] B[.., k, n].

    Floats accumulate in f32 (f64 for f64) without contraction; ``inputPrecision`` never lowers this. Integers
    are signed and wrap.
    """
    left, right, start = op.operands
    element = _accumulator(op)
    a, b, c = (_as_accumulator(e, op, v, element) for v in (left, right, start))
    matmul(e, op, a, b, c)


def matmul(e: Emitter, op: Op, a: Value, b: Value, c: Value) -> None:
    """Product of tensors in the accumulator's type, added into ``c``, then rounded into the result."""
    *batch, rows, inner = shape_of(a.type)
    columns = shape_of(b.type)[-1]
    element = ttir.element_of(c.type)
    kind = register_type(element)
    assert isinstance(element, ScalarType)
    assert isinstance(c.type, TensorType)
    multiply, add = ("fmul", "fadd") if element.is_float else ("mul", "add")
    with e.nest([*batch, rows, inner]) as index:
        *outer, m, k = index
        factor = e.read(a, e.linear(index, [*batch, rows, inner]))
        with e.loop(columns) as n:
            product = e.let(
                f"{multiply} {kind} {factor}, {e.read(b, e.linear([*outer, k, n], [*batch, inner, columns]))}"
            )
            at = e.linear([*outer, m, n], [*batch, rows, columns])
            e.write(c, e.let(f"{add} {kind} {e.read(c, at)}, {product}"), at)
    target = ttir.element_of(op.result.type)
    with e.loop(c.type.numel) as i:
        register = e.read(c, i)
        e.write(
            op.result, register if target == element else numbers.convert(e, register, element, target, op), i
        )
