"""Tiles that one use needs in part and another as a whole, and what is kept of them in memory."""

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


@triton.jit
def _reshaped_to_its_own_shape(x, y, z, few, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.exp(tl.load(x + i))
    tl.store(y + i, tl.reshape(v, [N], can_reorder=True), mask=i < few)
    tl.store(x + i, i + 0.5)
    tl.store(z + i, v)


@pytest.mark.filterwarnings("ignore:.*can_reorder:UserWarning")
def test_a_value_under_two_names_is_needed_as_far_as_either():
    x, y, z = torch.randn(64), torch.zeros(64), torch.zeros(64)
    expected = x.exp()
    run(_reshaped_to_its_own_shape, (1,), x, y, z, 13, N=64)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(y, torch.where(torch.arange(64) < 13, expected, 0.0))


@triton.jit
def _repeated_columns(x, y, z, few, M: tl.constexpr, N: tl.constexpr):
    r, c = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    v = tl.load(x + r + c * 0)
    e = tl.exp(v.to(tl.float32)).to(tl.int32)
    tl.store(y + r * N + c, e)
    tl.store(z + r * N + c, e, mask=(c < few) & (v != 1))


@pytest.mark.parametrize("few", [5, 100])
@pytest.mark.parametrize(("m", "n"), [(8, 8), (16, 32), (32, 4)])
def test_equal_columns_that_two_stores_need(m: int, n: int, few: int):
    x = torch.randint(0, 9, (m, 1), dtype=torch.int32)
    y, z = (torch.zeros(m, n, dtype=torch.int32) for _ in "yz")
    run(_repeated_columns, (1,), x, y, z, few, M=m, N=n)
    expected = x.exp().int().expand(m, n)
    assert torch.equal(y, expected)
    assert torch.equal(z, torch.where((torch.arange(n) < few) & (x != 1), expected, 0))


@triton.jit
def _mask_kept_in_memory(x, y, z, few, some, N: tl.constexpr):
    r, c = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    for k in range(2):  # the first round leaves a mask behind that holds everywhere to the right
        rows = tl.load(x + k * N + tl.arange(0, N), mask=tl.arange(0, N) < few, other=0)[:, None] > 0
        columns = c < tl.where(k == 0, N, some)
        v = tl.load(x + r + c)
        tl.store(y + k * N * N + r * N + c, v, mask=rows & columns)
        tl.store(z + k * N * N + r * N + c, r - c, mask=rows & columns)


@pytest.mark.parametrize("some", [0, 7, 40])
def test_a_mask_of_two_stores_holds_nowhere_else_once_it_is_in_memory(some: int):
    x = torch.randint(-9, 100, (64,), dtype=torch.int32)
    y, z = (torch.full((2, 32, 32), -1000, dtype=torch.int32) for _ in "yz")
    run(_mask_kept_in_memory, (1,), x, y, z, 20, some, N=32)
    i = torch.arange(32)
    rows, columns = i[:, None], i[None, :]
    for k, bound in enumerate((32, some)):
        inside = (x[32 * k : 32 * k + 32, None] > 0) & (rows < 20) & (columns < bound)
        assert torch.equal(y[k], torch.where(inside, x[rows + columns], -1000))
        assert torch.equal(z[k], torch.where(inside, (rows - columns).int(), -1000))


@triton.jit
def _more_of_it_each_time(x, y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    for k in range(n):
        tl.store(y + k * N + i, v, mask=i < k * 4)
        v = tl.load(x + i + k) * (k + 2) + v


def test_a_carried_tile_of_which_each_iteration_stores_more():
    x, y = torch.randint(-9, 9, (64,), dtype=torch.int32), torch.zeros(6, 16, dtype=torch.int32)
    run(_more_of_it_each_time, (1,), x, y, 6, N=16)
    v, i = x[:16], torch.arange(16)
    for k in range(6):
        assert torch.equal(y[k], torch.where(i < k * 4, v, 0))
        v = x[k : k + 16] * (k + 2) + v
