"""Three-dimensional and f64 products."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl
import vector_narrow_kernels as k
from vector_support import run, worst

TYPES = {
    torch.float32: (torch.float32, tl.float32, 2e-6),
    torch.bfloat16: (torch.float32, tl.float32, 2e-6),
    torch.float16: (torch.float16, tl.float16, 1e-3),
    torch.float64: (torch.float64, tl.float64, 1e-14),
    torch.int8: (torch.int32, tl.int32, 0.0),
    torch.float8_e4m3fn: (torch.float32, tl.float32, 2e-6),
}


def numbers(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype in (torch.int8, torch.int32):
        return torch.randint(-128, 128, shape).to(dtype)
    return torch.randn(shape).to(dtype)


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize(
    ("b", "m", "n", "kk"), [(4, 16, 16, 16), (2, 32, 64, 64), (1, 4, 8, 16), (8, 1, 16, 32)]
)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_batches_of_products(dtype: torch.dtype, b: int, m: int, n: int, kk: int, start: bool):
    result, out_type, bound = TYPES[dtype]
    x, y, c = numbers((b, m, kk), dtype), numbers((b, n, kk), dtype), numbers((b, m, n), result)
    out = torch.zeros(b, m, n, dtype=result)
    made = run(k.batched_dot, [1], x, y, c, out, B=b, M=m, N=n, K=kk, OUT=out_type, START=start)
    assert not made.metadata["outlined"]
    exact = x.double() @ y.double().transpose(1, 2) + (c.double() if start else 0)
    assert worst(out, exact) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_batch_accumulates_over_a_masked_loop(dtype: torch.dtype):
    x, y, out = torch.randn(2, 16, 75).to(dtype), torch.randn(2, 32, 75).to(dtype), torch.zeros(2, 16, 32)
    run(k.batched_loop, [1], x, y, out, 75, B=2, M=16, N=32, BK=32)
    assert worst(out, x.double() @ y.double().transpose(1, 2)) < 2e-6


@pytest.mark.parametrize("level", ["native", "avx2"])
@pytest.mark.parametrize(("m", "n", "kk"), [(16, 32, 64), (1, 16, 64), (2, 4, 8)])
def test_f64_products(monkeypatch, m: int, n: int, kk: int, level: str):
    monkeypatch.setenv("HEADRACE_CPU_FEATURES", level)
    a, b, c = (torch.randn(*s, dtype=torch.float64) for s in ((m, kk), (n, kk), (m, n)))
    out = torch.zeros_like(c)
    made = run(k.dot, [1], a, b, c, out, M=m, N=n, K=kk, OUT=tl.float64, PRECISION="ieee", START=True)
    assert not made.metadata["outlined"]
    assert worst(out, a @ b.T + c) < 1e-14
