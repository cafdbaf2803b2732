"""Reductions, normalisations and matrix-vector products against float64."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
import vector_kernels as k
import vector_matrix_kernels as matrix
from vector_support import Guarded, run, worst

REDUCE = {
    "sum": lambda x, d: x.sum(d),
    "max": lambda x, d: torch.where(x.isnan(), -math.inf, x).amax(d),
    "min": lambda x, d: torch.where(x.isnan(), math.inf, x).amin(d),
    "nan_max": lambda x, d: x.amax(d),
    "prod": lambda x, d: x.prod(d),
}
OTHER = {"sum": 0.0, "max": -math.inf, "min": math.inf, "nan_max": -math.inf, "prod": 1.0}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("rows", "cols", "bm", "bn"), [(1, 1, 1, 16), (7, 33, 4, 64), (64, 100, 16, 128), (5, 8, 8, 8)]
)
@pytest.mark.parametrize("op", REDUCE)
def test_reduce(op: str, rows: int, cols: int, bm: int, bn: int, axis: int):
    torch.manual_seed(rows)
    x = torch.randn(rows, cols)
    if axis == 1:
        y = torch.empty(rows)
        expected = REDUCE[op](x.double(), 1)
    else:
        tiles = -(-rows // bm)
        y = torch.empty(tiles, cols)
        expected = torch.stack([REDUCE[op](x[t * bm : (t + 1) * bm].double(), 0) for t in range(tiles)])
    run(k.reduce_rows, [-(-rows // bm)], x, y, rows, cols, OP=op, AXIS=axis, BM=bm, BN=bn, OTHER=OTHER[op])
    assert worst(y, expected) < 2e-6


@pytest.mark.parametrize("op", ["sum", "max", "min", "nan_max"])
@pytest.mark.parametrize("axis", [0, 1])
def test_nan_in_reductions(op: str, axis: int):
    x = torch.randn(8, 40)
    x[3, 7], x[5, 20] = math.nan, -math.inf
    x[6] = math.nan
    expected = REDUCE[op](x.double(), axis)
    if op in ("max", "min"):
        expected[x.isnan().all(axis)] = math.nan
        # lanes beyond the columns hold `other`, which wins over NaN
        if axis == 1:
            expected[6] = OTHER[op]
    y = torch.empty(8 if axis == 1 else 40)
    run(k.reduce_rows, [1], x, y, 8, 40, OP=op, AXIS=axis, BM=8, BN=64, OTHER=OTHER[op])
    assert worst(y, expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int8], ids=str)
@pytest.mark.parametrize("op", ["max", "min", "xor"])
@pytest.mark.parametrize("axis", [0, 1])
def test_integer_reductions(op: str, dtype: torch.dtype, axis: int):
    torch.manual_seed(1)
    info = torch.iinfo(dtype)
    x = torch.randint(info.min, info.max, (6, 50), dtype=dtype)
    other = {"max": info.min, "min": info.max, "xor": 0}[op]
    if op == "xor":
        expected = torch.zeros(50 if axis == 0 else 6, dtype=dtype)
        for part in x.unbind(axis):
            expected ^= part
    else:
        expected = (torch.amax if op == "max" else torch.amin)(x, axis)
    y = torch.empty_like(expected)
    run(k.reduce_rows, [1], x, y, 6, 50, OP=op, AXIS=axis, BM=8, BN=64, OTHER=other)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("other", [0.0, 2.5, -1.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_elements_outside_the_mask_count_with_their_other_value(other: float, axis: int):
    x = torch.rand(5, 40)
    full = torch.full((8, 64), other)
    full[:5, :40] = x
    for op in ("sum", "max"):
        y = torch.empty(5 if axis == 1 else 40)
        run(k.reduce_rows, [1], x, y, 5, 40, OP=op, AXIS=axis, BM=8, BN=64, OTHER=other)
        expected = REDUCE[op](full.double(), axis)[: y.numel()]
        assert worst(y, expected) < 1e-6


@pytest.mark.parametrize("bm", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("rows", "cols", "bn"), [(1, 1, 16), (9, 64, 64), (6, 100, 128), (3, 577, 1024), (5, 1000, 1024)]
)
def test_softmax(rows: int, cols: int, bn: int, dtype: torch.dtype, bm: int):
    torch.manual_seed(cols)
    x = (torch.randn(rows, cols) * 4).to(dtype)
    x[0, 0] = -math.inf if cols > 1 else 1.0
    y = torch.empty_like(x)
    run(k.softmax, [-(-rows // bm)], x, y, rows, cols, BM=bm, BN=bn)
    assert worst(y, torch.softmax(x.double(), 1)) < (1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize(("bm", "bn"), [(1, 4), (1, 16), (2, 32), (4, 64), (1, 128), (16, 256), (2, 1024)])
def test_rows_without_masks(bm: int, bn: int):
    torch.manual_seed(bn)
    x = torch.randn(2 * bm, bn) * 3
    y, z = torch.empty_like(x), torch.empty(2 * bm)
    run(k.unmasked_rows, [2], x, y, z, BM=bm, BN=bn)
    e = torch.exp(x.double() - x.double().amax(1, keepdim=True))
    assert worst(y, e / e.sum(1, keepdim=True)) < 1e-6
    assert float((z - e.sum(1).log()).abs().max()) < 1e-6


def test_softmax_of_nan_and_of_minus_infinity_is_nan():
    x = torch.randn(3, 50)
    x[0] = -math.inf
    x[1, 4] = math.nan
    y = torch.empty_like(x)
    run(k.softmax, [1], x, y, 3, 50, BM=4, BN=64)
    assert bool(y[0].isnan().all())
    assert bool(y[1].isnan()[4])
    assert worst(y[2], torch.softmax(x[2].double(), 0)) < 1e-6


@pytest.mark.parametrize("cols", [1, 64, 65, 576, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layer_norm(cols: int, dtype: torch.dtype):
    torch.manual_seed(cols)
    x = (torch.randn(4, cols) * 3 + 5).to(dtype)
    w, b = torch.randn(cols).to(dtype), torch.randn(cols).to(dtype)
    y = torch.empty_like(x)
    run(k.layer_norm, [4], x, w, b, y, cols, 1e-5, BLOCK=1024)
    exact = torch.nn.functional.layer_norm(x.double(), (cols,), w.double(), b.double())
    assert worst(y, exact) < (5e-6 if dtype == torch.float32 else 8e-3)


@pytest.mark.parametrize("cols", [3, 64, 300])
def test_value_used_after_its_source_was_overwritten(cols: int):
    x, r = torch.randn(4, cols), torch.randn(4, cols)
    s = x.double() + r.double()
    y = torch.empty_like(x)
    run(k.add_norm_in_place, [4], x, r, y, cols, BLOCK=512)
    assert worst(r, s) < 1e-6
    assert worst(y, s / (s * s).sum(1, keepdim=True).sqrt()) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "kk"), [(1, 1), (16, 64), (37, 100), (64, 576), (100, 1000), (5, 4096)])
@pytest.mark.parametrize(("bn", "bk"), [(16, 128), (4, 32), (32, 16)])
def test_gemv_with_epilogue(n: int, kk: int, bn: int, bk: int, dtype: torch.dtype):
    torch.manual_seed(n + kk)
    w, x, b = torch.randn(n, kk + 3).to(dtype), torch.randn(kk).to(dtype), torch.randn(n).to(dtype)
    y = torch.full((n + 8,), 7.0)
    run(matrix.gemv, [-(-n // bn)], w, x, b, y, n, kk, kk + 3, BN=bn, BK=bk)
    z = w[:, :kk].double() @ x.double() + b.double()
    exact = z * torch.sigmoid(z)
    scale = (w[:, :kk].double().abs() @ x.double().abs()).max()
    assert float((y[:n] - exact).abs().max() / scale) < 1e-6
    assert bool((y[n:] == 7.0).all())


def test_gemv_over_no_columns_leaves_the_epilogue():
    b, y = torch.randn(16), torch.empty(16)
    run(matrix.gemv, [1], torch.empty(16), torch.empty(1), b, y, 16, 0, 1, BN=16, BK=32)
    assert worst(y, b.double() * torch.sigmoid(b.double())) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "kk"), [(5, 37), (64, 64), (17, 130)])
def test_gemv_touches_nothing_outside_the_matrix(n: int, kk: int, dtype: torch.dtype):
    for at_end in (True, False):
        with (
            Guarded(n * kk, dtype, at_end) as w,
            Guarded(kk, dtype, at_end) as x,
            Guarded(n, dtype, at_end) as b,
        ):
            w.copy_(torch.randn(n * kk))
            x.copy_(torch.randn(kk))
            b.copy_(torch.randn(n))
            y = torch.empty(n)
            run(matrix.gemv, [-(-n // 16)], w, x, b, y, n, kk, kk, BN=16, BK=64)
            z = w.view(n, kk).double() @ x.double() + b.double()
            assert worst(y, z * torch.sigmoid(z)) < 1e-5
            del w, x, b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("bn", "bk"), [(8, 64), (16, 192 // 3), (1, 64)])
def test_two_weight_matrices_in_one_loop_with_moving_pointers(bn: int, bk: int, dtype: torch.dtype):
    torch.manual_seed(bn)
    g, u, x = (torch.randn(*s).to(dtype) for s in ((48, 576), (48, 576), (576,)))
    y = torch.empty(48)
    run(matrix.gemv_swiglu, [48 // bn], g, u, x, y, K=576, BN=bn, BK=bk)
    a, b = g.double() @ x.double(), u.double() @ x.double()
    assert worst(y, a * torch.sigmoid(a) * b) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "kk"), [(3, 40), (16, 256), (33, 100)])
def test_gemv_summing_tiles_first(n: int, kk: int, dtype: torch.dtype):
    w, x, y = torch.randn(n, kk).to(dtype), torch.randn(kk).to(dtype), torch.empty(n)
    run(matrix.gemv_tile, [-(-n // 4)], w, x, y, n, kk, BN=4, BK=64)
    assert worst(y, w.double() @ x.double()) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "kk"), [(3, 40), (64, 256), (200, 100)])
def test_gemv_with_weights_stored_by_input(n: int, kk: int, dtype: torch.dtype):
    w, x, y = torch.randn(kk, n).to(dtype), torch.randn(kk).to(dtype), torch.empty(n)
    run(matrix.gemv_kn, [-(-n // 64)], w, x, y, n, kk, BN=64, BK=32)
    assert worst(y, x.double() @ w.double()) < 2e-6


@pytest.mark.parametrize("at_end", [True, False])
def test_prefetching_for_a_program_that_does_not_exist_is_harmless(at_end: bool):
    with Guarded(5 * 1024, torch.float32, at_end) as x:
        x.copy_(torch.randn(5 * 1024))
        y = torch.empty(5, 1024)
        kernel = run(k.softmax, [5], x, y, 5, 1024, BM=1, BN=1024)
        assert "call void @llvm.prefetch" in kernel.llvm_ir
        assert worst(y, torch.softmax(x.view(5, 1024).double(), 1)) < 1e-6
        del x


def test_one_pass_over_a_tile_is_left_to_the_hardwares_prefetchers():
    x = torch.randn(4, 1024)
    y = torch.empty_like(x)
    kernel = run(k.double_rows, [4], x, y, 1024, 1024, BLOCK=1024)
    assert "llvm.prefetch" not in kernel.llvm_ir.replace("declare void @llvm.prefetch", "")
    assert torch.equal(y, 2 * x)


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _reduce_bits(x, y, R: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr):
    at = tl.arange(0, R)[:, None] * N + tl.arange(0, N)[None, :]
    found = tl.reduce(tl.load(x + at) > 1, AXIS, _either, keep_dims=True)
    tl.store(y + at, tl.where(found, 1, 0) + tl.zeros((R, N), tl.int32))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(8, 2), (2, 8), (16, 32), (1, 16), (16, 1)], ids=str)
def test_a_reduction_of_bits_has_a_result_for_each_row(shape: tuple[int, int], axis: int):
    x = torch.randn(shape)
    y = torch.empty(shape, dtype=torch.int32)
    run(_reduce_bits, [1], x, y, R=shape[0], N=shape[1], AXIS=axis)
    assert torch.equal(y, (x > 1).any(axis, keepdim=True).int().expand(shape))


@triton.jit
def _least_of_permuted(x, y, AXIS: tl.constexpr):
    i = tl.arange(0, 32)
    v = tl.permute(tl.reshape(tl.load(x + i), (1, 2, 2, 8)), (3, 0, 1, 2))
    tl.store(y + i, tl.reshape(v - tl.min(v, AXIS, keep_dims=True), (32,)))


@pytest.mark.parametrize("axis", range(4))
def test_a_reduction_across_vectors_of_a_permuted_tile(axis: int):
    """The vectors run along a dimension that is not the last one of the result."""
    x = torch.randint(-99, 99, (32,), dtype=torch.int32)
    y = torch.empty_like(x)
    run(_least_of_permuted, [1], x, y, AXIS=axis)
    v = x.reshape(1, 2, 2, 8).permute(3, 0, 1, 2)
    assert torch.equal(y, (v - v.amin(axis, keepdim=True)).reshape(-1))


@triton.jit
def _sum_rows(x, y, R: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, R)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(y + tl.arange(0, R), tl.sum(tl.load(x + at), 1))


@pytest.mark.parametrize("cols", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [1, 4, 8, 32])
def test_more_rows_than_columns_are_reduced_together(rows: int, cols: int):
    x = torch.randint(-99, 99, (rows, cols), dtype=torch.int32)
    y = torch.empty(rows, dtype=torch.int32)
    run(_sum_rows, [1], x, y, R=rows, N=cols)
    assert torch.equal(y, x.sum(1, dtype=torch.int32))


@triton.jit
def _sum_by_parity(k, y, n, N: tl.constexpr):
    c = tl.arange(0, N)
    found = tl.load(k + c, mask=c < n, other=3)
    odd = (found & 1) != 0
    tl.store(k + c, tl.where(odd, found, 0), mask=c < n)
    tl.store(y, tl.sum(tl.where(odd, c, -7), 0))


@pytest.mark.parametrize("n", [0, 2, 15, 16, 128])
def test_a_condition_kept_across_a_store_holds_beyond_its_mask(n: int):
    """What is summed varies beyond the mask, so the condition is read there too."""
    k = torch.randint(-99, 99, (128,), dtype=torch.int32)
    odd = torch.cat([k[:n] & 1, torch.ones(128 - n, dtype=torch.int32)]) != 0
    expected = torch.where(odd, torch.arange(128), -7).sum()
    y = torch.empty(1, dtype=torch.int32)
    run(_sum_by_parity, [1], k, y, n, N=128)
    assert y[0] == expected


@triton.jit
def _many_sums(x, w, y, K, N: tl.constexpr, BK: tl.constexpr):
    n, k = tl.arange(0, N), tl.arange(0, BK)
    a = tl.zeros([N], tl.float32)
    b, c, d, e = a, a, a, a
    for start in range(0, K, BK):
        row = tl.load(x + start + k)[None, :]
        v = tl.load(w + n[:, None] * K + start + k[None, :]).to(tl.float32)
        a += tl.sum(v * row, 1)
        b += tl.sum(v * (row + 1.0), 1)
        c += tl.sum(v * (row - 2.0), 1)
        if y.dtype.element_ty == tl.float32:
            d += tl.sum(v + row, 1)
            e += tl.sum(v - row, 1)
    tl.store(y + n, a)
    tl.store(y + N + n, b)
    tl.store(y + 2 * N + n, c)
    tl.store(y + 3 * N + n, d)
    tl.store(y + 4 * N + n, e)


@pytest.mark.parametrize(
    ("dtype", "out"), [(torch.int8, torch.float64), (torch.float32, torch.float32)], ids=str
)
def test_three_or_five_sums_of_one_loop_have_all_their_rows(dtype: torch.dtype, out: torch.dtype):
    """Neither divides the sixteen sums that registers hold, or the rows of a tile."""
    w, x = torch.randint(-8, 8, (32, 256)).to(dtype), torch.randint(-8, 8, (256,)).float()
    y = torch.zeros(5, 32, dtype=out)
    run(_many_sums, (1,), x, w, y, 256, N=32, BK=64)
    v = w.double()
    expected = [v @ x.double(), v @ (x.double() + 1), v @ (x.double() - 2), 0 * v.sum(1), 0 * v.sum(1)]
    if out == torch.float32:
        expected[3:] = [(v + x).sum(1), (v - x).sum(1)]
    assert torch.equal(y.double(), torch.stack(expected))


@triton.jit
def _few_rows(x, y, n, FEW: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    v = tl.load(x + r[:, None] * BLOCK + c[None, :], mask=(c < n)[None, :], other=0.0)
    tl.store(y + r, tl.sum(v, 1), mask=r < FEW)


@triton.jit
def _five_sums(x, y, n, apart, ROWS: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    a = tl.zeros([ROWS], tl.float32)
    b, d, e, f = a, a, a, a
    for at in range(0, n, BLOCK):
        p = x + r[:, None] * n + at + c[None, :]
        m = ((at if MASKED else 0) + c)[None, :] < (n if MASKED else BLOCK)
        a += tl.sum(tl.load(p, mask=m, other=0.0), 1)
        b += tl.sum(tl.load(p + apart, mask=m, other=0.0), 1)
        d += tl.sum(tl.load(p + 2 * apart, mask=m, other=0.0), 1)
        e += tl.sum(tl.load(p + 3 * apart, mask=m, other=0.0), 1)
        f += tl.sum(tl.load(p + 4 * apart, mask=m, other=0.0), 1)
    tl.store(y + r, a)
    tl.store(y + ROWS + r, b)
    tl.store(y + 2 * ROWS + r, d)
    tl.store(y + 3 * ROWS + r, e)
    tl.store(y + 4 * ROWS + r, f)


@pytest.mark.parametrize("few", [3, 5, 13])
@pytest.mark.parametrize("n", [50, 100, 128])
def test_sums_of_as_many_rows_as_are_no_power_of_two(few: int, n: int):
    x, y = torch.randn(16, 128), torch.zeros(16)
    run(_few_rows, (1,), x, y, n, FEW=few, ROWS=16, BLOCK=128)
    expected = x[:, :n].double().sum(1)
    expected[few:] = 0
    assert worst(y, expected) < 1e-6


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize(("n", "masked"), [(50, True), (100, True), (128, False), (256, False)])
def test_five_sums_in_one_loop(rows: int, n: int, masked: bool):
    x, y = torch.randn(5, rows, n), torch.zeros(5, rows)
    run(_five_sums, (1,), x, y, n, rows * n, ROWS=rows, BLOCK=64, MASKED=masked)
    assert worst(y, x.double().sum(2)) < 1e-6
