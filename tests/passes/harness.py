"""Running passes on functions and on text, with every guarantee of a pass checked on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from headrace.compiler.capture import capture, externs
from headrace.ir.evaluate import evaluate
from headrace.ir.graph import Graph
from headrace.ir.ops import Input, Item, Kernel, View
from headrace.ir.spec import Spec
from headrace.ir.text import parse_graph, print_graph
from headrace.ir.verify import verify
from headrace.passes.claim import Policy
from headrace.passes.pipeline import Pipeline, parse_pass
from tests.capture.graphs import traced

ALL = Policy.of("all")


def data(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers that depend on shape and seed only."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def recognise(
    fn: Callable[..., object],
    *args: Tensor,
    claim: Policy = ALL,
    decomposed: bool = False,
    symbolic: bool = False,
) -> Graph:
    """The graph of a function after the pipeline; it computes in float64 what it computed before.

    The verifier runs after every pass, and every operand of a kernel must be a value that emitting can make.
    """
    module = traced(fn, args, decomposed=decomposed, symbolic=symbolic)
    graph = capture(module).graph
    before = parse_graph(print_graph(graph))
    Pipeline.default(claim).run(graph, lambda _, seen: verify(seen))
    check_emittable(graph)
    names = [node.name for node in before if isinstance(node.op, Input)]
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    inputs = dict(zip(names, tensors, strict=True))
    torch.manual_seed(0)  # for externs that draw random numbers
    wanted = evaluate(before, inputs, externs(module))
    torch.manual_seed(0)
    same(wanted, evaluate(graph, copy.deepcopy(inputs), externs(module)))
    return graph


def same(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Equal to float64 rounding, NaN and infinities in the same places."""
    assert len(wanted) == len(found)
    for w, f in zip(wanted, found, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-6, atol=1e-7, equal_nan=True, check_dtype=False)


def check_emittable(graph: Graph) -> None:
    """FX has every kernel operand, or emitting makes it: a kernel's result, or views of either."""
    for node in graph:
        if isinstance(node.op, Kernel):
            for operand in graph.operands(node):
                while isinstance(operand.op, View) and operand.fx is None:
                    (operand,) = graph.operands(operand)
                assert operand.fx is not None or isinstance(operand.op, (Kernel, Item)), operand
    for name in graph.replaced.values():
        node = graph[name]
        while isinstance(node.op, (View, Item)):
            (node,) = graph.operands(node)
        assert isinstance(node.op, Kernel) or node.fx is not None, node


def specs(graph: Graph, kind: str | None = None) -> list[Spec]:
    """The Specs of a graph's kernels, in order."""
    found = [node.op.spec for node in graph if isinstance(node.op, Kernel)]
    return [spec for spec in found if kind is None or spec.kind == kind]


def only(graph: Graph, kind: str) -> Spec:
    """The Spec of the one kernel that there is."""
    assert [spec.kind for spec in specs(graph)] == [kind], [*map(str, graph.refusals)]
    return specs(graph)[0]


def reasons(graph: Graph, by: str) -> list[str]:
    """Why a pass left nodes alone."""
    return [refusal.reason for refusal in graph.refusals if refusal.by == by]


def rewrite(source: str, passes: str | Iterable[str]) -> str:
    """The text of a graph after passes given as text; the verifier holds after each."""
    graph = parse_graph(source)
    verify(graph)
    for text in [passes] if isinstance(passes, str) else passes:
        parse_pass(text).run(graph)
        verify(graph)
    return print_graph(graph, notes=False)
