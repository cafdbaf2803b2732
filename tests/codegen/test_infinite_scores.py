# ruff: noqa: E501  (the text of a Spec is one line)
"""Rows of infinite scores and of NaN beside others: zeros where scaled dot-product attention gives them, else NaN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from codegen_cases import CPU, assert_close, instantiate, make

from headrace.codegen import kernel, library
from headrace.ir.schedule import LIBRARY
from headrace.ir.spec import parse_spec

INF = torch.inf
LENGTHS = {"mask": "lt(j, n)", "extras": "n:i64[b]"}


def text(dtype: str = "f32", score: str = "mul(s, 0.25)", mask: str = "true", extras: str = "",
         normalizer: str = "exp/sum/online", *, safe: bool) -> str:  # fmt: skip
    return (
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; heads=[4, 2, 2]; dims=[16, 16]; score={score}; "
        f"mask={mask}; normalizer={normalizer}; safe={str(safe).lower()}; extras=[{extras}]}}"
    )


def mixed(spec_text: str, sizes: tuple[int, int, int], seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Operands, and which rows `[b, h, i]` are of -inf alone; others are of +inf, of NaN, or normal."""
    inputs = make(parse_spec(spec_text), sizes, seed)
    q, k, v = inputs[:3]
    k[..., 0] = k[..., 0].abs() + 0.1
    kinds = torch.arange(q[..., 0].numel()).view(q.shape[:3]) % 4
    kinds = kinds.flatten()[torch.randperm(kinds.numel(), generator=torch.Generator().manual_seed(seed))]
    kinds = kinds.view(q.shape[:3])
    for kind, value in ((1, -INF), (2, INF), (3, torch.nan)):
        q[..., 0][kinds == kind] = value
    v[:, 0] = 0.0  # rows of zeros that are right
    for extra in inputs[3:]:
        if extra.dtype == torch.int64:
            extra.copy_(torch.tensor([0, sizes[2] - 5]))
    return inputs, kinds == 1


FLOWS = {
    "prefill": ("prefill", (2, 19, 53), {}, {}),
    "decode": ("decode", (2, 1, 77), {"splits": 1}, {}),
    "split decode": ("decode", (2, 3, 77), {"splits": 3, "block_j": 16}, {}),
    "stream_decode": ("stream_decode", (2, 3, 77), {"workers": 3, "block_j": 16}, LENGTHS),
    "causal prefill": ("prefill", (2, 19, 53), {}, {"mask": "le(j, i)"}),
    "causal decode": ("decode", (2, 3, 77), {"splits": 1}, {"mask": "le(j, add(i, 40))"}),
}


@pytest.mark.parametrize(("dtype", "safe"), [("f32", True), ("f32", False), ("bf16", True), ("f16", True)])
@pytest.mark.parametrize("name", FLOWS)
def test_every_dataflow_tells_rows_of_infinity_from_rows_of_nan(name: str, dtype: str, safe: bool) -> None:
    flow, sizes, knobs, changes = FLOWS[name]
    spec_text = text(dtype, safe=safe, **changes)
    inputs, lowest = mixed(spec_text, sizes, len(name))
    result = instantiate(spec_text, flow, sizes, **knobs)(inputs)
    assert_close(parse_spec(spec_text), result, inputs)
    assert (result[lowest] == 0).all() if safe else result[lowest].isnan().all()


@pytest.mark.parametrize("stabilizer", ["lazy", "pair", "unified"])
@pytest.mark.parametrize("name", ["prefill", "split decode"])
def test_every_stabilizer_gives_zeros_in_rows_of_infinity(name: str, stabilizer: str) -> None:
    flow, sizes, knobs, changes = FLOWS[name]
    spec_text = text(normalizer="exp/sum/unified(0)", safe=True, **changes)
    inputs, lowest = mixed(spec_text, sizes, len(stabilizer))
    result = instantiate(spec_text, flow, sizes, **(knobs | {"stabilizer": stabilizer}))(inputs)
    assert_close(parse_spec(spec_text), result, inputs)
    assert (result[lowest] == 0).all()


MASKS = {
    "none": {},
    "causal": {"mask": "le(j, i)"},
    "lengths": LENGTHS,
    "bias": {"score": "add(mul(s, 0.25), bias)", "extras": "bias:f32[bij]"},
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("sizes", [(2, 1, 9), (2, 19, 9), (2, 33, 600)])
@pytest.mark.parametrize("name", MASKS)
def test_plain_softmax_by_the_library_is_nan_in_rows_of_infinity(
    name: str, sizes: tuple[int, int, int], dtype: str
) -> None:
    """Fewer keys than a vector has lanes: there PyTorch's operator loses NaN as well."""
    spec_text = text(dtype, safe=False, **MASKS[name])
    spec = parse_spec(spec_text)
    for seed in range(2):
        inputs, lowest = mixed(spec_text, sizes, seed)
        if name == "bias":
            inputs[3][0, 0, : sizes[2] // 2] = -INF
            inputs[3][1, -1] = -INF
        result = kernel.instantiate(spec, LIBRARY, CPU)(inputs)
        assert_close(spec, result, inputs)
        assert result[lowest].isnan().all()


def damaged(damage: str) -> tuple[str, list[torch.Tensor]]:
    """A Spec and operands for which PyTorch's operator gives something else than softmax does."""
    dtype, keys = ("f16", 16) if damage == "bias of inf" else ("f32", 9)
    spec_text = text(dtype, safe=False, **MASKS["bias" if "bias" in damage else "none"])
    inputs = make(parse_spec(spec_text), (2, 5, 1 if damage == "a single key" else keys))
    q, k, v = inputs[:3]
    match damage:
        case "bias of inf":
            inputs[3][0, 2, 4] = INF
        case "bias of nan":
            inputs[3][0, 2] = torch.nan
        case "value of inf":
            q[:, :, 1] = -INF
            k.abs_()
            v[:, :, 0, 0] = INF
        case "a single key":
            q[0, 1, 3] = torch.nan
        case "overflow":
            q[1, 2, 3], k[...] = -1e30, k.abs() * 1e30
    return spec_text, inputs


@pytest.mark.parametrize("damage", ["bias of inf", "bias of nan", "value of inf", "a single key", "overflow"])
def test_plain_softmax_by_the_library_is_nan_wherever_softmax_is(damage: str) -> None:
    spec_text, inputs = damaged(damage)
    q, k, v = (x.float() for x in inputs[:3])
    scores = (q @ k.mT.repeat_interleave(2, 1)) * 0.25 + (inputs[3][:, None] if len(inputs) > 3 else 0.0)
    expected = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    assert expected.isnan().any()
    result = kernel.instantiate(parse_spec(spec_text), LIBRARY, CPU)(inputs)
    torch.testing.assert_close(result.float(), expected, equal_nan=True, rtol=2e-3, atol=2e-3)


def test_zeros_of_finite_operands_are_not_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(library, "_oracle", lambda spec: called.append)
    spec = parse_spec(text(safe=False, **LENGTHS))
    inputs, _ = mixed(str(spec), (2, 5, 40), 0)
    inputs[0].nan_to_num_(0.0, 1.0, -1.0)
    result = library.function(spec)(inputs)
    assert (result[1, :2] == 0).all()  # values of zero
    assert result[0].isnan().all()  # no keys at all
    assert result[1, 2:].isfinite().all()
    assert not called


@pytest.mark.parametrize("causal", [False, True])
def test_the_library_of_dot_product_attention_is_the_operator(causal: bool) -> None:
    spec = parse_spec(text(mask="le(j, i)" if causal else "true", safe=True))
    inputs, lowest = mixed(str(spec), (2, 19, 53), 1)
    result = kernel.instantiate(spec, LIBRARY, CPU)(inputs)
    own = F.scaled_dot_product_attention(*inputs, is_causal=causal, scale=0.25, enable_gqa=True)
    assert torch.equal(result.nan_to_num(7.0), own.nan_to_num(7.0))
    assert (result[lowest] == 0).all()
