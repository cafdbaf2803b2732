"""scf.for, scf.if and scf.while.

Scalars are carried in registers. Pointer and integer tiles that advance by the same amount everywhere are carried as
that one amount. Other tiles live in two buffers that swap roles at each iteration. Loops that only accumulate sums or
products are handed to :mod:`.contraction`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.codegen.cpu.ttir import Block, Op, PointerType, Value, element_of, shape_of
from headrace.codegen.cpu.vector import contraction, effects
from headrace.codegen.cpu.vector.context import SIZES, element_type, text
from headrace.codegen.cpu.vector.elementwise import Elementwise
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Scalar, Uniform
from headrace.codegen.cpu.vector.lowering import Lowering, pointee_of
from headrace.codegen.cpu.vector.schedule import numel


@dataclass(frozen=True)
class Carried:
    """How one loop-carried value is kept.

    ``kind`` is ``scalar``, ``fixed`` (never changes), ``moving`` (tile advanced by uniform ``steps``) or ``tile``.
    """

    kind: str
    arg: Value
    init: Value
    out: Value
    result: Value
    steps: tuple[Value, ...] = field(default=())


def moving_steps(body: Block, arg: Value, out: Value, uniform: dict[Value, Op]) -> tuple[Value, ...] | None:
    """The uniform tiles added to ``arg`` to make ``out``, or None if it is made in another way."""
    made = {r: op for op in body.ops for r in op.results}
    steps: list[Value] = []
    value = out
    while value is not arg:
        op = made.get(value)
        if op is None or op.name not in ("tt.addptr", "arith.addi"):
            return None
        left, right = op.operands
        if _is_uniform(right, made, uniform):
            steps.append(right)
            value = left
        elif op.name == "arith.addi" and _is_uniform(left, made, uniform):
            steps.append(left)
            value = right
        else:
            return None
    return tuple(steps)


def _is_uniform(value: Value, made: dict[Value, Op], definitions: dict[Value, Op]) -> bool:
    op = made.get(value) or definitions.get(value)
    return op is not None and op.name in ("tt.splat", "arith.constant")


def classify(lowering: Lowering, op: Op) -> list[Carried]:
    """The loop-carried values of a ``scf.for``."""
    body = op.regions[0]
    kept = []
    for init, arg, out, result in zip(op.operands[3:], body.args[1:], body.ops[-1].operands, op.results, strict=True):
        if not shape_of(arg.type):
            kept.append(Carried("scalar", arg, init, out, result))
        elif out is arg:
            kept.append(Carried("fixed", arg, init, out, result))
        else:
            element = element_of(arg.type)
            steps = None
            if isinstance(element, PointerType) or element.is_int:
                steps = moving_steps(body, arg, out, lowering.demand.definitions)
            if steps is None:
                kept.append(Carried("tile", arg, init, out, result))
            else:
                kept.append(Carried("moving", arg, init, out, result, steps))
    return kept


def hoist(lowering: Lowering, op: Op) -> None:
    """Compute once what the loop would compute at each iteration from values outside."""
    for value in effects.outer_values(op.regions[0]):
        expr = lowering.env.get(value)
        if expr is None or not expr.shape:
            continue
        if effects.loads(expr) or lowering.s.cost(expr) >= 8:
            lowering.s.materialise(expr)


class Registers:
    """Scalars and offsets of moving tiles as phi operands of a loop."""

    def __init__(self, lowering: Lowering, carried: list[Carried]) -> None:
        self.lowering = lowering
        self.carried = [c for c in carried if c.kind in ("scalar", "moving")]
        self.inits: list[tuple[str, str]] = []
        self.start: dict[Value, Expr] = {}
        for c in carried:
            expr = lowering.get(c.init)
            self.start[c.arg] = expr
            if c.kind == "fixed":
                lowering.env[c.arg] = expr
                lowering.env[c.result] = expr
        for c in self.carried:
            if c.kind == "scalar":
                self.inits.append((text(element_type(element_of(c.arg.type))), lowering.scalar(c.init)))
            else:
                self.inits.append((self._offset_type(c), "0"))

    @staticmethod
    def _offset_type(c: Carried) -> str:
        element = element_of(c.arg.type)
        return "i64" if isinstance(element, PointerType) else element_type(element)

    def bind(self, args: Values, final: bool = False) -> None:
        """Define the block arguments (or the results) from phi names."""
        for c, name in zip(self.carried, args, strict=True):
            target = c.result if final else c.arg
            if c.kind == "scalar":
                self.lowering.put(target, Scalar(name, element_type(element_of(c.arg.type))))
                continue
            start = self.start[c.arg]
            offset = Uniform(name, self._offset_type(c), start.shape)
            op = "tt.addptr" if start.element == "ptr" else "arith.addi"
            pointee = pointee_of(c.arg) if start.element == "ptr" else ""
            self.lowering.put(target, Elementwise(op, (start, offset), start.shape, start.element, {}, pointee))

    def next(self, args: Values) -> Values:
        """Values for the next iteration."""
        g = self.lowering.g
        outs = []
        for c, name in zip(self.carried, args, strict=True):
            if c.kind == "scalar":
                outs.append(self.lowering.scalar(c.out))
                continue
            kind = self._offset_type(c)
            for step in c.steps:
                expr = self.lowering.get(step)
                value = expr.scalar(g)
                if SIZES[expr.element] < SIZES[kind] and value.startswith("%"):
                    value = g.cast("sext", expr.element, value, kind)
                name = g.add(name, value, kind)
            outs.append(name)
        return outs


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
        first, second = (Buffer(g.alloca(expr.element, numel(expr.shape)), expr.shape, expr.element) for _ in "ab")
        pairs.append((first, second))
        s.demand.setdefault(expr.uid, lowering.limits(c.arg))
        s.materialise(expr, into=first)
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
                now, then = args[count + 2 * k : count + 2 * k + 2]
                lowering.put(c.arg, Buffer(now, first.shape, first.element))
                nexts.append((now, Buffer(then, first.shape, first.element)))
                maker = made_by.get(c.out)
                if maker is not None and maker.name == "tt.dot" and lowering.uses[c.out] == 1:
                    lowering.destinations[c.out] = nexts[-1][1]
            lowering.block(body)
            for c, (_, then) in zip(tiles, nexts, strict=True):
                expr = lowering.get(c.out).resolved()
                if isinstance(expr, Buffer) and expr.pointer == then.pointer:
                    continue
                s.demand.setdefault(expr.uid, lowering.limits(c.out))
                s.materialise(expr, into=then)
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
    types, buffers = [], []
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
            for value, buffer, result in zip(yielded, buffers, op.results, strict=True):
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
