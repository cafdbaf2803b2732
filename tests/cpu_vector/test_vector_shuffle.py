"""Operations that move elements: sort, topk, flip, join, split, cat, gather, reshape, permute."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from vector_support import against_reference, run


@triton.jit
def _sort(x, y, R: tl.constexpr, N: tl.constexpr, DOWN: tl.constexpr):
    at = tl.arange(0, R)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + at, tl.sort(tl.load(x + at), descending=DOWN))


@triton.jit
def _sort_masked(x, y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.sort(tl.exp(tl.load(x + i, mask=i < n, other=9.0))), mask=i < n)


@triton.jit
def _topk(x, y, R: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    r = tl.arange(0, R)[:, None]
    v = tl.load(x + r * N + tl.arange(0, N)[None, :])
    tl.store(y + r * K + tl.arange(0, K)[None, :], tl.topk(v, K))


@triton.jit
def _flip(x, y, R: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr):
    at = tl.arange(0, R)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + at, tl.flip(tl.load(x + at), AXIS))


@triton.jit
def _sort_in_loop(x, y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    best = tl.full((N,), -1000.0, tl.float32)
    for k in range(n):
        v = tl.sort(tl.load(x + k * N + i))
        best = tl.maximum(best, v)
        if k == 1:
            best = tl.flip(best)
    tl.store(y + i, best)


@triton.jit
def _pairs(x, y, R: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, R)[:, None] * N + tl.arange(0, N)[None, :]
    v = tl.load(x + at)
    a, b = tl.split(v.reshape(R, N // 2, 2))
    tl.store(y + at, tl.join(b, a + a).reshape(R, N))
    w = tl.interleave(a, b) + tl.trans(tl.trans(v))
    tl.store(y + R * N + at, w)


@triton.jit
def _halves(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    a, b = tl.split(tl.trans(v.reshape(2, N // 2)))
    tl.store(y + i, tl.cat(b, a))
    m = tl.join(v > 0, v < 1).reshape(2 * N)
    tl.store(y + N + tl.arange(0, 2 * N), tl.where(m, 1, 2).to(v.dtype))


@triton.jit
def _gather(x, k, y, R: tl.constexpr, C: tl.constexpr, J: tl.constexpr, AXIS: tl.constexpr):
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    if AXIS == 0:
        to = tl.arange(0, J)[:, None] * C + tl.arange(0, C)[None, :]
    else:
        to = tl.arange(0, R)[:, None] * J + tl.arange(0, J)[None, :]
    tl.store(y + to, tl.gather(tl.load(x + at), tl.load(k + to), AXIS))


@triton.jit
def _permute(x, y, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr):
    v = tl.load(x + tl.arange(0, A * B * C)).reshape(A, B, C)
    w = tl.permute(v, (2, 0, 1)).reshape(A * B * C)
    tl.store(y + tl.arange(0, A * B * C), w)


TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int32, torch.int64]


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(("rows", "n"), [(1, 8), (1, 64), (4, 16), (2, 32)])
def test_sort(rows: int, n: int, down: bool):
    x = torch.randn(rows, n)
    y = torch.zeros_like(x)
    run(_sort, [1], x, y, R=rows, N=n, DOWN=down)
    assert torch.equal(y, x.sort(1, descending=down).values)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_sort_of_every_type_with_ties(dtype: torch.dtype):
    x = torch.randint(-5, 5, (2, 32)).to(dtype)
    y = torch.zeros_like(x)
    run(_sort, [1], x, y, R=2, N=32, DOWN=False)
    assert torch.equal(y, x.sort(1).values)


def test_sort_with_infinities_and_nan_as_the_reference_has_it():
    x = torch.randn(2, 32)
    x[0, 3], x[0, 9], x[1, 4], x[1, 5] = math.inf, -math.inf, math.nan, -0.0
    against_reference(_sort, [1], x, torch.zeros_like(x), R=2, N=32, DOWN=False)


@pytest.mark.parametrize("n", [1, 30, 64])
def test_sort_of_a_masked_computed_tile(n: int):
    x = torch.randn(64).clamp(max=2.0)
    y = torch.zeros(64)
    against_reference(_sort_masked, [1], x, y, n, N=64, tol=1e-6)
    torch.testing.assert_close(y[:n], x[:n].exp().sort().values, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("rows", "n", "k"), [(1, 64, 8), (4, 32, 4), (2, 16, 2), (8, 8, 1)])
def test_topk(rows: int, n: int, k: int):
    x = torch.randn(rows, n)
    y = torch.zeros(rows, k)
    run(_topk, [1], x, y, R=rows, N=n, K=k)
    assert torch.equal(y, x.topk(k, 1).values)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("rows", "n"), [(2, 16), (8, 64), (4, 4)])
def test_flip(rows: int, n: int, axis: int):
    x = torch.randn(rows, n)
    y = torch.zeros_like(x)
    run(_flip, [1], x, y, R=rows, N=n, AXIS=axis)
    assert torch.equal(y, x.flip(axis))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_sort_within_loops_and_branches(n: int):
    against_reference(_sort_in_loop, [1], torch.randn(4, 32), torch.zeros(32), n, N=32)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_pairs_are_split_and_joined(dtype: torch.dtype):
    for rows, n in ((1, 2), (4, 16), (2, 128)):
        x = torch.randint(-50, 50, (rows, n)).to(dtype)
        against_reference(_pairs, [1], x, torch.zeros(2, rows, n, dtype=dtype), R=rows, N=n)


@pytest.mark.parametrize("n", [4, 16, 256])
def test_halves_and_masks(n: int):
    x = torch.randn(n)
    y = torch.zeros(3 * n)
    against_reference(_halves, [1], x, y, N=n)
    assert torch.equal(y[:n], torch.cat([x[n // 2 :], x[: n // 2]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("r", "c", "i"), [(8, 32, 16), (4, 2, 8), (1, 64, 64), (16, 1, 4)])
def test_gather(r: int, c: int, i: int, axis: int, dtype: torch.dtype):
    x = torch.randint(-99, 99, (r, c)).to(dtype)
    shape = (i, c) if axis == 0 else (r, i)
    index = torch.randint(0, (r, c)[axis], shape, dtype=torch.int32 if i > 8 else torch.int64)
    y = torch.zeros(shape, dtype=dtype)
    run(_gather, [1], x, index, y, R=r, C=c, J=i, AXIS=axis)
    assert torch.equal(y, x.gather(axis, index.long()))


@pytest.mark.parametrize("engine", ["vector", "reference"])
@pytest.mark.parametrize(
    ("dtype", "n"), [(torch.uint8, 256), (torch.uint16, 1 << 16), (torch.bool, 2)], ids=str
)
def test_a_narrow_index_has_no_sign(dtype: torch.dtype, n: int, engine: str):
    x = torch.randn(1, n)
    index = torch.randint(0, n, (1, 64)).to(dtype)
    y = torch.zeros(1, 64)
    run(_gather, [1], x, index, y, R=1, C=n, J=64, AXIS=1, engine=engine)
    assert torch.equal(y, x.gather(1, index.long()))


def test_an_index_outside_is_clamped():
    x = torch.randn(4, 16)
    index = torch.full((4, 16), 2**30, dtype=torch.int32)
    index[:, ::2] = -7
    y = torch.zeros(4, 16)
    run(_gather, [1], x, index, y, R=4, C=16, J=16, AXIS=1)
    assert torch.equal(y[:, 0], x[:, 0])
    assert torch.equal(y[:, 1], x[:, 15])


@pytest.mark.parametrize(("a", "b", "c"), [(2, 2, 2), (4, 8, 16), (16, 1, 4)])
def test_permuted_reshapes(a: int, b: int, c: int):
    x = torch.randn(a, b, c)
    y = torch.zeros(c, a, b)
    run(_permute, [1], x, y, A=a, B=b, C=c)
    assert torch.equal(y, x.permute(2, 0, 1))


@triton.jit
def _flip_in_a_branch(x, y, t, R: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, R * N)
    v = tl.reshape(tl.load(x + i), (R, N))
    if t == 3:  # noqa: SIM108  (a conditional expression of Triton evaluates both sides)
        v = tl.flip(v)
    else:
        v = v * 5
    tl.store(y + i, tl.reshape(v, (R * N,)))


@pytest.mark.parametrize("shape", [(8, 2), (2, 8), (16, 2), (4, 4)], ids=str)
@pytest.mark.parametrize("taken", [True, False])
def test_a_flip_of_few_columns_in_a_branch(shape: tuple[int, int], taken: bool):
    x = torch.randint(-99, 99, shape, dtype=torch.int32)
    y = torch.empty_like(x)
    run(_flip_in_a_branch, [1], x, y, 3 if taken else 4, R=shape[0], N=shape[1])
    assert torch.equal(y, x.flip(-1) if taken else x * 5)
