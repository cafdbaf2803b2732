"""Tiles that one store needs up to a bound, and something else as a whole."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run


@triton.jit
def _mask_of_it(x, y, z, few, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.exp(tl.load(x + i))
    tl.store(y + i, v, mask=i < few)
    tl.store(z + i, i + 1.0, mask=v > 1.0)


@triton.jit
def _address_of_it(x, y, z, few, N: tl.constexpr):
    i = tl.arange(0, N)
    v = (tl.load(x + i) * 5.0).to(tl.int32) % 7 * N + i
    tl.store(y + i, v, mask=i < few)
    tl.store(z + v, i)


@triton.jit
def _carried(x, y, z, few, n, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    for k in range(n):
        tl.store(y + i, v, mask=i < few)
        v = tl.load(x + i) * (k + 2.0)
    tl.store(z + i, v)


@pytest.mark.parametrize("few", [0, 13, 64])
def test_a_mask_made_of_a_value_that_was_stored_in_part(few: int):
    x, y, z = torch.randn(64), torch.zeros(64), torch.zeros(64)
    run(_mask_of_it, (1,), x, y, z, few, N=64)
    v = x.exp()
    torch.testing.assert_close(z, torch.where(v > 1, torch.arange(64) + 1.0, 0.0))
    torch.testing.assert_close(y, torch.where(torch.arange(64) < few, v, 0.0))


@pytest.mark.parametrize("few", [0, 13, 64])
def test_addresses_made_of_a_value_that_was_stored_in_part(few: int):
    x, y, z = torch.rand(64), torch.zeros(64, dtype=torch.int32), torch.zeros(512, dtype=torch.int32)
    run(_address_of_it, (1,), x, y, z, few, N=64)
    i = torch.arange(64)
    at = (x * 5.0).int() % 7 * 64 + i
    expected = torch.zeros_like(z)
    expected[at] = i.int()
    assert torch.equal(z, expected)
    assert torch.equal(y, torch.where(i < few, at, 0).int())


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_loop_without_iterations_gives_all_of_what_it_started_from(n: int):
    x, y, z = torch.randn(64), torch.zeros(64), torch.zeros(64)
    run(_carried, (1,), x, y, z, 13, n, N=64)
    assert torch.equal(z, x * (n + 1))


@triton.jit
def _two_sums(a, b, x, y, z, few, K, N: tl.constexpr, BK: tl.constexpr):
    r, k = tl.arange(0, N)[:, None], tl.arange(0, BK)
    left = tl.zeros([N], tl.float32)
    right = tl.zeros([N], tl.float32)
    for start in range(0, K, BK):
        v = tl.load(x + start + k)[None, :]
        left += tl.sum(tl.load(a + r * K + start + k[None, :]) * v, 1)
        right += tl.sum(tl.load(b + r * K + start + k[None, :]) * v, 1)
    tl.store(y + tl.arange(0, N), left, mask=tl.arange(0, N) < few)
    tl.store(z + tl.arange(0, N), right)


@triton.jit
def _two_products(a, b, x, y, z, few, K, N: tl.constexpr, BK: tl.constexpr):
    r, k, m = tl.arange(0, N), tl.arange(0, BK), tl.arange(0, 4)
    left = tl.zeros([4, N], tl.float32)
    right = tl.zeros([4, N], tl.float32)
    for start in range(0, K, BK):
        v = tl.load(x + m[:, None] * K + start + k[None, :])
        left = tl.dot(v, tl.trans(tl.load(a + r[:, None] * K + start + k[None, :])), left)
        right = tl.dot(v, tl.trans(tl.load(b + r[:, None] * K + start + k[None, :])), right)
    at = m[:, None] * N + r[None, :]
    tl.store(y + at, left, mask=m[:, None] < few)
    tl.store(z + at, right)


@pytest.mark.parametrize("few", [0, 3])
@pytest.mark.parametrize("kernel", [_two_sums, _two_products], ids=str)
def test_sums_of_one_loop_that_are_stored_up_to_different_bounds(kernel, few: int):
    rows = 1 if kernel is _two_sums else 4
    a, b, x = (torch.randint(-4, 5, (n, 256)).float() for n in (32, 32, rows))
    y, z = torch.zeros(rows, 32), torch.zeros(rows, 32)
    run(kernel, (1,), a, b, x, y, z, few, 256, N=32, BK=64)
    assert torch.equal(z, x @ b.T)
    expected = x @ a.T
    (expected[0, few:] if rows == 1 else expected[few:]).zero_()
    assert torch.equal(y, expected)
