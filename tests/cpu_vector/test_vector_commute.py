"""Combine functions that mind order for a few values only: elements keep their order there."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run


@triton.jit
def _first_negative_or_sum(a, b):
    return tl.where(a < 0, a, tl.where(b < 0, b, a + b))


@triton.jit
def _first_above_or_sum(a, b):
    return tl.where(a > 1000, a, tl.where(b > 1000, b, a + b))


@triton.jit
def _negatives(x, o, N: tl.constexpr):
    i = tl.arange(0, N)[None, :] + tl.arange(0, 4)[:, None] * N
    tl.store(o + tl.arange(0, 4), tl.reduce(tl.load(x + i), 1, _first_negative_or_sum))


@triton.jit
def _above(x, o, N: tl.constexpr):
    i = tl.arange(0, N)[None, :] + tl.arange(0, 4)[:, None] * N
    tl.store(o + tl.arange(0, 4), tl.reduce(tl.load(x + i), 1, _first_above_or_sum))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32], ids=str)
@pytest.mark.parametrize(("kernel", "special"), [(_negatives, (-1, -2, -3)), (_above, (1500, 1200, 1100))])
def test_elements_keep_their_order_where_few_values_decide(kernel, special, dtype: torch.dtype):
    x = torch.randint(0, 3, (4, 64)).to(dtype)
    for row, order in zip(x[:3], (special, special[::-1], special[1:] + special[:1]), strict=True):
        row[torch.randperm(64)[:3].sort()[0]] = torch.tensor(order).to(dtype)
    o = torch.zeros(4, dtype=dtype)
    run(kernel, (1,), x, o, N=64)
    expected = [special[0], special[2], special[1], int(x[3].sum())]
    assert o.tolist() == expected
