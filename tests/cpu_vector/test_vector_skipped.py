"""What a loop leaves out: values that it stores on its way, reads that only its turns would do, and what lies
beyond the bounds at which it stops."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import Guarded, run


@triton.jit
def _some_rows(x, total, y, few: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    e = tl.exp(tl.load(x + i * N + j))
    tl.store(total + tl.arange(0, M), tl.sum(tl.where(i < few, e, 0.0), 1))
    tl.store(y + i * N + j, e)


@triton.jit
def _other_rows(x, y, total, out, m, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    at = i[:, None] * N + j[None, :]
    e = tl.exp(tl.load(y + at))
    chosen = tl.where(i[:, None] < m, tl.load(x + at), e)
    tl.store(total + i, tl.sum(chosen, 1), mask=i < m)
    tl.store(out + at, e)


@triton.jit
def _other_elements(x, y, out, n, step, N: tl.constexpr):
    i = tl.arange(0, N)
    e = tl.exp(i * step)
    tl.store(y + i, tl.where(i < n, tl.load(x + i), e), mask=i < n)
    tl.store(out + i, e + tl.load(x) * 0)


@triton.jit
def _turned_condition(x, total, y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    e = tl.exp(tl.load(x + i))
    turned = tl.where(tl.flip(e > 1.0), 1.0, 2.0)
    tl.store(total, tl.sum(tl.where(i < n, turned, 0.0)))
    tl.store(y + i, e)


@triton.jit
def _one_row_for_all(x, y, m, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    tl.store(y + i * N + j, tl.load(x + j + i * 0, mask=i < m), mask=i < m)


@triton.jit
def _one_element_for_all(x, y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i * 0, mask=i < n), mask=i < n)


@triton.jit
def _one_row_summed(x, y, m, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    tl.store(y + tl.arange(0, N), tl.sum(tl.load(x + j + i * 0, mask=i < m, other=0.0), 0))


@triton.jit
def _flipped(x, y, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i, mask=i < n, other=0.0)
    b = tl.load(y + i, mask=i < n, other=1.0)
    flipped = tl.flip(a)
    product = tl.exp(flipped) * b
    tl.store(out, tl.sum(flipped))
    tl.store(out + 1, tl.sum(flipped * b))
    tl.store(out + 2, tl.max(flipped - b))
    tl.store(out + 4 + i, product + tl.sum(product))


@triton.jit
def _filled_by_row(x, y, n, M: tl.constexpr, N: tl.constexpr, MADE: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    filler = tl.where(i < 1, 0, 2) if MADE == "chosen" else i
    total = tl.zeros([M], x.dtype.element_ty)
    for k in range(0, n, N):
        inside = (k + j)[None, :] < n
        v = tl.load(x + i[:, None] * n + k + j[None, :], mask=inside, other=0)
        total += tl.sum(tl.where(inside, v, filler[:, None].to(v.dtype)), 1)
    tl.store(y + i, total)


@triton.jit
def _product_of_filled(x, w, y, few, N: tl.constexpr, K: tl.constexpr):
    i, k = tl.arange(0, N), tl.arange(0, K)
    a, b = tl.load(x + i[:, None] * K + k[None, :]), tl.load(w + i[None, :] * K + k[:, None])
    a = tl.where(k[None, :] < few, a, tl.where(i < 1, 0.0, 2.0)[:, None])
    b = tl.where(k[:, None] < few, b, tl.where(i < 1, 0.0, 3.0)[None, :])
    tl.store(y + i[:, None] * N + i[None, :], tl.dot(a, b))


@pytest.mark.parametrize(("rows", "few"), [(2, 1), (4, 1), (4, 2), (8, 5), (16, 4)])
@pytest.mark.parametrize("columns", [8, 64])
def test_a_value_chosen_in_some_rows_is_kept_in_all(rows: int, columns: int, few: int):
    x, total, y = torch.randn(rows, columns), torch.zeros(rows), torch.zeros(rows, columns)
    run(_some_rows, (1,), x, total, y, few=few, M=rows, N=columns)
    torch.testing.assert_close(y, x.exp())
    torch.testing.assert_close(total[:few], x.exp().sum(1)[:few])
    assert not total[few:].any()


@pytest.mark.parametrize("m", [0, 1, 5, 8])
def test_a_value_that_no_needed_row_takes_is_kept_in_all(m: int):
    x, y, total, out = torch.randn(8, 64), torch.randn(8, 64), torch.zeros(8), torch.zeros(8, 64)
    run(_other_rows, (1,), x, y, total, out, m, M=8, N=64)
    torch.testing.assert_close(out, y.exp())
    torch.testing.assert_close(total[:m], x.sum(1)[:m])


@pytest.mark.parametrize("n", [0, 5, 40, 64])
def test_a_value_that_no_stored_element_takes_is_kept_in_all(n: int):
    x, y, out = torch.randn(64), torch.zeros(64), torch.zeros(64)
    run(_other_elements, (1,), x, y, out, n, 0.03, N=64)
    torch.testing.assert_close(out, torch.exp(torch.arange(64) * 0.03))
    assert torch.equal(y[:n], x[:n])
    assert not y[n:].any()


@pytest.mark.parametrize("n", [0, 3, 40, 61, 64])
def test_a_value_compared_in_turned_order_is_kept_in_its_own(n: int):
    x, total, y = torch.randn(64), torch.zeros(1), torch.zeros(64)
    run(_turned_condition, (1,), x, total, y, n, N=64)
    torch.testing.assert_close(y, x.exp())
    assert total.item() == torch.where(x.flip(0) > 0, 1.0, 2.0)[:n].sum()


@pytest.mark.parametrize("kernel", [_one_row_for_all, _one_element_for_all, _one_row_summed])
@pytest.mark.parametrize("some", [0, 3])
def test_an_address_that_all_turns_of_a_loop_share_is_not_touched_without_one(kernel, some: int):
    constants = {"N": 64} if kernel is _one_element_for_all else {"M": 8, "N": 64}
    with Guarded(64, torch.float32, True) as x:
        y = torch.full((512,), -1.0)
        x.copy_(torch.randn(64))
        compiled = run(kernel, (1,), x, y, some, **constants)
        if not some:
            compiled(1, 1, 1, x.data_ptr() + 256, y, 0)  # nothing can be read there
    expected = torch.full((512,), -1.0)
    if kernel is _one_row_summed:
        expected[:64] = x * some
    elif kernel is _one_row_for_all:
        expected[: some * 64] = x.repeat(some)
    else:
        expected[:some] = x[0]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("size", [8, 32, 256])
def test_elements_within_bounds_are_flipped_to_beyond_them(size: int):
    i = torch.arange(size)
    for n in (1, size // 2 - 1, size // 2 + 1, size - 1, size):
        x, y, out = torch.randn(size), torch.randn(size), torch.zeros(size + 4)
        run(_flipped, (1,), x, y, out, n, N=size)
        a, b = torch.where(i < n, x, 0.0).flip(0), torch.where(i < n, y, 1.0)
        product = a.exp() * b
        torch.testing.assert_close(out[:3], torch.stack([a.sum(), (a * b).sum(), (a - b).max()]))
        torch.testing.assert_close(out[4:], product + product.sum(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("made", "dtype"), [("chosen", torch.float32), ("counted", torch.int32)])
@pytest.mark.parametrize("rows", [4, 16])
def test_a_sum_beyond_its_bounds_that_is_zero_in_the_first_row_only(made: str, dtype: torch.dtype, rows: int):
    x, y = torch.randint(-9, 9, (rows, 100)).to(dtype), torch.zeros(rows, dtype=dtype)
    run(_filled_by_row, (1,), x, y, 100, M=rows, N=64, MADE=made)
    filler = torch.arange(rows) if made == "counted" else torch.where(torch.arange(rows) < 1, 0, 2)
    assert torch.equal(y, x.sum(1).to(dtype) + (28 * filler).to(dtype))


def test_factors_beyond_their_bounds_that_are_zero_in_the_first_row_only():
    x, w, y = torch.randn(16, 64), torch.randn(16, 64), torch.zeros(16, 16)
    run(_product_of_filled, (1,), x, w, y, 50, N=16, K=64)
    first = torch.arange(16)[:, None] < 1
    x[:, 50:], w[:, 50:] = torch.where(first, 0.0, 2.0), torch.where(first, 0.0, 3.0)
    torch.testing.assert_close(y, x @ w.T, rtol=1e-5, atol=1e-4)
