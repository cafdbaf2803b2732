"""The verifier: a graph that holds passes, and each rule refuses the graph that breaks it."""

from __future__ import annotations

import pytest
from test_text import GRAPH

from headrace.errors import VerificationError
from headrace.ir.dtype import DType
from headrace.ir.graph import Graph
from headrace.ir.ops import Input, Map
from headrace.ir.text import parse_graph
from headrace.ir.types import TensorType
from headrace.ir.verify import RULES, verify

INPUTS = """\
x: bf16[4, 8] = input()
y: f32[4, 8] = input()
i: i64[3] = input()
pair: _ = extern(x) {target=aten.topk.default}
w: bf16[6, 8] = input()
q: bf16[1, 4, 5, 8] = input()
"""
GEMM = "Gemm{x=bf16; weights=[w0:bf16[6,8]nk]; extras=[]; outputs=[bf16 = acc_w0]; batched=false}"
TWO = (
    "Gemm{x=bf16; weights=[w0:bf16[6,8]nk]; extras=[]; outputs=[bf16 = acc_w0, f32 = acc_w0]; batched=false}"
)

BROKEN = [
    ("operand_count", "n: bf16[4] = reduce(x, x) {kind=sum; axes=[1]}"),
    ("operands_are_tensors", "n: f32[4, 8] = map(pair) {expr=x0}"),
    ("has_type", "n: _ = map(x) {expr=x0}"),
    ("has_type", f"n: bf16[4, 6] = kernel(x, w) {{spec={TWO}}}"),
    ("item_reads_tuple", "n: bf16[4, 8] = item(x) {at=0}"),
    ("item_reads_tuple", f"k: _ = kernel(x, w) {{spec={TWO}}}\nn: f32[4, 6] = item(k) {{at=2}}"),
    ("size_type", "n: i32[] = size() {expr=4}"),
    ("view_shape", "n: f32[8, 4] = view(x) {index=[d1, d0]}"),
    ("view_shape", "n: bf16[8, 4] = view(x) {index=[d1]}"),
    ("view_shape", "n: bf16[4] = view(x) {index=[d0, d1]}"),
    ("view_bounds", "n: bf16[8, 8] = view(x) {index=[d0, d1]}"),
    ("view_bounds", "n: bf16[4, 8] = view(x) {index=[d0 - 1, d1]}"),
    ("map_reads", "n: f32[4, 8] = map(x) {expr=add(x0, x1)}"),
    ("map_reads", "n: f32[4, 8] = map(x) {expr=add(x0, d2)}"),
    ("map_reads", "n: f32[8, 4] = map(x) {expr=add(x0, 1)}"),
    ("map_dtype", "n: bf16[4, 8] = map(x) {expr=exp(x0)}"),
    ("map_dtype", "n: f32[4, 8] = map(x) {expr=lt(x0, 1)}"),
    ("reduce_shape", "n: bf16[4] = reduce(x) {kind=median; axes=[1]}"),
    ("reduce_shape", "n: bf16[4] = reduce(x) {kind=sum; axes=[2]}"),
    ("reduce_shape", "n: bf16[8] = reduce(x) {kind=sum; axes=[1]}"),
    ("reduce_shape", "n: i64[] = reduce(x) {kind=argmax; axes=[0, 1]}"),
    ("reduce_dtype", "n: f32[4] = reduce(x) {kind=max; axes=[1]}"),
    ("reduce_dtype", "n: i64[4] = reduce(x) {kind=sum; axes=[1]}"),
    ("contract_shape", "n: bf16[4, 6] = contract(x, w) {equation=mk,kn->mn}"),
    ("contract_shape", "n: bf16[4, 6] = contract(x, w) {equation=mk,nk->mo}"),
    ("contract_shape", "n: bf16[6, 4] = contract(x, w) {equation=mk,nk->mn}"),
    ("contract_shape", "n: bf16[4, 6] = contract(x, w) {equation=mk,nk}"),
    ("scan_shape", "n: bf16[4, 8] = scan(x) {kind=sum; axis=2}"),
    ("scan_shape", "n: bf16[4, 8] = scan(x) {kind=median; axis=1}"),
    ("scan_shape", "n: f32[4, 8] = scan(x) {kind=sum; axis=1}"),
    ("gather_shape", "n: bf16[4, 8] = gather(x, i) {axis=0}"),
    ("gather_shape", "n: bf16[3, 8] = gather(x, y) {axis=0}"),
    ("gather_shape", "n: f32[3, 8] = gather(x, i) {axis=0}"),
    ("scatter_shape", "n: bf16[4, 8] = scatter(x, i, x) {axis=0}"),
    ("scatter_shape", "n: f32[4, 8] = scatter(x, i, x) {axis=0}"),
    ("kernel_operands", f"n: bf16[4, 6] = kernel(x) {{spec={GEMM}}}"),
    ("kernel_operands", f"n: bf16[4, 6] = kernel(y, w) {{spec={GEMM}}}"),
    ("kernel_operands", f"n: bf16[4, 6] = kernel(q, w) {{spec={GEMM}}}"),
    ("kernel_operands", f"n: bf16[4, 6] = kernel(x, x) {{spec={GEMM}}}"),
    ("kernel_result", f"n: f32[4, 6] = kernel(x, w) {{spec={GEMM}}}"),
    ("kernel_result", f"n: bf16[4, 7] = kernel(x, w) {{spec={GEMM}}}"),
    ("kernel_result", f"k: _ = kernel(x, w) {{spec={TWO}}}\nn: bf16[4, 6] = item(k) {{at=1}}"),
]


@pytest.mark.parametrize(("rule", "line"), BROKEN)
def test_rule_refuses_what_breaks_it(rule: str, line: str) -> None:
    graph = parse_graph(INPUTS + line + "  # fx=n @ model.py:7 in forward")
    with pytest.raises(VerificationError, match=rf"^rule {rule}: n: .*\(model.py:7 in forward\)$"):
        verify(graph)


def test_every_rule_has_a_graph_that_breaks_it() -> None:
    assert {rule for rule, _ in BROKEN} == {rule.__name__ for rule in RULES}


@pytest.mark.parametrize(
    "line",
    [
        f"n: bf16[4, 6] = kernel(x, w) {{spec={GEMM}}}",
        f"k: _ = kernel(x, w) {{spec={TWO}}}\nn: f32[4, 6] = item(k) {{at=1}}",
        "n: bf16[3, 8] = gather(x, i) {axis=0}",
        "v: bf16[3, 8] = gather(x, i) {axis=0}\nn: bf16[4, 8] = scatter(x, i, v) {axis=0}",
        "n: f32[4] = reduce(x) {kind=sum; axes=[1]}",
        "n: bf16[0, 8] = view(x) {index=[d0 + 100, d1]}",
        "n: f32[4, 8] = map(x, y) {expr=where(lt(d0, d1), x1, mul(x0, 2))}",
    ],
)
def test_sound_nodes_pass(line: str) -> None:
    verify(parse_graph(INPUTS + line))


def test_sound_graph_with_symbolic_sizes_passes() -> None:
    verify(parse_graph(GRAPH))


def test_outputs_and_replacements_must_exist() -> None:
    graph = parse_graph(INPUTS)
    graph.outputs = ("gone",)
    with pytest.raises(VerificationError, match="rule outputs_exist: gone"):
        verify(graph)
    graph.outputs = ("x",)
    graph.replaced["mm"] = "gone"
    with pytest.raises(VerificationError, match="rule outputs_exist: gone"):
        verify(graph)


def test_two_nodes_cannot_claim_one_fx_value() -> None:
    with pytest.raises(VerificationError, match="rule one_node_per_fx"):
        verify(parse_graph("a: f32[2] = input()  # fx=a\nb: f32[2] = input()  # fx=a\n"))


def test_a_cycle_is_refused() -> None:
    from headrace.ir.expr import Ref

    graph = Graph()
    type_ = TensorType.of(DType.F32, 2)
    graph.add(Input(), (), type_, name="x")
    graph.add(Map(Ref("x0")), ("x",), type_, name="a")
    graph.add(Map(Ref("x0")), ("a",), type_, name="b")
    graph.dag.add_edge("b", "a")
    with pytest.raises(VerificationError, match="rule acyclic"):
        verify(graph)
