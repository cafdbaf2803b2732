"""Number formats and corner cases of the reference lowering, against torch and Python."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap

import pytest
import torch
import triton
import triton.language as tl
from cpu_case import type_of

from headrace.codegen.cpu.direct import compile_direct

REFERENCE = {"engine": "reference"}


@triton.jit
def convert(x, o, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(o + i, tl.load(x + i).to(o.dtype.element_ty))


@triton.jit
def divide(a, b, q, r, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(q + i, tl.load(a + i) // tl.load(b + i))
    tl.store(r + i, tl.load(a + i) % tl.load(b + i))


@triton.jit
def shift(a, b, o, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(o + i, tl.load(a + i) << tl.load(b + i))
    tl.store(o + N + i, tl.load(a + i) >> tl.load(b + i))


@triton.jit
def scaled(
    a, sa, b, sb, o, M: tl.constexpr, K: tl.constexpr, FA: tl.constexpr, FB: tl.constexpr, PA: tl.constexpr
):
    m = tl.arange(0, M)
    group = tl.arange(0, K // 32)
    x = tl.load(a + m[:, None] * (K // PA) + tl.arange(0, K // PA)[None, :])
    y = tl.load(b + tl.arange(0, K)[:, None] * M + m[None, :])
    s = tl.load(sa + m[:, None] * (K // 32) + group[None, :])
    t = tl.load(sb + m[:, None] * (K // 32) + group[None, :])
    tl.store(o + m[:, None] * M + m[None, :], tl.dot_scaled(x, s, FA, y, t, FB))


@triton.jit
def printing(x, n, N: tl.constexpr):
    tl.device_print("n is", n)
    tl.device_print("x is", tl.load(x + tl.arange(0, N)))
    tl.device_print("100%s of 5%n", n, hex=True)
    tl.device_print("half", 0.5, hex=True)
    tl.device_print("50%")


def converted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    o = torch.zeros(x.numel(), dtype=dtype)
    kernel = compile_direct(convert, {"x": type_of(x), "o": type_of(o)}, {"N": 64}, options=REFERENCE)
    kernel(x.numel() // 64, 1, 1, x, o)
    return o


F8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", F8)
def test_every_8_bit_float_decodes_as_in_torch(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype)
    torch.testing.assert_close(converted(codes, torch.float32), codes.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", F8)
def test_encoding_to_8_bits_rounds_to_even_and_saturates(dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype).float()
    values = values[values.isfinite()].sort().values
    ties = (values[1:] + values[:-1]) / 2
    limits = torch.tensor([float("inf"), -float("inf"), 1e30, float("nan"), 1e-30, -1e-9])
    x = torch.cat([values, ties, ties.nextafter(values[1:]), ties.nextafter(values[:-1]), limits])
    x = torch.cat([x, torch.zeros(-x.numel() % 64)])
    top = torch.finfo(dtype).max
    expected = x.clamp(-top, top).to(dtype).float()
    torch.testing.assert_close(converted(x, dtype).float(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_round_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4096, generator=generator) * torch.exp2(
        torch.randint(-30, 17, (4096,), generator=generator).float()
    )
    x[:6] = torch.tensor([float("nan"), float("inf"), 65504.0, 65519.99, 65520.0, 3.4e38])
    torch.testing.assert_close(converted(x, dtype), x.to(dtype), rtol=0, atol=0, equal_nan=True)
    # Just above a tie of the narrow format, by less than a float32 can hold.
    step = 2.0**-11 if dtype is torch.float16 else 2.0**-8
    wide = torch.full((64,), 1 + step + 2.0**-40, dtype=torch.float64)
    assert converted(wide, dtype).float().eq(1 + 2 * step).all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_floats_saturate_to_integers_and_nan_becomes_zero(dtype: torch.dtype) -> None:
    x = torch.zeros(64)
    x[:6] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, -3.9, 3.9])
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    assert converted(x, dtype)[:6].tolist() == [0, high, low, high, -3, 3]


def test_division_truncates_and_never_traps() -> None:
    low = -(2**31)
    a = torch.tensor([7, -7, 7, -7, low, low, 5, 0] * 8, dtype=torch.int32)
    b = torch.tensor([2, 2, -2, -2, -1, 1, 0, 0] * 8, dtype=torch.int32)
    q, r = torch.zeros_like(a), torch.zeros_like(a)
    kernel = compile_direct(
        divide, {"a": "*i32", "b": "*i32", "q": "*i32", "r": "*i32"}, {"N": 64}, options=REFERENCE
    )
    kernel(1, 1, 1, a, b, q, r)
    assert q[:8].tolist() == [3, -3, -3, 3, low, low, 0, 0]
    assert r[:8].tolist() == [1, -1, 1, -1, 0, 0, 5, 0]


def test_shifts_by_the_width_or_more_are_defined() -> None:
    a = torch.tensor([-8, 8, -8, 8] * 4, dtype=torch.int32)
    b = torch.tensor([1, 31, 32, 99] * 4, dtype=torch.int32)
    o = torch.zeros(32, dtype=torch.int32)
    compile_direct(shift, {"a": "*i32", "b": "*i32", "o": "*i32"}, {"N": 16}, options=REFERENCE)(
        1, 1, 1, a, b, o
    )
    assert o[:4].tolist() == [-16, 0, 0, 0]
    assert o[16:20].tolist() == [-4, 0, -1, 0]


@pytest.mark.parametrize("left", ["e4m3", "e2m1"])
def test_scaled_dot_products(left: str) -> None:
    g = torch.Generator().manual_seed(3)
    size, inner = 16, 64
    right = torch.randn(inner, size, generator=g).to(torch.float8_e5m2)
    if left == "e2m1":
        packed = torch.randint(0, 256, (size, inner // 2), generator=g).to(torch.uint8)
        table = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
        codes = torch.stack([packed & 15, packed >> 4], -1).reshape(size, inner).long()
        decoded = table[codes & 7] * (1 - 2 * (codes >> 3))
    else:
        values = torch.randn(size, inner, generator=g).to(torch.float8_e4m3fn)
        packed, decoded = values.view(torch.uint8), values.float()
    sa, sb = (torch.randint(120, 134, (size, inner // 32), generator=g).to(torch.uint8) for _ in range(2))
    o = torch.zeros(size, size)
    meta = {"M": size, "K": inner, "FA": left, "FB": "e5m2", "PA": 2 if left == "e2m1" else 1}
    signature = {"a": "*u8", "sa": "*u8", "b": "*u8", "sb": "*u8", "o": "*fp32"}
    kernel = compile_direct(scaled, signature, meta, options=REFERENCE)
    kernel(1, 1, 1, packed, sa, right.view(torch.uint8), sb, o)
    a = decoded.double() * torch.exp2(sa.double() - 127).repeat_interleave(32, 1)
    b = right.double() * torch.exp2(sb.double() - 127).repeat_interleave(32, 1).T
    torch.testing.assert_close(o.double(), a @ b, rtol=0, atol=1e-6 * (a @ b).abs().max().item())


def test_printing_shows_program_element_and_value() -> None:
    script = """
        import torch
        from test_cpu_numbers import REFERENCE, printing
        from headrace.codegen.cpu.direct import compile_direct
        kernel = compile_direct(printing, {"x": "*fp32", "n": "i32"}, {"N": 2}, options=REFERENCE)
        kernel(1, 1, 1, torch.tensor([0.5, -2.0]), -7)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "pid (0, 0, 0) idx (0) n is: -7",
        "pid (0, 0, 0) idx (0) x is: 0.500000",
        "pid (0, 0, 0) idx (1) x is: -2.000000",
        "pid (0, 0, 0) idx (0) 100%s of 5%n: 0xfffffff9",
        "pid (0, 0, 0) idx (0) half: 0x1p-1",
        "pid (0, 0, 0) 50%",
    ]
