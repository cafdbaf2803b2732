"""Matrix products however written; what follows them element by element; siblings; refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.ir.spec import Gemm
from headrace.passes.claim import Policy
from tests.passes.harness import data, only, reasons, recognise, rewrite, specs

M, K, N = 6, 32, 48
X, W, B = data(M, K), data(N, K), data(N)
WT = data(K, N)

PRODUCTS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], str]] = {
    "mm of a transposed weight": (lambda x, w: x @ w.mT, (X, W), "w0:f32[48,32]nk"),
    "mm of a plain weight": (lambda x, w: x @ w, (X, WT), "w0:f32[48,32]kn"),
    "linear": (F.linear, (X, W), "w0:f32[48,32]nk"),
    "linear of three dimensions": (F.linear, (data(2, 3, K), W), "w0:f32[48,32]nk"),
    "linear of four dimensions": (F.linear, (data(2, 3, 2, K), W), "w0:f32[48,32]nk"),
    "einsum": (lambda x, w: torch.einsum("bsk,nk->bsn", x, w), (data(2, 3, K), W), "w0:f32[48,32]nk"),
    "matmul of a vector": (lambda x, w: x @ w.mT, (data(K), W), "w0:f32[48,32]nk"),
    "several columns": (
        lambda x, w: torch.einsum("sk,khd->shd", x, w), (X, data(K, 4, 12)), "w0:f32[48,32]kn",
    ),
}  # fmt: skip


@pytest.mark.parametrize("decomposed", [False, True], ids=["library", "decomposed"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_every_spelling_of_a_product_is_a_gemm(name: str, decomposed: bool) -> None:
    fn, args, weight = PRODUCTS[name]
    spec = only(recognise(fn, *args, decomposed=decomposed), "Gemm")
    assert str(spec) == f"Gemm{{x=f32; weights=[{weight}]; extras=[]; outputs=[f32 = acc_w0]; batched=false}}"


def test_a_matrix_times_a_vector_takes_the_matrix_as_weight() -> None:
    spec = only(recognise(torch.mv, W, data(K)), "Gemm")
    assert "weights=[w0:f32[48,32]nk]" in str(spec)


BATCHED: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], str]] = {
    "bmm": (torch.bmm, (data(3, M, K), data(3, K, N)), "kn"),
    "bmm of transposed": (lambda x, w: torch.bmm(x, w.mT), (data(3, M, K), data(3, N, K)), "nk"),
    "four dimensions": (lambda x, w: x @ w.mT, (data(2, 3, M, K), data(2, 3, N, K)), "nk"),
}


@pytest.mark.parametrize("name", BATCHED)
def test_products_with_a_shared_batch(name: str) -> None:
    fn, args, layout = BATCHED[name]
    spec = only(recognise(fn, *args), "Gemm")
    assert isinstance(spec, Gemm)
    assert spec.batched
    assert spec.weights[0].layout == layout


EPILOGUES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], str, str]] = {
    "bias": (F.linear, (X, W, B), "e0:f32[n]", "add(acc_w0, e0)"),
    "addmm": (lambda x, w, b: torch.addmm(b, x, w), (X, WT, B), "e0:f32[n]", "add(acc_w0, e0)"),
    "addmm with factors": (
        lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=2.0), (X, WT, B), "e0:f32[n]",
        "add(mul(acc_w0, 2.0), mul(e0, 0.5))",
    ),
    "bias of two dimensions": (
        lambda x, w, b: torch.addmm(b, x, w), (X, WT, data(M, N)), "e0:f32[mn]", "add(acc_w0, e0)",
    ),
    "relu": (lambda x, w: F.relu(x @ w), (X, WT), "", "relu(acc_w0)"),
    "silu": (lambda x, w: F.silu(x @ w), (X, WT), "", "mul(acc_w0, sigmoid(acc_w0))"),
    "tanh": (lambda x, w: torch.tanh(x @ w), (X, WT), "", "tanh(acc_w0)"),
    "clamp at zero": (lambda x, w: (x @ w).clamp_min(0), (X, WT), "", "relu(acc_w0)"),
    "residual": (lambda x, w, r: r + x @ w, (X, WT, data(M, N)), "e0:f32[mn]", "add(e0, acc_w0)"),
    "residual of three dimensions": (
        lambda x, w, r: r + F.linear(x, w), (data(2, 3, K), W, data(2, 3, N)),
        "e0:f32[mn]", "add(e0, acc_w0)",
    ),
    "scale of each row": (
        lambda x, w, r: (x @ w) * r, (X, WT, data(M, 1)), "e0:f32[m]", "mul(acc_w0, e0)",
    ),
    "scalar tensor": (lambda x, w, r: (x @ w) * r, (X, WT, data()), "e0:f32[]", "mul(acc_w0, e0)"),
    "activation, bias and residual": (
        lambda x, w, b, r: torch.relu(F.linear(x, w, b)) * 0.5 + r, (X, W, B, data(M, N)),
        "e0:f32[n], e1:f32[mn]", "add(mul(relu(add(acc_w0, e0)), 0.5), e1)",
    ),
    "bias of a batch": (
        lambda x, w, b: torch.baddbmm(b, x, w), (data(3, M, K), data(3, K, N), data(3, M, N)),
        "e0:f32[bmn]", "add(acc_w0, e0)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("decomposed", [False, True], ids=["library", "decomposed"])
@pytest.mark.parametrize("name", EPILOGUES)
def test_what_follows_element_by_element_is_fused(name: str, decomposed: bool) -> None:
    fn, args, extras, expr = EPILOGUES[name]
    spec = only(recognise(fn, *args, decomposed=decomposed), "Gemm")
    assert f"extras=[{extras}]; outputs=[f32 = " in str(spec)
    assert isinstance(spec, Gemm)
    terms = {expr, expr.replace("add(acc_w0, e0)", "add(e0, acc_w0)")}
    if name == "addmm with factors":
        terms.add("add(mul(e0, 0.5), mul(acc_w0, 2.0))")
    assert str(spec.outputs[0].expr) in terms


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_fused(approximate: str) -> None:
    spec = only(recognise(lambda x, w: F.gelu(x @ w, approximate=approximate), X, WT), "Gemm")
    assert ("erf(" if approximate == "none" else "tanh(") in str(spec)


def test_roundings_of_eager_are_stated() -> None:
    spec = only(
        recognise(lambda x, w, r: r + x @ w, X.bfloat16(), WT.bfloat16(), data(M, N).bfloat16()), "Gemm"
    )
    assert "outputs=[bf16 = add(e0, cast:bf16(acc_w0))]" in str(spec)


def test_gate_and_up_are_one_gemm_with_one_output() -> None:
    for decomposed in (False, True):
        graph = recognise(
            lambda x, g, u: F.silu(F.linear(x, g)) * F.linear(x, u),
            data(2, 3, K),
            W,
            data(N, K, seed=1),
            decomposed=decomposed,
        )
        spec = only(graph, "Gemm")
        assert isinstance(spec, Gemm)
        assert [str(w) for w in spec.weights] == ["w0:f32[48,32]nk", "w1:f32[48,32]nk"]
        assert [str(o) for o in spec.outputs] == ["f32 = mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1)"]


def test_projections_of_one_input_are_one_gemm_of_several_outputs() -> None:
    graph = recognise(
        lambda x, q, k, v, b: (F.linear(x, q), F.linear(x, k, b), F.linear(x, v)),
        data(2, 3, K), data(64, K), data(16, K), data(16, K, seed=1), data(16),
    )  # fmt: skip
    spec = only(graph, "Gemm")
    assert isinstance(spec, Gemm)
    assert [w.n for w in spec.weights] == [64, 16, 16]
    assert [str(o.expr) for o in spec.outputs] == ["acc_w0", "add(acc_w1, e0)", "acc_w2"]
    assert sorted(node.op.mnemonic for node in graph if node.op.mnemonic == "item") == ["item"] * 3


def test_one_of_several_outputs_gets_its_own_epilogue() -> None:
    graph = recognise(lambda x, a, b: (F.relu(x @ a), x @ b), X, WT, data(K, N, seed=1))
    spec = only(graph, "Gemm")
    assert isinstance(spec, Gemm)
    assert [str(o.expr) for o in spec.outputs] == ["relu(acc_w0)", "acc_w1"]


def test_siblings_that_depend_on_each_other_stay_apart() -> None:
    # The second weight is made of the first product: one kernel would be its own ancestor.
    graph = recognise(lambda x, a: (x @ a, x @ torch.softmax(x @ a, -1)), data(K, K), data(K, K))
    assert [len(spec.weights) for spec in specs(graph, "Gemm") if isinstance(spec, Gemm)] == [1, 1]


def test_more_siblings_than_a_kernel_takes_become_several() -> None:
    graph = recognise(lambda x, *ws: tuple(x @ w for w in ws), X, *(data(K, N, seed=at) for at in range(6)))
    assert [len(spec.weights) for spec in specs(graph, "Gemm") if isinstance(spec, Gemm)] == [4, 2]


def test_a_product_that_is_returned_keeps_its_place() -> None:
    graph = recognise(lambda x, w: ((y := x @ w), F.relu(y)), X, WT)
    spec = only(graph, "Gemm")
    assert isinstance(spec, Gemm)
    assert str(spec.outputs[0].expr) == "acc_w0"


def test_a_reader_that_permutes_is_not_fused() -> None:
    graph = recognise(lambda x, w, r: (x @ w).mT + r, X, WT, data(N, M))
    spec = only(graph, "Gemm")
    assert isinstance(spec, Gemm)
    assert spec.extras == ()


def test_symbolic_rows_are_fused_too() -> None:
    text = rewrite(
        BEFORE.replace("[1, 6,", "[1, s0,").replace("[6,", "[s0,"), ["recognise_gemm", "fuse_epilogue"]
    )
    assert (
        "f32[s0, 48] = kernel(a, w, view) {spec=Gemm{x=f32; weights=[w0:f32[48,32]nk]; extras=[e0:f32[mn]]"
        in text
    )


def test_one_row_and_many_rows_have_one_spec() -> None:
    texts = {
        str(only(recognise(lambda x, w, r: r + F.linear(x, w), data(1, m, K), W, data(1, m, N)), "Gemm"))
        for m in (1, 5)
    }
    assert len(texts) == 1


REFUSED: dict[str, tuple[Callable[..., object], tuple[Tensor, ...], Policy, str]] = {
    "float64": (lambda x, w: x @ w, (X.double(), WT.double()), Policy(), "float64's precision"),
    "integers": (lambda x, w: x @ w, (X.long(), WT.long()), Policy(), "integer products"),
    "outer product": (lambda x, w: x[:, None] @ w[None], (data(64), data(64)), Policy(), "K = 1"),
    "narrow": (lambda x, w: x @ w, (X, data(K, 2)), Policy(), "N = 2"),
    "not asked for": (lambda x, w: x @ w, (X, WT), Policy.of("attention"), "not claimed"),
    "summed first": (
        lambda x, w: torch.ops.aten.dot(x, w), (data(64), data(64)), Policy(), "no matrix product",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_has_a_reason(name: str) -> None:
    fn, args, policy, reason = REFUSED[name]
    graph = recognise(fn, *args, claim=policy)
    assert not specs(graph)
    assert any(reason in each for each in reasons(graph, "recognise_gemm"))


def test_convolution_is_not_modelled_and_says_so() -> None:
    graph = recognise(F.conv2d, data(1, 3, 8, 8), data(4, 3, 3, 3))
    assert any("conv" in each and "not modelled" in each for each in reasons(graph, "unclaimed"))


BEFORE = """
x: f32[1, 6, 32] = input()  # fx=x
w: f32[48, 32] = input()  # fx=w
r: f32[1, 6, 48] = input()  # fx=r
a: f32[6, 32] = view(x) {index=[0, d0, d1]}  # fx=a
t: f32[32, 48] = view(w) {index=[d1, d0]}  # fx=t
y: f32[6, 48] = contract(a, t) {equation=mk,kn->mn}  # fx=y
y3: f32[1, 6, 48] = view(y) {index=[d1, d2]}  # fx=y3
z: f32[1, 6, 48] = map(r, y3) {expr=add(x0, x1)}  # fx=z
return z
"""


def test_text_of_recognise_gemm() -> None:
    assert rewrite(BEFORE, "recognise_gemm").split("\n")[4:7] == [
        "kernel: f32[6, 48] = kernel(a, w) {spec=Gemm{x=f32; weights=[w0:f32[48,32]nk]; extras=[]; "
        "outputs=[f32 = acc_w0]; batched=false}}",
        "y3: f32[1, 6, 48] = view(kernel) {index=[d1, d2]}",
        "z: f32[1, 6, 48] = map(r, y3) {expr=add(x0, x1)}",
    ]


def test_text_of_fuse_epilogue() -> None:
    assert rewrite(BEFORE, ["recognise_gemm", "fuse_epilogue"]).split("\n")[4:8] == [
        "view: f32[6, 48] = view(r) {index=[0, d0, d1]}",
        "kernel_0: f32[6, 48] = kernel(a, w, view) {spec=Gemm{x=f32; weights=[w0:f32[48,32]nk]; "
        "extras=[e0:f32[mn]]; outputs=[f32 = add(e0, acc_w0)]; batched=false}}",
        "view_0: f32[1, 6, 48] = view(kernel_0) {index=[d1, d2]}",
        "return view_0",
    ]


def test_text_of_fuse_siblings() -> None:
    source = """
x: f32[6, 32] = input()  # fx=x
a: f32[48, 32] = input()  # fx=a
b: f32[16, 32] = input()  # fx=b
p: f32[6, 48] = contract(x, a) {equation=mk,nk->mn}  # fx=p
q: f32[6, 16] = contract(x, b) {equation=mk,nk->mn}  # fx=q
return p, q
"""
    assert rewrite(source, ["recognise_gemm", "fuse_siblings"]).split("\n")[3:7] == [
        "kernel_1: _ = kernel(x, a, b) {spec=Gemm{x=f32; weights=[w0:f32[48,32]nk, w1:f32[16,32]nk]; "
        "extras=[]; outputs=[f32 = acc_w0, f32 = acc_w1]; batched=false}}",
        "item: f32[6, 48] = item(kernel_1) {at=0}",
        "item_1: f32[6, 16] = item(kernel_1) {at=1}",
        "return item, item_1",
    ]
