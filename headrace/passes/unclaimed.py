"""A reason for every computation that no kernel took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace.ir.expr import Call, walk
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import Contract, Extern, Gather, Map, Reduce, Scan, Scatter
from headrace.passes.base import Pass

_CACHE = ("index_put", "index_copy", "slice_scatter", "select_scatter", "scatter")


@dataclass(frozen=True)
class Unclaimed(Pass):
    """Notes why each remaining compute node is left to Inductor, where no other pass has said so.

    The graph stays as it is. Inputs, sizes, views and items compute nothing and get no reason.

    rewrite:
        %c = map(%x) {cos(x0)}
        ->
        %c = map(%x) {cos(x0)}
        refused c: unclaimed: pointwise: left to Inductor, which fuses it with its neighbours
    """

    name: ClassVar[str] = "unclaimed"

    def run(self, graph: Graph) -> None:
        told = {refusal.node for refusal in graph.refusals}
        for node in graph:
            if node.name not in told and isinstance(
                node.op, (Map, Reduce, Contract, Scan, Gather, Scatter, Extern)
            ):
                graph.refuse(node.name, self.name, _reason(graph, node))


def _reason(graph: Graph, node: Node) -> str:
    match node.op:
        case Extern(target=target):
            return _extern(target)
        case Scatter():
            return "scatter: a cache update, which Inductor reinplaces"
        case Gather():
            return "gather: one read per element, as fast as memory; left to Inductor"
        case Scan():
            return "scan: no kernel for prefix sums; left to Inductor"
        case Contract(equation=equation):
            return f"contract: {equation} was not taken by a pass of this pipeline"
        case Reduce(kind=kind):
            return f"reduce: {kind} was not taken by a pass of this pipeline"
        case Map() if not node.operands:
            return "constant: folded into its readers by Inductor"
        case Map() if _is_rotation(graph, node):
            return "rotary embedding: pointwise over halves of a head, left to Inductor"
        case _:
            return "pointwise: left to Inductor, which fuses it with its neighbours"


def _extern(target: str) -> str:
    op = target.removeprefix("aten.").partition(".")[0]
    if op == "copy_":
        return "extern: writes an input back in place, after everything that reads it"
    if op in _CACHE:
        return f"extern: {target} is a cache update, which Inductor reinplaces"
    if op == "cat":
        return "extern: aten.cat is fused into its readers by Inductor"
    return f"extern: {target} is not modelled"


def _is_rotation(graph: Graph, node: Node) -> bool:
    """Whether a map belongs to a rotary embedding: its sines, or the sum of products with a rotated half."""
    if isinstance(node.op, Map) and any(
        isinstance(part, Call) and part.fn in ("sin", "cos") for part in walk(node.op.expr)
    ):
        return True
    near = [*graph.operands(node), *graph.users(node.name)]
    near += [far for each in near for far in graph.operands(each)]
    return any(isinstance(each.op, Extern) and each.op.target.startswith("aten.cat") for each in near)
