"""What an entry of the op table builds with: the IR nodes of one FX node, named and typed.

Nodes are pending until the FX node is done, so an entry that meets a case it does not model raises
`Unmodelled` at any point and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import sympy
import torch
from torch import fx

from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Const, Expr, Ref, cast, substitute
from headrace.ir.graph import Graph, Node
from headrace.ir.infer import expr_dtype
from headrace.ir.ops import Contract, Map, Op, Reduce, Size, View
from headrace.ir.size import ZERO
from headrace.ir.types import TensorType, dim

Scalar: TypeAlias = "bool | int | float | sympy.Expr"
Operand: TypeAlias = "Node | bool | int | float | sympy.Expr"
Shape: TypeAlias = "tuple[sympy.Expr, ...]"


class Unmodelled(Exception):
    """This overload is known but not with these arguments; the FX node becomes an `extern`."""


class Builder:
    """Builds the IR nodes of one FX node.

    Attributes:
        graph: the graph so far; pending nodes are not in it yet.
        result: the type of the FX node's value, or None where it is a tuple.
        results: the types of a tuple's elements (None for what is not a modelled tensor).
    """

    def __init__(self, graph: Graph, node: fx.Node, source: str) -> None:
        self.graph = graph
        self.fx = node
        self.source = source
        value = node.meta.get("val")
        self.results = tuple(map(type_of, value)) if isinstance(value, (tuple, list)) else ()
        self.result = type_of(value)
        self.pending: dict[str, Node] = {}

    # The parts

    def add(self, op: Op, operands: Sequence[Node], type: TensorType) -> Node:
        name = f"{self.fx.name}.{len(self.pending)}"
        node = Node(name, op, tuple(operand.name for operand in operands), type, None, self.source)
        self.pending[name] = node
        return node

    def view(self, x: Node, index: Sequence[sympy.Expr], shape: Shape) -> Node:
        """y[d] = x[index(d)]; a dimension of size 1 has index 0."""
        ones = {dim(at): ZERO for at, extent in enumerate(shape) if extent == 1}
        if ones:
            index = [ones.get(expr, expr) if expr.is_Symbol else expr.xreplace(ones) for expr in index]
        return self.add(View(tuple(index)), [x], TensorType(typed(x).dtype, shape))

    def reshape(self, x: Node, shape: Shape) -> Node:
        return self.view(x, maps.reshape(typed(x).shape, shape), shape)

    def broadcast(self, x: Node, shape: Shape) -> Node:
        """x expanded to a shape, by right-aligned broadcasting; x itself where it has that shape."""
        old = typed(x).shape
        if old == shape:
            return x
        lead = len(shape) - len(old)
        if lead < 0:
            raise Unmodelled
        index = []
        for at, extent in enumerate(old):
            if extent == shape[lead + at]:
                index.append(dim(lead + at))
            elif extent == 1:
                index.append(ZERO)
            else:
                raise Unmodelled
        return self.view(x, index, shape)

    def map(
        self, expr: Expr, operands: Sequence[Operand], dtype: DType | None = None, shape: Shape | None = None
    ) -> Node:
        """A pointwise node over operands `x0`, `x1`, ...: broadcasts, inlines literals, rounds to `dtype`.

        Without `dtype` the value keeps the type of the expression; without `shape`, the broadcast shape.
        """
        tensors: list[Node] = []
        table: dict[str, Expr] = {}
        for at, operand in enumerate(operands):
            if isinstance(operand, (bool, int, float)):
                table[f"x{at}"] = Const(operand)
                continue
            if not isinstance(operand, Node):
                operand = self.size(operand)
            names = [tensor.name for tensor in tensors]
            if operand.name in names:
                table[f"x{at}"] = Ref(f"x{names.index(operand.name)}")
            else:
                table[f"x{at}"] = Ref(f"x{len(tensors)}")
                tensors.append(operand)
        if any(table[name] != Ref(name) for name in table):
            expr = substitute(expr, table)
        if shape is None:
            shape = broadcast_shape([typed(tensor).shape for tensor in tensors])
        found = expr_dtype(expr, {f"x{at}": typed(tensor).dtype for at, tensor in enumerate(tensors)})
        if dtype is not None and found != dtype:
            expr, found = cast(dtype, expr), dtype
        return self.add(
            Map(expr), [self.broadcast(tensor, shape) for tensor in tensors], TensorType(found, shape)
        )

    def size(self, expr: Scalar) -> Node:
        """A size as an i64 scalar."""
        return self.add(Size(sympy.sympify(expr)), [], TensorType(DType.I64, ()))

    def cast(self, x: Node, dtype: DType) -> Node:
        return x if typed(x).dtype == dtype else self.map(Ref("x0"), [x], dtype)

    def reduce(
        self, kind: str, x: Node, axes: Sequence[int], dtype: DType | None = None, *, keep: bool = False
    ) -> Node:
        """A reduction; with `keep`, broadcast back over the reduced axes to x's shape."""
        old = typed(x)
        axes = tuple(sorted(axis % max(old.rank, 1) for axis in axes)) if old.rank else ()
        shape = tuple(extent for at, extent in enumerate(old.shape) if at not in axes)
        node = self.add(Reduce(kind, axes), [x], TensorType(dtype or old.dtype, shape))
        return self.spread(node, axes, old.shape) if keep else node

    def spread(self, x: Node, axes: Sequence[int], shape: Shape) -> Node:
        """A reduced value broadcast over the axes that it lacks."""
        return self.view(x, [dim(at) for at in range(len(shape)) if at not in axes], shape)

    def contract(self, equation: str, x: Node, y: Node, dtype: DType) -> Node:
        left, _, out = equation.partition("->")
        letters: dict[str, sympy.Expr] = {}
        for term, operand in zip(left.split(","), (x, y), strict=True):
            for letter, extent in zip(term, typed(operand).shape, strict=True):
                if letters.setdefault(letter, extent) != extent:
                    raise Unmodelled
        return self.add(
            Contract(equation), [x, y], TensorType(dtype, tuple(letters[letter] for letter in out))
        )

    # The end

    def commit(self, last: Node | tuple[Node | None, ...]) -> Node | tuple[Node | None, ...]:
        """Put the pending nodes into the graph; the last one carries the FX node's name."""
        if isinstance(last, tuple):
            reads = [user for user in self.fx.users if user.users]
            names = {user.args[1]: user.name for user in reads if is_getitem(user)}
            if any(not isinstance(at, int) or last[at] is None for at in names) or len(reads) > len(names):
                raise Unmodelled
            return tuple(
                None if node is None else self._commit(node, names.get(at)) for at, node in enumerate(last)
            )
        if last.name not in self.pending:
            last = self.view(last, maps.identity(typed(last).shape), typed(last).shape)
        if last.type != self.result:
            raise Unmodelled
        return self._commit(last, self.fx.name)

    def _commit(self, last: Node, fx_name: str | None) -> Node:
        if last.name not in self.pending:
            if fx_name is None or last.fx is None:
                return last
            last = self.view(last, maps.identity(typed(last).shape), typed(last).shape)
        del self.pending[last.name]
        for node in self.pending.values():
            self._insert(node)
        self.pending = {}
        name = last.name if fx_name is None else fx_name
        return self._insert(replace(last, name=name, fx=fx_name))

    def _insert(self, node: Node) -> Node:
        return self.graph.add(
            node.op, node.operands, node.type, name=node.name, fx=node.fx, source=node.source
        )


def typed(node: Node) -> TensorType:
    """The node's tensor type; what has none is not modelled."""
    if node.type is None:
        raise Unmodelled
    return node.type


def broadcast_shape(shapes: Sequence[Shape]) -> Shape:
    """The right-aligned broadcast of shapes; sizes that differ and are not 1 are not modelled."""
    rank = max(map(len, shapes), default=0)
    result: list[sympy.Expr] = []
    for at in range(-rank, 0):
        extents = {shape[at] for shape in shapes if len(shape) >= -at}
        wide = [extent for extent in extents if extent != 1]
        if len(wide) > 1:
            raise Unmodelled
        result.append(wide[0] if wide else sympy.Integer(1))
    return tuple(result)


def type_of(value: object) -> TensorType | None:
    """The IR type of what FX says about a value; None for what is no tensor or has an unmodelled dtype."""
    if not isinstance(value, torch.Tensor):
        return None
    try:
        dtype = DType.from_torch(value.dtype)
    except KeyError:
        return None
    if value.layout is not torch.strided:
        return None
    return TensorType(dtype, tuple(map(size_of, value.shape)))


def size_of(value: int | torch.SymInt) -> sympy.Expr:
    """A size as sympy, without turning a symbolic one into a number."""
    if isinstance(value, torch.SymInt):
        expr: sympy.Expr = value.node.expr
        return expr
    return sympy.Integer(value)


def is_getitem(node: fx.Node) -> bool:
    import operator

    return node.op == "call_function" and node.target is operator.getitem


def literal(value: bool | int | float, dtype: DType) -> Expr:
    """A literal of a dtype, its value rounded to it so that the float64 oracle reads what eager reads."""
    if dtype.is_floating:
        value = float(torch.tensor(value, dtype=dtype.to_torch()).item())
    elif dtype is DType.BOOL:
        value = bool(value)
    else:
        value = int(value)
    constant = Const(value)
    return constant if expr_dtype(constant, {}) == dtype else cast(dtype, constant)


__all__ = [
    "Builder", "Operand", "Scalar", "Shape", "Unmodelled", "broadcast_shape", "is_getitem", "literal",
    "size_of", "type_of", "typed",
]  # fmt: skip
