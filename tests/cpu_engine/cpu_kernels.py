"""Triton kernels that, with those of cpu_tile_kernels, use every operation the CPU engine lowers: arithmetic,
control flow, atomics, memory."""

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
def conditional_store(x, o, n, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    if n > 3:
        tl.store(x + i, v * 0)
    tl.store(o + i, v + tl.load(x + i))


@triton.jit
def scaled(x, o, n, factor, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)
