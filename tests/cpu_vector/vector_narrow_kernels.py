"""Products of narrow numbers, batches and block-scaled operands; conversions: kernels that the vector
generator is tested with."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def matmul_int8(a_ptr, b_ptr, c_ptr, M, N, K, A_ALONG_M: tl.constexpr, B_ALONG_K: tl.constexpr,
                BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros([BM, BN], tl.int32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        a_at = (m[:, None] + k[None, :] * M) if A_ALONG_M else (m[:, None] * K + k[None, :])
        a = tl.load(a_ptr + a_at, mask=(m[:, None] < M) & (k[None, :] < K), other=0)
        b_at = (n[None, :] * K + k[:, None]) if B_ALONG_K else (n[None, :] + k[:, None] * N)
        b = tl.load(b_ptr + b_at, mask=(k[:, None] < K) & (n[None, :] < N), other=0)
        acc = tl.dot(a, b, acc)
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def dot(a_ptr, b_ptr, c_ptr, o_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, OUT: tl.constexpr,
        PRECISION: tl.constexpr, START: tl.constexpr):  # fmt: skip
    """o = c + a @ b.T, one tile."""
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b = tl.load(b_ptr + n[None, :] * K + k[:, None])
    at = m[:, None] * N + n[None, :]
    if START:
        tl.store(o_ptr + at, tl.dot(a, b, tl.load(c_ptr + at), out_dtype=OUT, input_precision=PRECISION))
    else:
        tl.store(o_ptr + at, tl.dot(a, b, out_dtype=OUT, input_precision=PRECISION))


@triton.jit
def batched_dot(a_ptr, b_ptr, c_ptr, o_ptr, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
                K: tl.constexpr, OUT: tl.constexpr, START: tl.constexpr):  # fmt: skip
    x, m, n, k = tl.arange(0, B)[:, None, None], tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a = tl.load(a_ptr + x * M * K + m[None, :, None] * K + k[None, None, :])
    b = tl.load(b_ptr + x * N * K + n[None, None, :] * K + k[None, :, None])
    at = x * M * N + m[None, :, None] * N + n[None, None, :]
    if START:
        tl.store(o_ptr + at, tl.dot(a, b, tl.load(c_ptr + at), out_dtype=OUT, input_precision="ieee"))
    else:
        tl.store(o_ptr + at, tl.dot(a, b, out_dtype=OUT, input_precision="ieee"))


@triton.jit
def batched_loop(a_ptr, b_ptr, o_ptr, K, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    """Three-dimensional products accumulated over k, with masks."""
    x, m, n = tl.arange(0, B)[:, None, None], tl.arange(0, M), tl.arange(0, N)
    acc = tl.zeros([B, M, N], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        a = tl.load(
            a_ptr + x * M * K + m[None, :, None] * K + k[None, None, :], mask=k[None, None, :] < K, other=0.0
        )
        b = tl.load(
            b_ptr + x * N * K + n[None, None, :] * K + k[None, :, None], mask=k[None, :, None] < K, other=0.0
        )
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(o_ptr + x * M * N + m[None, :, None] * N + n[None, None, :], acc)


@triton.jit
def dot_scaled(a_ptr, b_ptr, a_scales, b_scales, o_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
               A: tl.constexpr, B: tl.constexpr, A_PER: tl.constexpr, B_PER: tl.constexpr,
               A_SCALED: tl.constexpr, B_SCALED: tl.constexpr, B_ALONG_K: tl.constexpr):  # fmt: skip
    m, n, g = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K // 32)
    ka, kb = tl.arange(0, K // A_PER), tl.arange(0, K // B_PER)
    a = tl.load(a_ptr + m[:, None] * (K // A_PER) + ka[None, :])
    if B_ALONG_K:
        b = tl.load(b_ptr + n[None, :] * (K // B_PER) + kb[:, None])
    else:
        b = tl.load(b_ptr + n[None, :] + kb[:, None] * N)
    sa = tl.load(a_scales + m[:, None] * (K // 32) + g[None, :]) if A_SCALED else None
    sb = tl.load(b_scales + n[:, None] * (K // 32) + g[None, :]) if B_SCALED else None
    tl.store(o_ptr + m[:, None] * N + n[None, :], tl.dot_scaled(a, sa, A, b, sb, B))


@triton.jit
def convert(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n).to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def weight_gemv(x_ptr, w_ptr, s_ptr, y_ptr, N, K, BN: tl.constexpr, BK: tl.constexpr):
    """y = s * (w @ x) with int8 weights [N, K] and a scale per row."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    acc = tl.zeros([BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        x = tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0)
        acc += tl.sum(w.to(tl.float32) * x[None, :], axis=1)
    tl.store(y_ptr + n, acc * tl.load(s_ptr + n, mask=n < N), mask=n < N)


@triton.jit
def weight_matmul(x_ptr, w_ptr, y_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """y[m, n] = x[m, k] w[n, k] with bf16 x and int8 w."""
    m = tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0)
        acc = tl.dot(x, tl.trans(w.to(x.dtype)), acc)
    tl.store(y_ptr + m[:, None] * N + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def int4_gemv(x_ptr, w_ptr, y_ptr, N, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Weights 0 ... 15 less 8, two to a byte along k: w[n, k / 2]."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    acc = tl.zeros([BN], tl.float32)
    for k0 in range(0, K // 2, BK):
        k = k0 + tl.arange(0, BK)
        w = tl.load(w_ptr + n[:, None] * (K // 2) + k[None, :], mask=n[:, None] < N, other=0)
        low = (w & 15).to(tl.float32) - 8.0
        high = (w >> 4).to(tl.float32) - 8.0
        even, odd = tl.load(x_ptr + 2 * k), tl.load(x_ptr + 2 * k + 1)
        acc += tl.sum(low * even[None, :] + high * odd[None, :], axis=1)
    tl.store(y_ptr + n, acc, mask=n < N)


@triton.jit
def digit_gemv(
    x_ptr, w_ptr, y_ptr, N, row, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, LATER: tl.constexpr
):
    """y[b, n] = n + w[n] . x[b] for rows of w that are `row` apart; x is read by a pointer that moves on."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    x = x_ptr + tl.program_id(1) * K + k
    w = w_ptr + n[:, None].to(tl.int64) * row + k[None, :]
    inside = n[:, None] < N
    if LATER:
        tile = tl.zeros([BN, BK], tl.float32)
        for _ in range(0, K, BK):
            tile += tl.load(w, mask=inside, other=1).to(tl.float32) * tl.load(x).to(tl.float32)[None, :]
            x += BK
            w += BK
        acc = tl.sum(tile, axis=1) + n
    else:
        acc = n.to(tl.float32)
        for _ in range(0, K, BK):
            acc += tl.sum(
                tl.load(w, mask=inside, other=1).to(tl.float32) * tl.load(x).to(tl.float32)[None, :], axis=1
            )
            x += BK
            w += BK
    tl.store(y_ptr + tl.program_id(1) * N + n, acc, mask=n < N)


@triton.jit
def gemv_of_its_own_x(x_ptr, w_ptr, y_ptr, N: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """y[p] = (p + 1) * (w @ ones), by way of an x that every program writes to the same place."""
    p = tl.program_id(0)
    n = tl.arange(0, N)
    every = tl.arange(0, K)
    tl.store(x_ptr + every, (tl.zeros([K], tl.float32) + p + 1).to(tl.bfloat16))
    acc = tl.zeros([N], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :]).to(tl.float32)
        acc += tl.sum(w * tl.load(x_ptr + k).to(tl.float32)[None, :], axis=1)
    tl.store(y_ptr + p * N + n, acc)


@triton.jit
def gemv_of_lengths(
    x_ptr, w_ptr, length_ptr, y_ptr, N: tl.constexpr, K: tl.constexpr, BK: tl.constexpr,
    MASK_X: tl.constexpr, MASK_W: tl.constexpr,
):  # fmt: skip
    """y[p] = w[:, :length] @ x[:length], with a length for each program."""
    p = tl.program_id(0)
    n = tl.arange(0, N)
    length = tl.load(length_ptr + p)
    acc = tl.zeros([N], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        inside = k < length
        x = tl.load(x_ptr + k, mask=inside | (not MASK_X), other=0.0)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], mask=inside[None, :] | (not MASK_W), other=0)
        acc += tl.sum(w.to(tl.float32) * x.to(tl.float32)[None, :], axis=1)
    tl.store(y_ptr + p * N + n, acc)


@triton.jit
def gemv_before_and_after(x_ptr, w_ptr, y_ptr, N: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """y[p] = (w @ x[p], w @ x[p] again when it has become p + 1 everywhere)."""
    p = tl.program_id(0)
    n = tl.arange(0, N)
    x_ptr += p * K
    for turn in tl.static_range(2):
        if turn == 1:
            tl.store(x_ptr + tl.arange(0, K), (tl.zeros([K], tl.float32) + p + 1).to(tl.bfloat16))
        acc = tl.zeros([N], tl.float32)
        for k0 in range(0, K, BK):
            k = k0 + tl.arange(0, BK)
            w = tl.load(w_ptr + n[:, None] * K + k[None, :]).to(tl.float32)
            acc += tl.sum(w * tl.load(x_ptr + k).to(tl.float32)[None, :], axis=1)
        tl.store(y_ptr + (p * 2 + turn) * N + n, acc)
