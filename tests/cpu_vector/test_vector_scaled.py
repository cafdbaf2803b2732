"""Block-scaled products against float64 and against the reference lowering."""

from __future__ import annotations

import pytest
import torch
import vector_narrow_kernels as k
from vector_support import run, worst

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
TYPES = {
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def operand(rows: int, kk: int, form: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel reads, and its values."""
    if form == "e2m1":
        raw = torch.randint(0, 256, (rows, kk // 2)).to(torch.uint8)
        return raw, torch.stack([E2M1[(raw & 15).long()], E2M1[(raw >> 4).long()]], -1).reshape(rows, kk)
    raw = torch.randn(rows, kk).to(TYPES[form])
    return raw, raw.double()


@pytest.mark.parametrize("level", ["native", "avx2"])
@pytest.mark.parametrize("b_along_k", [False, True])
@pytest.mark.parametrize(("m", "n", "kk"), [(16, 32, 64), (1, 16, 128), (2, 4, 32)])
@pytest.mark.parametrize(
    ("left", "right"),
    [("e4m3", "e4m3"), ("e2m1", "e2m1"), ("e5m2", "e2m1"), ("bf16", "e2m1"), ("fp16", "e4m3")],
)
def test_scaled_products(
    monkeypatch, left: str, right: str, m: int, n: int, kk: int, b_along_k: bool, level: str
):
    monkeypatch.setenv("HEADRACE_CPU_FEATURES", level)
    (a, a_values), (b, b_values) = operand(m, kk, left), operand(n, kk, right)
    scales = [torch.randint(120, 134, (rows, kk // 32)).to(torch.uint8) for rows in (m, n)]
    scaled = left not in ("bf16", "fp16")
    if scaled:
        a_values = a_values * torch.exp2(scales[0].double() - 127).repeat_interleave(32, 1)
    b_values = b_values * torch.exp2(scales[1].double() - 127).repeat_interleave(32, 1)
    out, reference = torch.zeros(m, n), torch.zeros(m, n)
    constants = {
        "M": m, "N": n, "K": kk, "A": left, "B": right, "A_PER": 1 + (left == "e2m1"),
        "B_PER": 1 + (right == "e2m1"), "A_SCALED": scaled, "B_SCALED": True, "B_ALONG_K": b_along_k,
    }  # fmt: skip
    b = b if b_along_k else b.T.contiguous()
    made = run(k.dot_scaled, [1], a, b, *scales, out, **constants)
    run(k.dot_scaled, [1], a, b, *scales, reference, engine="reference", **constants)
    assert not made.metadata["outlined"]
    assert worst(out, a_values @ b_values.T) < 2e-6
    assert worst(out, reference) < 2e-6


def test_the_smallest_and_the_nan_scale():
    (a, values), b = operand(16, 64, "e4m3"), torch.ones(16, 64).to(torch.float8_e4m3fn)
    scales = [torch.full((16, 2), 127, dtype=torch.uint8) for _ in "ab"]
    scales[0][3, 1], scales[0][5, 0] = 0, 255
    out = torch.zeros(16, 16)
    run(k.dot_scaled, [1], a, b, *scales, out, M=16, N=16, K=64, A="e4m3", B="e4m3", A_PER=1, B_PER=1,
        A_SCALED=True, B_SCALED=True, B_ALONG_K=True)  # fmt: skip
    values[3, 32:] *= 2.0**-127
    values[5] = torch.nan
    assert worst(out, values @ torch.ones(64, 16, dtype=torch.float64)) < 2e-6
