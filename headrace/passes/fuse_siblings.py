"""Matrix products of one input become one launch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from headrace.ir.expr import Expr, Ref, substitute
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import Kernel
from headrace.ir.spec import Extra, Gemm, Output, Weight
from headrace.passes.base import Pass
from headrace.passes.epilogue import add_kernel, outputs_of, results_of
from headrace.passes.order import Order
from headrace.passes.reading import typed


@dataclass(frozen=True)
class FuseSiblings(Pass):
    """Gemms that share x (Q, K and V; gate and up) become one Gemm with several weights and outputs.

    A sibling joins unless one of its operands depends on another sibling's result: the fused node would then
    be its own ancestor.

    Fields:
        max_weights: the most weights of one kernel.

    rewrite:
        %q = kernel(%x, %wq) {Gemm{x=bf16; weights=[w0:bf16[576,576]nk]; ...}} : bf16[5, 576]
        %k = kernel(%x, %wk) {Gemm{x=bf16; weights=[w0:bf16[192,576]nk]; ...}} : bf16[5, 192]
        ->
        %both = kernel(%x, %wq, %wk) {Gemm{...; outputs=[bf16 = acc_w0, bf16 = acc_w1]; ...}}
        %q = item(%both) {0}
        %k = item(%both) {1}
    """

    name: ClassVar[str] = "fuse_siblings"
    max_weights: int = 4

    def run(self, graph: Graph) -> None:
        order = Order(graph)
        families: dict[tuple[str, str], list[Node]] = {}
        for node in graph:
            if isinstance(node.op, Kernel) and isinstance(node.op.spec, Gemm) and not node.op.spec.batched:
                layout = node.op.spec.weights[0].layout
                families.setdefault((node.operands[0], layout), []).append(node)
        for family in families.values():
            while len(family) > 1:
                family = [graph[node.name] for node in family]  # an earlier merge may have rewired them
                group = self._group(order, family)
                family = [node for node in family if node not in group]
                if len(group) > 1:
                    _merge(graph, order, group)
        graph.sweep()

    def _group(self, order: Order, family: list[Node]) -> list[Node]:
        """The first node and every later one that may join it."""
        group, weights = [family[0]], _spec(family[0]).weights
        for node in family[1:]:
            joined = [*weights, *_spec(node).weights]
            if len(joined) > self.max_weights:
                continue
            names = [member.name for member in group]
            if any(order.depends(operand, names) for operand in node.operands):
                continue
            group.append(node)
            weights = tuple(joined)
        return group


def _spec(node: Node) -> Gemm:
    assert isinstance(node.op, Kernel)
    assert isinstance(node.op.spec, Gemm)
    return node.op.spec


def _merge(graph: Graph, order: Order, group: list[Node]) -> None:
    """One kernel for a group of Gemms, and its items in the place of their results."""
    weights: list[tuple[Weight, str]] = []
    extras: list[tuple[Extra, str]] = []
    outputs: list[Output] = []
    for node in group:
        spec = _spec(node)
        table: dict[str, Expr] = {}
        operands = node.operands[1:]
        for weight, name in zip(spec.weights, operands, strict=False):
            fresh = f"w{len(weights)}"
            table[f"acc_{weight.name}"] = Ref(f"acc_{fresh}")
            weights.append((replace(weight, name=fresh), name))
        for extra, name in zip(spec.extras, operands[len(spec.weights) :], strict=True):
            fresh = f"e{len(extras)}"
            table[extra.name] = Ref(fresh)
            extras.append((replace(extra, name=fresh), name))
        outputs += [replace(output, expr=substitute(output.expr, table)) for output in spec.outputs]
    fused = Gemm(
        x=_spec(group[0]).x,
        weights=tuple(weight for weight, _ in weights),
        outputs=tuple(outputs),
        extras=tuple(extra for extra, _ in extras),
    )
    x = group[0].operands[0]
    names = [x, *(name for _, name in weights), *(name for _, name in extras)]
    made = add_kernel(graph, fused, names, typed(graph[x]).shape[:-1], group[0].source)
    order.place(made.name, max(order.at(node.name) for node in group))
    results = iter(results_of(graph, made, fused))
    for node in group:
        old = outputs_of(graph, node)
        for at in range(len(_spec(node).outputs)):
            new = next(results)
            if at in old:
                graph.replace(old[at], new)
        graph.discard({node.name, *old.values()})
