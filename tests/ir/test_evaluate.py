"""The oracle: Specs against torch in float64, eager's own error without `exact`, and graph evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.errors import EvaluationError
from headrace.ir.dtype import DType
from headrace.ir.evaluate import evaluate, evaluate_nodes, evaluate_spec
from headrace.ir.expr import parse
from headrace.ir.spec import (
    Attention,
    Denominator,
    Extra,
    Gemm,
    Normalizer,
    Output,
    Reduction,
    Rows,
    Stabilizer,
    Weight,
    Weighting,
)
from headrace.ir.text import parse_graph

BF16, F32, I64 = DType.BF16, DType.F32, DType.I64


def data(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted.double(), rtol=1e-12, atol=1e-12, equal_nan=True)


def gemm(*outputs: str, extras: tuple[Extra, ...] = (), layout: str = "nk", batched: bool = False) -> Gemm:
    weights = tuple(Weight(f"w{at}", BF16, 6, 8, layout) for at in range(2))
    return Gemm(BF16, weights, tuple(Output(BF16, parse(text)) for text in outputs), extras, batched)


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("layout", ["nk", "kn"])
def test_gemm_of_two_weights_gate_and_residual(rows: int, layout: str) -> None:
    spec = gemm(
        "add(mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1), r)", "mul(acc_w1, b)", layout=layout,
        extras=(Extra("r", BF16, "mn"), Extra("b", BF16, "n")),
    )  # fmt: skip
    x, w0, w1, r, b = data(rows, 8), data(6, 8), data(6, 8, seed=1), data(rows, 6), data(6)
    stored = [w if layout == "nk" else w.T for w in (w0, w1)]
    first, second = evaluate_spec(spec, [x, *stored, r, b])
    gate, up = x.double() @ w0.double().T, x.double() @ w1.double().T
    close(first, F.silu(gate) * up + r)
    close(second, up * b)


def test_batched_gemm_and_an_extra_stored_transposed() -> None:
    spec = gemm("add(add(acc_w0, acc_w1), r)", extras=(Extra("r", BF16, "nb"),), batched=True)
    x, w0, w1, r = data(3, 5, 8), data(3, 6, 8), data(3, 6, 8, seed=1), data(6, 3)
    (found,) = evaluate_spec(spec, [x, w0, w1, r])
    close(found, x.double() @ (w0.double() + w1.double()).mT + r.T[:, None])


def test_gemm_without_exact_rounds_as_eager_does() -> None:
    spec = gemm("cast:bf16(add(cast:bf16(acc_w0), b))", "acc_w1", extras=(Extra("b", BF16, "n"),))
    x, w0, w1, b = data(4, 8), data(6, 8), data(6, 8, seed=1), data(6)
    first, second = evaluate_spec(spec, [x, w0, w1, b], exact=False)
    assert torch.equal(first, F.linear(x, w0) + b)
    assert torch.equal(second, F.linear(x, w1))


def attention(**fields: Any) -> Attention:
    given: dict[str, Any] = {"q": BF16, "k": BF16, "v": BF16, "out": BF16}
    given |= {"heads": 4, "k_heads": 2, "v_heads": 2, "d_k": 8, "d_v": 8, "score": parse("mul(s, 0.25)")}
    return Attention(**{**given, **fields})


Q, K, V = data(2, 4, 3, 8), data(2, 2, 5, 8), data(2, 2, 5, 8, seed=1)


def reference(mask: torch.Tensor | None) -> torch.Tensor:
    """Attention in float64 by torch, with repeated heads."""
    k, v = (t.double().repeat_interleave(2, 1) for t in (K, V))
    score = Q.double() @ k.mT * 0.25
    return (score if mask is None else score.masked_fill(~mask, -torch.inf)).softmax(-1) @ v


def test_grouped_attention() -> None:
    close(evaluate_spec(attention(), [Q, K, V])[0], reference(None))


def test_causal_attention() -> None:
    close(
        evaluate_spec(attention(mask=parse("le(j, i)")), [Q, K, V])[0],
        reference(torch.ones(3, 5).tril().bool()),
    )


def test_attention_over_a_static_cache() -> None:
    spec = attention(mask=parse("le(j, add(i, p))"), extras=(Extra("p", I64, ""),))
    visible = torch.arange(5) <= torch.arange(3)[:, None] + 1
    close(evaluate_spec(spec, [Q, K, V, torch.tensor(1)])[0], reference(visible))


def test_attention_with_masks_and_biases_per_head() -> None:
    spec = attention(
        score=parse("add(mul(s, 0.25), a)"), mask=parse("and(keep, lt(j, n))"),
        extras=(Extra("a", F32, "hj"), Extra("keep", DType.BOOL, "bij"), Extra("n", I64, "b")),
    )  # fmt: skip
    a, n = data(4, 5, dtype=torch.float32), torch.tensor([5, 4])
    keep = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.3
    keep[..., 0] = True
    (found,) = evaluate_spec(spec, [Q, K, V, a, keep, n])
    k, v = (t.double().repeat_interleave(2, 1) for t in (K, V))
    score = Q.double() @ k.mT * 0.25 + a[None, :, None]
    visible = keep[:, None] & (torch.arange(5) < n[:, None, None, None])
    close(found, score.masked_fill(~visible, -torch.inf).softmax(-1) @ v)


@pytest.mark.parametrize("safe", [False, True])
def test_a_row_without_visible_keys(safe: bool) -> None:
    (found,) = evaluate_spec(attention(mask=parse("lt(j, i)"), safe=safe), [Q, K, V])
    assert torch.isfinite(found[:, :, 1:]).all()
    assert (found[:, :, 0] == 0).all() if safe else found[:, :, 0].isnan().all()


@pytest.mark.parametrize(
    ("weighting", "denominator"),
    [(w, d) for w in Weighting for d in Denominator],
)
def test_normalizers(weighting: Weighting, denominator: Denominator) -> None:
    spec = attention(mask=parse("le(j, i)"), normalizer=Normalizer(weighting, denominator, Stabilizer.NONE))
    (found,) = evaluate_spec(spec, [Q, K, V])
    k, v = (t.double().repeat_interleave(2, 1) for t in (K, V))
    score = Q.double() @ k.mT * 0.25
    g = {"exp": torch.exp, "sigmoid": torch.sigmoid, "identity": torch.clone}[weighting.value]
    weights = g(score) * torch.ones(3, 5).tril()
    if denominator is Denominator.SUM:
        weights = weights / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(found, weights @ v, rtol=1e-10, atol=1e-10)


def test_no_keys_at_all_give_zeros() -> None:
    (found,) = evaluate_spec(attention(), [Q, K[:, :, :0], V[:, :, :0]])
    assert found.shape == (2, 4, 3, 8)
    assert (found == 0).all()


def test_attention_without_exact_has_eagers_error() -> None:
    (found,) = evaluate_spec(attention(score=parse("mul(s, 0.25)")), [Q, K, V], exact=False)
    assert found.dtype == torch.bfloat16
    eager = F.scaled_dot_product_attention(Q, K, V, scale=0.25, enable_gqa=True)
    assert (found.double() - reference(None)).abs().max() <= 2 * (
        eager.double() - reference(None)
    ).abs().max() + 1e-3


SOFTMAX = Rows(
    (Extra("x", F32, "rn"),),
    (Reduction("m", "max", parse("x")), Reduction("s", "sum", parse("exp(sub(x, m))"))),
    (Output(F32, parse("div(exp(sub(x, m)), s)")),),
)
RMS = Rows(
    (Extra("x", BF16, "rn"), Extra("w", BF16, "n")),
    (Reduction("s", "sum", parse("mul(x, x)")),),
    (Output(BF16, parse("cast:bf16(mul(w, cast:bf16(mul(x, rsqrt(add(div(s, count), 1e-05))))))")),),
)


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 7), (7,), (0, 7), (2, 1)])
def test_rows_softmax(shape: tuple[int, ...]) -> None:
    x = data(*shape, dtype=torch.float32)
    close(evaluate_spec(SOFTMAX, [x])[0], x.double().softmax(-1))


def test_rows_keep_nan_in_its_row() -> None:
    x = data(3, 7, dtype=torch.float32)
    x[1, 2] = torch.nan
    (found,) = evaluate_spec(SOFTMAX, [x])
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_rows_rms_norm_exact_and_rounded() -> None:
    x, w = data(2, 3, 8), data(8)
    close(evaluate_spec(RMS, [x, w])[0], F.rms_norm(x.double(), (8,), w.double(), 1e-5))
    (rounded,) = evaluate_spec(RMS, [x, w], exact=False)
    y = x.float()
    assert torch.equal(
        rounded, w * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)).to(torch.bfloat16)
    )


def test_rows_with_reduced_output_and_row_scalars() -> None:
    spec = Rows(
        (Extra("x", F32, "rn"), Extra("t", F32, "r"), Extra("c", F32, "")),
        (Reduction("p", "prod", parse("x")), Reduction("l", "min", parse("mul(x, t)"))),
        (Output(F32, parse("add(l, c)")), Output(F32, parse("mul(x, p)"))),
        reduced=(0,),
    )
    x, t, c = (data(*shape, dtype=torch.float32) for shape in ((2, 3, 4), (2, 3), ()))
    low, scaled = evaluate_spec(spec, [x, t, c])
    close(low, (x.double() * t[..., None]).amin(-1) + c)
    close(scaled, x.double() * x.double().prod(-1, keepdim=True))


@pytest.mark.parametrize(
    ("spec", "inputs"),
    [
        (SOFTMAX, []),
        (RMS, [data(2, 8), data(7)]),
        (gemm("acc_w0"), [data(4, 8), data(6, 8)]),
        (attention(), [Q, K]),
    ],
)
def test_operands_that_do_not_fit_are_named(
    spec: Rows | Gemm | Attention, inputs: list[torch.Tensor]
) -> None:
    with pytest.raises(EvaluationError):
        evaluate_spec(spec, inputs)


# Graphs


def run(text: str, *, exact: bool = True, **inputs: torch.Tensor) -> torch.Tensor:
    return evaluate(parse_graph(text), inputs, exact=exact)[0]


def test_sizes_follow_from_inputs() -> None:
    text = """
    x: f32[s0, 3] = input()
    n: i64[] = size() {expr=2*s0}
    v: i64[s0, 3] = view(n) {index=[]}
    y: f32[s0, 3] = map(x, v) {expr=mul(x0, x1)}
    return y
    """
    x = data(5, 3, dtype=torch.float32)
    close(run(text, x=x), x.double() * 10)


def test_a_size_that_follows_from_nothing_is_asked_for() -> None:
    graph = parse_graph("n: i64[] = size() {expr=s0 + 1}\nreturn n")
    with pytest.raises(EvaluationError, match="`sizes`"):
        evaluate(graph, {})
    assert evaluate(graph, {}, sizes={"s0": 4})[0].item() == 5


@pytest.mark.parametrize(("kind", "wanted"), [("sum", [6, 5, 3]), ("prod", [6, 6, 3]), ("max", [3, 3, 3])])
def test_reverse_scans(kind: str, wanted: list[int]) -> None:
    text = f"x: f32[3] = input()\ny: f32[3] = scan(x) {{kind={kind}; axis=0; reverse=true}}\nreturn y"
    assert run(text, x=torch.tensor([1.0, 2, 3])).tolist() == wanted


def test_scatter_adds_at_a_matrix_of_places() -> None:
    text = """
    x: f32[2, 4] = input()
    i: i64[2, 2] = input()
    v: f32[2, 2, 2] = input()
    y: f32[2, 4] = scatter(x, i, v) {axis=1; accumulate=true}
    return y
    """
    x, i, v = torch.zeros(2, 4), torch.tensor([[0, 1], [1, 3]]), torch.arange(8.0).view(2, 2, 2)
    wanted = torch.stack([torch.tensor([r[0, 0], r[0, 1] + r[1, 0], 0, r[1, 1]]) for r in v])
    close(run(text, x=x, i=i, v=v), wanted)
    assert (x == 0).all()


def test_reductions_over_no_axes_and_over_nothing() -> None:
    text = """
    x: f32[2, 0] = input()
    y: f32[2, 0] = reduce(x) {kind=max; axes=[]}
    z: f32[2] = reduce(x) {kind=max; axes=[1]}
    return y, z
    """
    y, z = evaluate(parse_graph(text), {"x": torch.zeros(2, 0)})
    assert y.shape == (2, 0)
    assert z.tolist() == [-torch.inf] * 2


def test_kernels_and_items_evaluate_by_their_spec() -> None:
    outputs = (Output(BF16, parse("acc_w0")), Output(F32, parse("neg(acc_w0)")))
    spec = Gemm(BF16, (Weight("w0", BF16, 6, 8),), outputs)
    text = f"""
    x: bf16[3, 8] = input()
    w: bf16[6, 8] = input()
    k: _ = kernel(x, w) {{spec={spec}}}
    a: bf16[3, 6] = item(k) {{at=0}}
    b: f32[3, 6] = item(k) {{at=1}}
    y: f32[3, 6] = map(a, b) {{expr=add(x0, mul(x1, 2))}}
    return y
    """
    x, w = data(3, 8), data(6, 8)
    close(run(text, x=x, w=w), -(x.double() @ w.double().T))


def test_externs_need_someone_to_run_them() -> None:
    graph = parse_graph("x: f32[2] = input()\ny: f32[2] = extern(x) {target=f}\nreturn y")
    with pytest.raises(EvaluationError, match=r"y is an extern \(f\)"):
        evaluate(graph, {"x": torch.ones(2)})
    assert evaluate(graph, {"x": torch.ones(2)}, lambda node, args: args[0] * 3)[0].tolist() == [3, 3]


def test_a_missing_input_is_named() -> None:
    with pytest.raises(EvaluationError, match="input x"):
        evaluate(parse_graph("x: f32[2] = input()\nreturn x"), {})


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((2, 3, 1), (2, 3)), ((2, 4), (2, 3))])
def test_inputs_of_other_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    graph = parse_graph("x: f32[s0, 3] = input()\ny: f32[s0, 3] = input()\nreturn x")
    with pytest.raises(EvaluationError, match=r"input|disagree"):
        evaluate(graph, {name: torch.zeros(shape) for name, shape in zip("xy", shapes, strict=True)})


def test_without_exact_every_node_has_its_own_dtype() -> None:
    text = """
    x: bf16[4, 8] = input()
    s: f32[4] = reduce(x) {kind=sum; axes=[1]}
    m: bf16[4, 8] = map(x) {expr=cast:bf16(mul(x0, 3.0))}
    c: bf16[4, 4] = contract(x, m) {equation=ik,jk->ij}
    return c
    """
    x = data(4, 8)
    found = evaluate_nodes(parse_graph(text), {"x": x}, exact=False)
    assert torch.equal(found["s"], x.float().sum(-1))
    assert torch.equal(found["m"], x * 3)
    assert torch.equal(found["c"], x @ (x * 3).T)
