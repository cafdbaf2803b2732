"""Triton kernels that between them use every operation the CPU engine lowers."""

import triton
import triton.language as tl


@triton.jit
def masked_add(x, y, o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m = i < n
    tl.store(o + i, tl.load(x + i, mask=m, other=0.0) + tl.load(y + i, mask=m), mask=m)


@triton.jit
def strided_2d(x, o, M, N, sx, so, BM: tl.constexpr, BN: tl.constexpr):
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BN + tl.arange(0, BN)
    m = (r[:, None] < M) & (c[None, :] < N)
    v = tl.load(x + r[:, None] * sx + c[None, :], mask=m, other=-1.0)
    tl.store(o + c[:, None] * so + r[None, :], tl.trans(v * 2), mask=(c[:, None] < N) & (r[None, :] < M))


@triton.jit
def float_math(x, o, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    m = i < n
    v = tl.load(x + i, mask=m, other=1.0)
    p = tl.abs(v) + 0.5
    s = tl.sqrt(p) + tl.rsqrt(p) + tl.exp(v) + tl.exp2(v) + tl.log(p) + tl.log2(p) + tl.sin(v) + tl.cos(v)
    tl.store(o + i, s + tl.math.erf(v) + tl.floor(v) + tl.ceil(v) + tl.fma(v, v, p) + tl.sigmoid(v), mask=m)


@triton.jit
def int_math(a, b, o, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(a + i)
    y = tl.load(b + i)
    tl.store(o + i, x // y)
    tl.store(o + BLOCK + i, x % y)
    tl.store(o + 2 * BLOCK + i, x * y + (x - y))
    tl.store(o + 3 * BLOCK + i, (x ^ y) | (x & 255))
    tl.store(o + 4 * BLOCK + i, (x >> 3) + (x << 2))
    tl.store(o + 5 * BLOCK + i, tl.where(x > y, x, -y))
    tl.store(o + 6 * BLOCK + i, tl.minimum(x, y) + 3 * tl.maximum(x, y) + tl.abs(y))
    u = x.to(tl.uint32, bitcast=True)
    w = y.to(tl.uint32, bitcast=True)
    tl.store(o + 7 * BLOCK + i, (u // w + u % w + (u >> 5)).to(tl.int32, bitcast=True))
    tl.store(o + 8 * BLOCK + i, tl.umulhi(u, w).to(tl.int32, bitcast=True))
    tl.store(o + 9 * BLOCK + i, (u < w).to(tl.int32) * 2 + (x < y).to(tl.int32))


@triton.jit
def casts(x, k, o, h, b, q, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    n = tl.load(k + i)
    tl.store(h + i, v.to(tl.float16))
    tl.store(b + i, v.to(tl.bfloat16))
    tl.store(q + i, v.to(tl.int32).to(tl.int8))
    wide = tl.load(h + i).to(tl.float32) + tl.load(b + i).to(tl.float32) + n.to(tl.float32)
    tl.store(o + i, wide + n.to(tl.uint8, bitcast=True).to(tl.float32) + (n > 0).to(tl.float32))


@triton.jit
def half_math(x, y, o, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    b = tl.load(y + i)
    tl.store(o + i, a * b + a - b / (tl.abs(b) + 1))


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
def nan_rules(x, y, o, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    b = tl.load(y + i)
    tl.store(o + i, tl.maximum(a, b))
    tl.store(o + BLOCK + i, tl.minimum(a, b))
    tl.store(o + 2 * BLOCK + i, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(o + 3 * BLOCK + i, tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL))
    tl.store(
        o + 4 * BLOCK + i, (a < b).to(tl.float32) + 2 * (a != b).to(tl.float32) + 4 * (a >= b).to(tl.float32)
    )


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
def atomics(x, hist, extremes, f, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    v = tl.load(x + i)
    tl.atomic_add(hist + (v & 15), 1, mask=v > 3)
    tl.atomic_max(extremes + (v & 1), v)
    tl.atomic_min(extremes + 2 + (v & 1), v)
    tl.atomic_xor(extremes + 4 + (v & 0), v)
    tl.atomic_or(extremes + 5 + (v & 1), v)
    tl.atomic_and(extremes + 7 + (v & 1), v)
    tl.atomic_add(f + (v & 3), 0.25)
    tl.atomic_max(f + 4 + (v & 0), v.to(tl.float32))


@triton.jit
def exchange(x, o, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(o + i, tl.atomic_xchg(x + i, i))
    tl.store(o + N + i, tl.atomic_cas(x + i, i & 14, i + 100))


@triton.jit
def spin_lock(lock, counter, n):
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(counter, tl.load(counter) + n)
    tl.atomic_xchg(lock, 0)


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
def branches(x, o, n, BLOCK: tl.constexpr):
    p = tl.program_id(0)
    if p * BLOCK >= n:
        return
    i = p * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i)
    if tl.sum(v) > 0:
        v = v * 2
        if p % 2 == 0:
            v += 1
    else:
        v = v - 1
    tl.store(o + i, v)


@triton.jit
def while_loop(x, o, N: tl.constexpr):
    v = tl.load(x + tl.arange(0, N))
    steps = 0
    while tl.max(v) > 1.0:
        v = v * 0.5
        steps += 1
    tl.store(o + tl.arange(0, N), v)
    tl.store(o + N, steps.to(tl.float32))


@triton.jit
def fibonacci(o, n):
    a = 0
    b = 1
    for _ in range(n):
        a, b = b, a + b
    tl.store(o, a)
    down = 0
    for k in range(n, 0, -3):
        down = down * 2 + k
    tl.store(o + 1, down)


@triton.jit
def swap_tensors(x, o, n, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    b = tl.load(x + N + i)
    for _ in range(n):
        a, b = b, a * 0.5
    tl.store(o + i, a)
    tl.store(o + N + i, b)


@triton.jit(noinline=True)
def polar(a, b):
    return tl.sqrt(a * a + b * b), a * b


@triton.jit
def calls(x, o, N: tl.constexpr):
    r, p = polar(tl.load(x), tl.load(x + 1))
    s, q = polar(r, p)
    tl.store(o + tl.arange(0, N), tl.load(x + tl.arange(0, N)) * r + p * s + q)


@triton.jit
def booleans(x, b, o, N: tl.constexpr):
    i = tl.arange(0, N)
    flag = tl.load(b + i)
    v = tl.load(x + i)
    tl.store(o + i, flag | (v > 0))
    tl.store(o + N + i, (flag & (v < 1)) ^ (v > 0.5))
    tl.store(o + 2 * N + i, ~flag)


@triton.jit
def persistent(x, o, n, BLOCK: tl.constexpr):
    for tile in tl.range(tl.program_id(0), n, tl.num_programs(0)):
        i = tile * BLOCK + tl.arange(0, BLOCK)
        tl.store(o + i, tl.load(x + i) + tile)


@triton.jit
def unpack_int4(w, s, o, K: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, K)[:, None] * N + tl.arange(0, N)[None, :]
    packed = tl.load(w + at)
    low = ((packed << 4).to(tl.int8) >> 4).to(tl.float32)
    high = (packed >> 4).to(tl.float32)
    both = tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), (2 * K, N))
    at2 = tl.arange(0, 2 * K)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(o + at2, both * tl.load(s + tl.arange(0, N))[None, :])


@triton.jit
def random_numbers(o, seed, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(o + i, tl.rand(seed, i))
    tl.store(o + N + i, tl.randn(seed, i))


@triton.jit
def wide_index(x, o, stride, N: tl.constexpr):
    i = tl.arange(0, N).to(tl.int64) * stride
    tl.store(o + tl.arange(0, N), tl.load(x + i) + (i * i).to(tl.float32))


@triton.jit
def double_math(x, o, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(o + i, tl.exp(v) + tl.sqrt(tl.abs(v)) + tl.sum(v) + v.to(tl.float32).to(tl.float64))


@triton.jit
def in_order(a, b):
    if a > b:
        low, high = b, a
    else:
        low, high = a, b
    return low, high


@triton.jit
def mapped(x, y, o, N: tl.constexpr):
    i = tl.arange(0, N)
    low, high = tl.map_elementwise(in_order, tl.load(x + i), tl.load(y + i))
    tl.store(o + i, low)
    tl.store(o + N + i, high)


@triton.jit
def turns(flag, o, f):
    p = tl.program_id(0)
    tl.atomic_poll(flag, p)
    tl.store(o + p, tl.atomic_load(flag, sem="relaxed"))
    tl.atomic_store(f + p, tl.atomic_load(f) * 2)
    tl.atomic_store(flag, p + 1, sem="release")


@triton.jit
def loads_before_stores(x, y, o, N: tl.constexpr):
    i = tl.arange(0, N)
    shifted = tl.load(x + i + 1)
    a = tl.load(x + i)
    b = tl.load(y + i)
    tl.store(x + i, shifted)  # every element was read before
    tl.store(o + i, a * 2 + b)  # a is the value from before the store
    tl.store(y + i, a)
    tl.store(x + i, b + tl.load(x + i))  # and this load comes after it
    tl.store(o + N + i, tl.load(y + (N - 1) - i) + b)


@triton.jit
def in_place_loop(x, o, n, N: tl.constexpr):
    i = tl.arange(0, N)
    old = tl.load(x + i)
    for _ in range(n):
        v = tl.load(x + i)
        tl.store(x + i, tl.flip(v) + old)
        total = tl.sum(tl.load(x + i), 0)
        tl.store(x + i, tl.load(x + i) / total)
    tl.store(o + i, old - tl.load(x + i))


@triton.jit
def row_swap(x, M: tl.constexpr, N: tl.constexpr):
    r = tl.arange(0, M)
    c = tl.arange(0, N)
    v = tl.load(x + r[:, None] * N + c[None, :])
    mean = tl.sum(v, 1) / N
    tl.store(x + ((M - 1) - r[:, None]) * N + c[None, :], v - mean[:, None])


@triton.jit
def conditional_store(x, o, n, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    if n > 3:
        tl.store(x + i, v * 0)
    tl.store(o + i, v + tl.load(x + i))
