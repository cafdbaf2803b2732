"""Tensors of shape [2, 2, ..., 2] as one-dimensional ones.

``tl.sort``, ``tl.topk`` and ``tl.flip`` reshape a tensor so that every bit of an element's position is a
dimension, and exchange neighbours along one of them by ``x ^ xor_sum(x, axis)``. Here such values get the
shape [2 ** n] back: the exchange becomes ``headrace.flip``, which reads position i ^ stride, a broadcast of
``arange(0, 2)`` becomes a bit of the position, the exclusive or of such bits ``headrace.parity``, and
everything element by element stays as it is::

    %s = tt.reduce xor (%x), axis = k
    %b = tt.broadcast (tt.expand_dims %s)     =>    %y = headrace.flip %x {stride = 2 ** (n - 1 - k)}
    %y = arith.xori %x, %b
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Block, Function, Op, TensorType, Type, Value, shape_of
from headrace.codegen.cpu.vector.lanes.elementwise import NAMES

FLIP = "headrace.flip"  # the operand with positions i and i ^ ``stride`` exchanged
PARITY = "headrace.parity"  # whether position i & ``mask`` has an odd number of ones: 0 or 1
_LEAST_RANK = 3


class _Stay(Exception):
    """The function is left as it is."""


def flattened(function: Function) -> Function:
    """The function with such tensors made one-dimensional; itself where there are none."""
    flips = _Flips(function)
    if not any(len(shape_of(x.type)) >= _LEAST_RANK for x, _ in flips.found.values()):
        return function
    try:
        body = _Cube(flips, {}, {}).block(function.body)
    except _Stay:
        return function
    return replace(function, blocks=[body])


def _hyper(type_: Type) -> bool:
    shape = shape_of(type_)
    return len(shape) > 1 and set(shape) <= {1, 2}


def _full(type_: Type) -> bool:
    return _hyper(type_) and set(shape_of(type_)) == {2}


class _Flips:
    """The exchanges in a function: by operation (value, axis), and the operations that serve nothing else."""

    def __init__(self, function: Function) -> None:
        self.found: dict[int, tuple[Value, int]] = {}
        self.dead: set[int] = set()
        self.makers: dict[Value, Op] = {}
        users: dict[Value, list[int]] = {}
        ops = list(ttir.walk(function))
        for op in ops:
            self.makers.update(dict.fromkeys(op.results, op))
            for operand in op.operands:
                users.setdefault(operand, []).append(id(op))
        for op in ops:
            if op.name == "arith.xori":
                for x, other in (op.operands, op.operands[::-1]):
                    axis = self._axis(x, other)
                    if axis is not None:
                        self.found[id(op)] = (x, axis)
        gone = set(self.found)
        for name in ("tt.broadcast", "tt.expand_dims", "tt.reduce"):
            for op in ops:
                results = [u for r in op.results for u in users.get(r, [])]
                if op.name == name and results and set(results) <= gone:
                    self.dead.add(id(op))
            gone |= self.dead

    def _axis(self, x: Value, other: Value) -> int | None:
        chain = []
        for name in ("tt.broadcast", "tt.expand_dims", "tt.reduce"):
            op = self.makers.get(other)
            if op is None or op.name != name or len(op.operands) != 1:
                return None
            chain.append(op)
            other = op.operands[0]
        axis = chain[2].int_attr("axis")
        body = chain[2].regions[0].ops
        if other is not x or chain[1].int_attr("axis") != axis or not _full(x.type):
            return None
        return axis if len(body) == 2 and body[0].name == "arith.xori" else None


class _Cube:
    """Rewrites one block; ``linear`` has the one-dimensional form of values, ``parity`` the bits
    whose parity they are."""

    def __init__(self, flips: _Flips, linear: dict[Value, Value], parity: dict[Value, int]) -> None:
        self.flips = flips
        self.linear = dict(linear)
        self.parity = dict(parity)
        self.ops: list[Op] = []
        self.restored: set[Value] = set()

    def block(self, block: Block) -> Block:
        for op in block.ops:
            if id(op) not in self.flips.dead:
                self.op(op)
        return Block(block.args, self.ops)

    def op(self, op: Op) -> None:
        if id(op) in self.flips.found:
            x, axis = self.flips.found[id(op)]
            stride = 1 << (len(shape_of(x.type)) - 1 - axis)
            self.emit(op, [self.flat(x)], FLIP, {"stride": stride})
        elif op.name == "tt.reduce" and all(_full(o.type) for o in op.operands):
            self.reduce(op)
        elif op.results and all(_hyper(r.type) for r in op.results):
            self.inside(op)
        elif op.name == "tt.reshape" and op.operands[0] in self.linear:
            self.ops.append(Op("tt.reshape", [self.flat(op.operands[0])], op.results, op.attrs, [], op.loc))
        else:
            for operand in op.operands:
                self.restore(operand)
            regions = op.regions
            if op.name.startswith("scf."):
                regions = [_Cube(self.flips, self.linear, self.parity).block(r) for r in regions]
            elif any(
                v in self.linear or v in self.parity
                for r in regions
                for inner in ttir.walk(r)
                for v in inner.operands
            ):
                raise _Stay
            self.ops.append(Op(op.name, op.operands, op.results, op.attrs, regions, op.loc, op.successors))

    def emit(self, op: Op, operands: list[Value], name: str, attrs: dict[str, object]) -> None:
        """One operation on linear values in place of ``op``."""
        result = Value(-1, _flat_type(op.result.type))
        self.ops.append(Op(name, operands, [result], attrs, [], op.loc))
        self.linear[op.result] = result

    def add(self, name: str, operands: list[Value], type_: Type, **attrs: object) -> Value:
        result = Value(-1, type_)
        self.ops.append(Op(name, operands, [result], dict(attrs)))
        return result

    def flat(self, value: Value) -> Value:
        """The linear form of a value."""
        if value in self.parity and value not in self.linear:
            self.linear[value] = self.add(PARITY, [], _flat_type(value.type), mask=self.parity[value])
        if value not in self.linear:
            if not _full(value.type):
                raise _Stay
            self.linear[value] = self.add("tt.reshape", [value], _flat_type(value.type))
            self.restored.add(value)
        return self.linear[value]

    def restore(self, value: Value) -> None:
        """Define the value itself from its linear form."""
        if (value in self.linear or value in self.parity) and value not in self.restored:
            if not _full(value.type):
                raise _Stay
            self.ops.append(Op("tt.reshape", [self.flat(value)], [value]))
            self.restored.add(value)

    def inside(self, op: Op) -> None:
        """An operation whose result is such a tensor."""
        rules: dict[str, Callable[[Op], None]] = {"tt.reshape": self.reshape, "tt.broadcast": self.broadcast}
        mask = self.masked(op)
        if mask is not None:
            self.parity[op.result] = mask
        elif op.name in rules:
            rules[op.name](op)
        elif op.name in ("arith.constant", "tt.splat") and not isinstance(op.attrs.get("value"), tuple):
            self.emit(op, op.operands, op.name, op.attrs)
        elif (op.name in NAMES or op.name == "arith.select") and len(op.results) == 1:
            tensors = [self.flat(o) if shape_of(o.type) else o for o in op.operands]
            self.emit(op, tensors, op.name, op.attrs)
        else:
            raise _Stay

    def masked(self, op: Op) -> int | None:
        """The bits whose parity the result is, if that is what it is."""
        masks = [self.parity.get(o) for o in op.operands]
        if op.name == "tt.broadcast":
            return masks[0]
        if op.name == "arith.xori" and None not in masks:
            return (masks[0] or 0) ^ (masks[1] or 0)
        if op.name == "arith.cmpi" and masks[0] is not None and op.attrs["predicate"] == "ne":
            zero = self.flips.makers.get(op.operands[1])
            if zero is not None and zero.name == "arith.constant" and zero.attrs["value"] == 0:
                return masks[0]
        return None

    def broadcast(self, op: Op) -> None:
        if op.operands[0] not in self.linear:
            raise _Stay
        self.linear[op.result] = self.linear[op.operands[0]]

    def reshape(self, op: Op) -> None:
        source, shape = op.operands[0], shape_of(op.result.type)
        if _full(op.result.type):
            from_ = self.linear.get(source, source)
            if from_.type == _flat_type(op.result.type):
                self.linear[op.result] = from_
            else:
                self.emit(op, [from_], "tt.reshape", {})
            return
        maker = self.flips.makers.get(source)
        if maker is None or maker.name != "tt.make_range" or maker.int_attr("start") or shape.count(2) != 1:
            raise _Stay
        self.parity[op.result] = 1 << (len(shape) - 1 - shape.index(2))

    def reduce(self, op: Op) -> None:
        """A reduction over one bit: over the middle of [outer, 2, inner]."""
        rank, axis = len(shape_of(op.operands[0].type)), op.int_attr("axis")
        outer, inner = 1 << axis, 1 << (rank - 1 - axis)
        operands = [
            self.add("tt.reshape", [self.flat(o)], TensorType((outer, 2, inner), ttir.element_of(o.type)))
            for o in op.operands
        ]
        results = [Value(-1, TensorType((outer, inner), ttir.element_of(r.type))) for r in op.results]
        self.ops.append(Op("tt.reduce", operands, results, {**op.attrs, "axis": 1}, op.regions, op.loc))
        for value, made in zip(op.results, results, strict=True):
            if _hyper(value.type):
                self.linear[value] = self.add("tt.reshape", [made], _flat_type(value.type))
            else:
                self.ops.append(Op("tt.reshape", [made], [value]))


def _flat_type(type_: Type) -> TensorType:
    return TensorType((1 << len(shape_of(type_)),), ttir.element_of(type_))
