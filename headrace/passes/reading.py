"""Reading a value as one formula over what it is made of, whatever views and pointwise ops lie between.

A `Reader` walks up from a value through `view` and `map` nodes and writes down one scalar expression over
*accesses*: "element [d0, d1 // 3, d2] of node index_put". Views become index arithmetic, so a head repeat, a
transpose or a split cannot hide a pattern; two spellings of one formula give equal expressions.

Where a domain has the shape (B, H, I, J), `d0` to `d3` are its indices. A Reader names each distinct access
once (`a0`, `a1`, ...), so expressions that it reads are comparable by `==`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sympy
from torch.utils._sympy.functions import FloorDiv, Mod

from headrace.errors import Unreadable
from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, call, refs, substitute
from headrace.ir.graph import Graph, Node
from headrace.ir.index import Index, Shape
from headrace.ir.ops import Item, Kernel, Map, Size, View
from headrace.ir.steps import as_steps
from headrace.ir.types import TensorType, dim


@dataclass(frozen=True, slots=True)
class Access:
    """Element `index` of the value of `node`; the index is over the reader's domain."""

    node: str
    index: Index

    def reads(self, at: int) -> bool:
        """Whether the element depends on dimension `at` of the domain."""
        return any(dim(at) in expr.free_symbols for expr in self.index)


def typed(node: Node) -> TensorType:
    """The type of a tensor value."""
    if node.type is None:
        raise Unreadable(f"{node.name} is not one tensor")
    return node.type


class Reader:
    """Formulas over one domain.

    Args:
        graph: read only.
        shape: the sizes of the domain's dimensions.
        stop: nodes that are accessed rather than read through, beside everything that is no view or map.
    """

    def __init__(self, graph: Graph, shape: Shape, stop: Callable[[Node], bool] = lambda node: False) -> None:
        self.graph = graph
        self.shape = shape
        self.stop = stop
        self.names: dict[Access, str] = {}
        self.accesses: dict[str, Access] = {}
        self.dtypes: dict[str, DType] = {}
        self._memo: dict[tuple[str, Index], Expr] = {}

    def identity(self) -> Index:
        """The index of a value that has the domain's own shape."""
        return maps.identity(self.shape)

    def read(self, name: str, index: Index) -> Expr:
        """The element `index` of a value as an expression.

        Raises:
            Unreadable: an index depends on a size in a way that scalar expressions cannot say.
        """
        key = (name, index)
        if key not in self._memo:
            self._memo[key] = self._read(self.graph[name], index)
        return self._memo[key]

    def _read(self, node: Node, index: Index) -> Expr:
        if isinstance(node.op, Map) and (not node.operands or not self.stop(node)):
            values: dict[str, Expr] = {
                f"x{at}": self.read(name, index) for at, name in enumerate(node.operands)
            }
            for name in refs(node.op.expr) - set(values):
                values[name] = self.scalar(index[int(name[1:])])
            return substitute(node.op.expr, values)
        if isinstance(node.op, View) and not self.stop(node):
            return self.read(node.operands[0], maps.compose(node.op.index, index, self.shape))
        return Ref(self.access(Access(node.name, index)))

    def access(self, access: Access) -> str:
        """The name of an access."""
        if access not in self.names:
            name = f"a{len(self.names)}"
            self.names[access] = name
            self.accesses[name] = access
            self.dtypes[name] = typed(self.graph[access.node]).dtype
        return self.names[access]

    def scalar(self, expr: sympy.Expr) -> Expr:
        """An index expression in the scalar language; symbolic sizes become accesses of `size` nodes."""
        if expr.is_Integer:
            return Const(int(expr))
        if expr.is_Symbol:
            return Ref(expr.name) if expr.name[:1] == "d" and expr.name[1:].isdigit() else self._size(expr)
        if isinstance(expr, (FloorDiv, Mod)):
            fn = "mod" if isinstance(expr, Mod) else "floordiv"
            return call(fn, self.scalar(expr.args[0]), self.scalar(expr.args[1]))
        if expr.is_Add or expr.is_Mul:
            parts = [self.scalar(arg) for arg in sorted(expr.args, key=str)]
            result = parts[0]
            for part in parts[1:]:
                result = call("add" if expr.is_Add else "mul", result, part)
            return result
        raise Unreadable(f"the index {expr} is beyond the expression language")

    def _size(self, symbol: sympy.Expr) -> Expr:
        for node in self.graph:
            if isinstance(node.op, Size) and node.op.expr == symbol:
                return Ref(self.access(Access(node.name, ())))
        raise Unreadable(f"the size {symbol} is no value of the graph")

    def accessed(self, expr: Expr) -> dict[str, Access]:
        """The accesses that an expression makes, by name, in order of first use."""
        found: dict[str, Access] = {}
        for name in _in_order(expr):
            if name in self.accesses and name not in found:
                found[name] = self.accesses[name]
        return found

    def varies(self, expr: Expr, at: int) -> bool:
        """Whether an expression depends on dimension `at` of the domain."""
        return any(
            name == f"d{at}" or (name in self.accesses and self.accesses[name].reads(at))
            for name in refs(expr)
        )


def _in_order(expr: Expr) -> list[str]:
    if isinstance(expr, Ref):
        return [expr.name]
    return [name for arg in expr.args for name in _in_order(arg)] if isinstance(expr, Call) else []


def emittable(graph: Graph, node: Node) -> bool:
    """Whether a kernel may take a value as operand: FX has it, or emitting makes it from what FX has."""
    if node.fx is not None or isinstance(node.op, (Kernel, Item)):
        return True
    if isinstance(node.op, View):
        source = graph[node.operands[0]]
        steps = as_steps(node.op.index, typed(source).shape, typed(node).shape)
        return steps is not None and emittable(graph, source)
    return False


def operand(graph: Graph, access: Access, shape: Shape) -> str | None:
    """A value of `shape` whose elements are the access, over d0, d1, ... of that shape, if it can be made.

    The accessed value itself where it has that form already, else a new `view` of it.
    """
    node = graph[access.node]
    kind = typed(node)
    if not emittable(graph, node):
        return None
    if kind.shape == shape and access.index == maps.identity(shape):
        return node.name
    if as_steps(access.index, kind.shape, shape) is None:
        return None
    for user in graph.users(node.name):
        if isinstance(user.op, View) and user.op.index == access.index and typed(user).shape == shape:
            return user.name
    return graph.add(View(access.index), (node.name,), TensorType(kind.dtype, shape)).name


def rename(expr: Expr, names: Mapping[str, str]) -> Expr:
    """Other names for references."""
    return substitute(expr, {old: Ref(new) for old, new in names.items()})
