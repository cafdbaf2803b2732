"""Loops that only accumulate: ``acc += sum(a * b)`` and ``acc = dot(a, b, acc)`` over a loop of blocks.

The loop is turned inside out. For a block of result elements the whole loop runs with the sums held in vector
registers; they are reduced across lanes once, at the end. Weights are thereby read exactly once, in as many streams as
the block has rows, and nothing is carried in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Block as TtirBlock
from headrace.codegen.cpu.ttir import Op, element_of, shape_of
from headrace.codegen.cpu.vector import dot, effects
from headrace.codegen.cpu.vector.accumulate import Accumulate, accumulate, direct
from headrace.codegen.cpu.vector.blocks import Block, Term, fold, is_zero, outside, row_blocks, store_block, sweep_axis
from headrace.codegen.cpu.vector.combine import Combine, combine_of
from headrace.codegen.cpu.vector.context import Ix, element_type
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Scalar
from headrace.codegen.cpu.vector.schedule import numel, valid, vector_dim

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.control import Carried
    from headrace.codegen.cpu.vector.lowering import Lowering

_ADD = Combine("arith.addf", "float")


@dataclass(frozen=True)
class Sum:
    """One accumulator: what is summed is ``source`` over ``axis``, or the product of the operands of a dot."""

    carried: Carried
    operation: Op  # tt.reduce or tt.dot
    axis: int


def recognise(lowering: Lowering, body: TtirBlock, carried: list[Carried]) -> tuple[list[Sum], frozenset[int]] | None:
    """The accumulators of a loop that does nothing else, and the operations that they replace."""
    made = {r: op for op in body.ops for r in op.results}
    sums: list[Sum] = []
    skip: set[int] = set()
    for op in body.ops:
        if op.regions and op.name != "tt.reduce" or effects.writes(op) or op.name.startswith("tt.atomic"):
            return None
    for c in carried:
        if c.kind != "tile":
            continue
        op = made.get(c.out)
        if op is None or lowering.uses.get(c.arg, 0) != 1 or lowering.uses.get(c.out, 0) != 1:
            return None
        if op.name == "tt.dot" and op.operands[2] is c.arg and len(shape_of(c.arg.type)) == 2:
            sums.append(Sum(c, op, 2))
            skip.add(id(op))
            continue
        if op.name != "arith.addf" or str(element_of(c.arg.type)) != "f32":
            return None
        term = op.operands[1] if op.operands[0] is c.arg else op.operands[0]
        reduce = made.get(term)
        if reduce is None or reduce.name != "tt.reduce" or lowering.uses.get(term, 0) != 1 or len(reduce.operands) != 1:
            return None
        try:
            if combine_of(reduce, "float") != _ADD:
                return None
        except VectorDeclined:
            return None
        sums.append(Sum(c, reduce, reduce.int_attr("axis")))
        skip |= {id(op), id(reduce)}
    if not sums or any(op.name in ("tt.reduce", "tt.dot") and id(op) not in skip for op in body.ops):
        return None
    return sums, frozenset(skip)


def lower(lowering: Lowering, op: Op, carried: list[Carried]) -> bool:
    """Lower a ``scf.for`` in this way if it has the form; False if it does not."""
    from headrace.codegen.cpu.vector.control import Registers

    g, s = lowering.g, lowering.s
    body = op.regions[0]
    found = recognise(lowering, body, carried)
    if found is None:
        return False
    sums, skip = found
    kind = element_type(element_of(op.operands[0].type))
    lo, hi, step = (lowering.scalar(v) for v in op.operands[:3])
    registers = Registers(lowering, carried)
    predicate = "ult" if op.attrs.get("unsigned") else "slt"

    def sources() -> list[Expr]:
        """What is summed, within the body that has just been lowered."""
        exprs = []
        for item in sums:
            operands = [lowering.get(v) for v in item.operation.operands[:2]]
            if item.operation.name == "tt.dot":
                exprs.append(dot.product(s, operands[0], operands[1]))
            else:
                exprs.append(operands[0])
        return exprs

    def enter(iv: str, args: Values) -> list[Expr]:
        lowering.put(body.args[0], Scalar(iv, kind))
        registers.bind(args)
        lowering.block(body, skip)
        return sources()

    plan = _dry_run(lowering, sums, enter, [t for t, _ in registers.inits])
    if plan is None:
        return False
    terms, shapes = plan
    finals: Values = [v for _, v in registers.inits]
    results: list[Buffer] = []
    inits: list[Expr | None] = []
    for item in sums:
        init = lowering.get(item.carried.init)
        shape = shape_of(item.carried.arg.type)
        results.append(Buffer(g.alloca("float", numel(shape)), shape, "float"))
        inits.append(None if is_zero(init, g) else init)
    for group in _groups(sums, shapes, terms):
        axis = sums[group[0]].axis
        full = shapes[group[0]]
        limits = {d if d < axis else d + 1: n for d, n in lowering.limits(sums[group[0]].operation.result).items()}
        m_block, n_block = _block(full, axis, len(group), sums[group[0]].operation.name == "tt.dot")

        def emit(block: Block, group: list[int] = group, axis: int = axis) -> None:
            nonlocal finals
            count = len(block.rows)
            chunks = full[axis] // terms[group[0]].step
            sets = max(1, min(16 // (count * len(group)), chunks, 4))
            start = [(terms[t].type, terms[t].neutral(g)) for t in group for _ in range(sets * count)]

            def iteration(iv: str, args: Values) -> Values:
                with s.scope():
                    values = args[len(registers.inits) :]
                    exprs = enter(iv, args[: len(registers.inits)])
                    accs = [_again(lowering, exprs[t], axis, terms[t]) for t in group]
                    names = valid(g, exprs[group[0]], axis) or ()
                    pairs = [Term(exprs[t], a) for t, a in zip(group, accs, strict=True)]
                    if all((valid(g, exprs[t], axis) or ()) == names for t in group):
                        values = sweep_axis(g, pairs, axis, block, names, values, sets)
                    else:
                        size = sets * count
                        parts = []
                        for k, term in enumerate(pairs):
                            own = valid(g, term.expr, axis) or ()
                            parts += sweep_axis(
                                g, [term], axis, block, own, values[k * size : (k + 1) * size], sets
                            )
                        values = parts
                    return registers.next(args[: len(registers.inits)]) + values

            outs = g.e.loop(lo, hi, step, registers.inits + start, iteration, kind, True, predicate)
            values = outs[len(registers.inits) :]
            for k, t in enumerate(group):
                part = values[k * sets * count : (k + 1) * sets * count]
                vector = fold(g, terms[t], part, sets, count)
                store_block(g, _ADD, vector, block, axis, results[t], inits[t])

        row_blocks(g, full, axis, limits, m_block, n_block, emit, spread=True)
    if registers.inits:
        finals = _finals(lowering, op, registers, enter, lo, hi, step, kind, predicate)
    registers.bind(finals, final=True)
    for item, result in zip(sums, results, strict=True):
        lowering.put(item.carried.result, result)
    return True


def _finals(lowering, op, registers, enter, lo, hi, step, kind, predicate) -> Values:  # type: ignore[no-untyped-def]
    """Final values of the scalars: the loop once more without its sums, if anybody asks."""
    if not any(lowering.uses.get(c.result, 0) for c in registers.carried):
        return [v for _, v in registers.inits]

    def iteration(iv: str, args: Values) -> Values:
        with lowering.s.scope():
            enter(iv, args)
            return registers.next(args)  # type: ignore[no-any-return]

    return lowering.g.e.loop(lo, hi, step, registers.inits, iteration, kind, True, predicate)


def _again(lowering: Lowering, expr: Expr, axis: int, like: Accumulate) -> Accumulate:
    made = accumulate(lowering.g, _ADD, expr, axis, lowering.s.uses, lowering.s.keep)
    assert (made.width, made.step, made.pairs) == (like.width, like.step, like.pairs)
    return made


def _dry_run(lowering: Lowering, sums: list[Sum], enter, types: list[str]):  # type: ignore[no-untyped-def]
    """Lower the body once into the void to learn the shapes and updates; None if the form does not fit."""
    g, s = lowering.g, lowering.s
    g.e.open("void", True)
    try:
        with s.scope():
            iv = g.e.define(g.e.fresh())
            exprs = enter(iv, [g.e.define(g.e.fresh()) for _ in types])
            terms, shapes = [], []
            for item, expr in zip(sums, exprs, strict=True):
                axis = item.axis
                if item.operation.name == "tt.dot":
                    if expr.element != "float" or not all(direct(o, 2) for o in expr.operands if o.element == "float"):
                        if not _dot_direct(expr):
                            return None
                elif vector_dim(g, expr.shape, [expr]) != axis:
                    return None
                if s.prepare_needed(expr):
                    return None
                names = valid(g, expr, axis) or ()
                row = tuple(Ix(None, 0) for _ in expr.shape)
                if outside(g, expr, _ADD, axis, names, row) is not None:
                    return None
                terms.append(accumulate(g, _ADD, expr, axis, s.uses, s.keep))
                shapes.append(expr.shape)
            return terms, shapes
    finally:
        g.e.close()


def _dot_direct(expr: Expr) -> bool:
    from headrace.codegen.cpu.vector.accumulate import as_bf16
    from headrace.codegen.cpu.vector.elementwise import Elementwise

    for operand in expr.operands:
        inner = as_bf16(operand)
        source: Expr = operand if inner is None else inner
        core = source.resolved()
        while core.operands and not direct(core, max(core.varies, default=0)) and isinstance(core, Elementwise):
            core = core.operands[0].resolved()
        if not direct(source, 2):
            return False
    return True


def _block(full: tuple[int, ...], axis: int, terms: int, is_dot: bool) -> tuple[int, int]:
    """Rows and columns of results per block, at most sixteen accumulators altogether.

    The columns are rows of the weights. They are spread over the tile: short neighbouring rows would make several
    interleaved streams in one page, which hardware prefetchers do not follow (measured: half the read bandwidth).
    """
    others = [n for d, n in enumerate(full) if d != axis]
    budget = max(1, 16 // terms)
    streams = 4 if others[-1] >= 32 else 2 if others[-1] >= 16 else 1
    if is_dot and others[0] > 1:
        return (4, max(1, min(budget // 4, others[-1])))
    return (1, max(1, min(streams, budget)))


def _groups(sums: list[Sum], shapes: list[tuple[int, ...]], terms: list[Accumulate]) -> list[list[int]]:
    """Accumulators that can share loops, at most eight together."""
    groups: list[list[int]] = []
    for k, item in enumerate(sums):
        for group in groups:
            first = group[0]
            alike = shapes[first] == shapes[k] and sums[first].axis == item.axis
            alike = alike and sums[first].operation.name == item.operation.name
            if alike and terms[first].step == terms[k].step and len(group) < 8:
                group.append(k)
                break
        else:
            groups.append([k])
    return groups

