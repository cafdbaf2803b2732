"""scf.for, scf.if and scf.while.

Scalars are carried in registers. Pointer and integer tiles that advance by the same amount everywhere are
carried as that one amount. Other tiles live in two buffers that swap roles at each iteration. Loops that only
accumulate sums or products are handed to ``control/contraction.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Block, Op, Value, element_of, shape_of
from headrace.codegen.cpu.vector.analysis import effects, ranges
from headrace.codegen.cpu.vector.analysis.inplace import updates_in_place
from headrace.codegen.cpu.vector.context import element_type, stored, text
from headrace.codegen.cpu.vector.control import contraction
from headrace.codegen.cpu.vector.control.island import tile
from headrace.codegen.cpu.vector.control.registers import Registers, classify
from headrace.codegen.cpu.vector.dot import turned, upcoming
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Scalar, unrepeated
from headrace.codegen.cpu.vector.schedule import numel

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering


def hoist(lowering: Lowering, op: Op) -> None:
    """Compute once what the loop would compute at each iteration from values outside."""
    for value in dict.fromkeys(v for region in op.regions for v in effects.outer_values(region)):
        expr = lowering.env.get(value)
        if expr is None or not expr.shape:
            continue
        expr = unrepeated(expr)
        if effects.loads(expr) or lowering.s.cost(expr) >= 8:
            lowering.s.materialise(expr)


def for_loop(lowering: Lowering, op: Op) -> None:
    """Lower a ``scf.for``."""
    g, s = lowering.g, lowering.s
    hoist(lowering, op)
    carried = classify(lowering, op)
    if contraction.lower(lowering, op, carried):
        return
    turned.prepare(lowering, op)
    lo, hi, step = (lowering.scalar(v) for v in op.operands[:3])
    kind = element_type(element_of(op.operands[0].type))
    unsigned = bool(op.attrs.get("unsigned"))
    known = ranges.counter(g, lo, step, hi, kind, unsigned)
    tiles = [c for c in carried if c.kind == "tile"]
    registers = Registers(lowering, carried)
    pairs: list[tuple[Buffer, Buffer]] = []
    for c in tiles:
        expr = lowering.get(c.init)
        first = room(lowering, c.init)
        alone = updates_in_place(op.regions[0], c.arg, c.out, lowering.uses)
        second = first if alone else room(lowering, c.init)
        pairs.append((first, second))
        s.materialise(expr, into=first, needed=lowering.limits(c.arg))
    inits = list(registers.inits)
    count = len(registers.inits)
    places: list[int] = []  # of the two pointers among what the loop carries; 0: updated in place
    for first, second in pairs:
        places.append(0 if first is second else len(inits))
        inits += [] if first is second else [("ptr", first.pointer), ("ptr", second.pointer)]
    body = op.regions[0]
    made_by = {r: o for o in body.ops for r in o.results}

    def run(iv: str, args: Values) -> Values:
        with s.scope():
            lowering.put(body.args[0], Scalar(iv, kind))
            g.known[iv] = known
            registers.bind(args[:count])
            nexts = []
            for k, (c, (first, second)) in enumerate(zip(tiles, pairs, strict=True)):
                alone = first is second
                now, other = [first.pointer] * 2 if alone else args[places[k] : places[k] + 2]
                lowering.put(c.arg, kept(lowering, c.arg, Buffer(now, first.shape, first.element)))
                nexts.append((now, Buffer(other, first.shape, first.element)))
                maker = made_by.get(c.out)
                if maker is not None and maker.name == "tt.dot" and lowering.uses[c.out] == 1:
                    lowering.destinations[c.out] = nexts[-1][1]
            s.upcoming = upcoming.find(lowering, body)
            lowering.block(body)
            for c, (_, after) in zip(tiles, nexts, strict=True):
                expr = lowering.get(c.out).resolved()
                if isinstance(expr, Buffer) and expr.pointer == after.pointer:
                    continue
                s.materialise(expr, into=after, needed=lowering.limits(c.out))
            outs = registers.next(args[:count])
            for (now, then), (first, second) in zip(nexts, pairs, strict=True):
                outs += [] if first is second else [then.pointer, now]
            return outs

    finals = g.e.loop(lo, hi, step, inits, run, kind, True, "ult" if unsigned else "slt")
    registers.bind(finals[:count], final=True)
    for k, (c, (first, second)) in enumerate(zip(tiles, pairs, strict=True)):
        pointer = first.pointer if first is second else finals[places[k]]
        buffer = Buffer(pointer, first.shape, first.element)
        lowering.put(c.result, kept(lowering, c.result, buffer))


def if_else(lowering: Lowering, op: Op) -> None:
    """Lower a ``scf.if``: scalars merge in phis, tiles in one buffer."""
    g, s = lowering.g, lowering.s
    condition = lowering.scalar(op.operands[0])
    types: list[str] = []
    buffers: list[Buffer | None] = []
    for result in op.results:
        shape = shape_of(result.type)
        element = element_type(element_of(result.type))
        if not shape:
            types.append(text(element))
            buffers.append(None)
        else:
            buffers.append(room(lowering, result))

    def side(region: Block) -> Values:
        outs: Values = []
        with s.scope():
            yielded = lowering.block(region)
            for value, buffer in zip(yielded, buffers, strict=True):
                if buffer is None:
                    outs.append(lowering.scalar(value))
                else:
                    s.materialise(lowering.get(value), into=buffer)
        return outs

    def other() -> Values:
        return side(op.regions[1]) if len(op.regions) > 1 and op.regions[1].ops else []

    merged = iter(g.e.branch(condition, types, lambda: side(op.regions[0]), other))
    for result, buffer in zip(op.results, buffers, strict=True):
        element = element_type(element_of(result.type))
        if buffer is None:
            lowering.put(result, Scalar(next(merged), element))
        else:
            lowering.put(result, kept(lowering, result, buffer))


def while_loop(lowering: Lowering, op: Op) -> None:
    """Lower a ``scf.while``: scalars in phis; what ``before`` and ``after`` hand to each other in two sets of
    tiles."""
    g, s = lowering.g, lowering.s
    before, after = op.regions
    hoist(lowering, op)
    tested = [room(lowering, v) if shape_of(v.type) else None for v in before.args]
    passed = [room(lowering, v) if shape_of(v.type) else None for v in op.results]

    def hand_over(values: Sequence[Value], tiles: Sequence[Buffer | None]) -> Values:
        scalars = []
        for value, buffer in zip(values, tiles, strict=True):
            if buffer is None:
                scalars.append(lowering.scalar(value))
            else:
                s.materialise(lowering.get(value), into=buffer, needed={})
        return scalars

    def receive(values: Sequence[Value], tiles: Sequence[Buffer | None], names: Values) -> None:
        scalars = iter(names)
        for value, buffer in zip(values, tiles, strict=True):
            if buffer is None:
                lowering.put(value, Scalar(next(scalars), element_type(element_of(value.type))))
            else:
                here = Buffer(buffer.pointer, buffer.shape, buffer.element)
                lowering.put(value, kept(lowering, value, here))

    def test(args: Values) -> tuple[str, Values]:
        receive(before.args, tested, args)
        condition, *forward = lowering.block(before)
        go = lowering.scalar(condition)
        return go, hand_over(forward, passed)

    def body(args: Values) -> Values:
        receive(after.args, passed, args)
        return hand_over(lowering.block(after), tested)

    kinds = [text(element_type(element_of(v.type))) for v in before.args if not shape_of(v.type)]
    with s.scope():
        inits = list(zip(kinds, hand_over(op.operands, tested), strict=True))
        finals = g.e.while_(inits, test, body)
    receive(op.results, passed, finals)


def room(lowering: Lowering, value: Value) -> Buffer:
    """Memory for a tile of this type."""
    element, shape = stored(element_type(element_of(value.type))), shape_of(value.type)
    return Buffer(lowering.g.alloca(element, numel(shape)), shape, element)


def kept(lowering: Lowering, value: Value, buffer: Buffer) -> Expr:
    """The tile in ``buffer`` as ``value``."""
    made = tile(buffer, element_type(element_of(value.type)))
    lowering.s.keep.append(buffer)
    return made
