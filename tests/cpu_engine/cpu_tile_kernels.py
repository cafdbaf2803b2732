"""Triton kernels that combine the elements of a tile: reductions, scans, products, shuffles."""

import triton
import triton.language as tl


@triton.jit
def softmax_rows(x, o, n, stride, BLOCK: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    v = tl.load(x + r * stride + i, mask=i < n, other=-float("inf"))
    e = tl.exp(v - tl.max(v, 0))
    tl.store(o + r * stride + i, e / tl.sum(e, 0), mask=i < n)


@triton.jit
def layer_norm(x, w, o, n, eps, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    mean = 0.0
    for at in range(0, n, BLOCK):
        i = at + tl.arange(0, BLOCK)
        mean += tl.sum(tl.load(x + r * n + i, mask=i < n, other=0.0)) / n
    variance = tl.zeros((BLOCK,), tl.float32)
    for at in range(0, n, BLOCK):
        i = at + tl.arange(0, BLOCK)
        d = tl.where(i < n, tl.load(x + r * n + i, mask=i < n, other=0.0) - mean, 0.0)
        variance += d * d
    scale = tl.rsqrt(tl.sum(variance) / n + eps)
    for at in range(0, n, BLOCK):
        i = at + tl.arange(0, BLOCK)
        v = tl.load(x + r * n + i, mask=i < n)
        tl.store(o + r * n + i, (v - mean) * scale * tl.load(w + i, mask=i < n), mask=i < n)


@triton.jit
def xor_of(a, b):
    return a ^ b


@triton.jit
def larger_by_size(va, ia, vb, ib):
    take = tl.abs(va) > tl.abs(vb)
    return tl.where(take, va, vb), tl.where(take, ia, ib)


@triton.jit
def reductions(x, k, o, oi, M: tl.constexpr, N: tl.constexpr):
    r = tl.arange(0, M)
    c = tl.arange(0, N)
    at = r[:, None] * N + c[None, :]
    v = tl.load(x + at)
    n = tl.load(k + at)
    tl.store(o + r, tl.sum(v, 1))
    tl.store(o + M + c, tl.max(v, 0))
    tl.store(o + M + N + r, tl.min(v, 1))
    tl.store(o + 2 * M + N, tl.sum(tl.sum(v, 1), 0))
    tl.store(oi, tl.reduce(n.reshape(M * N), 0, xor_of))
    tl.store(oi + 1 + r, tl.argmax(v, 1))
    tl.store(oi + 1 + M + c, tl.argmin(v, 0))
    big, which = tl.reduce((v, n), 1, larger_by_size)
    tl.store(o + 2 * M + N + 1 + r, big)
    tl.store(oi + 1 + M + N + r, which)


@triton.jit
def arg_extremes(x, o, oi, N: tl.constexpr):
    r = tl.program_id(0)
    v = tl.load(x + r * N + tl.arange(0, N))
    value, where = tl.max(v, 0, return_indices=True)
    tl.store(o + 2 * r, value)
    tl.store(oi + 2 * r, where)
    value, where = tl.min(v, 0, return_indices=True)
    tl.store(o + 2 * r + 1, value)
    tl.store(oi + 2 * r + 1, where)


@triton.jit
def scans(x, o, R: tl.constexpr, C: tl.constexpr):
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    v = tl.load(x + at)
    tl.store(o + at, tl.cumsum(v, 1))
    tl.store(o + R * C + at, tl.cumsum(v, 0, reverse=True))
    tl.store(o + 2 * R * C + at, tl.cumprod(v, 0))


@triton.jit
def linear_step(a1, b1, a2, b2):
    return a1 * a2, a2 * b1 + b2


@triton.jit
def linear_recurrence(a, b, o, R: tl.constexpr, C: tl.constexpr):
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    _, state = tl.associative_scan((tl.load(a + at), tl.load(b + at)), 0, linear_step)
    tl.store(o + at, state)


@triton.jit
def matmul(a, b, c, M, N, K, sam, sbk, scm, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rm = tl.program_id(0) * BM + tl.arange(0, BM)
    rn = tl.program_id(1) * BN + tl.arange(0, BN)
    rk = tl.arange(0, BK)
    pa = a + rm[:, None] * sam + rk[None, :]
    pb = b + rk[:, None] * sbk + rn[None, :]
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(tl.cdiv(K, BK)):
        left = K - k * BK
        ta = tl.load(pa, mask=(rm[:, None] < M) & (rk[None, :] < left), other=0.0)
        tb = tl.load(pb, mask=(rk[:, None] < left) & (rn[None, :] < N), other=0.0)
        total = tl.dot(ta, tb, total)
        pa += BK
        pb += BK * sbk
    m = (rm[:, None] < M) & (rn[None, :] < N)
    tl.store(c + rm[:, None] * scm + rn[None, :], total.to(c.dtype.element_ty), mask=m)


@triton.jit
def int8_dot(a, b, s, o, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    x = tl.load(a + m * K + tl.arange(0, K)[None, :])
    y = tl.load(b + tl.arange(0, K)[:, None] * N + n)
    tl.store(o + m * N + n, tl.dot(x, y).to(tl.float32) * tl.load(s))


@triton.jit
def batched_dot(a, b, o, B: tl.constexpr, M: tl.constexpr, K: tl.constexpr):
    z = tl.arange(0, B)[:, None, None]
    left = tl.load(a + z * M * K + tl.arange(0, M)[None, :, None] * K + tl.arange(0, K)[None, None, :])
    right = tl.load(b + z * M * K + tl.arange(0, K)[None, :, None] * M + tl.arange(0, M)[None, None, :])
    at = z * M * M + tl.arange(0, M)[None, :, None] * M + tl.arange(0, M)[None, None, :]
    tl.store(o + at, tl.dot(left, right))


@triton.jit
def flash(Q, K, V, Out, scale, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr):
    start = tl.program_id(0)
    head = tl.program_id(1) * S * D
    rm = start * BM + tl.arange(0, BM)
    rd = tl.arange(0, D)
    q = tl.load(Q + head + rm[:, None] * D + rd[None, :], mask=rm[:, None] < S, other=0.0)
    top = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    end = tl.minimum(S, (start + 1) * BM) if CAUSAL else S
    for j in range(0, end, BN):
        rn = j + tl.arange(0, BN)
        k = tl.load(K + head + rn[None, :] * D + rd[:, None], mask=rn[None, :] < S, other=0.0)
        score = tl.dot(q, k) * scale
        if CAUSAL:
            score = tl.where(rm[:, None] >= rn[None, :], score, -float("inf"))
        score = tl.where(rn[None, :] < S, score, -float("inf"))
        new = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2((score - new[:, None]) * 1.44269504)
        alpha = tl.exp2((top - new) * 1.44269504)
        total = total * alpha + tl.sum(p, 1)
        v = tl.load(V + head + rn[:, None] * D + rd[None, :], mask=rn[:, None] < S, other=0.0)
        acc = acc * alpha[:, None] + tl.dot(p.to(v.dtype), v)
        top = new
    out = (acc / total[:, None]).to(Out.dtype.element_ty)
    tl.store(Out + head + rm[:, None] * D + rd[None, :], out, mask=rm[:, None] < S)


@triton.jit
def shuffles(x, k, o, oi, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    n = tl.load(k + i)
    g = tl.gather(v, n & (N - 1), 0)
    pair = tl.join(v, g)
    left, right = tl.split(pair)
    i2 = tl.arange(0, 2 * N)
    tl.store(o + i2, tl.interleave(left, right * 2))
    tl.store(o + 2 * N + i2, tl.reshape(tl.trans(pair), (2 * N,)))
    tl.store(o + 4 * N + i2, tl.cat(left, right))
    tl.store(o + 6 * N + i, tl.sort(v, descending=True))
    tl.store(o + 7 * N + i, tl.flip(v))
    tl.store(oi + tl.arange(0, 8), tl.histogram(n & 7, 8))


@triton.jit
def gather_columns(x, k, o, R: tl.constexpr, C: tl.constexpr):
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    tl.store(o + at, tl.gather(tl.load(x + at), tl.load(k + at), 1))


@triton.jit
def row_swap(x, M: tl.constexpr, N: tl.constexpr):
    r = tl.arange(0, M)
    c = tl.arange(0, N)
    v = tl.load(x + r[:, None] * N + c[None, :])
    mean = tl.sum(v, 1) / N
    tl.store(x + ((M - 1) - r[:, None]) * N + c[None, :], v - mean[:, None])
