"""8-bit floats: every code, every 16-bit input, a sample of wider ones; products by conversion."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl
import vector_narrow_kernels as k
from vector_support import run, worst

NARROW = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
WIDE = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def convert(x: torch.Tensor, dtype: torch.dtype, engine: str = "vector") -> torch.Tensor:
    y = torch.zeros(x.numel(), dtype=dtype)
    made = run(k.convert, [-(-x.numel() // 256)], x, y, x.numel(), BLOCK=256, engine=engine)
    assert engine == "reference" or not made.metadata["outlined"]
    return y


@pytest.mark.parametrize("level", ["native", "avx2"])
@pytest.mark.parametrize("wide", WIDE, ids=str)
@pytest.mark.parametrize("narrow", NARROW, ids=str)
def test_every_code_widens_to_its_value(monkeypatch, narrow: torch.dtype, wide: torch.dtype, level: str):
    monkeypatch.setenv("HEADRACE_CPU_FEATURES", level)
    codes = torch.arange(256).to(torch.uint8).view(narrow)
    torch.testing.assert_close(convert(codes, wide), codes.to(wide), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("level", ["native", "avx2"])
@pytest.mark.parametrize("wide", WIDE, ids=str)
@pytest.mark.parametrize("narrow", NARROW, ids=str)
def test_rounding_and_saturation_are_those_of_the_reference(
    monkeypatch, narrow: torch.dtype, wide: torch.dtype, level: str
):
    monkeypatch.setenv("HEADRACE_CPU_FEATURES", level)
    if wide.itemsize == 2:
        x = torch.arange(-(2**15), 2**15).to(torch.int16).view(wide)
    else:
        bits = torch.randint(-(2**31), 2**31 - 1, (20000,)).to(torch.int32).view(torch.float32)
        scaled = torch.randn(20000) * torch.exp2(torch.randint(-20, 18, (20000,)).float())
        ties = torch.arange(256).to(torch.uint8).view(narrow).float()
        ties = (ties[:-1] + ties[1:]) / 2
        x = torch.cat(
            [bits.to(wide), scaled.to(wide), ties.to(wide), torch.nextafter(ties, torch.zeros(())).to(wide)]
        )
    ours, reference = convert(x, narrow), convert(x, narrow, "reference")
    assert torch.equal(ours.view(torch.uint8), reference.view(torch.uint8))


@pytest.mark.parametrize("level", ["native", "avx2"])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (1, 1), (0, 1), (2, 3)])
@pytest.mark.parametrize(("m", "n", "kk"), [(16, 32, 64), (1, 16, 64), (4, 8, 16), (64, 16, 32)])
def test_products_of_8_bit_floats(monkeypatch, m: int, n: int, kk: int, left: int, right: int, level: str):
    monkeypatch.setenv("HEADRACE_CPU_FEATURES", level)
    a, b = torch.randn(m, kk).to(NARROW[left]), torch.randn(n, kk).to(NARROW[right])
    c, out = torch.randn(m, n), torch.zeros(m, n)
    made = run(k.dot, [1], a, b, c, out, M=m, N=n, K=kk, OUT=tl.float32, PRECISION="tf32", START=True)
    assert not made.metadata["outlined"]
    assert worst(out, a.double() @ b.double().T + c.double()) < 2e-6


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3", "bf16x3", "bf16x6"])
def test_an_input_precision_never_lowers_what_is_computed(precision: str):
    a, b, out = torch.randn(16, 64), torch.randn(32, 64), torch.zeros(16, 32)
    run(k.dot, [1], a, b, a, out, M=16, N=32, K=64, OUT=tl.float32, PRECISION=precision, START=False)
    assert worst(out, a.double() @ b.double().T) < 1e-6


@pytest.mark.parametrize("start", [False, True])
def test_f16_results_are_rounded_once(start: bool):
    a, b, c = torch.randn(16, 64).half(), torch.randn(32, 64).half(), torch.randn(16, 32).half()
    out = torch.zeros(16, 32, dtype=torch.float16)
    run(k.dot, [1], a, b, c, out, M=16, N=32, K=64, OUT=tl.float16, PRECISION="ieee", START=start)
    exact = a.double() @ b.double().T + (c.double() if start else 0)
    assert float(((out.double() - exact).abs() / (exact.abs() + 0.01)).max()) < 2.0**-11 * 1.01
