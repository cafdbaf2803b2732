"""One normal form for values: views composed, expressions tidied, equal values computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Expr, Ref, cast, substitute
from headrace.ir.graph import Graph, Node
from headrace.ir.infer import expr_dtype
from headrace.ir.ops import Contract, Gather, Map, Op, Reduce, Scan, View
from headrace.ir.types import TensorType
from headrace.passes.algebra import tidy
from headrace.passes.base import Pass

_PURE = (View, Map, Reduce, Contract, Gather, Scan)


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Prepares for recognition. Nothing is emitted: values keep their FX nodes and get simpler definitions.

    - A view of a view becomes one view of the source; a view or map that changes nothing is looked through.
    - Expressions take the normal form of `headrace.passes.algebra`.
    - Of equal values the first is read everywhere.

    rewrite:
        %a = view(%x) {index=[0, d0]} : bf16[1, 576]
        %b = view(%x) {index=[0, d0]} : bf16[1, 576]
        %c = view(%b) {index=[0, d1]} : bf16[1, 1, 576]
        %y = map(%c) {div(x0, add(exp(neg(x0)), 1))}
        %z = contract(%b, %w)
        ->
        %a = view(%x) ...
        %c = view(%x) {index=[0, d1]} : bf16[1, 1, 576]
        %y = map(%c) {mul(x0, sigmoid(x0))}
        %z = contract(%a, %w)
    """

    name: ClassVar[str] = "canonicalize"

    def run(self, graph: Graph) -> None:
        same: dict[str, str] = {}
        known: dict[tuple[Op, tuple[str, ...], TensorType | None], str] = {}
        for node in list(graph):
            operands = tuple(same.get(name, name) for name in node.operands)
            op, operands = _simpler(graph, node, node.op, operands)
            if op != node.op or operands != node.operands:
                graph.redefine(node.name, op, operands)
            if isinstance(op, View | Map) and _is_identity(graph, node, op, operands):
                same[node.name] = operands[0]
                continue
            if not isinstance(op, _PURE):
                continue
            key = (op, operands, node.type)
            first = known.get(key)
            if first is None or (graph[first].fx is None and node.fx is not None):
                known[key] = node.name
            else:
                same[node.name] = first
        graph.sweep()


def _simpler(graph: Graph, node: Node, op: Op, operands: tuple[str, ...]) -> tuple[Op, tuple[str, ...]]:
    """An equal definition."""
    if isinstance(op, View):
        source = graph[operands[0]]
        if isinstance(source.op, View) and node.type is not None:
            index = maps.compose(source.op.index, op.index, node.type.shape)
            return View(index), source.operands
    if isinstance(op, Map) and node.type is not None:
        distinct = tuple(dict.fromkeys(operands))
        expr = op.expr
        if len(distinct) != len(operands):
            expr = substitute(
                expr, {f"x{at}": Ref(f"x{distinct.index(name)}") for at, name in enumerate(operands)}
            )
        dtypes = tuple(kind.dtype for kind in (graph[name].type for name in distinct) if kind is not None)
        return Map(_tidied(expr, dtypes, node.type.dtype)), distinct
    return op, operands


@lru_cache(maxsize=4096)
def _tidied(expr: Expr, dtypes: tuple[DType, ...], result: DType) -> Expr:
    """The normal form of a map's expression, of the same element type."""
    env = {f"x{at}": dtype for at, dtype in enumerate(dtypes)}
    done = tidy(expr, env)
    return done if expr_dtype(done, env) == result else cast(result, done)


def _is_identity(graph: Graph, node: Node, op: View | Map, operands: tuple[str, ...]) -> bool:
    if not operands or graph[operands[0]].type != node.type or node.type is None:
        return False
    if isinstance(op, View):
        return op.index == maps.identity(node.type.shape)
    return op.expr == Ref("x0")
