"""Graphs that look like what a recogniser wants and are not: the pipeline keeps what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.passes.harness import data, recognise, specs


def masked_by_length(length: Tensor):
    def attend(q: Tensor, k: Tensor, v: Tensor, lens: Tensor) -> Tensor:
        hidden = torch.arange(k.shape[2]) < lens.long()
        scores = (q @ k.transpose(-1, -2) * 0.125).masked_fill(hidden, float("-inf"))
        return torch.softmax(scores, -1) @ v

    return attend, (data(2, 2, 8, 16), data(2, 2, 12, 16), data(2, 2, 12, 16, seed=1), length)


@pytest.mark.parametrize("length", [torch.tensor(2.7), torch.tensor(3), torch.tensor(4, dtype=torch.uint8)])
def test_a_length_is_rounded_to_an_integer_where_the_model_rounds_it(length):
    fn, args = masked_by_length(length)
    recognise(fn, *args)


@pytest.mark.parametrize(
    ("rows", "other"),
    [(4, (3, 4, 32)), (1, (5, 32)), (4, (4, 4, 32)), (4, (4, 32)), (4, (32,)), (4, (1, 1, 1))],
)
def test_a_residual_that_repeats_the_product_is_not_its_epilogue(rows, other):
    recognise(lambda x, w, r: x @ w.t() + r, data(rows, 64), data(32, 64), data(*other))


def test_a_modulation_over_tokens_is_not_an_epilogue():
    recognise(
        lambda x, c, w: x * (1 + (c @ w.t())[:, None, :]), data(2, 8, 32), data(2, 64), data(32, 64)
    )  # fmt: skip


def test_families_of_products_that_feed_families():
    def chain(x, a, b, c, d):
        left, right = x @ a.t(), x @ b.t()
        return left @ c.t(), left @ d.t(), right

    graph = recognise(
        chain, data(4, 64), data(32, 64), data(32, 64, seed=1), data(32, 32), data(32, 32, seed=1)
    )
    assert sorted(len(spec.weights) for spec in specs(graph, "Gemm")) == [2, 2]


def test_a_gate_by_the_softmax_of_a_sibling_computes_each_product_once():
    graph = recognise(
        lambda x, a, b: (x @ a.t()) * torch.softmax(x @ b.t(), -1),
        data(4, 64),
        data(32, 64),
        data(32, 64, seed=1),
    )
    assert sum(len(spec.weights) for spec in specs(graph, "Gemm")) == 2


def test_a_product_with_a_spread_scalar():
    recognise(lambda x, s: x @ s.expand(64, 32), data(4, 64), torch.tensor(1.5))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, w: x.double().mean(-1).float(),
        lambda x, w: (((x @ w.t()).double() + 1e9) - 1e9).float(),
    ],
)
def test_float64_in_between_is_no_part_of_a_kernel(fn):
    graph = recognise(fn, data(4, 64), data(32, 64))
    assert not specs(graph, "Rows")
    assert all(str(output.expr).startswith("acc_") for s in specs(graph, "Gemm") for output in s.outputs)


def test_a_softmax_over_queries_is_no_attention():
    graph = recognise(
        lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2), -2) @ v,
        data(2, 2, 16, 8), data(2, 2, 16, 8, seed=1), data(2, 2, 16, 8, seed=2),
    )  # fmt: skip
    assert not specs(graph, "Attention")


def test_heads_that_are_tiled_are_not_heads_that_are_repeated():
    recognise(
        lambda q, k, v: torch.softmax(q @ k.repeat(1, 2, 1, 1).transpose(-1, -2), -1) @ v.repeat(1, 2, 1, 1),
        data(2, 4, 16, 8), data(2, 2, 16, 8), data(2, 2, 16, 8, seed=1),
    )  # fmt: skip


LOWEST = torch.finfo(torch.float32).min


def rows_hidden(value: float) -> Tensor:
    """A mask that is the same for every key: the last queries of the last sequence are padding."""
    mask = torch.zeros(2, 1, 8, 1)
    mask[1, :, 3:] = value
    return mask


@pytest.mark.parametrize("value", [float("-inf"), LOWEST, 3.0])
@pytest.mark.parametrize("library", [True, False])
def test_a_mask_of_whole_rows_is_part_of_an_attention(value, library):
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if library:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return torch.softmax(q @ k.mT * 0.25 + mask, -1) @ v

    keys = data(2, 2, 12, 16), data(2, 2, 12, 16, seed=1)
    graph = recognise(attend, data(2, 2, 8, 16), *keys, rows_hidden(value))
    (spec,) = specs(graph, "Attention")
    assert "add(mul(s, 0.25), e0)" in str(spec)


def test_a_boolean_mask_of_whole_rows_is_part_of_an_attention():
    graph = recognise(
        lambda q, k, v, m: torch.softmax(q @ k.mT + torch.where(m, 0.0, float("-inf")), -1) @ v,
        data(2, 2, 8, 16), data(2, 2, 12, 16), data(2, 2, 12, 16, seed=1), rows_hidden(-1.0) == 0,
    )  # fmt: skip
    (spec,) = specs(graph, "Attention")
    assert "mask=e0" in str(spec)


@pytest.mark.parametrize("low", [LOWEST, -1e9])
@pytest.mark.parametrize("padding", [LOWEST, float("-inf"), -2.0])
def test_a_causal_mask_of_low_numbers_over_padding_of_low_numbers(padding, low):
    """Where the first key is padding, the first query of eager weighs the keys that a low number hides."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.arange(12) > torch.arange(12)[:, None]
        return torch.softmax((q @ k.mT * 0.25 + mask).masked_fill(hidden, low), -1) @ v

    added = torch.zeros(2, 1, 1, 12)
    added[0, ..., :3] = padding
    graph = recognise(
        attend, data(2, 2, 12, 16), data(2, 2, 12, 16, seed=1), data(2, 2, 12, 16, seed=2), added
    )
    assert len(specs(graph, "Attention")) == 1


@pytest.mark.parametrize("form", ["one for all heads", "one for all", "keys first"])
def test_queries_that_heads_share_are_repeated(form):
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if form == "keys first":  # with one query and one key nothing tells them apart
            k, v = (x[:, :1, :1].expand(2, 2, 1, 16) for x in (k, v))
            return torch.softmax((k @ q.mT).mT, -1) @ v
        return torch.softmax(q @ k.mT, -1) @ v

    q = {"one for all heads": data(2, 1, 3, 16), "one for all": data(3, 16)}.get(form, data(2, 2, 1, 16))
    graph = recognise(attend, q, data(2, 2, 12, 16), data(2, 2, 12, 16, seed=1))
    (spec,) = specs(graph, "Attention")
    assert "heads=[2, " in str(spec)


def test_rows_that_are_nan_are_not_taken_for_hidden_ones():
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        s = q @ k.mT + mask
        s = s - s.amax(-1, keepdim=True)
        return torch.where(s.amax(-1, keepdim=True) == float("-inf"), 0.0, torch.softmax(s, -1)) @ v

    keys = data(2, 2, 12, 16), data(2, 2, 12, 16, seed=1)
    recognise(attend, data(2, 2, 8, 16), *keys, rows_hidden(float("-inf")))
