"""Bounds that need no data: what is proven, and counter-examples that must not be."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.ir.expr import parse
from headrace.ir.graph import Graph
from headrace.ir.spec import Attention, Normalizer, Stabilizer
from headrace.passes.claim import Policy
from headrace.passes.intervals import ANYTHING, Interval, bounds
from tests.passes.harness import data, only, recognise

D = 16
Q, K, V = data(1, 2, 6, D), data(1, 2, 8, D, seed=1), data(1, 2, 8, D, seed=2)
ANGLE_Q, ANGLE_K = data(6, D // 2, seed=3), data(8, D // 2, seed=4)
SCALE = D**-0.5
ATTENTION = Policy.of("attention")


def attend(q: Tensor, k: Tensor, v: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.softmax(score(q @ k.mT * SCALE), -1) @ v


def cap(c: float) -> Callable[[Tensor], Tensor]:
    return lambda s: c * torch.tanh(s / c)


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    both = torch.cat((angle, angle), -1)
    half = torch.cat((-x[..., D // 2 :], x[..., : D // 2]), -1)
    return x * both.cos() + half * both.sin()


def chunked(x: Tensor, angle: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * angle.cos() + b * angle.sin(), b * angle.cos() - a * angle.sin()), -1)


PROVEN: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], str]] = {
    "a soft-cap": (lambda q, k, v: attend(q, k, v, cap(30.0)), (), "soft-cap 30"),
    "a soft-cap under a causal mask": (
        lambda q, k, v: attend(
            q, k, v, lambda s: cap(20.0)(s).masked_fill(torch.ones(6, 8).tril() == 0, -math.inf)
        ),
        (), "soft-cap 20",
    ),
    "a sigmoid": (lambda q, k, v: attend(q, k, v, lambda s: 10 * torch.sigmoid(s)), (), "bounded score"),
    "a clamp": (lambda q, k, v: attend(q, k, v, lambda s: s.clamp(-25.0, 25.0)), (), "bounded score"),
    "RMS norms without weights": (lambda q, k, v: attend(rms(q), rms(k), v, lambda s: s), (), "normalised"),
    "L2 norms": (
        lambda q, k, v: attend(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, lambda s: s * 20.0), (),
        "normalised",
    ),
    "norms in float32 of 16-bit numbers": (
        lambda q, k, v: attend(
            rms(q.bfloat16().float()).bfloat16(), rms(k.bfloat16().float()).bfloat16(), v.bfloat16(),
            lambda s: s,
        ), (), "normalised",
    ),
    "norms before a rotary embedding": (
        lambda q, k, v, a, b: attend(rotated(rms(q), a), rotated(rms(k), b), v, lambda s: s),
        (ANGLE_Q, ANGLE_K), "normalised",
    ),
    "norms before a rotary embedding of halves": (
        lambda q, k, v, a, b: attend(chunked(rms(q), a), chunked(rms(k), b), v, lambda s: s),
        (ANGLE_Q, ANGLE_K), "normalised",
    ),
    "norms times a bounded factor": (
        lambda q, k, v, a, b: attend(rms(q) * torch.sigmoid(a[:, :1]), rms(k), v, lambda s: s),
        (ANGLE_Q, ANGLE_K), "normalised",
    ),
}  # fmt: skip


def normalizer_of(graph: Graph) -> Normalizer:
    spec = only(graph, "Attention")
    assert isinstance(spec, Attention)
    return spec.normalizer


@pytest.mark.parametrize("name", PROVEN)
def test_a_bound_that_follows_from_the_graph_is_proven(name: str) -> None:
    function, extra, why = PROVEN[name]
    graph = recognise(function, Q, K, V, *extra, claim=ATTENTION, decomposed=True)
    normalizer = normalizer_of(graph)
    assert (normalizer.stabilizer, normalizer.phi, normalizer.proven) == (Stabilizer.UNIFIED, 0, True)
    (remark,) = graph.remarks.values()
    assert why in remark


WEIGHT = data(D, seed=5)
BIAS = data(1, 2, 6, 8, seed=6)
COS, SIN = data(6, D, seed=7), data(6, D, seed=8)


def peculiar(s: Tensor) -> Tensor:
    """Bounded below, not above."""
    return torch.maximum(s, torch.full((), -5.0))


UNPROVEN: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "a plain product": (lambda q, k, v: attend(q, k, v, lambda s: s), ()),
    "a soft-cap too wide": (lambda q, k, v: attend(q, k, v, cap(60.0)), ()),
    "a bias beside a soft-cap": (lambda q, k, v, b: attend(q, k, v, lambda s: cap(30.0)(s) + b), (BIAS,)),
    "a factor behind a soft-cap": (lambda q, k, v, b: attend(q, k, v, lambda s: cap(30.0)(s) * b), (BIAS,)),
    "one side of a clamp": (lambda q, k, v: attend(q, k, v, peculiar), ()),
    "the lowest number instead of -inf, where a row may see nothing": (
        lambda q, k, v, b: attend(
            q, k, v, lambda s: cap(30.0)(s).masked_fill(b > 0, torch.finfo(torch.float32).min)
        ), (BIAS,),
    ),
    "an added mask of numbers": (
        lambda q, k, v, b: attend(q, k, v, lambda s: cap(30.0)(s) + (b > 0) * -1e9), (BIAS,)
    ),
    "norms with weights": (lambda q, k, v, w: attend(rms(q) * w, rms(k) * w, v, lambda s: s), (WEIGHT,)),
    "only the queries are normalised": (lambda q, k, v: attend(rms(q), k, v, lambda s: s), ()),
    "a norm along the positions": (
        lambda q, k, v: attend(
            q * torch.rsqrt(q.pow(2).mean(-2, keepdim=True) + 1e-6), rms(k), v, lambda s: s
        ), (),
    ),
    "the norm of something else": (
        lambda q, k, v: attend(
            q * torch.rsqrt((q + 1).pow(2).mean(-1, keepdim=True) + 1e-6), rms(k), v, lambda s: s
        ), (),
    ),
    "no epsilon, so that tiny rows explode": (
        lambda q, k, v: attend(rms(q, 0.0), rms(k, 0.0), v, lambda s: s), ()
    ),
    "a root instead of its inverse": (
        lambda q, k, v: attend(
            q * torch.sqrt(q.pow(2).mean(-1, keepdim=True) + 1e-6), rms(k), v, lambda s: s
        ), (),
    ),
    "the sum without a root": (
        lambda q, k, v: attend(q / (q.pow(2).sum(-1, keepdim=True) + 1e-6), rms(k), v, lambda s: s), ()
    ),
    "a maximum behind the inverse": (
        lambda q, k, v: attend(
            q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + 1e-6).clamp_min(3.0), rms(k), v, lambda s: s
        ), (),
    ),
    "something added to the normalised queries": (
        lambda q, k, v, w: attend(rms(q) + w, rms(k), v, lambda s: s), (WEIGHT,)
    ),
    "a rotation by tables that may hold anything": (
        lambda q, k, v, c, s: attend(
            rms(q) * c + torch.cat((-rms(q)[..., D // 2 :], rms(q)[..., : D // 2]), -1) * s, rms(k), v,
            lambda x: x,
        ), (COS, SIN),
    ),
    "a norm in half precision, whose squares underflow": (
        lambda q, k, v: attend(rms(q.half(), 1e-12), rms(k.half(), 1e-12), v.half(), lambda s: s), (),
    ),
    "keys out of a cache": (
        lambda q, k, v, c: attend(rms(q), torch.cat((c, rms(k)), -2), torch.cat((v, v), -2), lambda s: s),
        (data(1, 2, 8, D, seed=9),),
    ),
    "normalised, then scaled too far": (
        lambda q, k, v: attend(rms(q), rms(k), v, lambda s: s * 20.0), ()
    ),
    "a cosine with a learned temperature": (
        lambda q, k, v, w: attend(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, lambda s: s * w[0]),
        (WEIGHT,),
    ),
    "queries times one learned number": (lambda q, k, v, t: attend(q * t, k, v, lambda s: s), (data(),)),
    "queries and one learned number": (lambda q, k, v, t: attend(q * 2 + t, k, v, lambda s: s), (data(),)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPROVEN)
def test_what_may_be_unbounded_is_not_proven(name: str) -> None:
    function, extra = UNPROVEN[name]
    graph: Graph = recognise(function, Q, K, V, *extra, claim=ATTENTION, decomposed=True)
    assert normalizer_of(graph).stabilizer is Stabilizer.ONLINE
    assert graph.remarks == {}


def test_sigmoid_attention_has_no_maximum_to_unify() -> None:
    graph = recognise(lambda q, k, v: torch.sigmoid(q @ k.mT * SCALE) @ v, Q, K, V)
    assert normalizer_of(graph).stabilizer is Stabilizer.NONE


@pytest.mark.parametrize(
    "text",
    ["mul(tanh(x), 3.0)", "minimum(maximum(x, -2.0), y)", "sub(abs(x), mul(x, y))", "mul(x, x)",
     "relu(neg(x))",
     "where(lt(x, y), sigmoid(x), cos(y))", "div(x, add(abs(y), 0.5))", "exp(neg(abs(x)))", "erf(mul(x, y))",
     "rsqrt(add(mul(x, x), 0.25))", "sqrt(add(abs(x), y))", "reciprocal(add(mul(y, y), 2.0))", "cast:bf16(x)",
     "cast:f16(mul(x, y))", "sin(add(x, y))"],
)  # fmt: skip
def test_every_value_lies_in_its_interval(text: str) -> None:
    from headrace.ir.expr import evaluate

    generator = torch.Generator().manual_seed(0)
    expr = parse(text)
    for _ in range(30):
        ends = torch.randn(2, 2, generator=generator, dtype=torch.float64).mul(4).sort(-1).values
        share = torch.rand(2, 400, generator=generator, dtype=torch.float64)
        x, y = (low + share[at] * (high - low) for at, (low, high) in enumerate(ends))
        env = {"x": Interval(*ends[0].tolist()), "y": Interval(*ends[1].tolist())}
        found = bounds(expr, env)
        values = evaluate(expr, {"x": x.float(), "y": y.float()}, exact=False).double()
        values = values[~values.isnan()]
        assert ((values >= found.low) & (values <= found.high)).all()


@pytest.mark.parametrize(
    "text", ["x", "add(x, 1.0)", "mul(x, y)", "div(1.0, y)", "pow(y, 2.0)", "log(y)", "mod(x, 3.0)", "nan"]
)
def test_where_nothing_is_known_the_interval_is_everything(text: str) -> None:
    assert bounds(parse(text), {"y": Interval(-1.0, 1.0)}) == ANYTHING


def test_a_rounded_value_lies_in_an_interval_that_is_open_on_one_side() -> None:
    found = bounds(parse("cast:bf16(x)"), {"x": Interval(1.003, math.inf)})
    assert found.low <= float(torch.tensor(1.003).bfloat16())
    assert found.high == math.inf
