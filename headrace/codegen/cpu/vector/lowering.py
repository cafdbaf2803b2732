"""From TTIR operations to lazy expressions, loops and stores: one method per family of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Block, Function, Op, Value, element_of, shape_of
from headrace.codegen.cpu.vector import dot, effects, masks
from headrace.codegen.cpu.vector.access import vector_dim
from headrace.codegen.cpu.vector.affine import root_name
from headrace.codegen.cpu.vector.combine import combine_of
from headrace.codegen.cpu.vector.context import Context, Ix, Machine, const, element_type, pointee_of, text
from headrace.codegen.cpu.vector.demand import Demand, order_of
from headrace.codegen.cpu.vector.elementwise import NAMES, Elementwise
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import (
    Broadcast,
    Buffer,
    ExpandDims,
    Expr,
    Range,
    Scalar,
    Summed,
    Transpose,
    Uniform,
)
from headrace.codegen.cpu.vector.loops import lanes, rows
from headrace.codegen.cpu.vector.masks import Limits
from headrace.codegen.cpu.vector.memory import Load, Pointers, store
from headrace.codegen.cpu.vector.reduce import reduce_tile
from headrace.codegen.cpu.vector.schedule import Scheduler
from headrace.codegen.cpu.vector.select import Select

if TYPE_CHECKING:
    from headrace.codegen.cpu.ttir import Module

_IGNORED = frozenset({"llvm.intr.assume", "gpu.barrier", "ttg.barrier", "ttg.local_barrier", "tt.return"})
_PURE = frozenset({"arith.constant", "tt.make_range", "tt.splat", "tt.broadcast", "tt.expand_dims",
"arith.select", "tt.trans", "tt.unsplat"}) | NAMES  # fmt: skip


class Lowering:
    """State of one kernel's lowering."""

    def __init__(self, function: Function, module: Module, machine: Machine) -> None:
        if len(function.blocks) != 1:
            raise VectorDeclined("early returns are not vectorised")
        self.function = function
        self.module = module
        self.g = Context(machine)
        self.s = Scheduler(self.g)
        self.demand = Demand(function)
        self.env: dict[Value, Expr] = {}
        self.uses: dict[Value, int] = {}
        self.destinations: dict[Value, Buffer] = {}
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
        return self.g.e.text(f'@"{self.function.name}"({", ".join(params)})')

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
        """Define a value."""
        if expr.shape == () and not isinstance(expr, Scalar):
            expr = Scalar(expr.scalar(self.g), expr.element)
        self.env[value] = expr
        self.s.keep.append(expr)
        self.s.uses[expr.uid] = self.uses.get(value, 0)
        if expr.shape and not isinstance(expr, Uniform | Range):
            bounds = self.demand.bounds(value)
            if bounds:
                self.s.demand[expr.uid] = self.limits(value)

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
        self.op(op)
        return self.env.get(value)

    # operations

    def block(self, block: Block, skip: frozenset[int] = frozenset()) -> list[Value]:
        """Lower a block; returns the terminator's operands. Operations whose id is in ``skip`` are left
        out."""
        for position, op in enumerate(block.ops):
            if op.name in ("scf.yield", "scf.condition"):
                return op.operands
            if id(op) in skip:
                continue
            if effects.writes(op):
                self.settle(block, position, op)
            self.op(op)
        return []

    def settle(self, block: Block, position: int, op: Op) -> None:
        """Put live values that depend on loads into memory before ``op`` writes."""
        later = effects.used_from(block, position + 1)
        if op.regions:
            later |= effects.used_from(block, position)
        for value in later:
            expr = self.env.get(value)
            if expr is not None and expr.shape and effects.loads(expr):
                self.s.materialise(expr, final=True)

    def op(self, op: Op) -> None:
        """Lower one operation."""
        name = op.name
        if name in _IGNORED:
            return
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, op)
        elif name in NAMES:
            self.elementwise(op)
        else:
            raise VectorDeclined(f"{name} is not vectorised")

    def elementwise(self, op: Op) -> None:
        result = op.result
        element = element_type(element_of(result.type))
        operands = tuple(self.get(o) for o in op.operands)
        pointee = ""
        if op.name == "tt.addptr":
            pointee = pointee_of(op.operands[0])
        attrs = {k: v for k, v in op.attrs.items() if k in ("predicate", "rounding", "propagateNan")}
        self.put(result, Elementwise(op.name, operands, shape_of(result.type), element, attrs, pointee))

    def constant(self, op: Op) -> None:
        value = op.attrs["value"]
        if isinstance(value, tuple):
            raise VectorDeclined("constant tensors that are not a splat are not vectorised")
        assert isinstance(value, int | float)
        element = element_type(element_of(op.result.type))
        self.uniform(op, const(element, value), element)

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

    def reshape(self, op: Op) -> None:
        shape = shape_of(op.result.type)
        source = self.get(op.operands[0])
        if not source.varies:
            self.put(op.result, Uniform(source.scalar(self.g), source.element, shape))
            return
        if source.element == "i1":
            raise VectorDeclined("tt.reshape of masks is not vectorised")
        self.s.demand.pop(source.resolved().uid, None)
        buffer = Buffer(self.g.alloca(source.element, _size(shape)), source.shape, source.element)
        self.s.materialise(source, into=buffer)
        self.put(op.result, buffer.view(shape))

    def program_id(self, op: Op) -> None:
        self.put(op.result, Scalar(f"%p{op.int_attr('axis')}", "i32"))

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
        self.put(op.result, load)

    def store(self, op: Op) -> None:
        g = self.g
        pointer, value, mask = (op.segment(k) for k in range(3))
        assert pointer is not None
        assert value is not None
        target = Pointers(g, self.get(pointer), pointee_of(pointer))
        expr = self.get(value)
        box = masks.analyse(g, self.get(mask) if mask is not None else None)
        if not expr.shape:
            store(g, target, box, expr.scalar(g), expr.element, (), -1, 0)
            return
        aliased = [load for load in effects.loads(expr) if effects.may_overlap_shifted(target.expr, load)]
        if any(root_name(load.pointers.expr) in ("", root_name(target.expr)) for load in aliased) or (
            aliased and len(expr.shape) > 1 and any(isinstance(e, Transpose) for e in _nodes(expr))
        ):
            self.s.materialise(expr)
        made = self.s.tee(self.s.prepare(expr))
        for load in effects.loads(self.get(pointer)):
            self.s.materialise(load)
        dim = vector_dim(g, expr.shape, [expr], target)
        others = [d for d in range(len(expr.shape)) if d != dim]
        width = min(g.machine.lanes, expr.shape[dim])

        def row(index: list[Ix]) -> None:
            def body(at: list[Ix], _: Values, tail: bool) -> Values:
                values = []
                for ix in at:
                    index[dim] = ix
                    values.append((tuple(index), expr.eval(g, tuple(index), dim, width)))
                for here, name in values:
                    store(g, target, box, name, expr.element, here, dim, width)
                return []

            lanes(g, expr.shape[dim], width, box.limits.get(dim, ()), (), body, self.s.unroll(expr))

        rows(g, expr.shape, others, box.limits, row)
        self.s.untee(made, box.limits)

    def reduce(self, op: Op) -> None:
        if len(op.operands) != 1:
            raise VectorDeclined("tt.reduce of several tensors is not vectorised")
        source = self.get(op.operands[0])
        axis = op.int_attr("axis")
        if isinstance(source, Summed) and source.axis == axis:
            self.put(op.result, source.total)
            return
        element = source.element
        if element in ("half", "bfloat"):
            combine = combine_of(op, "float")
            source = Elementwise("arith.extf", (source,), source.shape, "float", {})
        else:
            combine = combine_of(op, element)
        result = reduce_tile(self.s, source, axis, combine, self.limits(op.result))
        made: Expr = Scalar(result, combine.element) if isinstance(result, str) else result
        if element != combine.element:
            made = Elementwise("arith.truncf", (made,), made.shape, element, {})
        self.put(op.result, made)

    def dot(self, op: Op) -> None:
        a, b, c = (self.get(o) for o in op.operands[:3])
        self.put(
            op.result, dot.lower(self.s, a, b, c, self.limits(op.result), self.destinations.get(op.result))
        )


def _size(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _nodes(expr: Expr) -> list[Expr]:
    found = [expr.resolved()]
    for e in found:
        found.extend(o.resolved() for o in e.operands)
        if len(found) > 500:
            break
    return found


def _control(name: str) -> Callable[[Lowering, Op], None]:
    def run(lowering: Lowering, op: Op) -> None:
        from headrace.codegen.cpu.vector import control

        getattr(control, name)(lowering, op)

    return run


_HANDLERS: dict[str, Callable[[Lowering, Op], None]] = {
    "arith.constant": Lowering.constant,
    "arith.select": Lowering.select,
    "scf.for": _control("for_loop"),
    "scf.if": _control("if_else"),
    "scf.while": _control("while_loop"),
    "tt.broadcast": Lowering.structural,
    "tt.dot": Lowering.dot,
    "tt.expand_dims": Lowering.structural,
    "tt.get_num_programs": Lowering.num_programs,
    "tt.get_program_id": Lowering.program_id,
    "tt.load": Lowering.load,
    "tt.make_range": Lowering.make_range,
    "tt.reduce": Lowering.reduce,
    "tt.reshape": Lowering.reshape,
    "tt.splat": Lowering.splat,
    "tt.store": Lowering.store,
    "tt.trans": Lowering.structural,
    "tt.unsplat": Lowering.unsplat,
}
