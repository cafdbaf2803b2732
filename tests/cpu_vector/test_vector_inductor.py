"""Kernels in the shape in which Inductor writes them, against float64: training steps depend on them."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run, worst


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def safe_softmax(x_ptr, bias_ptr, rows, cols, XB: tl.constexpr, RB: tl.constexpr):
    """In place: softmax of x + bias by rows, and 0 in a row of nothing but -inf."""
    x = tl.program_id(0) * XB + tl.arange(0, XB)[:, None]
    r = tl.arange(0, RB)[None, :]
    mask = (r < cols) & (x < rows)
    value = tl.load(x_ptr + (r + cols * x), mask, other=0.0)
    value += tl.load(bias_ptr + (r + cols * (x % cols)), mask, other=0.0)
    top = tl.max(tl.where(mask, value, float("-inf")), 1)[:, None]
    finite = (((value == float("-inf")) == 0).to(tl.int64)) != 0
    some = tl.reduce(tl.where(mask, finite, False), 1, _either)[:, None].to(tl.int1)
    e = tl.exp(value - top)
    total = tl.sum(tl.where(mask, e, 0), 1)[:, None]
    tl.store(x_ptr + (r + cols * x), tl.where(some == 0, 0.0, e / total), mask)


@triton.jit
def batch_norm_sums(
    grad, x_ptr, mean, out, N: tl.constexpr, YB: tl.constexpr, XB: tl.constexpr, RB: tl.constexpr
):
    """Sums of grad * (x - mean) by channel (16) and part (8) of 128 pixels, from two memory formats."""
    y = tl.program_id(1) * YB + tl.arange(0, YB)[:, None, None]
    x = tl.program_id(0) * XB + tl.arange(0, XB)[None, :, None]
    base = tl.arange(0, RB)[None, None, :]
    m = tl.load(mean + y, y < 16)
    total = tl.full([YB, XB, RB], 0, tl.float32)
    for at in tl.range(0, N, RB):
        r = at + base
        mask = (r < N) & (x < 8) & (y < 16)
        where = 16 * (((r + 128 * x) // 16) % 16) + 256 * y + 4096 * (x // 2) + r % 16
        a = tl.load(grad + where, mask, other=0.0)
        b = tl.load(x_ptr + (y + 16 * r + 2048 * x), mask, other=0.0)
        total = tl.where(mask, total + tl.broadcast_to(a * (b - m), [YB, XB, RB]), total)
    tl.store(out + (x + 8 * y), tl.sum(total, 2)[:, :, None], (x < 8) & (y < 16))


@pytest.mark.parametrize("block", [1, 8, 32])
def test_a_softmax_guarded_by_any_of_its_row(block: int):
    torch.manual_seed(0)
    rows, cols = 96, 24
    x, bias = (
        torch.randn(rows, cols),
        torch.zeros(cols, cols).masked_fill(torch.ones(cols, cols).triu(1).bool(), float("-inf")),
    )
    bias[5] = float("-inf")
    expected = (x.double() + bias.repeat(rows // cols, 1)).softmax(1).nan_to_num(0.0)
    run(safe_softmax, [triton.cdiv(rows, block)], x, bias, rows, cols, XB=block, RB=32)
    assert worst(x, expected) < 2e-6


@pytest.mark.parametrize(("yb", "xb", "rb"), [(16, 2, 128), (16, 8, 8), (1, 4, 64), (4, 1, 32)])
def test_sums_of_a_block_of_three_dimensions(yb: int, xb: int, rb: int):
    torch.manual_seed(0)
    grad, mean = torch.randn(4, 16, 16, 16), torch.randn(16)
    x = torch.randn(4, 16, 16, 16)  # pixels before channels
    out = torch.empty(16, 8)
    terms = grad.double() * (x.double() - mean).permute(0, 3, 1, 2)
    expected = terms.permute(1, 0, 2, 3).reshape(16, 8, 128).sum(2)
    run(batch_norm_sums, [8 // xb, 16 // yb], grad, x, mean, out, N=128, YB=yb, XB=xb, RB=rb)
    assert worst(out, expected) < 2e-6
