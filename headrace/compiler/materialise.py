"""IR values as FX nodes: kernels as operator calls, views as ATen views, sizes as symbolic integers."""

from __future__ import annotations

import operator as python_operator
from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import fx

from headrace import upstream
from headrace.compiler.operators import operator
from headrace.compiler.reorder import value_of
from headrace.errors import EmitError
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import Item, Kernel, Size, View

aten = torch.ops.aten


class Materialiser:
    """Builds FX nodes for IR values at the insertion point of `graph`; each value once."""

    def __init__(self, ir: Graph, graph: fx.Graph, old: dict[str, fx.Node]) -> None:
        self._ir = ir
        self._graph = graph
        self._old = old
        self._values: dict[str, fx.Node] = {}
        self._sizes: dict[sympy.Expr, fx.Node | int] | None = None
        self.made: list[fx.Node] = []
        self._fake_mode = upstream.fake_mode_of([value_of(node) for node in old.values()])

    def value(self, name: str) -> fx.Node:
        """The FX node of an IR value: the one it was captured from, or a new one."""
        if name not in self._values:
            node = self._ir[name]
            known = self._old.get(node.fx) if node.fx is not None else None
            self._values[name] = known if known is not None else self._build(node)
        return self._values[name]

    def _build(self, node: Node) -> fx.Node:
        match node.op:
            case Kernel(spec=spec):
                outputs = len(spec.output_dtypes)
                inputs = self._operands(node)
                call = self.call(operator(len(inputs), outputs), *inputs, str(spec), name=spec.kind.lower())
                call.meta |= {"headrace": True, "headrace_node": node.name}
                return call
            case Item(at=at):
                return self.call(python_operator.getitem, self.value(node.operands[0]), at)
            case View(index=index):
                return self._view(node, index)
            case Size():
                return self._number(
                    node, next(value_of(n).device for n in self._old.values() if _is_tensor(n))
                )
        raise EmitError(
            f"{node.name}: a new {node.op.mnemonic} cannot be emitted; only kernels, items and views can"
        )

    def _operands(self, node: Node) -> list[fx.Node]:
        """What a kernel reads; sizes become numbers on the device of its first tensor that is none."""
        sizes = [isinstance(self._ir[operand].op, Size) for operand in node.operands]
        found = {at: self.value(operand) for at, operand in enumerate(node.operands) if not sizes[at]}
        device = next((value_of(each).device for each in found.values() if _is_tensor(each)), None)
        for at, operand in enumerate(node.operands):
            if sizes[at]:
                number = self._ir[operand]
                found[at] = self.value(operand) if device is None else self._number(number, device)
        return [found[at] for at in range(len(node.operands))]

    def _number(self, node: Node, device: torch.device) -> fx.Node:
        """A size as a tensor without dimensions."""
        assert isinstance(node.op, Size)
        key = f"{node.name} on {device}"
        if key not in self._values:
            size = self.size(node.op.expr)
            self._values[key] = self.call(aten.scalar_tensor.default, size, dtype=torch.int64, device=device)
        return self._values[key]

    def _view(self, node: Node, index: Sequence[sympy.Expr]) -> fx.Node:
        from headrace.ir.steps import as_steps

        source = self._ir[node.operands[0]]
        if source.type is None or node.type is None:
            raise EmitError(f"{node.name}: a view of {source.name}, which is no tensor")
        steps = as_steps(tuple(index), source.type.shape, node.type.shape)
        if steps is None:
            raise EmitError(f"{node.name}: no sequence of ATen views shows {source.name} as {tuple(index)}")
        value = self.value(source.name)
        for what, *arguments in steps:
            value = self._step(value, what, *arguments)
        return value

    def _step(self, value: fx.Node, what: str, *arguments: Any) -> fx.Node:
        match what:
            case "permute":
                return self.call(aten.permute.default, value, list(arguments[0]))
            case "reshape":
                return self._reshape(value, [self.size(extent) for extent in arguments[0]])
            case "unsqueeze":
                return self.call(aten.unsqueeze.default, value, int(arguments[0]))
            case "squeeze":
                return self.call(aten.squeeze.dim, value, int(arguments[0]))
            case "expand":
                return self.call(aten.expand.default, value, [self.size(extent) for extent in arguments[0]])
            case "slice":
                at, start, stop, *step = arguments
                return self.call(
                    aten.slice.Tensor, value, int(at), self.size(start), self.size(stop),
                    self.size(step[0]) if step else 1,
                )  # fmt: skip
            case "select":
                return self.call(aten.select.int, value, int(arguments[0]), self.size(arguments[1]))
            case "flip":
                return self.call(aten.flip.default, value, [int(at) for at in arguments[0]])
        raise EmitError(f"no ATen view for the step {what!r}")

    def _reshape(self, value: fx.Node, shape: list[fx.Node | int]) -> fx.Node:
        """A view where strides allow one, else a view of a contiguous copy."""
        try:
            return self.call(aten.view.default, value, shape)
        except (RuntimeError, ValueError):
            copy = self.call(aten.clone.default, value, memory_format=torch.contiguous_format)
            return self.call(aten.view.default, copy, shape)

    def size(self, expr: sympy.Expr | int) -> fx.Node | int:
        """A symbolic size as a number or as the FX node that carries it, built from sizes at hand."""
        expr = sympy.sympify(expr)
        if expr.is_Integer:
            return int(expr)
        sizes = self._known_sizes()
        if expr not in sizes:
            sizes[expr] = self._compute(expr)
        return sizes[expr]

    def _known_sizes(self) -> dict[sympy.Expr, fx.Node | int]:
        if self._sizes is None:
            self._sizes = {}
            for node in self._old.values():
                value = value_of(node)
                if isinstance(value, torch.SymInt):
                    self._sizes.setdefault(value.node.expr, node)
            for node in self._old.values():
                value = value_of(node)
                if node.op != "placeholder" or not isinstance(value, torch.Tensor):
                    continue
                for at, extent in enumerate(value.shape):
                    if isinstance(extent, torch.SymInt) and extent.node.expr not in self._sizes:
                        self._sizes[extent.node.expr] = self.call(aten.sym_size.int, node, at)
        return self._sizes

    def _compute(self, expr: sympy.Expr) -> fx.Node | int:
        combine: dict[str, Callable[[Any, Any], Any]] = {
            "Add": python_operator.add, "Mul": python_operator.mul, "Mod": python_operator.mod,
            "PythonMod": python_operator.mod, "FloorDiv": python_operator.floordiv,
            "CleanDiv": python_operator.floordiv,
        }  # fmt: skip
        function = combine.get(type(expr).__name__)
        if expr.is_Pow and expr.exp.is_Integer and expr.exp > 0:
            function, parts = python_operator.mul, [expr.base] * int(expr.exp)
        else:
            parts = list(expr.args)
        if function is None or not parts:
            raise EmitError(f"no node of the graph carries the size {expr}")
        total = self.size(parts[0])
        for part in parts[1:]:
            other = self.size(part)
            total = self.call(function, total, other)
        return total

    def call(self, target: Any, *arguments: Any, name: str | None = None, **keywords: Any) -> fx.Node:
        """A new node with its fake value; nothing is left behind when the fake value cannot be made."""
        values = fx.map_arg((arguments, keywords), value_of)
        if self._fake_mode is not None:
            with self._fake_mode:
                result = target(*values[0], **values[1])
        else:
            result = target(*values[0], **values[1])
        node = self._graph.create_node("call_function", target, arguments, keywords, name=name)
        node.meta["val"] = result
        self.made.append(node)
        return node


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(value_of(node), torch.Tensor)
