"""Loop-carried values other than tiles: scalars, and tiles that advance by the same amount everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Block, Op, PointerType, Value, element_of, shape_of
from headrace.codegen.cpu.vector.analysis import ranges
from headrace.codegen.cpu.vector.context import SIZES, element_type, pointee_of, text
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Expr, Scalar, Uniform
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering


@dataclass(frozen=True)
class Carried:
    """How one loop-carried value is kept.

    ``kind`` is ``scalar``, ``fixed`` (never changes), ``moving`` (tile advanced by uniform ``steps``) or
    ``tile``.
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
    if op is None or op.name not in ("tt.splat", "arith.constant"):
        return False
    return not isinstance(op.attrs.get("value"), tuple)


def classify(lowering: Lowering, op: Op) -> list[Carried]:
    """The loop-carried values of a ``scf.for``."""
    body = op.regions[0]
    kept = []
    for init, arg, out, result in zip(
        op.operands[3:], body.args[1:], body.ops[-1].operands, op.results, strict=True
    ):
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
            if start.element != "ptr":
                # Steps that are made within the loop are not there yet.
                steps = [self.lowering.env.get(step) for step in c.steps]
                self.lowering.g.known[name] = ranges.multiple(self.lowering.g, steps, start.element)
            offset = Uniform(name, self._offset_type(c), start.shape)
            op = "tt.addptr" if start.element == "ptr" else "arith.addi"
            pointee = pointee_of(c.arg) if start.element == "ptr" else ""
            self.lowering.put(
                target, Elementwise(op, (start, offset), start.shape, start.element, {}, pointee)
            )

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
