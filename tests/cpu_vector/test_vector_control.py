"""Loops, branches, memory order, and what is declined."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
import vector_kernels as k
from vector_support import run, worst

from headrace.errors import UnsupportedTtir


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [1, 40, 64])
def test_carried_tile_beside_a_store(n: int, steps: int):
    x = torch.randn(max(steps, 1), n)
    y = torch.empty(steps + 1, n)
    run(k.running, [1], x, y, steps, n, BLOCK=64)
    total = torch.zeros(n, dtype=torch.float64)
    for t in range(steps):
        total = total * 0.5 + x[t].double()
        assert worst(y[t], total / (t + 1)) < 1e-6
    assert worst(y[steps], total + steps) < 1e-6


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10])
def test_carried_tiles_that_trade_places(steps: int):
    y = torch.empty(2, 32)
    run(k.fibonacci, [1], y, steps, BLOCK=32)
    a, b = torch.arange(32.0), torch.ones(32)
    for _ in range(steps):
        a, b = b, a + b
    assert torch.equal(y, torch.stack([a, b]))


@pytest.mark.parametrize("flag", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 50, 64])
def test_branches_yield_tiles_and_may_store(n: int, flag: int):
    x = torch.randn(n)
    before = x.clone()
    y = torch.empty(n)
    run(k.branches, [1], x, y, n, flag, BLOCK=64)
    inner = torch.exp(before) if flag > 0 else before + 1.0
    assert torch.equal(x, x if flag > 1 else before)
    torch.testing.assert_close(y, inner * (2.0 if flag > 0 else 3.0) + before, rtol=2e-6, atol=1e-6)
    if flag > 1:
        torch.testing.assert_close(x, inner, rtol=1e-6, atol=0)


def test_while_over_scalars():
    x = torch.tensor([1, 2, 3, 7, 27], dtype=torch.int32)
    y = torch.empty_like(x)
    run(k.collatz, [5], x, y)
    assert y.tolist() == [0, 1, 7, 16, 111]


@pytest.mark.parametrize(("n", "group"), [(64, 16), (128, 4), (32, 32)])
def test_reshape(n: int, group: int):
    x, y = torch.randn(n), torch.empty(n // group)
    run(k.reshape_sum, [1], x, y, BN=n, GROUP=group)
    assert worst(y, 2 * x.double().view(-1, group).sum(1)) < 1e-6


@triton.jit
def _cumulative(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.cumsum(tl.load(x_ptr + i), 0))


@triton.jit
def _histogram(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(y_ptr + i // 2, tl.load(x_ptr + i))


@pytest.mark.parametrize("kernel", [_cumulative, _histogram])
def test_what_is_not_vectorised_is_declined_by_name(kernel):
    with pytest.raises(UnsupportedTtir, match=r"declines .*tt\.(scan|atomic_rmw)"):
        run(kernel, [1], torch.ones(16), torch.zeros(16), BLOCK=16)
