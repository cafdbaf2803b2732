"""scf.for, scf.if and scf.while.

Scalars are carried in registers. Pointer and integer tiles that advance by the same amount everywhere
are carried as
that one amount. Other tiles live in two buffers that swap roles at each iteration. Loops that only
accumulate sums or products are handed to :mod:`.contraction`.
"""

from __future__ import annotations

from headrace.codegen.cpu.ttir import Block, Op, element_of, shape_of
from headrace.codegen.cpu.vector import contraction, effects
from headrace.codegen.cpu.vector.context import element_type, text
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Buffer, Scalar
from headrace.codegen.cpu.vector.lowering import Lowering
from headrace.codegen.cpu.vector.registers import Registers, classify
from headrace.codegen.cpu.vector.schedule import numel


def hoist(lowering: Lowering, op: Op) -> None:
    """Compute once what the loop would compute at each iteration from values outside."""
    for value in set().union(*(effects.outer_values(region) for region in op.regions)):
        expr = lowering.env.get(value)
        if expr is None or not expr.shape:
            continue
        if effects.loads(expr) or lowering.s.cost(expr) >= 8:
            lowering.s.materialise(expr)


def for_loop(lowering: Lowering, op: Op) -> None:
    """Lower a ``scf.for``."""
    g, s = lowering.g, lowering.s
    hoist(lowering, op)
    carried = classify(lowering, op)
    if contraction.lower(lowering, op, carried):
        return
    lo, hi, step = (lowering.scalar(v) for v in op.operands[:3])
    kind = element_type(element_of(op.operands[0].type))
    tiles = [c for c in carried if c.kind == "tile"]
    registers = Registers(lowering, carried)
    pairs: list[tuple[Buffer, Buffer]] = []
    for c in tiles:
        expr = lowering.get(c.init)
        if expr.element in ("i1", "ptr"):
            raise VectorDeclined(f"a loop-carried tile of {expr.element} is not vectorised")
        first, second = (
            Buffer(g.alloca(expr.element, numel(expr.shape)), expr.shape, expr.element) for _ in "ab"
        )
        pairs.append((first, second))
        s.materialise(expr, into=first, needed=lowering.limits(c.arg))
    inits = list(registers.inits)
    for first, second in pairs:
        inits += [("ptr", first.pointer), ("ptr", second.pointer)]
    count = len(registers.inits)
    body = op.regions[0]
    made_by = {r: o for o in body.ops for r in o.results}

    def run(iv: str, args: Values) -> Values:
        with s.scope():
            lowering.put(body.args[0], Scalar(iv, kind))
            registers.bind(args[:count])
            nexts = []
            for k, (c, (first, _)) in enumerate(zip(tiles, pairs, strict=True)):
                now, other = args[count + 2 * k : count + 2 * k + 2]
                lowering.put(c.arg, Buffer(now, first.shape, first.element))
                nexts.append((now, Buffer(other, first.shape, first.element)))
                maker = made_by.get(c.out)
                if maker is not None and maker.name == "tt.dot" and lowering.uses[c.out] == 1:
                    lowering.destinations[c.out] = nexts[-1][1]
            lowering.block(body)
            for c, (_, after) in zip(tiles, nexts, strict=True):
                expr = lowering.get(c.out).resolved()
                if isinstance(expr, Buffer) and expr.pointer == after.pointer:
                    continue
                s.materialise(expr, into=after, needed=lowering.limits(c.out))
            outs = registers.next(args[:count])
            for now, then in nexts:
                outs += [then.pointer, now]
            return outs

    predicate = "ult" if op.attrs.get("unsigned") else "slt"
    finals = g.e.loop(lo, hi, step, inits, run, kind, True, predicate)
    registers.bind(finals[:count], final=True)
    for k, (c, (first, _)) in enumerate(zip(tiles, pairs, strict=True)):
        lowering.put(c.result, Buffer(finals[count + 2 * k], first.shape, first.element))


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
        elif element in ("i1", "ptr"):
            raise VectorDeclined(f"scf.if that yields a tile of {element} is not vectorised")
        else:
            buffers.append(Buffer(g.alloca(element, numel(shape)), shape, element))

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
        lowering.put(result, Scalar(next(merged), element) if buffer is None else buffer)


def while_loop(lowering: Lowering, op: Op) -> None:
    """Lower a ``scf.while`` over scalars."""
    g, s = lowering.g, lowering.s
    before, after = op.regions
    if any(shape_of(v.type) for v in [*op.operands, *op.results]):
        raise VectorDeclined("scf.while that carries tiles is not vectorised")
    hoist(lowering, op)
    kinds = [element_type(element_of(v.type)) for v in op.operands]

    def test(args: Values) -> tuple[str, Values]:
        for value, name, kind in zip(before.args, args, kinds, strict=True):
            lowering.put(value, Scalar(name, kind))
        condition, *forward = lowering.block(before)
        return lowering.scalar(condition), [lowering.scalar(v) for v in forward]

    def body(args: Values) -> Values:
        for value, name in zip(after.args, args, strict=True):
            lowering.put(value, Scalar(name, element_type(element_of(value.type))))
        return [lowering.scalar(v) for v in lowering.block(after)]

    with s.scope():
        inits = [(text(k), lowering.scalar(v)) for k, v in zip(kinds, op.operands, strict=True)]
        finals = g.e.while_(inits, test, body)
    for result, name in zip(op.results, finals, strict=True):
        lowering.put(result, Scalar(name, element_type(element_of(result.type))))
