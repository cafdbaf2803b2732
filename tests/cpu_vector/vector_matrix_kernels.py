"""Matrix products and attention that the vector generator is tested with."""

# ruff: noqa: E741 (names and statements of Triton)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def matmul_nt(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        a = tl.load(a_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_ptr + n[:, None] * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0.0)
        acc = tl.dot(a, tl.trans(b), acc, input_precision="ieee")
    keep = (m[:, None] < M) & (n[None, :] < N)
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc.to(c_ptr.dtype.element_ty), mask=keep)


@triton.jit
def matmul_nn(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        a = tl.load(a_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_ptr + k[:, None] * N + n[None, :], mask=(k[:, None] < K) & (n[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    keep = (m[:, None] < M) & (n[None, :] < N)
    tl.store(c_ptr + m[:, None] * N + n[None, :], (acc * 2.0).to(c_ptr.dtype.element_ty), mask=keep)


@triton.jit
def dot_once(
    a_ptr, b_ptr, c_ptr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, TRANS_A: tl.constexpr
):
    m, n, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    if TRANS_A:
        a = tl.trans(tl.load(a_ptr + k[:, None] * BM + m[None, :]))
    else:
        a = tl.load(a_ptr + m[:, None] * BK + k[None, :])
    b = tl.load(b_ptr + k[:, None] * BN + n[None, :])
    c = tl.load(c_ptr + m[:, None] * BN + n[None, :])
    tl.store(
        c_ptr + m[:, None] * BN + n[None, :],
        tl.dot(tl.exp(a.to(tl.float32)).to(a.dtype), b, c, input_precision="ieee"),
    )


@triton.jit
def attention(q_ptr, k_ptr, v_ptr, o_ptr, I, J, scale, CAUSAL: tl.constexpr, BI: tl.constexpr,
              BJ: tl.constexpr, D: tl.constexpr):  # fmt: skip
    i = tl.program_id(0) * BI + tl.arange(0, BI)
    head = tl.program_id(1)
    d = tl.arange(0, D)
    q = tl.load(q_ptr + head * I * D + i[:, None] * D + d[None, :], mask=(i < I)[:, None], other=0.0)
    m = tl.full([BI], -float("inf"), tl.float32)
    l = tl.zeros([BI], tl.float32)
    acc = tl.zeros([BI, D], tl.float32)
    for j0 in range(0, J, BJ):
        j = j0 + tl.arange(0, BJ)
        k = tl.load(k_ptr + head * J * D + j[:, None] * D + d[None, :], mask=(j < J)[:, None], other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        keep = (j < J)[None, :]
        if CAUSAL:
            keep = keep & (j[None, :] <= i[:, None] + (J - I))
        s = tl.where(keep, s, -float("inf"))
        new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - new[:, None])
        rescale = tl.exp(m - new)
        l = l * rescale + tl.sum(p, 1)
        v = tl.load(v_ptr + head * J * D + j[:, None] * D + d[None, :], mask=(j < J)[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
        m = new
    out = acc / l[:, None]
    tl.store(
        o_ptr + head * I * D + i[:, None] * D + d[None, :],
        out.to(o_ptr.dtype.element_ty),
        mask=(i < I)[:, None],
    )


@triton.jit
def attention_two_loops(q_ptr, k_ptr, v_ptr, o_ptr, I, J, scale, BI: tl.constexpr, BJ: tl.constexpr,
                        D: tl.constexpr):  # fmt: skip
    """Whole blocks of keys without masks, then the rest with masks; causal from J - I on."""
    first = tl.program_id(0) * BI
    i = first + tl.arange(0, BI)
    head = tl.program_id(1)
    d = tl.arange(0, D)
    q = tl.load(q_ptr + head * I * D + i[:, None] * D + d[None, :], mask=(i < I)[:, None], other=0.0)
    m = tl.full([BI], -float("inf"), tl.float32)
    l = tl.zeros([BI], tl.float32)
    acc = tl.zeros([BI, D], tl.float32)
    whole = tl.minimum(first + J - I + 1, J) // BJ * BJ
    last = tl.minimum(first + BI + J - I, J)
    for j0 in range(0, whole, BJ):
        j = j0 + tl.arange(0, BJ)
        k = tl.load(k_ptr + head * J * D + j[:, None] * D + d[None, :])
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - new[:, None])
        rescale = tl.exp(m - new)
        m = new
        l = l * rescale + tl.sum(p, 1)
        v = tl.load(v_ptr + head * J * D + j[:, None] * D + d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
    for j0 in range(whole, last, BJ):
        j = j0 + tl.arange(0, BJ)
        k = tl.load(k_ptr + head * J * D + j[:, None] * D + d[None, :], mask=(j < last)[:, None], other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        s = tl.where((j < last)[None, :] & (j[None, :] <= i[:, None] + (J - I)), s, -float("inf"))
        new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - new[:, None])
        rescale = tl.exp(m - new)
        m = new
        l = l * rescale + tl.sum(p, 1)
        v = tl.load(v_ptr + head * J * D + j[:, None] * D + d[None, :], mask=(j < last)[:, None], other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
    out = acc / l[:, None]
    o_tile = o_ptr + head * I * D + i[:, None] * D + d[None, :]
    tl.store(o_tile, out.to(o_ptr.dtype.element_ty), mask=(i < I)[:, None])


@triton.jit
def attention_row(q_ptr, k_ptr, v_ptr, o_ptr, J, scale, BJ: tl.constexpr, D: tl.constexpr):
    head = tl.program_id(0)
    d = tl.arange(0, D)
    q = tl.load(q_ptr + head * D + d).to(tl.float32)
    m = -float("inf")
    l = 0.0
    acc = tl.zeros([D], tl.float32)
    for j0 in range(0, J, BJ):
        j = j0 + tl.arange(0, BJ)
        keep = (j < J)[:, None]
        k = tl.load(k_ptr + head * J * D + j[:, None] * D + d[None, :], mask=keep, other=0.0).to(tl.float32)
        s = tl.where(j < J, tl.sum(k * q[None, :], 1) * scale, -float("inf"))
        new = tl.maximum(m, tl.max(s, 0))
        p = tl.exp(s - new)
        rescale = tl.exp(m - new)
        v = tl.load(v_ptr + head * J * D + j[:, None] * D + d[None, :], mask=keep, other=0.0).to(tl.float32)
        acc = acc * rescale + tl.sum(p[:, None] * v, 0)
        l = l * rescale + tl.sum(p, 0)
        m = new
    tl.store(o_ptr + head * D + d, (acc / l).to(o_ptr.dtype.element_ty))


@triton.jit
def gemv(w_ptr, x_ptr, b_ptr, y_ptr, N, K, stride, BN: tl.constexpr, BK: tl.constexpr):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    acc = tl.zeros([BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        w = tl.load(
            w_ptr + n[:, None] * stride + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0.0
        )
        x = tl.load(x_ptr + k, mask=k < K, other=0.0)
        acc += tl.sum(w.to(tl.float32) * x.to(tl.float32)[None, :], axis=1)
    acc += tl.load(b_ptr + n, mask=n < N, other=0.0).to(tl.float32)
    acc = acc * tl.sigmoid(acc)
    tl.store(y_ptr + n, acc.to(y_ptr.dtype.element_ty), mask=n < N)


@triton.jit
def gemv_swiglu(g_ptr, u_ptr, x_ptr, y_ptr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    gate = tl.zeros([BN], tl.float32)
    up = tl.zeros([BN], tl.float32)
    g_row = g_ptr + n[:, None] * K + tl.arange(0, BK)[None, :]
    u_row = u_ptr + n[:, None] * K + tl.arange(0, BK)[None, :]
    for k0 in range(0, K, BK):
        x = tl.load(x_ptr + k0 + tl.arange(0, BK)).to(tl.float32)[None, :]
        gate += tl.sum(tl.load(g_row).to(tl.float32) * x, axis=1)
        up += tl.sum(tl.load(u_row).to(tl.float32) * x, axis=1)
        g_row += BK
        u_row += BK
    tl.store(y_ptr + n, (gate * tl.sigmoid(gate) * up).to(y_ptr.dtype.element_ty))


@triton.jit
def gemv_tile(w_ptr, x_ptr, y_ptr, N, K, BN: tl.constexpr, BK: tl.constexpr):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    acc = tl.zeros([BN, BK], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0.0)
        acc += w.to(tl.float32) * tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + n, tl.sum(acc, axis=1), mask=n < N)


@triton.jit
def gemv_kn(w_ptr, x_ptr, y_ptr, N, K, BN: tl.constexpr, BK: tl.constexpr):
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    acc = tl.zeros([BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        w = tl.load(w_ptr + k[:, None] * N + n[None, :], mask=(k[:, None] < K) & (n[None, :] < N), other=0.0)
        acc += tl.sum(
            w.to(tl.float32) * tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)[:, None], axis=0
        )
    tl.store(y_ptr + n, acc, mask=n < N)


@triton.jit
def matmul_strided(a_ptr, b_ptr, c_ptr, M, N, K, sam, sak, sbk, sbn, OTHER: tl.constexpr, BM: tl.constexpr,
                   BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """Any layout, pointers that advance, C starts from what is there; masked elements of A count as OTHER."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    a_tile = a_ptr + m[:, None] * sam + k[None, :] * sak
    b_tile = b_ptr + k[:, None] * sbk + n[None, :] * sbn
    keep = (m[:, None] < M) & (n[None, :] < N)
    acc = tl.load(c_ptr + m[:, None] * N + n[None, :], mask=keep, other=0.0)
    for k0 in range(0, K, BK):
        left = K - k0
        a = tl.load(a_tile, mask=(m[:, None] < M) & (k[None, :] < left), other=OTHER)
        b = tl.load(b_tile, mask=(k[:, None] < left) & (n[None, :] < N), other=OTHER)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        a_tile += BK * sak
        b_tile += BK * sbk
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=keep)


@triton.jit
def matmul_row(a_ptr, b_ptr, c_ptr, M, A_K: tl.constexpr, B_N: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
               BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):  # fmt: skip
    """Sizes that are constants and whole blocks; A_K, B_N: contiguous along k and n. bias and relu after."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        a = tl.load(a_ptr + (m[:, None] * K + k[None, :] if A_K else k[None, :] * M + m[:, None]),
                    mask=(m < M)[:, None], other=0.0)  # fmt: skip
        b = tl.load(b_ptr + (k[:, None] * N + n[None, :] if B_N else n[None, :] * K + k[:, None]))
        acc = tl.dot(a, b, acc, input_precision="ieee")
    out = tl.maximum(acc * 0.5 + n[None, :].to(tl.float32), 0.0)
    tl.store(c_ptr + m[:, None] * N + n[None, :], out, mask=(m < M)[:, None])


@triton.jit
def rescaled_sum(p_ptr, v_ptr, alpha_ptr, o_ptr, STEPS, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                 AGAIN: tl.constexpr):  # fmt: skip
    """acc = dot(p, v, acc * alpha), as in an online softmax; AGAIN: the old sum is used a second time."""
    m, n, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    acc = tl.full([BM, BN], 1.0, tl.float32)
    seen = tl.zeros([BM], tl.float32)
    for step in range(STEPS):
        p = tl.load(p_ptr + step * BM * BK + m[:, None] * BK + k[None, :])
        v = tl.load(v_ptr + step * BK * BN + k[:, None] * BN + n[None, :])
        alpha = tl.load(alpha_ptr + step * BM + m)
        old = acc
        acc = tl.dot(p, v, acc * alpha[:, None], input_precision="ieee")
        if AGAIN:
            seen += tl.sum(old, 1)
    tl.store(o_ptr + m[:, None] * BN + n[None, :], acc + seen[:, None])


@triton.jit
def dequantised(x_ptr, w_ptr, s_ptr, y_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """x times int8 weights W[n, k] with a scale per row, converted before the product."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    scale = tl.load(s_ptr + n, mask=n < N, other=0.0)
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0)
        w = (w.to(tl.float32) * scale[:, None]).to(x.dtype)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    tl.store(y_ptr + m[:, None] * N + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))
