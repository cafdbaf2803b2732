# ruff: noqa: E501  (the text of a Spec is one line)
"""Scores up to the end of float32 and beyond, under every stabilizer in every attention template.

Scores are planted so that float32 holds them exactly: what differs from the float64 oracle is the softmax's doing.
"""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from codegen_cases import assert_close, instantiate, make

from headrace.codegen.kernel import Kernel
from headrace.ir.evaluate import evaluate_spec
from headrace.ir.spec import parse_spec

KEYS = 75
FLOWS = {
    "prefill": ("prefill", 21, {}), "decode": ("decode", 3, {"splits": 1}), "split": ("decode", 1, {"splits": 3}),
    "stream": ("stream_decode", 3, {"workers": 5}),
}  # fmt: skip
each_flow = pytest.mark.parametrize("name", FLOWS)
each_how = pytest.mark.parametrize("how", ["online", "lazy", "pair", "unified"])


def text(dtype: str, score: str = "s", normalizer: str = "exp/sum/unified(0)", safe: str = "false") -> str:
    return (
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; heads=[4, 2, 2]; dims=[24, 16]; score={score}; "
        f"mask=true; normalizer={normalizer}; safe={safe}; extras=[]}}"
    )


@lru_cache
def kernel_of(spec: str, how: str, name: str) -> Kernel:
    flow, queries, knobs = FLOWS[name]
    return instantiate(spec, flow, (2, queries, KEYS), block_j=16, stabilizer=how, **knobs)


def planted(spec: str, name: str, size: float) -> list[torch.Tensor]:
    """Scores up to `size` of at most 23 bits: every key's is a step of a coarse ladder, some a small step above it."""
    inputs = make(parse_spec(spec), (2, FLOWS[name][1], KEYS))
    q, k, _ = inputs
    generator = torch.Generator().manual_seed(5)
    unit = 2.0 ** math.floor(math.log2(size / 2**12))
    q.zero_()
    k[..., :2] = 0.0
    k[..., 0] = torch.randint(0, 16, k.shape[:-1], generator=generator).to(k.dtype)
    k[..., 1] = torch.randint(0, 2, k.shape[:-1], generator=generator).to(k.dtype)
    ladder = torch.randint(128, 256, q.shape[:-1], generator=generator) * unit
    q[..., 0] = torch.where(torch.rand(q.shape[:-1], generator=generator) < 0.3, -ladder, ladder).to(q.dtype)
    q[..., 1] = unit / 2**11
    return inputs


@each_how
@pytest.mark.parametrize(
    ("dtype", "score", "name"),
    [
        *(("f32", "s", name) for name in FLOWS),
        *(("bf16", "mul(s, 0.25)", name) for name in ("prefill", "stream")),
    ],
)
def test_rows_of_huge_scores_are_as_exact_as_others(dtype: str, score: str, name: str, how: str) -> None:
    spec = text(dtype, score)
    for size in (1e6, 1e8, 1e9, 1e10, 1e12, 1e30, 3e38):
        inputs = planted(spec, name, size)
        out = kernel_of(spec, how, name)(inputs)
        assert out.isfinite().all()
        assert_close(parse_spec(spec), out, inputs)


@each_flow
@each_how
def test_a_temperature_is_rounded_in_before_the_maximum_is_subtracted(how: str, name: str) -> None:
    spec = text("f32", "mul(s, e0)").replace("extras=[]", "extras=[e0:f32[h]]")
    q, k, v, _ = make(parse_spec(spec), (2, FLOWS[name][1], KEYS))
    heat = torch.tensor([1e9, 2.5e10, 7e11, 3e12])
    out = kernel_of(spec, how, name)([q, k, v, heat])
    keys, values = (each.repeat_interleave(2, 1) for each in (k, v))
    products = q @ keys.transpose(-1, -2)
    best = products.argmax(-1, keepdim=True).expand(*products.shape[:-1], values.shape[-1])
    torch.testing.assert_close(out, values.gather(2, best))


@each_flow
@each_how
def test_products_below_float32_hide_their_keys(how: str, name: str) -> None:
    """In the first tiles of a row; where they are all of its keys, it gives NaN as PyTorch does."""
    spec = text("f32")
    inputs = make(parse_spec(spec), (2, FLOWS[name][1], KEYS))
    inputs[0][..., 0], inputs[1][..., 0] = 1e20, 0.0
    inputs[1][:, :, :40, 0] = -1e20
    built = kernel_of(spec, how, name)
    assert_close(parse_spec(spec), built(inputs), inputs)
    inputs[1][0, :, :, 0] = -1e20
    out = built(inputs)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


@each_flow
@each_how
def test_products_above_float32_give_what_pytorch_gives(how: str, name: str) -> None:
    spec = text("f32")
    inputs = make(parse_spec(spec), (2, FLOWS[name][1], KEYS))
    inputs[0][0, ..., 0], inputs[0][1, ..., 0] = 1e20, 0.0
    inputs[1][:, :, 20, 0] = 1e20
    out = kernel_of(spec, how, name)(inputs)
    (eager,) = evaluate_spec(parse_spec(spec), inputs, exact=False)
    assert torch.equal(out.isnan(), eager.isnan())
    assert eager.isnan().any()
    assert not eager.isnan().all()


@pytest.mark.parametrize("name", ["prefill", "split"])
def test_a_sum_of_exponentials_that_is_not_divided_overflows_as_in_pytorch(name: str) -> None:
    """exp without a denominator: large sums are infinite, small ones keep their digits."""
    spec = text("f32", "mul(s, 0.25)", "exp/none/online")
    flow, queries, knobs = FLOWS[name]
    built = instantiate(spec, flow, (2, queries, KEYS), block_j=16, **knobs)
    for factor in (1.0, 20.0):
        inputs = make(parse_spec(spec), (2, queries, KEYS))
        inputs[0] = inputs[0] * factor
        assert_close(parse_spec(spec), built(inputs), inputs)
    inputs = planted(spec, name, 1e10)
    inputs[0] = inputs[0].abs()
    inputs[2] = inputs[2].abs()
    assert (built(inputs) == math.inf).all()
