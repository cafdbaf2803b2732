"""Plain Triton kernels of what no Spec of headrace expresses: int8 weights with a scale per row, RoPE."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gemv_int8(X, W, SCALES, Y, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """y[n] = scale[n] * sum_k w[n, k] x[k]; w is int8 [N, K], x, scale and y are bfloat16."""
    n0 = tl.program_id(0) * BLOCK_N
    rows = W + n0.to(tl.int64) * K + tl.arange(0, BLOCK_N)[:, None] * K
    acc = tl.zeros([BLOCK_N], dtype=tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        x = tl.load(X + k).to(tl.float32)
        w = tl.load(rows + k[None, :]).to(tl.float32)
        acc += tl.sum(w * x[None, :], axis=1)
    n = n0 + tl.arange(0, BLOCK_N)
    tl.store(Y + n, (acc * tl.load(SCALES + n).to(tl.float32)).to(tl.bfloat16))


@triton.jit
def rope(X, COS, SIN, Y, HEADS: tl.constexpr, HALF: tl.constexpr):
    """One position: every head's halves (a, b) become (a cos - b sin, b cos + a sin); x and y are bfloat16
    [positions, HEADS, 2 HALF], cos and sin bfloat16 [positions, HALF]."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, HALF)
    cos = tl.load(COS + row * HALF + d).to(tl.float32)[None, :]
    sin = tl.load(SIN + row * HALF + d).to(tl.float32)[None, :]
    at = row * (HEADS * 2 * HALF) + tl.arange(0, HEADS)[:, None] * (2 * HALF) + d[None, :]
    a = tl.load(X + at).to(tl.float32)
    b = tl.load(X + at + HALF).to(tl.float32)
    tl.store(Y + at, (a * cos - b * sin).to(tl.bfloat16))
    tl.store(Y + at + HALF, (b * cos + a * sin).to(tl.bfloat16))


@triton.jit
def add(X, Y, OUT, n, BLOCK: tl.constexpr):
    """out = x + y, float32; what a launch costs is measured on it."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(OUT + i, tl.load(X + i, mask=inside) + tl.load(Y + i, mask=inside), mask=inside)
