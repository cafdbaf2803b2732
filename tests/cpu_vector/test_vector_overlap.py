"""Stores that overlap what they read: the whole tile is read before any of it is written."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run


@triton.jit
def _scaled(x, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n, other=0.0) * 2 + 1, mask=i < n)


@triton.jit
def _combined(a, b, y, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    m = i < n
    tl.store(y + i, tl.load(a + i, mask=m) + tl.exp(tl.load(b + i, mask=m)), mask=m)


@triton.jit
def _tile(x, y, sx0, sx1, sy0, M, N, BM: tl.constexpr, BN: tl.constexpr):
    r, c = tl.arange(0, BM)[:, None], tl.arange(0, BN)[None, :]
    m = (r < M) & (c < N)
    tl.store(y + r * sy0 + c, tl.load(x + r * sx0 + c * sx1, mask=m, other=0.0), mask=m)


@triton.jit
def _strided(x, y, N: tl.constexpr, STEP: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i * STEP, tl.load(x + i))


@triton.jit
def _picked(x, idx, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + tl.load(idx + i)))


@triton.jit
def _onto_its_index(x, idx, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(idx + i) + 1)


@triton.jit
def _where_mask(m, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, i.to(tl.int8) + 2, mask=tl.load(m + i) != 0)


@triton.jit
def _same_cell(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i * 0, tl.load(x + i * 0) + 1.0)


@triton.jit
def _many_tiles(x, y, n, BLOCK: tl.constexpr):
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        tl.store(y + i, tl.load(x + i, mask=i < n, other=0.0) + 1.0, mask=i < n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64], ids=str)
@pytest.mark.parametrize("by", [0, 1, 5, 16, 100, 127, 128, 300, -1, -16, -90])
@pytest.mark.parametrize("n", [128, 100])
def test_two_arguments_that_are_views_of_one_tensor(n: int, by: int, dtype: torch.dtype):
    whole = torch.arange(700).remainder(60).to(dtype)
    source, target = whole[200:328], whole[200 + by : 328 + by]
    expected = whole.clone()
    expected[200 + by : 200 + by + n] = source[:n].clone() * 2 + 1
    run(_scaled, [1], source, target, n, BLOCK=128)
    assert torch.equal(whole, expected)


@pytest.mark.parametrize(("a", "b", "y"), [(0, 40, 7), (7, 0, 7), (3, 3, 3), (64, 0, 32), (0, 200, 400)])
def test_one_of_several_operands_overlaps(a: int, b: int, y: int):
    whole = torch.rand(700)
    expected = whole.clone()
    expected[y : y + 100] = whole[a : a + 100] + whole[b : b + 100].exp()
    run(_combined, [1], whole[a:], whole[b:], whole[y:], 100, BLOCK=128)
    torch.testing.assert_close(whole, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("sx", "sy", "by"),
    [((20, 1), 20, 0), ((1, 20), 20, 0), ((20, 1), 20, 3), ((20, 1), 20, 20), ((20, 1), 24, 0),
     ((0, 1), 20, 5), ((-20, 1), 20, 300), ((1, 20), 20, 1000)],
)  # fmt: skip
@pytest.mark.parametrize(("m", "n"), [(16, 16), (9, 13)])
def test_tiles_with_other_strides(m: int, n: int, sx: tuple[int, int], sy: int, by: int):
    whole = torch.randn(2500)
    base = 500
    r, c = torch.arange(m)[:, None], torch.arange(n)[None, :]
    expected = whole.clone()
    expected[base + by + r * sy + c] = whole[base + r * sx[0] + c * sx[1]]
    run(_tile, [1], whole[base:], whole[base + by :], *sx, sy, m, n, BM=16, BN=16)
    assert torch.equal(whole, expected)


@pytest.mark.parametrize("step", [1, 2, -1])
@pytest.mark.parametrize("by", [0, 3, -7])
def test_scattered_stores(step: int, by: int):
    whole = torch.arange(300.0)
    expected = whole.clone()
    expected[100 + by + torch.arange(64) * step] = whole[100:164]
    run(_strided, [1], whole[100:], whole[100 + by :], N=64, STEP=step)
    assert torch.equal(whole, expected)


def test_a_permutation_in_place():
    x = torch.randn(64)
    index = torch.randperm(64)
    expected = x[index]
    run(_picked, [1], x, index, x, N=64)
    assert torch.equal(x, expected)


def test_an_index_that_is_overwritten():
    whole = torch.randperm(100)
    expected = whole.clone()
    expected[3:67] = whole[:64] + 1
    run(_onto_its_index, [1], torch.randn(64), whole, whole[3:], N=64)
    assert torch.equal(whole, expected)


def test_a_mask_that_is_overwritten():
    whole = (torch.arange(100) % 3).to(torch.int8)
    expected = whole.clone()
    chosen = torch.arange(64)[whole[:64] != 0]
    expected[chosen + 5] = chosen.to(torch.int8) + 2
    run(_where_mask, [1], whole, whole[5:], N=64)
    assert torch.equal(whole, expected)


def test_one_address_written_by_every_element():
    x = torch.tensor([4.0])
    run(_same_cell, [1], x, x, N=64)
    assert x.item() == 5.0


@pytest.mark.parametrize("by", [1, 30, 64, -1])
def test_tiles_one_after_the_other(by: int):
    whole = torch.randn(500)
    expected = whole.clone()
    for start in range(0, 200, 64):
        n = min(64, 200 - start)
        expected[100 + by + start : 100 + by + start + n] = (
            expected[100 + start : 100 + start + n].clone() + 1.0
        )
    run(_many_tiles, [1], whole[100:], whole[100 + by :], 200, BLOCK=64)
    assert torch.equal(whole, expected)


@triton.jit
def _picked_rows(x, idx, y, R, C, BM: tl.constexpr, BN: tl.constexpr):
    r, c = tl.arange(0, BM), tl.arange(0, BN)
    k = tl.load(idx + r, mask=r < R, other=0)
    m = (r[:, None] < R) & (c[None, :] < C)
    tl.store(y + r[:, None] * C + c[None, :], tl.load(x + k[:, None] * C + c[None, :], mask=m), mask=m)


@pytest.mark.parametrize("by", [0, 40, -40, 500, 900])
@pytest.mark.parametrize("rows", [1, 7, 8])
def test_rows_picked_by_an_index_from_where_they_go(rows: int, by: int):
    whole = torch.randn(3000)
    index = torch.randperm(8)[:rows]
    expected = whole.clone()
    picked = whole[1000 : 1000 + 8 * 60].view(8, 60)[index]
    expected[1000 + by : 1000 + by + rows * 60] = picked.flatten()
    run(_picked_rows, [1], whole[1000:], index, whole[1000 + by :], rows, 60, BM=8, BN=64)
    assert torch.equal(whole, expected)


@triton.jit
def _turned_over(x, C0: tl.constexpr, ST: tl.constexpr):
    r, c = tl.arange(0, 16)[:, None], tl.arange(0, 64)[None, :]
    tile = tl.load(x + r * ST + c)
    down, right = tl.arange(0, 64)[:, None], tl.arange(0, 16)[None, :]
    tl.store(x + down * ST + C0 + right, tl.trans(tile) + 1.0)


@pytest.mark.parametrize("start", [0, 16, 40, 63, 64, 100])
def test_a_transposed_tile_whose_rows_are_longer_than_those_written(start: int):
    x = torch.randn(64 * 128 + 128)
    expected = x.clone()
    rows = x[: 16 * 128].view(16, 128)[:, :64]
    torch.as_strided(expected, (64, 16), (128, 1), start).copy_(rows.T + 1)
    run(_turned_over, (1,), x, C0=start, ST=128)
    assert torch.equal(x, expected)


@triton.jit
def _widened(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(x + i, tl.load(y + i).to(tl.float32))


@triton.jit
def _widened_by_a_cast_pointer(x, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(x + i, tl.load(x.to(tl.pointer_type(tl.int8)) + i).to(tl.float32))


@triton.jit
def _widened_twice(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(y + i).to(tl.float32)
    tl.store(x + i, v)
    tl.store(x + i + N, v * 2)


@pytest.mark.parametrize("kernel", [_widened, _widened_by_a_cast_pointer, _widened_twice], ids=str)
def test_a_view_with_elements_of_another_size(kernel):
    x = torch.randn(1024)
    bytes_ = x.view(torch.int8)[:256].float()
    args = (x,) if kernel is _widened_by_a_cast_pointer else (x, x.view(torch.int8))
    run(kernel, (1,), *args, N=256)
    assert torch.equal(x[:256], bytes_)
    if kernel is _widened_twice:
        assert torch.equal(x[256:512], bytes_ * 2)


@triton.jit
def _one_more(x, S, M: tl.constexpr):
    r = tl.arange(0, M)
    p = x + r[:, None] * S + r[None, :]
    tl.store(p, tl.load(p) + 1.0)


@pytest.mark.parametrize("stride", [0, 1, 3, 31, 32, 40, -32, -5])
def test_an_address_that_several_elements_update_is_read_once(stride: int):
    x = torch.randn(4096)
    start = 2000
    named = (torch.arange(32)[:, None] * stride + torch.arange(32)[None, :]).unique() + start
    expected = x.clone()
    expected[named] += 1
    run(_one_more, (1,), x[start:], stride, M=32)
    assert torch.equal(x, expected)


@triton.jit
def _with_its_transpose(x, y, z, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    tl.store(z + at, tl.load(x + at) + 2.0 * tl.trans(tl.load(y + at)))


@triton.jit
def _each_with_the_others_transpose(x, y, z, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    a, b = tl.load(x + at), tl.load(y + at)
    tl.store(x + at, a + tl.trans(b))
    tl.store(y + at, b + tl.trans(a))


@triton.jit
def _where_the_transpose_is_positive(x, y, z, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    tl.store(x + at, tl.load(y + at) - 5.0, mask=tl.trans(tl.load(x + at)) > 0)


@pytest.mark.parametrize("n", [8, 16, 32, 64])
def test_a_matrix_and_its_transpose_in_place(n: int):
    for kernel in (_with_its_transpose, _each_with_the_others_transpose, _where_the_transpose_is_positive):
        x, y = torch.randn(n, n), torch.randn(n, n)
        kept = x.clone(), y.clone()
        run(kernel, (1,), x, x if kernel is _with_its_transpose else y, x, N=n)
        if kernel is _with_its_transpose:
            expected = kept[0] + 2 * kept[0].T
        elif kernel is _each_with_the_others_transpose:
            expected = kept[0] + kept[1].T
            torch.testing.assert_close(y, kept[1] + kept[0].T)
        else:
            expected = torch.where(kept[0].T > 0, kept[1] - 5, kept[0])
        torch.testing.assert_close(x, expected)


@triton.jit
def _mirrored(x, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(x + i, tl.where(tl.flip(v > 0), v + 10.0, v))


@pytest.mark.parametrize("n", [16, 64, 256])
def test_a_mirrored_condition_of_what_is_overwritten(n: int):
    x = torch.randn(n)
    expected = torch.where((x > 0).flip(0), x + 10, x)
    run(_mirrored, (1,), x, N=n)
    torch.testing.assert_close(x, expected)


@triton.jit
def _two_that_share_a_condition(x, y, p, q, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = tl.load(x + i, mask=i < n), tl.load(y + i, mask=i < n)
    far = tl.abs(b) == float("inf")
    tl.store(p + i, tl.where(far, a, tl.exp2(b) + tl.exp2(a)), mask=i < n)
    tl.store(q + i, tl.where(far & (tl.abs(a) < 2.0), a, tl.exp2(b) * a), mask=i < n)


@pytest.mark.parametrize("apart", [1000, 30, 0])
def test_stores_written_together_or_apart_share_a_condition(apart: int):
    n = 500
    whole = torch.randn(4000)
    x, y = whole[:n], whole[1000 : 1000 + n]
    y[::3] = float("inf")
    a, b = x.clone(), y.clone()
    p = whole[2000 - apart : 2000 - apart + n]  # from 1000 on: over y, which the second store still needs
    q = whole[3000 : 3000 + n]
    run(_two_that_share_a_condition, (1,), x, y, p, q, n, BLOCK=512)
    torch.testing.assert_close(p, torch.where(b.isinf(), a, b.exp2() + a.exp2()))
    torch.testing.assert_close(q, torch.where(b.isinf() & (a.abs() < 2), a, b.exp2() * a))
