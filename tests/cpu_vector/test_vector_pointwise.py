"""Element-wise kernels: values, special values, casts, masks and addresses."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
import vector_kernels as k
from vector_support import Guarded, run, ulps, worst

from headrace.codegen.cpu.vector.memory import stream

EXACT = {
    "exp": torch.exp, "exp2": torch.exp2, "log": torch.log, "log2": torch.log2, "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt, "erf": torch.erf, "sigmoid": torch.sigmoid, "abs": torch.abs, "floor": torch.floor,
    "ceil": torch.ceil, "sin": torch.sin, "cos": torch.cos, "neg": torch.neg,
}  # fmt: skip
SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 88.7, 88.8, -87.4, -103.9,
-110.0, 128.0, -149.0, -150.5, 3.4e38, 1.17549435e-38]  # fmt: skip


@pytest.mark.parametrize("op", EXACT)
def test_unary_is_within_two_units_in_the_last_place(op: str):
    torch.manual_seed(len(op))
    x = torch.cat([torch.randn(3000) * s for s in (0.1, 1.0, 10.0, 60.0)])
    if op in ("log", "log2", "sqrt", "rsqrt"):
        x = torch.cat([x.abs() + 1e-30, torch.rand(1000) * 0.2 + 0.9])
    if op == "sigmoid":  # 1 / (1 + e^-x) as Triton writes it overflows below -88
        x = x.clamp(-80.0, 80.0)
    y = torch.empty_like(x)
    run(k.unary, [-(-x.numel() // 256)], x, y, x.numel(), OP=op, BLOCK=256)
    exact = EXACT[op](x.double())
    finite = exact.abs() < 3.4e38
    # sigmoid is composed of four rounded operations
    assert ulps(y[finite], exact[finite]) <= (4.0 if op == "sigmoid" else 2.0)


@pytest.mark.parametrize("op", EXACT)
def test_unary_special_values_follow_ieee(op: str):
    x = torch.tensor(SPECIAL)
    y = torch.empty_like(x)
    run(k.unary, [1], x, y, x.numel(), OP=op, BLOCK=256)
    expected = EXACT[op](x)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    keep = expected.isfinite()
    torch.testing.assert_close(y[keep], expected[keep], rtol=3e-7, atol=3e-45)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("n", [1, 15, 16, 17, 100, 1000])
def test_unary_in_every_float_type_and_length(dtype: torch.dtype, n: int):
    torch.manual_seed(n)
    x = torch.randn(n).to(dtype)
    y = torch.full((n + 40,), 7.0).to(dtype)
    run(k.unary, [-(-n // 64)], x, y, n, OP="exp", BLOCK=64)
    torch.testing.assert_close(
        y[:n], torch.exp(x.double()).to(dtype), rtol=1e-6 if dtype == torch.float32 else 0, atol=0
    )
    assert bool((y[n:] == 7.0).all())


BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "max": torch.fmax, "min":
    torch.fmin, "max_nan": torch.maximum, "min_nan": torch.minimum,
    "less": lambda x, y: torch.where(x < y, x, y + y),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", BINARY)
def test_binary_float(op: str, dtype: torch.dtype):
    torch.manual_seed(3)
    x, y = torch.randn(333).to(dtype), torch.randn(333).to(dtype)
    x[::7] = math.nan
    y[::11] = math.nan
    y[5] = math.inf
    z = torch.empty_like(x)
    run(k.binary, [3], x, y, z, 333, OP=op, BLOCK=128)
    expected = BINARY[op](x, y)
    assert worst(z, expected) == 0.0


INTEGER = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum,
    "floordiv": lambda x, y: torch.div(x, y, rounding_mode="trunc"), "mod": torch.fmod, "and":
    torch.bitwise_and, "or": torch.bitwise_or, "xor": torch.bitwise_xor,
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int8], ids=str)
@pytest.mark.parametrize("op", INTEGER)
def test_binary_integer_wraps_and_truncates(op: str, dtype: torch.dtype):
    torch.manual_seed(4)
    info = torch.iinfo(dtype)
    x = torch.randint(info.min, info.max, (333,), dtype=dtype)
    y = torch.randint(info.min, info.max, (333,), dtype=dtype)
    x[0], y[1], y[2:9] = info.min, info.max, torch.tensor([1, 2, 3, 5, -3, 7, -1], dtype=dtype)
    y[y == 0] = 1
    z = torch.empty_like(x)
    run(k.binary, [3], x, y, z, 333, OP=op, BLOCK=128)
    assert torch.equal(z, INTEGER[op](x, y))


def test_division_by_zero_does_not_trap():
    x = torch.tensor([1, -(2**31), 5, 7], dtype=torch.int32)
    y = torch.tensor([0, -1, 0, 2], dtype=torch.int32)
    z = torch.empty_like(x)
    run(k.binary, [1], x, y, z, 4, OP="floordiv", BLOCK=16)
    assert int(z[3]) == 3


@pytest.mark.parametrize("op", ["shl", "shr"])
def test_shifts(op: str):
    x = torch.arange(-40, 40, dtype=torch.int32) * 123457
    y = torch.arange(80, dtype=torch.int32) % 31
    z = torch.empty_like(x)
    run(k.binary, [1], x, y, z, 80, OP=op, BLOCK=128)
    expected = torch.bitwise_left_shift(x, y) if op == "shl" else torch.bitwise_right_shift(x, y)
    assert torch.equal(z, expected)


FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
INTS = [torch.int8, torch.int32, torch.int64]


@pytest.mark.parametrize("to", FLOATS, ids=str)
@pytest.mark.parametrize("source", FLOATS + INTS, ids=str)
def test_casts_to_float_round_to_nearest_even(source: torch.dtype, to: torch.dtype):
    torch.manual_seed(5)
    if source.is_floating_point:
        x = torch.cat([torch.randn(500, dtype=torch.float64) * s for s in (1e-3, 1.0, 300.0)]).to(source)
        x[:4] = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
        x[4:8] = torch.tensor(
            [1.00390625, 1.01171875, 1.0009765625 + 2.0**-11, 65519.0], dtype=torch.float64
        ).to(source)
    else:
        x = torch.randint(torch.iinfo(source).min, torch.iinfo(source).max, (1500,), dtype=source)
    y = torch.empty(x.numel(), dtype=to)
    run(k.cast, [6], x, y, x.numel(), BLOCK=256)
    if source == torch.float64 and to in (torch.bfloat16, torch.float16):
        # one rounding: torch's own cast goes through f32
        error = (y.double() - x).abs()
        for step in (-1, 1):
            other = (y.view(torch.int16) + step).view(to).double()
            keep = other.isfinite() & x.isfinite() & y.isfinite()
            assert bool((error[keep] <= (other - x).abs()[keep]).all())
        return
    if source in (torch.int64, torch.int32) and to in (torch.bfloat16, torch.float16):
        expected = x.double().to(torch.float64)
        torch.testing.assert_close(y.double()[y.isfinite()], expected[y.isfinite()], rtol=2.0**-8, atol=0)
        return
    assert worst(y, x.to(to)) == 0.0


@pytest.mark.parametrize("to", INTS, ids=str)
def test_casts_to_integer_truncate(to: torch.dtype):
    x = torch.tensor([0.0, 0.9, -0.9, 1.5, -1.5, 100.7, -100.7])
    y = torch.empty(7, dtype=to)
    run(k.cast, [1], x, y, 7, BLOCK=16)
    assert torch.equal(y, x.to(to))


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("n", [1, 5, 31, 64, 100])
def test_masked_addresses_are_never_touched(n: int, dtype: torch.dtype, at_end: bool):
    with Guarded(n, dtype, at_end) as x, Guarded(n, dtype, at_end) as y:
        x.copy_(torch.arange(n))
        run(k.cast, [-(-n // 128) + 1], x, y, n, BLOCK=128)
        assert torch.equal(x, y)
        del x, y


@pytest.mark.parametrize("period", [2, 3, 7])
def test_mask_that_is_no_bound(period: int):
    x = torch.randn(777)
    y = torch.empty(777)
    run(k.odd_mask, [7], x, y, 777, period, BLOCK=128)
    index = torch.arange(777)
    assert torch.equal(y, torch.where(index % period != 0, x, torch.tensor(-7.0)) * 2)


@pytest.mark.parametrize(("low", "high"), [(0, 64), (3, 40), (17, 17), (40, 3), (-5, 5), (60, 1000)])
def test_mask_with_lower_and_upper_bound(low: int, high: int):
    x, y = torch.randn(64), torch.zeros(64)
    run(k.window, [1], x, y, low, high, BLOCK=64)
    expected = torch.zeros(64)
    lo, hi = max(low, 0), max(min(high, 64), 0)
    expected[lo:hi] = x[lo:hi] + 1.0 if hi > lo else expected[lo:hi]
    assert torch.equal(y, expected)


@pytest.mark.parametrize("step", [0, 1, 2, -1, 5])
@pytest.mark.parametrize("n", [1, 33, 200])
def test_run_time_strides_and_reversed_stores(n: int, step: int):
    whole = torch.randn(5 * 200 * 2 + 1)
    x = whole[1000:]
    y = torch.empty(n)
    run(k.strided, [-(-n // 64)], x, y, n, step, BLOCK=64)
    index = 1000 + torch.arange(n) * step
    assert torch.equal(y, whole[index].flip(0))


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (7, 64), (20, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_gathered_by_index(rows: int, cols: int, dtype: torch.dtype):
    table = torch.randn(50, cols).to(dtype)
    index = torch.randint(0, 50, (rows,), dtype=torch.int64)
    y = torch.empty(rows, cols, dtype=dtype)
    run(k.gather_rows, [-(-rows // 8)], table, index, y, rows, cols, BM=8, BN=64)
    assert torch.equal(y, table[index])


@pytest.mark.parametrize(("m", "n"), [(1, 1), (16, 16), (33, 17), (5, 70)])
def test_transpose(m: int, n: int):
    x = torch.randn(m, n)
    y = torch.empty(n, m)
    run(k.transpose, [-(-m // 16), -(-n // 16)], x, y, m, n, B=16)
    assert torch.equal(y, x.T)


@pytest.mark.parametrize(("bm", "bn"), [(8, 16), (16, 8), (4, 32)])
@pytest.mark.parametrize(("m", "n"), [(20, 27), (8, 8), (1, 40)])
def test_transpose_of_a_tile_that_is_kept_in_memory(m: int, n: int, bm: int, bn: int):
    x, y = torch.randn(m, n + 3), torch.zeros(n, m + 2)
    run(k.transpose_offsets, [-(-m // bm), -(-n // bn)], x, y, m, n, n + 3, m + 2, BM=bm, BN=bn)
    e = torch.full((-(-m // bm) * bm, -(-n // bn) * bn), -1.0, dtype=torch.float64)
    e[:m, :n] = x[:, :n]
    e = e.exp()
    for at in range(0, e.shape[1], bn):
        e[:, at : at + bn] /= e[:, at : at + bn].sum(1, keepdim=True)
    assert worst(y[:, :m], e[:m, :n].T) < 1e-6
    assert bool((y[:, m:] == 0).all())


@pytest.mark.parametrize("by", [0, 1, 3, -2, 16, 40])
@pytest.mark.parametrize("n", [1, 60, 128])
def test_shifting_a_tile_within_its_own_memory_reads_before_it_writes(n: int, by: int):
    whole = torch.arange(300, dtype=torch.float32)
    expected = whole.clone()
    expected[50 + by : 50 + by + n] = whole[50 : 50 + n]
    run(k.shift_in_place, [1], whole[50:], n, by, BLOCK=128)
    assert torch.equal(whole, expected)


@pytest.mark.parametrize("half", [4, 32, 64])
def test_rotation_in_place_keeps_what_the_second_store_needs(half: int):
    x = torch.randn(3, 2 * half)
    c, s = torch.randn(half), torch.randn(half)
    a, b = x[:, :half].clone(), x[:, half:].clone()
    run(k.rotate_in_place, [3], x, c, s, HALF=half)
    torch.testing.assert_close(x, torch.cat([a * c - b * s, b * c + a * s], 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("base", "step"), [(0, 1), (2**31 - 5, 1), (7, 2**30), (-(2**31), -1)])
def test_32_bit_integers_wrap_before_they_are_widened(base: int, step: int):
    y = torch.empty(64, dtype=torch.int64)
    run(k.wrapping, [1], y, base, step, BLOCK=64)
    exact = [(base + i * step + 2**31) % 2**32 - 2**31 for i in range(64)]
    assert y.tolist() == exact


def test_64_bit_offsets_are_kept():
    x, y = torch.randn(32), torch.empty(32)
    run(k.wide_offsets, [1], x, y, 2**30, BLOCK=32)
    assert torch.equal(y, x + 1.0)


@pytest.mark.parametrize("n", [3, 16, 100, 1000])
def test_subnormal_numbers_are_rounded_to_bf16_and_not_flushed(n: int):
    torch.manual_seed(n)
    x = torch.randint(0, 1 << 23, (n,), dtype=torch.int32).view(torch.float32)
    x[1::2] *= -1.0
    x[::3] = torch.randn(len(x[::3]))
    x[2] = 1.1754942e-38  # rounds up to the least normal number
    y = torch.empty(n, dtype=torch.bfloat16)
    run(k.cast, [-(-n // 64)], x, y, n, BLOCK=64)
    assert torch.equal(y.view(torch.int16), x.to(torch.bfloat16).view(torch.int16))


@pytest.mark.parametrize(
    ("rows", "cols", "stride"), [(4200, 1024, 1024), (4200, 1000, 1030), (1, 1024, 1024)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_launches_larger_than_the_caches_write_the_same(
    rows: int, cols: int, stride: int, dtype: torch.dtype
):
    x = torch.randn(rows * stride + 64).to(dtype)
    for first in (0, 1):  # aligned and not
        y = torch.zeros_like(x)
        kernel = run(k.double_rows, [rows], x[first:], y[first:], cols, stride, BLOCK=1024)
        assert "!nontemporal" in kernel.llvm_ir
        assert "sfence" in kernel.llvm_ir
        expected = torch.zeros_like(x)
        expected[first : first + rows * stride].view(rows, stride)[:, :cols] = (
            2 * x[first : first + rows * stride].view(rows, stride)[:, :cols]
        )
        assert torch.equal(y, expected)


def test_a_large_tensor_written_in_place():
    rows = stream.STREAM_BYTES // 4096 + 1
    x = torch.randn(rows * 1024)
    expected = 2 * x
    run(k.double_rows, [rows], x, x, 1024, 1024, BLOCK=1024)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("apart", [None, 0, 1, -5, 32, 64, 512])
def test_stores_written_together_are_as_good_as_one_after_the_other(apart: int | None, dtype: torch.dtype):
    """``apart`` is where y begins within x; None: elsewhere."""
    memory, cosine, sine = (torch.randn(n).to(dtype) for n in (2500, 32, 32))
    for heads, shift in ((8, 0), (5, 0), (8, 32), (8, 3), (5, -2), (0, 0)):
        results = []
        for engine in ("vector", "reference"):
            x = memory.clone()
            y = torch.zeros_like(x)[500:] if apart is None else x[1000 + apart :]
            run(k.rotate, [1], x[1000:], cosine, sine, y, heads, shift, H=8, D=64, engine=engine)
            results.append((x, y))
        for ours, expected in zip(*results, strict=True):
            torch.testing.assert_close(
                ours, expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5
            )


@triton.jit
def _long(x, y, n, STEPS: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i, mask=i < n, other=7)
    odd = v != v
    for _ in tl.static_range(STEPS):
        v = (v ^ (v >> 3)) * 5 + 1
        odd = odd ^ (v > 0)
    tl.store(y + i, tl.where(odd, v, -v), mask=i < n + 1)


@pytest.mark.parametrize("n", [0, 19, 32])
def test_a_chain_of_a_thousand_operations(n: int):
    x, y = torch.randint(-99, 99, (32,), dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    run(_long, (1,), x, y, n, STEPS=200, N=32)
    v = torch.where(torch.arange(32) < n, x, 7)
    odd = torch.zeros(32, dtype=torch.bool)
    for _ in range(200):
        v = (v ^ (v >> 3)) * 5 + 1
        odd ^= v > 0
    expected = torch.where(odd, v, -v)
    assert torch.equal(y[: n + 1], expected[: n + 1])
    assert not y[n + 1 :].any()
