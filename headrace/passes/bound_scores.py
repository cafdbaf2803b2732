"""Bounds that hold whatever the inputs: soft-caps, clamps, normalised queries and keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Expr, refs, walk
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import Kernel
from headrace.ir.spec import Attention, Denominator, Normalizer, Stabilizer, Weighting
from headrace.ir.spec.attention import PROVEN_BOUND
from headrace.passes.algebra import number
from headrace.passes.base import Pass
from headrace.passes.intervals import UNIT, Interval, bounds
from headrace.passes.norms import Norms

_SLACK = 1.01  # of the kernel's own dot product, and of bounds that are stated as round numbers
_PROVEN = Normalizer(stabilizer=Stabilizer.UNIFIED, proven=True)


@dataclass(frozen=True)
class BoundScores(Pass):
    """Permits phi = 0 without a calibration where interval arithmetic bounds every score by `PROVEN_BOUND`.

    The score expression is evaluated over intervals: indices count from zero, a boolean extra is 0 or 1, any
    other extra (a bias, an added mask) may be anything, -inf included, and so may the raw product unless the
    graph bounds the norms of queries and keys. Where one of them is unbounded nothing is proven.

    rewrite:
        %o = kernel(%q, %k, %v) {Attention{score=mul(tanh(mul(s, 0.004)), 30.0);
                                           normalizer=exp/sum/online; ...}}
        ->
        %o = kernel(%q, %k, %v) {Attention{score=mul(tanh(mul(s, 0.004)), 30.0);
                                           normalizer=exp/sum/unified(0, proven); ...}}
    """

    name: ClassVar[str] = "bound_scores"

    def run(self, graph: Graph) -> None:
        norms = Norms(graph)
        for node in list(graph):
            if isinstance(node.op, Kernel) and isinstance(node.op.spec, Attention):
                self._bound(graph, norms, node, node.op.spec)

    def _bound(self, graph: Graph, norms: Norms, node: Node, spec: Attention) -> None:
        n = spec.normalizer
        if (n.weighting, n.denominator, n.stabilizer) != (
            Weighting.EXP, Denominator.SUM, Stabilizer.ONLINE,
        ):  # fmt: skip
            return
        env = {letter: Interval(0.0) for letter in "bhij"}
        env |= {extra.name: UNIT for extra in spec.extras if extra.dtype is DType.BOOL}
        most = bounds(spec.score, env).magnitude
        why = f"soft-cap {_cap(spec.score)}" if _cap(spec.score) else "a bounded score expression"
        if most > PROVEN_BOUND * _SLACK:
            query, key = norms.norm(node.operands[0]), norms.norm(node.operands[1])
            if query is None or key is None or "s" not in refs(spec.score):
                return
            product = query * key * _SLACK
            most = bounds(spec.score, env | {"s": Interval(-product, product)}).magnitude
            why = "normalised queries and keys"
        if most <= PROVEN_BOUND * _SLACK:
            graph.redefine(node.name, Kernel(replace(spec, normalizer=_PROVEN)), node.operands)
            graph.remarks[node.name] = f"unified maximum proven: {why}, |score| <= {most:.3g}"


def _cap(score: Expr) -> str:
    """The c of c * tanh(x / c), as text; empty where there is none."""
    for part in walk(score):
        if isinstance(part, Call) and part.fn == "mul":
            x, c = part.args
            if isinstance(x, Call) and x.fn == "tanh" and number(c) is not None:
                return f"{number(c):g}"
    return ""
