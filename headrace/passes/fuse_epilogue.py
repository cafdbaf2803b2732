"""What reads a matrix product element by element moves into its kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace.ir.graph import Graph
from headrace.ir.ops import Kernel
from headrace.ir.spec import Gemm
from headrace.passes.base import Pass
from headrace.passes.epilogue import absorb
from headrace.passes.order import Order


@dataclass(frozen=True)
class FuseEpilogue(Pass):
    """Bias, activation, residual and gate become part of a Gemm's output expression.

    Fields:
        max_ops: the most graph nodes that one kernel absorbs.

    rewrite:
        %y = kernel(%x, %w) {Gemm{...; outputs=[bf16 = acc_w0]}} : bf16[5, 576]
        %y3 = view(%y) {...} : bf16[1, 5, 576]
        %out = map(%residual, %y3) {cast:bf16(add(x0, x1))} : bf16[1, 5, 576]
        ->
        %y = kernel(%x, %w, %r) {Gemm{...; extras=[e0:bf16[mn]]; outputs=[bf16 = add(e0, cast:bf16(acc_w0))]}}
        %out = view(%y) {...}                                            %r = view(%residual) : bf16[5, 576]

    Two weights of one input that meet in a gate become one output:
        bf16 = mul(cast:bf16(mul(g, sigmoid(g))), cast:bf16(acc_w1)) with g = cast:bf16(acc_w0)
    """

    name: ClassVar[str] = "fuse_epilogue"
    max_ops: int = 24

    def run(self, graph: Graph) -> None:
        order = Order(graph)
        waiting = [
            node.name for node in graph if isinstance(node.op, Kernel) and isinstance(node.op.spec, Gemm)
        ]
        for name in waiting:
            current: str | None = name
            while current is not None and current in graph:
                current = absorb(graph, order, graph[current], self.max_ops)
        graph.sweep()
