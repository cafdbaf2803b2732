"""Every spelling of attention becomes the same Spec; what is no attention is refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.ir.spec import Attention, Denominator, Weighting
from tests.passes.harness import data, only, reasons, recognise, specs

B, H, R, J, D = 2, 4, 6, 10, 16
Q, K, V = data(B, H, R, D), data(B, H, J, D, seed=1), data(B, H, J, D, seed=2)
KG, VG = data(B, 2, J, D, seed=3), data(B, 2, J, D, seed=4)
SCALE = 0.25
LOWEST = torch.finfo(torch.float32).min
INF = float("inf")


def softmax(s: Tensor) -> Tensor:
    return torch.softmax(s, -1)


def by_hand(s: Tensor) -> Tensor:
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def without_maximum(s: Tensor) -> Tensor:
    e = s.exp()
    return e * e.sum(-1, keepdim=True).reciprocal()


def through_logsumexp(s: Tensor) -> Tensor:
    return torch.exp(s - torch.logsumexp(s, -1, keepdim=True))


def through_logarithm(s: Tensor) -> Tensor:
    return torch.log_softmax(s, -1).exp()


def constant_shift(s: Tensor) -> Tensor:
    e = torch.exp(s - 5.0)
    return e / e.sum(-1, keepdim=True)


def repeat(x: Tensor, n: int) -> Tensor:
    return x[:, :, None].expand(B, x.shape[1], n, *x.shape[2:]).reshape(B, n * x.shape[1], *x.shape[2:])


PLAIN: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "scale after, as factor": lambda q, k, v: softmax(q @ k.mT * SCALE) @ v,
    "scale after, as divisor": lambda q, k, v: softmax(q @ k.mT / 4.0) @ v,
    "scale after, as root": lambda q, k, v: softmax(q @ k.mT / math.sqrt(D)) @ v,
    "scale on q": lambda q, k, v: softmax((q * SCALE) @ k.mT) @ v,
    "scale on k, as divisor": lambda q, k, v: softmax(q @ (k / 4.0).mT) @ v,
    "scale split over q and k": lambda q, k, v: softmax((q * SCALE**0.5) @ (k * SCALE**0.5).mT) @ v,
    "scale as tensor": lambda q, k, v: softmax(q @ k.mT * torch.full((), SCALE)) @ v,
    "maximum and sum by hand": lambda q, k, v: by_hand(q @ k.mT * SCALE) @ v,
    "no maximum": lambda q, k, v: without_maximum(q @ k.mT * SCALE) @ v,
    "a constant instead of the maximum": lambda q, k, v: constant_shift(q @ k.mT * SCALE) @ v,
    "log-sum-exp": lambda q, k, v: through_logsumexp(q @ k.mT * SCALE) @ v,
    "exp of log_softmax": lambda q, k, v: through_logarithm(q @ k.mT * SCALE) @ v,
    "einsum": lambda q, k, v: torch.einsum(
        "bhij,bhjd->bhid", softmax(torch.einsum("bhid,bhjd->bhij", q, k) * SCALE), v
    ),
    "keys first": lambda q, k, v: torch.softmax(k @ q.mT * SCALE, -2).mT @ v,
    "transposed output": lambda q, k, v: (v.mT @ softmax(q @ k.mT * SCALE).mT).mT,
    "batch and heads in one": lambda q, k, v: torch.bmm(
        softmax(torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(B, H, R, J) * SCALE).flatten(0, 1),
        v.flatten(0, 1),
    ).view(B, H, R, D),
}
LIBRARY: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "library": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=SCALE),
    "positions before heads": lambda q, k, v: F.scaled_dot_product_attention(
        q.transpose(1, 2).contiguous().transpose(1, 2), k, v
    ),
}


@pytest.mark.parametrize("decomposed", [False, True], ids=["library", "decomposed"])
@pytest.mark.parametrize("name", [*PLAIN, *LIBRARY])
def test_every_spelling_of_softmax_attention_is_one_spec(name: str, decomposed: bool) -> None:
    """But for rows of -inf alone: the library's own operator gives them zeros, softmax NaN."""
    graph = recognise((PLAIN | LIBRARY)[name], Q, K, V, decomposed=decomposed)
    assert str(only(graph, "Attention")) == (
        "Attention{q=f32; k=f32; v=f32; out=f32; heads=[4, 4, 4]; dims=[16, 16]; score=mul(s, 0.25); "
        f"mask=true; normalizer=exp/sum/online; safe={str(name in LIBRARY).lower()}; extras=[]}}"
    )


CAUSAL = torch.ones(R, J, dtype=torch.bool).tril()
POSITION = torch.tensor(3)

MASKS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], str, str, str]] = {
    "causal flag": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (), "mul(s, 0.25)", "le(j, i)", "[]",
    ),
    "where of indices": (
        lambda q, k, v: softmax(
            torch.where(torch.arange(J) <= torch.arange(R)[:, None], q @ k.mT * SCALE, -INF)
        ) @ v,
        (), "mul(s, 0.25)", "le(j, i)", "[]",
    ),
    "masked_fill of the opposite": (
        lambda q, k, v: softmax(
            (q @ k.mT * SCALE).masked_fill(torch.arange(J) - torch.arange(R)[:, None] >= 1, -INF)
        ) @ v,
        (), "mul(s, 0.25)", "le(j, i)", "[]",
    ),
    "added zeros and -inf": (
        lambda q, k, v: softmax(
            q @ k.mT * SCALE + torch.where(torch.arange(J) <= torch.arange(R)[:, None], 0.0, -INF)
        ) @ v,
        (), "mul(s, 0.25)", "le(j, i)", "[]",
    ),
    "the lowest number instead of -inf": (
        lambda q, k, v: softmax(
            (q @ k.mT * SCALE).masked_fill(torch.arange(J) > torch.arange(R)[:, None], LOWEST)
        ) @ v,
        (), "mul(s, 0.25)", "le(j, i)", "[]",
    ),
    "static cache": (
        lambda q, k, v, p: F.scaled_dot_product_attention(
            q, k, v, attn_mask=(torch.arange(J) <= (torch.arange(R) + p)[:, None])[None, None]
        ),
        (POSITION,), "mul(s, 0.25)", "le(j, add(i, e0))", "[e0:i64[]]",
    ),
    "static cache, strictly before": (
        lambda q, k, v, p: softmax(
            torch.where(torch.arange(J) < (torch.arange(R) + p + 1)[:, None], q @ k.mT * SCALE, -INF)
        ) @ v,
        (POSITION,), "mul(s, 0.25)", "le(j, add(i, e0))", "[e0:i64[]]",
    ),
    "window": (
        lambda q, k, v: softmax(
            torch.where(
                (torch.arange(J) <= torch.arange(R)[:, None])
                & (torch.arange(J) > torch.arange(R)[:, None] - 3),
                q @ k.mT * SCALE, -INF,
            )
        ) @ v,
        (), "mul(s, 0.25)", "and(le(j, i), ge(j, sub(i, 2)))", "[]",
    ),
    "boolean tensor": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        (CAUSAL,), "mul(s, 0.25)", "e0", "[e0:b8[ij]]",
    ),
    "padding of keys": (
        lambda q, k, v, m: softmax((q @ k.mT * SCALE).masked_fill(m[:, None, None, :] == 0, -INF)) @ v,
        (data(B, J) > -1.0,), "mul(s, 0.25)", "e0", "[e0:b8[bj]]",
    ),
    "integer padding": (
        lambda q, k, v, m: softmax((q @ k.mT * SCALE).masked_fill(m[:, None, None, :] == 0, -INF)) @ v,
        ((data(B, J) > -1.0).long(),), "mul(s, 0.25)", "ne(e0, 0)", "[e0:i64[bj]]",
    ),
    "lengths": (
        lambda q, k, v, n: softmax(
            (q @ k.mT * SCALE).masked_fill(torch.arange(J) >= n[:, None, None, None], -INF)
        ) @ v,
        (torch.tensor([3, 10]),), "mul(s, 0.25)", "le(j, sub(e0, 1))", "[e0:i64[b]]",
    ),
    "additive tensor": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        (data(B, 1, R, J, seed=7),), "add(mul(s, 0.25), e0)", "true", "[e0:f32[bij]]",
    ),
    "bias of each head": (
        lambda q, k, v, m: softmax(q @ k.mT * SCALE + m[None]) @ v,
        (data(H, R, J, seed=8),), "add(mul(s, 0.25), e0)", "true", "[e0:f32[hij]]",
    ),
    "linear bias by distance": (
        lambda q, k, v, m: softmax(
            q @ k.mT * SCALE + m[:, None, None] * (torch.arange(J) - torch.arange(R)[:, None])
        ) @ v,
        (data(H, seed=9),), "add(mul(s, 0.25), mul(e0, cast:f32(sub(j, i))))", "true", "[e0:f32[h]]",
    ),
    "soft cap": (
        lambda q, k, v: softmax(torch.tanh(q @ k.mT * SCALE / 30.0) * 30.0) @ v,
        (), "mul(tanh(mul(s, 0.00833333333333)), 30.0)", "true", "[]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_masks_become_predicates_and_the_rest_score_expressions(name: str) -> None:
    fn, extra, score, mask, extras = MASKS[name]
    graph = recognise(fn, Q, K, V, *extra)
    spec = only(graph, "Attention")
    text = str(spec)
    assert isinstance(spec, Attention)
    if name == "linear bias by distance":
        assert str(spec.mask) == mask
        assert f"extras={extras}" in text
    else:
        assert (str(spec.score), str(spec.mask)) == (score, mask)
        assert f"extras={extras}" in text


GROUPED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "flag": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
    "expand and reshape": lambda q, k, v: F.scaled_dot_product_attention(q, repeat(k, 2), repeat(v, 2)),
    "repeat_interleave by hand": lambda q, k, v: softmax(q @ repeat(k, 2).mT * SCALE) @ repeat(v, 2),
}


@pytest.mark.parametrize("name", GROUPED)
def test_repeated_heads_are_read_before_they_are_repeated(name: str) -> None:
    graph = recognise(GROUPED[name], Q, KG, VG)
    spec = only(graph, "Attention")
    assert isinstance(spec, Attention)
    assert (spec.heads, spec.k_heads, spec.v_heads) == (4, 2, 2)
    (kernel,) = [node for node in graph if node.op.mnemonic == "kernel"]
    assert [graph[name].op.mnemonic for name in kernel.operands] == ["input"] * 3


def test_unequal_key_and_value_heads_and_dimensions() -> None:
    graph = recognise(
        lambda q, k, v: softmax(q @ repeat(k, 4).mT * SCALE) @ repeat(v, 2),
        Q,
        data(B, 1, J, D),
        data(B, 2, J, 24),
    )
    spec = only(graph, "Attention")
    assert isinstance(spec, Attention)
    assert (spec.k_heads, spec.v_heads, spec.d_k, spec.d_v) == (1, 2, 16, 24)


def test_one_query_reads_the_position_alone() -> None:
    graph = recognise(
        lambda q, k, v, p: F.scaled_dot_product_attention(
            q, k, v, attn_mask=(torch.arange(J) <= (torch.arange(1) + p)[:, None])[None, None]
        ),
        data(1, H, 1, D), data(1, H, J, D), data(1, H, J, D), POSITION,
    )  # fmt: skip
    spec = only(graph, "Attention")
    assert isinstance(spec, Attention)
    assert str(spec.mask) == "le(j, e0)"


def test_rows_without_a_visible_key_give_zeros_where_eager_does() -> None:
    hidden = CAUSAL.clone()
    hidden[2] = False
    library = recognise(
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m), Q, K, V, hidden
    )
    plain = recognise(lambda q, k, v, m: softmax((q @ k.mT).masked_fill(~m, -INF)) @ v, Q, K, V, hidden)
    found = [only(graph, "Attention") for graph in (library, plain)]
    assert [spec.safe for spec in found if isinstance(spec, Attention)] == [True, False]


def test_the_lowest_number_stays_in_the_score_where_a_row_may_see_no_key() -> None:
    low = torch.finfo(torch.float32).min
    graph = recognise(lambda q, k, v, m: softmax((q @ k.mT).masked_fill(~m, low)) @ v, Q, K, V, CAUSAL)
    spec = only(graph, "Attention")
    assert isinstance(spec, Attention)
    assert str(spec.mask) == "true"
    assert str(spec.score) == "where(e0, s, -3.4028234663852886e+38)"


def test_casts_between_do_not_hide_attention() -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = (q @ k.mT) * SCALE
        return torch.softmax(s, -1, dtype=torch.float32).to(q.dtype) @ v

    for decomposed in (False, True):
        graph = recognise(fn, Q.bfloat16(), K.bfloat16(), V.bfloat16(), decomposed=decomposed)
        spec = only(graph, "Attention")
        assert str(spec).startswith("Attention{q=bf16; k=bf16; v=bf16; out=bf16;")
        assert isinstance(spec, Attention)
        assert str(spec.score) == "mul(s, 0.25)"


def test_queries_in_float32_are_taken_before_they_were_widened() -> None:
    graph = recognise(
        lambda q, k, v: (softmax(q.float() @ k.float().mT * SCALE) @ v.float()).bfloat16(),
        Q.bfloat16(), K.bfloat16(), V.bfloat16(),
    )  # fmt: skip
    spec = specs(graph, "Attention")[0]
    assert isinstance(spec, Attention)
    assert {spec.q, spec.k, spec.v} == {spec.q}
    assert spec.q.value == "bf16"


@pytest.mark.parametrize("masked", [False, True])
def test_sigmoid_attention(masked: bool) -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        p = torch.sigmoid(q @ k.mT * SCALE - math.log(J))
        return (torch.where(m, p, 0.0) if masked else p) @ v

    graph = recognise(fn, Q, K, V, CAUSAL)
    spec = only(graph, "Attention")
    assert isinstance(spec, Attention)
    assert spec.normalizer.weighting is Weighting.SIGMOID
    assert spec.normalizer.denominator is Denominator.NONE
    assert str(spec.mask) == ("e0" if masked else "true")


def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = softmax(q @ k.mT)
    return (p * (torch.rand_like(p) > 0.1) / 0.9) @ v


REFUSED: dict[str, tuple[Callable[..., object], tuple[Tensor, ...], str]] = {
    "weights returned": (
        lambda q, k, v: ((p := softmax(q @ k.mT)) @ v, p), (Q, K, V), "the graph returns",
    ),
    "scores read twice": (
        lambda q, k, v: ((s := q @ k.mT).flatten(0, 2) @ torch.ones(J, 3), softmax(s) @ v), (Q, K, V),
        "the scores have a second reader",
    ),
    "dropout": (dropped, (Q, K, V), "dropout"),
    "denominator with something added": (
        lambda q, k, v: ((e := torch.exp(q @ k.mT)) / (e.sum(-1, keepdim=True) + 1.0)) @ v, (Q, K, V),
        "the denominator is not the sum over the keys",
    ),
    "another denominator": (
        lambda q, k, v: (torch.exp(s := q @ k.mT) / torch.exp(2 * s).sum(-1, keepdim=True)) @ v, (Q, K, V),
        "the denominator sums something else than the weights",
    ),
    "softmax over the queries": (
        lambda q, k, v: torch.softmax(q @ k.mT, -2) @ v, (Q, K, V),
        "the denominator is not the sum over the keys",
    ),
    "weights masked afterwards": (
        lambda q, k, v, m: torch.where(m, softmax(q @ k.mT), 0.0) @ v, (Q, K, V, CAUSAL),
        "weights are masked after they were normalized",
    ),
    "weights scaled afterwards": (
        lambda q, k, v: (softmax(q @ k.mT) * 2.0) @ v, (Q, K, V),
        "the weights are changed after they were normalized",
    ),
    "keys hidden by their own scores": (
        lambda q, k, v: softmax((s := q @ k.mT).masked_fill(s < 0, -math.inf)) @ v, (Q, K, V),
        "which keys are visible depends on the scores themselves",
    ),
    "a wide head": (
        lambda q, k, v: softmax(q @ k.mT) @ v, (data(1, 1, 4, 1024), data(1, 1, 4, 1024), data(1, 1, 4, 8)),
        "head dimensions beyond 512",
    ),
    "float64 bias": (
        lambda q, k, v, m: softmax(q @ k.mT + m).float() @ v, (Q, K, V, data(R, J).double()),
        "is float64, which kernels do not compute in",
    ),
    "float64": (
        lambda q, k, v: softmax(q @ k.mT) @ v, (Q.double(), K.double(), V.double()),
        "float32, float16 or bfloat16",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_has_a_reason(name: str) -> None:
    fn, args, reason = REFUSED[name]
    graph = recognise(fn, *args)
    assert not specs(graph, "Attention")
    assert any(reason in each for each in reasons(graph, "recognise_attention")), reasons(
        graph, "recognise_attention"
    )


def test_a_gated_feed_forward_is_no_attention_and_not_even_refused_as_one() -> None:
    graph = recognise(
        lambda x, g, u, d: (F.silu(x @ g.mT) * (x @ u.mT)) @ d.mT,
        data(5, 32),
        data(48, 32),
        data(48, 32),
        data(32, 48),
    )
    assert reasons(graph, "recognise_attention") == []


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_hidden_row_is_known_whatever_the_spelling_of_its_scores(decomposed: bool) -> None:
    """A comparison with -inf leaves the spelling of what it reads alone; the scores themselves are tidied."""

    def fn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = ((q @ k.mT) * 0.5 * 0.25).masked_fill(mask, -torch.inf)
        return torch.ops.aten._safe_softmax(scores, -1) @ v

    mask = torch.zeros(Q.shape[-2], K.shape[-2], dtype=torch.bool)
    for dtype in (torch.float32, torch.bfloat16):
        graph = recognise(fn, *(x.to(dtype) for x in (Q, K, V)), mask, decomposed=decomposed)
        spec = only(graph, "Attention")
        assert isinstance(spec, Attention)
        assert spec.safe
