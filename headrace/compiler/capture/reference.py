"""Running the externs of a captured graph, so that `ir.evaluate` covers whole graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from headrace.errors import EvaluationError
from headrace.ir.evaluate import Externs, Value
from headrace.ir.graph import Node


def externs(module: fx.GraphModule, sizes: Mapping[str, int] | None = None) -> Externs:
    """A callable for `ir.evaluate.evaluate` that runs each extern's FX target on the values it is given.

    Mutating targets work on copies. `sizes` values the symbols (by name) of symbolic arguments.
    """
    nodes = {node.name: node for node in module.graph.nodes}

    def run(node: Node, operands: tuple[Value, ...]) -> Value:
        if node.fx is None or node.fx not in nodes:
            raise EvaluationError(f"{node.name} is an extern without an FX node")
        original = nodes[node.fx]
        if original.op == "get_attr":
            return _attribute(module, str(original.target))
        if original.op != "call_function" or not callable(original.target):
            raise EvaluationError(f"{node.name} is a {original.op}; only functions can be run")
        tensors = iter(operands)
        table: dict[fx.Node, object] = {}
        for source in original.all_input_nodes:
            known = source.meta.get("val")
            if isinstance(known, torch.SymInt):
                table[source] = _size(known, sizes or {})
            elif not isinstance(known, (bool, int, float)):
                given = next(tensors)
                table[source] = given.clone() if isinstance(given, torch.Tensor) else given

        def value_of(arg: fx.Node) -> Any:  # map_arg is typed for nodes only
            return table[arg]

        args = map_arg(original.args, value_of)
        kwargs = map_arg(original.kwargs, value_of)
        result: Value = original.target(*args, **kwargs)
        return tuple(result) if isinstance(result, list) else result

    return run


def _attribute(module: fx.GraphModule, path: str) -> torch.Tensor:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part)
    if not isinstance(value, torch.Tensor):
        raise EvaluationError(f"attribute {path} is no tensor")
    return value.detach()


def _size(value: torch.SymInt, sizes: Mapping[str, int]) -> int:
    expr = value.node.expr
    known = {symbol: sizes[str(symbol)] for symbol in expr.free_symbols if str(symbol) in sizes}
    number = expr.xreplace(known)
    if not number.is_Integer:
        raise EvaluationError(f"the size {expr} has no value; pass its symbols in `sizes`")
    return int(number)
