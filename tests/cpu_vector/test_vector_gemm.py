"""Packed and streamed products against float64: layouts, tails, masks, carried tiles, guarded memory."""

from __future__ import annotations

import itertools

import pytest
import torch
import vector_matrix_kernels as k
from vector_support import Guarded, run, worst

TYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = ["NN", "NT", "TN", "TT"]
BLOCKS = [(32, 32, 32), (16, 64, 256), (64, 32, 64)]
SHAPES = [(1, 1, 1), (33, 65, 31), (70, 33, 130), (16, 40, 515)]


def operands(
    m: int, n: int, depth: int, layout: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(m, depth).to(dtype), torch.randn(depth, n).to(dtype)
    if layout[0] == "T":
        a = a.T.contiguous().T
    return a, b.T.contiguous().T if layout[1] == "T" else b


def strides(a: torch.Tensor, b: torch.Tensor) -> tuple[int, ...]:
    return *a.stride(), *b.stride()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("bm", "bn", "bk"), BLOCKS)
def test_layouts_and_tails(layout: str, bm: int, bn: int, bk: int, dtype: torch.dtype):
    for m, n, depth in SHAPES:
        a, b = operands(m, n, depth, layout, dtype)
        c = torch.randn(m, n)
        exact = c.double() + a.double() @ b.double()
        grid = [-(-m // bm), -(-n // bn)]
        run(k.matmul_strided, grid, a, b, c, m, n, depth, *strides(a, b), OTHER=0.0, BM=bm, BN=bn, BK=bk)
        assert worst(c, exact) < 2e-6, (m, n, depth)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("layout", "bm"), list(itertools.product(["NT", "TN"], [16, 32])))
def test_masked_elements_count_as_their_other_value(layout: str, bm: int, dtype: torch.dtype):
    m, n, depth, bk = 20, 40, 50, 256
    a, b = operands(m, n, depth, layout, dtype)
    c = torch.zeros(m, n)
    exact = a.double() @ b.double() + (bk - depth) * 4.0
    run(
        k.matmul_strided,
        [-(-m // bm), 1],
        a,
        b,
        c,
        m,
        n,
        depth,
        *strides(a, b),
        OTHER=2.0,
        BM=bm,
        BN=64,
        BK=bk,
    )
    assert worst(c, exact) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("at_end", [False, True])
def test_masked_addresses_are_not_touched(layout: str, dtype: torch.dtype, at_end: bool):
    m, n, depth = 19, 37, 301
    plain = operands(m, n, depth, layout, dtype)
    with Guarded(m * depth, dtype, at_end) as left, Guarded(depth * n, dtype, at_end) as right:
        guarded = [
            torch.as_strided(memory, x.shape, x.stride()).copy_(x)
            for memory, x in zip((left, right), plain, strict=True)
        ]
        a, b = guarded
        for bm, bk in ((16, 256), (32, 64)):
            c = torch.zeros(m, n)
            grid = [-(-m // bm), 2]
            run(k.matmul_strided, grid, a, b, c, m, n, depth, *strides(a, b), OTHER=0.0, BM=bm, BN=32, BK=bk)
            assert worst(c, plain[0].double() @ plain[1].double()) < 2e-6


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("m", [8, 13, 16, 29, 64])
def test_whole_blocks_with_an_epilogue(layout: str, m: int, dtype: torch.dtype):
    n, depth, bm = 64, 512, 64 if m > 32 else 32 if m > 16 else 16 if m > 8 else 8
    a, b = operands(m, n, depth, layout, dtype)
    c = torch.empty(m, n)
    run(k.matmul_row, [1, 2], a, b, c, m, A_K=layout[0] == "N", B_N=layout[1] == "N", N=n, K=depth, BM=bm,
        BN=32, BK=256)  # fmt: skip
    exact = torch.relu(a.double() @ b.double() * 0.5 + torch.arange(n))
    assert worst(c, exact) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("bm", "bn", "bk"), [(4, 16, 16), (16, 32, 64), (64, 64, 32)])
def test_a_carried_sum_that_is_rescaled(bm: int, bn: int, bk: int, again: bool, dtype: torch.dtype):
    steps = 3
    p, v = torch.randn(steps, bm, bk).to(dtype), torch.randn(steps, bk, bn).to(dtype)
    alpha, out = torch.rand(steps, bm), torch.empty(bm, bn)
    run(k.rescaled_sum, [1], p, v, alpha, out, steps, BM=bm, BN=bn, BK=bk, AGAIN=again)
    acc, seen = torch.ones(bm, bn, dtype=torch.float64), torch.zeros(bm, dtype=torch.float64)
    for step in range(steps):
        seen += acc.sum(1)
        acc = p[step].double() @ v[step].double() + acc * alpha[step].double()[:, None]
    assert worst(out, acc + (seen[:, None] if again else 0)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("bm", "bk"), [(16, 64), (16, 256), (64, 64)])
def test_weights_that_are_converted_before_the_product(bm: int, bk: int, dtype: torch.dtype):
    m, n, depth = 45, 50, 200
    x, w = torch.randn(m, depth).to(dtype), torch.randint(-127, 128, (n, depth), dtype=torch.int8)
    scale, y = torch.rand(n), torch.empty(m, n)
    run(k.dequantised, [-(-m // bm), 2], x, w, scale, y, m, n, depth, BM=bm, BN=32, BK=bk)
    weights = (w.float() * scale[:, None]).to(dtype)
    assert worst(y, x.double() @ weights.double().T) < 2e-6


def test_infinities_and_nan_beyond_a_mask_do_not_reach_the_sums():
    m, n, depth = 16, 32, 100
    a, b = torch.full((m, 128), torch.inf), torch.full((n, 128), torch.nan)
    a[:, :depth], b[:, :depth] = torch.randn(m, depth), torch.randn(n, depth)
    for bk in (64, 128):
        c = torch.zeros(m, n)
        run(k.matmul_strided, [1, 1], a, b, c, m, n, depth, 128, 1, 1, 128, OTHER=0.0, BM=16, BN=32, BK=bk)
        assert worst(c, a[:, :depth].double() @ b[:, :depth].double().T) < 2e-6
