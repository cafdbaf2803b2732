"""Where number formats and masks end: sums of nothing, whole numbers beyond 2^53, booleans in memory and
shifted, products that must be rounded before they are added to."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run

from headrace.codegen.cpu.backend import driver
from headrace.codegen.cpu.direct import compile_direct


@triton.jit
def _one_over_sum(x, y, n, MINUS: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y, 1.0 / tl.sum(tl.load(x + i, mask=i < n, other=-0.0 if MINUS else 0.0)))


@triton.jit
def _one_over_sums(x, y, m, n, AXIS: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    a = tl.load(x + i * N + j, mask=(i < m) & (j < n), other=0.0)
    tl.store(y + tl.arange(0, N if AXIS == 0 else M), 1.0 / tl.sum(a, AXIS))


@triton.jit
def _converted(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i).to(y.dtype.element_ty))


@triton.jit
def _shifted_truth(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    b = tl.load(x + i) != 0
    tl.store(y + i, (b << b).to(tl.int32))
    tl.store(y + N + i, (b >> b).to(tl.int32))


@triton.jit
def _kept_where(x, seen, y, z, n, N: tl.constexpr):
    i = tl.arange(0, N)
    m = tl.load(seen + i, mask=i < n, other=False)
    a = tl.load(x + i, mask=m, other=-1.0)
    tl.store(y + i, a, mask=i < n)
    tl.store(z + i, m & (a > 0.5), mask=i < n)


@triton.jit
def _negated(x, y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, ~tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _largest_bytes(x, y, AXIS: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    a = tl.load(x + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    tl.store(y + tl.arange(0, N if AXIS == 0 else M), tl.reduce(a, AXIS, _larger))


@triton.jit
def _multiply_add(x, y, z, o, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(o + i, tl.load(x + i) * tl.load(y + i) + tl.load(z + i))
    tl.store(o + N, tl.load(x) * tl.load(y) + tl.load(z))


@pytest.mark.parametrize("size", [1, 16, 1024])
def test_a_sum_of_masked_zeros_is_zero_and_not_minus_zero(size: int):
    x, y = torch.full((size,), -0.0), torch.empty(1)
    for n, minus, expected in [(0, False, math.inf), (size, False, -math.inf), (0, True, -math.inf)]:
        run(_one_over_sum, [1], x, y, n, MINUS=minus, N=size)
        assert y.item() == expected


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(16, 64), (4, 8)])
def test_sums_of_rows_or_columns_that_are_masked_out_are_zero(shape: tuple[int, int], axis: int):
    x, y = torch.full(shape, -0.0), torch.empty(shape[1 - axis])
    for bounds in [(0, 64), (64, 0), (shape[0] - 1, shape[1] - 1)]:
        run(_one_over_sums, [1], x, y, *bounds, AXIS=axis, M=shape[0], N=shape[1])
        assert y.eq(math.inf).all()
    run(_one_over_sums, [1], x, y, 64, 64, AXIS=axis, M=shape[0], N=shape[1])
    assert y.eq(-math.inf).all()


def _to_bf16(number: int) -> float:
    """Rounded once, to nearest even."""
    size = Fraction(2) ** max(abs(number).bit_length() - 8, 0)
    return float(round(Fraction(number) / size) * size)


@pytest.mark.parametrize("engine", ["vector", "reference"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64, torch.int32], ids=str)
def test_whole_numbers_become_bf16_with_one_rounding(dtype: torch.dtype, engine: str):
    info = torch.iinfo(dtype)
    near = [(1 << e) + (k << (e - 8)) + d for e in range(9, 64) for k in (0, 1, 2, 3) for d in (-1, 0, 1)]
    numbers = [s * n for n in near for s in (1, -1) if info.min <= s * n <= info.max]
    numbers = (numbers + [info.min, info.max] + [0] * 2048)[:2048]
    x = torch.tensor([n - 2**64 if n > torch.iinfo(torch.int64).max else n for n in numbers])
    x, y = x.view(dtype) if dtype.itemsize == 8 else x.to(dtype), torch.empty(2048, dtype=torch.bfloat16)
    signature = {"x": {torch.int64: "*i64", torch.uint64: "*u64", torch.int32: "*i32"}[dtype], "y": "*bf16"}
    compile_direct(_converted, signature, {"N": 2048}, options={"engine": engine})(1, 1, 1, x, y)
    assert y.tolist() == [_to_bf16(n) for n in numbers]


def test_a_boolean_shifted_by_one_is_false():
    x, y = torch.arange(64, dtype=torch.int32) % 2, torch.empty(128, dtype=torch.int32)
    run(_shifted_truth, [1], x, y, N=64)
    assert y.eq(0).all()


@pytest.mark.parametrize("n", [256, 100, 0])
def test_booleans_are_read_and_written_a_vector_at_a_time(n: int):
    x, seen = torch.rand(256), torch.rand(256) > 0.5
    y, z = torch.full((256,), -7.0), torch.ones(256, dtype=torch.bool)
    kernel = run(_kept_where, [1], x, seen, y, z, n, N=256)
    a = torch.where(seen, x, -1.0)
    assert torch.equal(y, torch.where(torch.arange(256) < n, a, -7.0))
    assert torch.equal(z, (seen & (a > 0.5)) | (torch.arange(256) >= n))
    assert "masked.gather" not in kernel.llvm_ir
    assert "masked.scatter" not in kernel.llvm_ir


@pytest.mark.parametrize("by", [0, 1, -1, 16, -40, 128, 300])
def test_booleans_stored_over_what_is_read(by: int):
    whole = torch.rand(1000) > 0.5
    source, target, expected = whole[400:528], whole[400 + by : 528 + by], whole.clone()
    expected[400 + by : 500 + by] = ~whole[400:500]
    run(_negated, [1], source, target, 100, N=128)
    assert torch.equal(whole, expected)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_reduction_of_8_bit_floats_by_one_operation(dtype: torch.dtype, axis: int):
    x, y = torch.randn(16, 64).to(dtype), torch.empty(64 if axis == 0 else 16, dtype=dtype)
    run(_largest_bytes, [1], x, y, AXIS=axis, M=16, N=64)
    assert torch.equal(y.float(), x.float().amax(axis))


@pytest.mark.skipif(driver.why_inactive() is not None, reason=f"inactive: {driver.why_inactive()}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_are_rounded_before_a_sum_where_fusion_is_off(dtype: torch.dtype):
    x, y = torch.randn(2, 256, dtype=dtype)
    z, o = -(x * y), torch.empty(257, dtype=dtype)
    fused = _multiply_add[(1,)](x, y, z, o, N=256)
    assert fused.metadata.engine == "vector"
    assert o[:256].ne(0).any()
    _multiply_add[(1,)](x, y, z, o, N=256, enable_fp_fusion=False)
    assert o.eq(0).all()
    with triton.knobs.language.scope():
        triton.knobs.language.default_fp_fusion = False
        _multiply_add[(1,)](x, y, z, o.fill_(1), N=256, num_ctas=1, debug=True)
        assert o.eq(0).all()
