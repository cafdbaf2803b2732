"""Norms, softmax and other row reductions, however written; what is drawn in; refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.compiler.capture import capture
from headrace.ir.spec import Rows
from headrace.passes.claim import Policy
from headrace.passes.pipeline import Pipeline
from tests.capture.graphs import joint_graph
from tests.passes.harness import ALL, data, only, reasons, recognise, rewrite, specs

S, N = 5, 48
X, W, B = data(2, S, N), data(N), data(N, seed=1)
EPS = 1e-5


def hugging_face(x: Tensor, w: Tensor) -> Tensor:
    y = x.to(torch.float32)
    variance = y.pow(2).mean(-1, keepdim=True)
    y = y * torch.rsqrt(variance + EPS)
    return w * y.to(x.dtype)


RMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hugging face": hugging_face,
    "product with itself": lambda x, w: w * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS)),
    "division by a root": lambda x, w: w * (x / torch.sqrt((x * x).sum(-1, keepdim=True) / N + EPS)),
    "power of minus a half": lambda x, w: w * (x * ((x * x).mean(-1, keepdim=True) + EPS).pow(-0.5)),
    "factor instead of a mean": lambda x, w: (
        w * (x * torch.rsqrt((x * x).sum(-1, keepdim=True) * (1 / N) + EPS))
    ),
}


@pytest.mark.parametrize("decomposed", [False, True], ids=["library", "decomposed"])
@pytest.mark.parametrize("name", RMS)
def test_every_spelling_of_rms_norm_is_one_spec(name: str, decomposed: bool) -> None:
    spec = only(recognise(RMS[name], X, W, decomposed=decomposed), "Rows")
    assert str(spec) == (
        "Rows{inputs=[x0:f32[rn], x1:f32[n]]; reductions=[r0 = sum(mul(x0, x0))]; "
        "outputs=[f32 = mul(x1, mul(x0, rsqrt(add(div(r0, count), 1e-05))))]; reduced=[]}"
    )


def test_rms_norm_as_a_library_call() -> None:
    # make_fx leaves an in-place addition inside the composite operator; Inductor's hook sees the operator.
    module = joint_graph(lambda x, w: F.rms_norm(x, (N,), w, EPS), X, W)
    graph = capture(module).graph
    Pipeline.default(ALL).run(graph)
    text = str(only(graph, "Rows"))
    assert "reductions=[r0 = sum(mul(x0, x0))]; outputs=[f32 = mul(mul(x0, rsqrt(add(div(r0, count), " in text
    assert "inputs=[x0:f32[rn], x1:f32[n]]" in text


def test_rms_norm_of_16_bits_states_where_eager_rounds() -> None:
    spec = only(recognise(hugging_face, X.bfloat16(), W.bfloat16()), "Rows")
    assert str(spec) == (
        "Rows{inputs=[x0:bf16[rn], x1:bf16[n]]; reductions=[r0 = sum(mul(x0, x0))]; "
        "outputs=[bf16 = mul(x1, cast:bf16(mul(x0, rsqrt(add(div(r0, count), 1e-05)))))]; reduced=[]}"
    )


@pytest.mark.parametrize("decomposed", [False, True], ids=["library", "decomposed"])
def test_layer_norm(decomposed: bool) -> None:
    spec = only(
        recognise(lambda x, w, b: F.layer_norm(x, (N,), w, b, EPS), X, W, B, decomposed=decomposed), "Rows"
    )
    assert isinstance(spec, Rows)
    assert [str(r) for r in spec.reductions] == [
        "r0 = sum(x0)",
        "r1 = sum(mul(sub(x0, div(r0, count)), sub(x0, div(r0, count))))",
    ]
    assert [str(extra) for extra in spec.inputs] == ["x0:f32[rn]", "x1:f32[n]", "x2:f32[n]"]


def test_layer_norm_through_the_mean_of_squares() -> None:
    def fn(x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x * x).mean(-1, keepdim=True) - mean * mean
        return (x - mean) * torch.rsqrt(variance + EPS)

    spec = only(recognise(fn, X), "Rows")
    assert isinstance(spec, Rows)
    assert sorted(str(r.expr) for r in spec.reductions) == ["mul(x0, x0)", "x0"]


@pytest.mark.parametrize("decomposed", [False, True], ids=["library", "decomposed"])
@pytest.mark.parametrize("shape", [(2, S, N), (S, N), (N,), (2, 3, S, N)])
def test_softmax_of_any_leading_dimensions(shape: tuple[int, ...], decomposed: bool) -> None:
    spec = only(recognise(lambda x: torch.softmax(x, -1), data(*shape), decomposed=decomposed), "Rows")
    assert str(spec) == (
        "Rows{inputs=[x0:f32[rn]]; reductions=[r0 = max(x0), r1 = sum(exp(sub(x0, r0)))]; "
        "outputs=[f32 = div(exp(sub(x0, r0)), r1)]; reduced=[]}"
    )


def test_log_softmax() -> None:
    spec = only(recognise(lambda x: torch.log_softmax(x, -1), X), "Rows")
    assert "outputs=[f32 = sub(sub(x0, r0), log(r1))]" in str(spec)


@pytest.mark.parametrize("keep", [False, True])
def test_a_reduction_alone_is_one_value_per_row(keep: bool) -> None:
    spec = only(recognise(lambda x: x.abs().mean(-1, keepdim=keep), X), "Rows")
    assert str(spec) == (
        "Rows{inputs=[x0:f32[rn]]; reductions=[r0 = sum(abs(x0))]; "
        "outputs=[f32 = div(r0, count)]; reduced=[0]}"
    )


def test_log_sum_exp_of_a_row() -> None:
    spec = only(recognise(lambda x: torch.logsumexp(x, -1), X), "Rows")
    assert isinstance(spec, Rows)
    assert spec.reduced == (0,)


def test_the_pointwise_work_before_is_drawn_in() -> None:
    spec = only(
        recognise(lambda x, y, b: torch.softmax(F.silu(x) * y + b, -1), X, data(2, S, N, seed=3), B), "Rows"
    )
    assert isinstance(spec, Rows)
    assert [extra.dims for extra in spec.inputs] == ["rn", "rn", "n"]
    assert "sigmoid" in str(spec.reductions[0])


def test_work_that_depends_on_an_index_stays_outside() -> None:
    graph = recognise(lambda x: torch.softmax(x * torch.arange(N), -1) * torch.arange(N), X)
    assert "inputs=[x0:f32[rn]]; reductions=[r0 = max(x0)," in str(only(graph, "Rows"))


def test_an_epsilon_in_float64_is_taken_as_float32() -> None:
    # With dynamic=True, Dynamo turns the number into a float64 input.
    graph = recognise(
        lambda x, e: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + e.float()), X, data().double().abs()
    )
    assert str(only(graph, "Rows")).startswith(
        "Rows{inputs=[x0:f32[rn], x1:f32[]]; reductions=[r0 = sum(mul(x0, x0))]"
    )


def test_a_residual_that_others_read_stays_outside() -> None:
    def fn(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        h = x + y
        return h, hugging_face(h, w)

    spec = only(recognise(fn, X, data(2, S, N, seed=3), W), "Rows")
    assert isinstance(spec, Rows)
    assert [extra.dims for extra in spec.inputs] == ["rn", "n"]


def test_values_of_each_row_are_inputs_of_each_row() -> None:
    spec = only(recognise(lambda x, t: torch.softmax(x / t[..., None], -1), X, data(2, S).abs() + 1), "Rows")
    assert isinstance(spec, Rows)
    assert [extra.dims for extra in spec.inputs] == ["rn", "r"]


def test_one_row_and_many_rows_have_one_spec() -> None:
    assert len({str(only(recognise(hugging_face, data(1, m, N), W), "Rows")) for m in (1, 7)}) == 1


def test_a_decomposed_matrix_vector_product_is_rows() -> None:
    spec = only(recognise(torch.mv, data(S, N), W, decomposed=True), "Rows")
    assert "reductions=[r0 = sum(mul(x0, x1))]" in str(spec)


def test_left_to_inductor_unless_kernels_read_the_result() -> None:
    auto = Policy()
    alone = recognise(hugging_face, X, W, claim=auto)
    assert specs(alone) == []
    assert reasons(alone, "recognise_rows") == ["Inductor fuses this reduction with its readers"]
    fed = recognise(lambda x, w, p: F.linear(hugging_face(x, w), p), X, W, data(64, N), claim=auto)
    assert [spec.kind for spec in specs(fed)] == ["Rows", "Gemm"]


REFUSED: dict[str, tuple[Callable[..., object], tuple[Tensor, ...], str]] = {
    "another dimension": (lambda x: x.sum(1), (X,), "reduces dimensions [1] of 3"),
    "two dimensions": (lambda x: x.sum((1, 2)), (X,), "reduces dimensions [1, 2] of 3"),
    "argmax": (lambda x: x.argmax(-1), (X,), "argmax of f32 has no row kernel"),
    "integers": (lambda x: x.sum(-1), (X.long(),), "sum of i64 has no row kernel"),
    "float64": (lambda x: x.sum(-1), (X.double(),), "row kernels do not write f64"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_has_a_reason(name: str) -> None:
    fn, args, reason = REFUSED[name]
    graph = recognise(fn, *args)
    assert not specs(graph)
    assert any(reason in each for each in reasons(graph, "recognise_rows")), reasons(graph, "recognise_rows")


@pytest.mark.parametrize("kind", ["sum", "amax", "amin"])
def test_integers_are_not_reduced_in_float32(kind: str) -> None:
    """A kernel's reductions are float32, which cannot tell 2**24 from 2**24 + 1."""
    ids = torch.randint(2**25, 2**26, (2, S, N), generator=torch.Generator().manual_seed(0))
    graph = recognise(lambda x, i: x.sum(-1) + getattr(i, kind)(-1) % 7, X, ids)
    spec = only(graph, "Rows")
    assert isinstance(spec, Rows)
    assert [str(r) for r in spec.reductions] == ["r0 = sum(x0)"]


def test_what_is_true_is_counted_in_a_kernel() -> None:
    graph = recognise(lambda x: x.sum(-1) / (x > 0).sum(-1), X)
    spec = only(graph, "Rows")
    assert isinstance(spec, Rows)
    assert [str(r) for r in spec.reductions] == ["r0 = sum(x0)", "r1 = sum(cast:i64(gt(x0, 0)))"]


def test_text_of_recognise_rows() -> None:
    source = """
x: f32[2, 5, 48] = input()  # fx=x
m: f32[2, 5] = reduce(x) {kind=max; axes=[2]}
m3: f32[2, 5, 48] = view(m) {index=[d0, d1]}
e: f32[2, 5, 48] = map(x, m3) {expr=exp(sub(x0, x1))}
s: f32[2, 5] = reduce(e) {kind=sum; axes=[2]}
s3: f32[2, 5, 48] = view(s) {index=[d0, d1]}
y: f32[2, 5, 48] = map(e, s3) {expr=div(x0, x1)}  # fx=y
return y
"""
    assert rewrite(source, "recognise_rows{claim=all}").strip().split("\n")[:3] == [
        "x: f32[2, 5, 48] = input()",
        "kernel: f32[2, 5, 48] = kernel(x) {spec=Rows{inputs=[x0:f32[rn]]; reductions=[r0 = max(x0), "
        "r1 = sum(exp(sub(x0, r0)))]; outputs=[f32 = div(exp(sub(x0, r0)), r1)]; reduced=[]}}",
        "return kernel",
    ]
