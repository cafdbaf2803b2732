"""From TTIR operations to lazy expressions, loops and stores: one method per family of operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Block, Function, Op, Value, element_of, shape_of
from headrace.codegen.cpu.vector import dot, stores
from headrace.codegen.cpu.vector.analysis import effects, masks, ranges
from headrace.codegen.cpu.vector.analysis.demand import Demand, order_of
from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.analysis.program_step import Steps
from headrace.codegen.cpu.vector.analysis.structure import LEAVE, SAME, one_block
from headrace.codegen.cpu.vector.analysis.trial import refusal
from headrace.codegen.cpu.vector.context import (
    SIZES,
    Context,
    Ix,
    Machine,
    const,
    element_type,
    pointee_of,
    text,
)
from headrace.codegen.cpu.vector.control import structured
from headrace.codegen.cpu.vector.control.island import Islands, row_major, tile
from headrace.codegen.cpu.vector.dot import scaled
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import (
    Broadcast,
    Buffer,
    ExpandDims,
    Expr,
    Range,
    Scalar,
    Transpose,
    Uniform,
    unrepeated,
)
from headrace.codegen.cpu.vector.lanes.elementwise import NAMES, Elementwise
from headrace.codegen.cpu.vector.lanes.select import Select
from headrace.codegen.cpu.vector.memory import stream, together
from headrace.codegen.cpu.vector.memory.transfer import Load
from headrace.codegen.cpu.vector.movement import bits, shuffle
from headrace.codegen.cpu.vector.movement.hypercube import FLIP, PARITY, flattened
from headrace.codegen.cpu.vector.reduction import collective
from headrace.codegen.cpu.vector.schedule import Scheduler, numel
from headrace.codegen.cpu.worker import symbol_of

if TYPE_CHECKING:
    from headrace.codegen.cpu.ttir import Module

_IGNORED = frozenset({"llvm.intr.assume", "gpu.barrier", "ttg.barrier", "ttg.local_barrier", "tt.return",
"tt.grid_dependency_wait", "tt.grid_dependency_launch_dependents"})  # fmt: skip
_PURE = frozenset({"arith.constant", "tt.make_range", "tt.splat", "tt.broadcast", "tt.expand_dims",
"arith.select", "tt.trans"}) | NAMES  # fmt: skip
_DEEPEST = 128  # operations upon one another
_DEEPEST_ADDRESS = 192  # the same of addresses, which are gathered one by one when they lie in memory
_ATTRIBUTES = frozenset({"predicate", "rounding", "propagateNan", "symbol"})


class Lowering:
    """State of one kernel's lowering."""

    def __init__(self, function: Function, module: Module, machine: Machine) -> None:
        self.function = function = flattened(one_block(function))
        self.module = module
        self.g = Context(machine)
        self.s = Scheduler(self.g)
        self.demand = Demand(function)
        self.streams = stream.Streams(function)
        self.env: dict[Value, Expr] = {}
        self.uses: dict[Value, int] = {}
        self.destinations: dict[Value, Buffer] = {}
        self.islands = Islands(self)
        self.steps = Steps(function, self.demand.definitions, self.get, self.g)
        self._users: dict[Value, Op] = {}
        for op in ttir.walk(function):
            for operand in op.operands:
                self.uses[operand] = self.uses.get(operand, 0) + 1
                self._users[operand] = op

    def run(self) -> str:
        """The whole function as LLVM IR text."""
        params = []
        for k, arg in enumerate(self.function.args):
            element = element_type(element_of(arg.type))
            params.append(f"{text(element)} %a{k}")
            self.env[arg] = Scalar(f"%a{k}", element)
        params += [f"i32 %{name}" for name in ("p0", "p1", "p2", "g0", "g1", "g2")]
        self.block(self.function.body)
        text_ = self.g.e.text(f'@"{symbol_of(self.function.name)}"({", ".join(params)})')
        return self.g.prefetches.resolve(text_)

    # values

    def get(self, value: Value) -> Expr:
        return self.env[value]

    def sole_user(self, value: Value) -> Op | None:
        """The operation that uses ``value``, if there is exactly one use."""
        return self._users.get(value) if self.uses.get(value, 0) == 1 else None

    def scalar(self, value: Value) -> str:
        """SSA name of a scalar."""
        return self.env[value].resolved().scalar(self.g)

    def put(self, value: Value, expr: Expr) -> None:
        """Define a value. One that does not vary is computed here, where every use can reach it (bounds and
        strides made of it are kept under their names), unless it is memory that may yet be written."""
        if not expr.varies and not isinstance(expr, Scalar | Uniform | Buffer):
            name = expr.scalar(self.g)
            ranges.learn(self.g, expr, name)
            shape = expr.shape
            expr = Uniform(name, expr.element, shape) if shape else Scalar(name, expr.element)
        self.env[value] = expr
        self.s.keep.append(expr)
        needed = self.limits(value) if expr.shape and not isinstance(expr, Uniform | Range) else {}
        if expr.uid in self.s.uses and needed != self.s.demand.get(expr.uid, {}):
            needed = {}  # two values are one expression, and one of them is needed further than the other
        self.s.uses[expr.uid] = max(self.uses.get(value, 0), self.s.uses.get(expr.uid, 0))
        self.s.demand.pop(expr.uid, None)
        if needed:
            self.s.demand[expr.uid] = needed

    def limits(self, value: Value) -> Limits:
        """Bounds up to which a value is needed, as far as they can be computed already."""
        found: Limits = {}
        for d, (comparison, dim) in self.demand.bounds(value).items():
            expr = self.early(comparison)
            if expr is not None:
                names = masks.analyse(self.g, expr).limits.get(dim)
                if names:
                    found[d] = names
        return found

    def early(self, value: Value) -> Expr | None:
        """A pure value that is defined further down, if all it needs is there."""
        if value in self.env:
            return self.env[value]
        op = self.demand.definitions.get(value)
        if op is None or op.name not in _PURE or len(op.results) != 1:
            return None
        if any(self.early(o) is None for o in op.operands):
            return None
        return self.env.get(value) if self.vectorised(op) else None

    def forget(self, values: Iterable[Value]) -> None:
        """Undefine values that are about to be defined in their place."""
        for value in values:
            self.env.pop(value, None)

    # operations

    def block(self, block: Block, skip: frozenset[int] = frozenset()) -> list[Value]:
        """Lower a block; returns the terminator's operands. Operations whose id is in ``skip`` are left
        out."""
        done: set[int] = set()
        for position, op in enumerate(block.ops):
            if op.name in ("scf.yield", "scf.condition"):
                return op.operands
            if id(op) in skip or id(op) in done:
                continue
            if op.name == "tt.store":
                done |= together.lower(self, block, together.group(block, position))
                if id(op) in done:
                    continue
            if effects.writes(op):
                self.settle(block, position, op)
            self.op(op)
            for value in op.results:
                self.shorten(value)
        return []

    def shorten(self, value: Value) -> None:
        """Put a tile into memory that is a long chain of operations: what walks over expressions calls itself
        for each, which Python does not do without end."""
        expr = self.env.get(value)
        most = _DEEPEST if expr is None or expr.element != "ptr" else _DEEPEST_ADDRESS
        if expr is not None and expr.depth > most and expr.varies:
            self.put(value, tile(row_major(self, value), expr.element))

    def settle(self, block: Block, position: int, op: Op) -> None:
        """Put live values that depend on loads into memory before ``op`` writes."""
        later = dict.fromkeys(effects.used_from(block, position + 1))
        if op.regions:
            later.update(dict.fromkeys(effects.used_from(block, position)))
        for value in later:
            expr = self.env.get(value)
            if expr is not None and expr.shape and effects.loads(expr):
                self.s.materialise(unrepeated(expr), final=True)

    def op(self, op: Op) -> None:
        """Lower one operation."""
        name = op.name
        if name in _IGNORED:
            return
        if name.startswith("scf."):
            (_HANDLERS.get(name) or Islands.lower)(self, op)
        elif not self.vectorised(op):
            Islands.lower(self, op)

    def vectorised(self, op: Op) -> bool:
        """Lower one operation if it has a vector form, which is told. What is pure then has a name that
        exists wherever its operands do: a call would have one only where it is written."""
        handler = _HANDLERS.get(op.name) or (Lowering.elementwise if op.name in NAMES else None)
        if handler is None:
            return False
        depth = len(self.g.e.frames)
        try:
            with self.s.attempt():
                handler(self, op)
        except VectorDeclined:
            # Code that this left behind in open frames is complete and unused.
            del self.g.e.frames[depth:]
            return False
        return True

    def elementwise(self, op: Op) -> None:
        result = op.result
        element = element_type(element_of(result.type))
        operands = tuple(self.get(o) for o in op.operands)
        pointee = ""
        if op.name == "tt.addptr":
            pointee = pointee_of(op.operands[0])
        attrs = {k: v for k, v in op.attrs.items() if k in _ATTRIBUTES}
        user = self.sole_user(result)
        if op.name == "arith.truncf" and user is not None and user.name == "tt.dot":
            attrs["flush"] = True  # as the product's own instructions do with subnormal numbers
        types = tuple(o.element for o in operands)
        if why := refusal(self.g.machine, op.name, types, element, attrs, pointee):
            raise VectorDeclined(why)
        self.put(result, Elementwise(op.name, operands, shape_of(result.type), element, attrs, pointee))

    def constant(self, op: Op) -> None:
        value = op.attrs["value"]
        if isinstance(value, tuple):
            raise VectorDeclined("constant tensors that are not a splat are not vectorised")
        assert isinstance(value, int | float)
        element = element_type(element_of(op.result.type))
        self.uniform(op, const(element, value), element)

    def same(self, op: Op) -> None:
        self.put(op.result, self.get(op.operands[0]))

    def leave(self, op: Op) -> None:
        cond = self.scalar(op.operands[0]) if op.operands else "true"
        if op.attrs.get("when") is False:
            cond = self.g.op("xor", "i1", cond, "true")
        self.g.e.leave(cond)

    def uniform(self, op: Op, name: str, element: str) -> None:
        shape = shape_of(op.result.type)
        self.put(op.result, Uniform(name, element, shape) if shape else Scalar(name, element))

    def splat(self, op: Op) -> None:
        self.uniform(op, self.scalar(op.operands[0]), element_type(element_of(op.result.type)))

    def unsplat(self, op: Op) -> None:
        source = self.get(op.operands[0])
        self.uniform(op, source.eval(self.g, (Ix(None, 0),) * len(source.shape), -1, 0), source.element)

    def structural(self, op: Op) -> None:
        source = self.get(op.operands[0])
        shape = shape_of(op.result.type)
        if not source.varies:
            self.put(op.result, Uniform(source.scalar(self.g), source.element, shape))
        elif op.name == "tt.expand_dims":
            self.put(op.result, ExpandDims(source, op.int_attr("axis")))
        elif op.name == "tt.broadcast":
            self.put(op.result, Broadcast(source, shape))
        else:
            self.put(op.result, Transpose(source, order_of(op)))

    def program_id(self, op: Op) -> None:
        name = f"%p{op.int_attr('axis')}"
        self.g.known[name] = ranges.Known(0, (1 << 31) - 1)
        self.put(op.result, Scalar(name, "i32"))

    def num_programs(self, op: Op) -> None:
        self.put(op.result, Scalar(f"%g{op.int_attr('axis')}", "i32"))

    def make_range(self, op: Op) -> None:
        self.put(op.result, Range(op.int_attr("start"), shape_of(op.result.type)[0]))

    def select(self, op: Op) -> None:
        condition, yes, no = (self.get(o) for o in op.operands)
        if not yes.shape:
            self.elementwise(op)
        else:
            self.put(op.result, Select(condition, yes, no))

    def load(self, op: Op) -> None:
        pointer, mask, other = (op.segment(k) for k in range(3))
        assert pointer is not None
        if op.attrs.get("isVolatile"):
            raise VectorDeclined("volatile loads are not vectorised")
        load = Load(
            self.g,
            self.get(pointer),
            element_type(element_of(op.result.type)),
            self.get(mask) if mask is not None else None,
            self.get(other) if other is not None else None,
        )
        if self.g.e.level == 0:
            load.ahead = self.steps.of(pointer, numel(load.shape) * SIZES[load.element])
        self.put(op.result, load)

    def dot(self, op: Op) -> None:
        a, b, c = (self.get(o) for o in op.operands[:3])
        self.put(
            op.result, dot.lower(self.s, a, b, c, self.limits(op.result), self.destinations.get(op.result))
        )


_HANDLERS: dict[str, Callable[[Lowering, Op], None]] = {
    "arith.constant": Lowering.constant,
    "arith.select": Lowering.select,
    "scf.for": structured.for_loop,
    "scf.if": structured.if_else,
    "scf.while": structured.while_loop,
    FLIP: bits.flip,
    LEAVE: Lowering.leave,
    PARITY: bits.parity,
    SAME: Lowering.same,
    "tt.broadcast": Lowering.structural,
    "tt.cat": shuffle.cat,
    "tt.dot": Lowering.dot,
    "tt.dot_scaled": scaled.lower,
    "tt.expand_dims": Lowering.structural,
    "tt.gather": shuffle.gather,
    "tt.get_num_programs": Lowering.num_programs,
    "tt.get_program_id": Lowering.program_id,
    "tt.join": shuffle.join,
    "tt.load": Lowering.load,
    "tt.make_range": Lowering.make_range,
    "tt.reduce": collective.reduce,
    "tt.reshape": shuffle.reshape,
    "tt.scan": collective.scan,
    "tt.splat": Lowering.splat,
    "tt.split": shuffle.split,
    "tt.store": stores.lower,
    "tt.trans": Lowering.structural,
    "tt.unsplat": Lowering.unsplat,
}
