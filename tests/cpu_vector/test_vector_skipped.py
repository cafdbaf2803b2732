"""What a loop leaves out: values that it stores on its way, and reads that it would do in its turns only."""

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


@pytest.mark.parametrize(("rows", "few"), [(2, 1), (4, 1), (4, 2), (8, 5), (16, 4)])
@pytest.mark.parametrize("columns", [8, 64])
def test_a_value_chosen_in_some_rows_is_kept_in_all(rows: int, columns: int, few: int):
    x, total, y = torch.randn(rows, columns), torch.zeros(rows), torch.zeros(rows, columns)
    run(_some_rows, (1,), x, total, y, few=few, M=rows, N=columns)
    torch.testing.assert_close(y, x.exp())
    torch.testing.assert_close(total[:few], x.exp().sum(1)[:few])
    assert not total[few:].any()


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
