"""The walk from FX to IR. One FX node at a time; the op table says what each overload means.

Nothing is lost and nothing is changed: the FX graph is only read, and each FX value has exactly one IR node
whose `fx` is its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import fx

from headrace.compiler.capture import conversions, indexing, matmul, pointwise, reductions, views
from headrace.compiler.capture.builder import Builder, Unmodelled, is_getitem, size_of, type_of
from headrace.ir.dtype import DType
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import Extern, Input, Item, Size
from headrace.ir.types import TensorType

Entry = Callable[..., "Node | tuple[Node | None, ...]"]

OpOverload = type(torch.ops.aten.add.Tensor)

TABLE: Mapping[object, Entry] = MappingProxyType(
    {
        **views.TABLE,
        **pointwise.TABLE,
        **conversions.TABLE,
        **reductions.TABLE,
        **matmul.TABLE,
        **indexing.TABLE,
    }
)
"""ATen or prims overload -> entry(builder, *args, **kwargs). Tensor arguments arrive as IR nodes, sizes as
sympy. Add an op by adding one entry to the table of its family's module."""


@dataclass(frozen=True)
class Captured:
    """A captured graph.

    Attributes:
        graph: the IR graph. Its outputs are the tensor outputs of the FX graph, in order, by IR name.
        by_fx: IR name of each FX node that is a tensor, a tuple that stayed whole, or a size.
            Absent: tuples that were taken apart (their `getitem`s are there), and what nothing reads of them.
    """

    graph: Graph
    by_fx: dict[str, str]


def capture(module: fx.GraphModule) -> Captured:
    """The IR graph of a functional ATen graph with `meta["val"]` on its nodes, as AOTAutograd leaves it."""
    walk = _Walk()
    for node in module.graph.nodes:
        walk.visit(node)
        path = module_path(node)
        if path:
            walk.graph.modules[node.name] = path
    return Captured(walk.graph, walk.by_fx)


class _Walk:
    def __init__(self) -> None:
        self.graph = Graph()
        self.by_fx: dict[str, str] = {}
        # What an FX node became: a node, or the elements of a tuple that was taken apart.
        self.values: dict[fx.Node, Node | tuple[Node | None, ...]] = {}

    def visit(self, node: fx.Node) -> None:
        source = _source(node.meta.get("stack_trace"))
        if node.op == "output":
            self.graph.outputs = tuple(
                self.by_fx[arg.name]
                for arg in _flat(node.args)
                if isinstance(arg, fx.Node) and arg.name in self.by_fx
            )
            return
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) or (node.op == "placeholder" and type(value) is int):
            self._bind(
                node,
                self.graph.add(Size(size_of(value)), (), _INDEX, name=node.name, fx=node.name, source=source),
            )
        elif isinstance(value, (bool, int, float, torch.SymBool, torch.SymFloat)):
            return
        elif node.op == "placeholder":
            self._bind(
                node, self.graph.add(Input(), (), type_of(value), name=node.name, fx=node.name, source=source)
            )
        elif is_getitem(node):
            self._getitem(node, source)
        else:
            self._call(node, source)

    def _bind(self, node: fx.Node, value: Node | tuple[Node | None, ...]) -> None:
        self.values[node] = value
        if isinstance(value, Node):
            self.by_fx[node.name] = value.name

    def _getitem(self, node: fx.Node, source: str) -> None:
        of, at = node.args
        assert isinstance(of, fx.Node)
        value = self.values[of]
        if isinstance(value, tuple) and isinstance(at, int):
            element = value[at]
            if element is not None and element.fx == node.name:
                self._bind(node, element)
            elif element is not None:
                self._bind(node, _committed(Builder(self.graph, node, source), element))
            # An element that nothing reads (a log-sum-exp, say) has no IR node.
        else:
            assert isinstance(value, Node)
            item = Item(at if isinstance(at, int) else 0)
            operands = (value.name,)
            self._bind(
                node,
                self.graph.add(
                    item, operands, type_of(node.meta.get("val")), name=node.name, fx=node.name, source=source
                ),
            )

    def _call(self, node: fx.Node, source: str) -> None:
        entry = TABLE.get(node.target)
        if entry is not None:
            builder = Builder(self.graph, node, source)
            try:
                given, named = _by_place(node)
                args = [self._argument(arg) for arg in given]
                kwargs = {key: self._argument(arg) for key, arg in named.items()}
                value = builder.commit(entry(builder, *args, **kwargs))
            except (Unmodelled, TypeError):
                # A TypeError is an argument that the entry does not take.
                pass
            else:
                self._bind(node, value)
                return
        self._extern(node, source)

    def _extern(self, node: fx.Node, source: str) -> None:
        operands = []
        for source_node in node.all_input_nodes:
            value = self.values.get(source_node, ())
            operands += [n.name for n in ([value] if isinstance(value, Node) else value) if n is not None]
        operands = [name for name in operands if not isinstance(self.graph[name].op, Size)]
        target = str(node.target) if node.op == "call_function" else f"{node.op}:{node.target}"
        if node.op == "call_function" and not isinstance(node.target, OpOverload):
            target = getattr(node.target, "__name__", type(node.target).__name__)
        extern = self.graph.add(
            Extern(target),
            operands,
            type_of(node.meta.get("val")),
            name=node.name,
            fx=node.name,
            source=source,
        )
        self._bind(node, extern)
        for written in _written(node):
            # Whoever reads the tensor from here on reads what was written.
            if isinstance(self.values.get(written), Node) and extern.type is not None:
                self.values[written] = extern

    def _argument(self, arg: object) -> object:
        """An FX argument as entries see it."""
        if isinstance(arg, fx.Node):
            value = arg.meta.get("val")
            if isinstance(value, torch.SymInt):
                return size_of(value)
            if isinstance(value, (bool, int, float)):
                return value
            found = self.values.get(arg)
            if found is None or isinstance(found, tuple):
                raise Unmodelled
            if isinstance(found.op, Size) and not isinstance(value, torch.Tensor):
                return found.op.expr
            return found
        if isinstance(arg, torch.SymInt):
            return size_of(arg)
        if isinstance(arg, (list, tuple)):
            return [self._argument(element) for element in arg]
        return arg


_INDEX = TensorType(DType.I64, ())


def _by_place(node: fx.Node) -> tuple[list[object], dict[str, object]]:
    """An operator's arguments by their places in its schema, where tracing puts them; a pass may have named
    them.
    """
    given: list[object] = list(node.args)
    named: dict[str, object] = dict(node.kwargs)
    if named and isinstance(node.target, OpOverload):
        places = [each for each in node.target._schema.arguments if not each.kwarg_only]
        last = max((at for at, each in enumerate(places) if each.name in named), default=-1)
        for each in places[len(given) : last + 1]:
            given.append(named.pop(each.name, each.default_value))
    return given, named


def _written(node: fx.Node) -> list[fx.Node]:
    """The FX nodes whose tensors an operator writes in place (`copy_` of a graph's epilogue, mostly)."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return []
    found = []
    for at, argument in enumerate(node.target._schema.arguments):
        given = node.args[at] if at < len(node.args) else node.kwargs.get(argument.name)
        if argument.is_write and isinstance(given, fx.Node):
            found.append(given)
    return found


def _committed(builder: Builder, element: Node) -> Node:
    value = builder.commit(element)
    assert isinstance(value, Node)
    return value


def _flat(value: object) -> list[object]:
    if isinstance(value, (list, tuple)):
        return [leaf for element in value for leaf in _flat(element)]
    if isinstance(value, dict):
        return [leaf for element in value.values() for leaf in _flat(element)]
    return [value]


def module_path(node: fx.Node) -> str:
    """The path of the innermost module that computed a value, such as `model.layers.3.self_attn`; else empty.

    Where Dynamo found the model (`L['self']`, a variable of a closure) is left out, so that a model has the
    same paths however it was compiled.
    """
    stack = node.meta.get("nn_module_stack")
    if not stack and is_getitem(node) and isinstance(node.args[0], fx.Node):
        stack = node.args[0].meta.get("nn_module_stack")
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return _PLACE.sub("_", _ROOT.sub("", str(path)))


_ROOT = re.compile(r"^[LG]\['\w+'\]\.?")
_PLACE = re.compile(r"[^\w.]+")  # what a path in a list of licences cannot hold


@lru_cache(maxsize=4096)
def _source(trace: str | None) -> str:
    """`package/file.py:12 in forward` of the innermost frame of a stack trace."""
    lines = [line.strip() for line in (trace or "").splitlines() if line.strip().startswith("File ")]
    if not lines:
        return ""
    path, _, rest = lines[-1].removeprefix("File ").strip().partition(", line ")
    number, _, function = rest.partition(", in ")
    short = "/".join(path.strip('"').replace("\\", "/").split("/")[-2:])
    return f"{short}:{number.strip()} in {function.strip()}" if function else f"{short}:{number.strip()}"
