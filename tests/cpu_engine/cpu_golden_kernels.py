"""Kernels whose TTIR is kept as a golden for the parser: forms that the differential cases do not print."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def hints(x, o, n, B: tl.constexpr):
    i = tl.max_contiguous(tl.multiple_of(tl.arange(0, B), 16), 16)
    tl.assume(n > 0)
    p = tl.multiple_of(x + i, 16)
    v = tl.load(p, mask=i < n, other=0.0, cache_modifier=".cg", eviction_policy="evict_last", volatile=True)
    tl.debug_barrier()
    tl.device_assert(n < 100, "n is large")
    tl.device_print("n is ", n, v, hex=True)
    tl.store(o + i, v, cache_modifier=".cs")


@triton.jit
def _larger(a, b):
    if a > b:
        return a
    return b


@triton.jit
def _swap(a, b):
    return b, a


@triton.jit
def regions(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    w = tl.map_elementwise(_swap, v, pack=2)[0]
    tl.store(o + i, tl.map_elementwise(_larger, v, w))
    tl.store(o + B, tl.reduce(v, 0, _larger))
    tl.store(o + i, tl.associative_scan(v, 0, _larger, reverse=True))


@triton.jit
def conversions(x, h, q, o, B: tl.constexpr):
    i = tl.arange(0, B)
    v = tl.load(x + i)
    tl.store(h + i, v.to(tl.bfloat16, fp_downcast_rounding="rtz"))
    tl.store(q + i, v.to(tl.float8e5))
    w = tl.load(q + i).to(tl.float16)
    k = (v * 100).to(tl.int32)
    wide = k.to(tl.int64) * k.to(tl.int64)
    high = (wide >> 32).to(tl.int32) + tl.umulhi(k, k) + k.to(tl.uint8).to(tl.int32)
    tl.store(o + i, high + w.to(tl.int16, bitcast=True) + libdevice.float2int_rn(libdevice.j0(v)))
    tl.store(o + i, tl.clamp(v, -1.0, float("nan"), propagate_nan=tl.PropagateNan.ALL).to(tl.int32))


@triton.jit
def shapes(x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    a, b = tl.split(tl.reshape(tl.load(x + i), (B // 2, 2)))
    c = tl.permute(tl.reshape(tl.interleave(a, b), (4, 2, B // 8)), (2, 0, 1))
    d = tl.cat(tl.ravel(c), tl.ravel(c), can_reorder=True)
    tl.store(o + tl.arange(0, 2 * B), tl.gather(d, tl.arange(0, 2 * B) ^ 1, 0))
    tl.store(o + tl.arange(0, 16), tl.histogram(d.to(tl.int32), 16, mask=d > 0).to(tl.float32))


@triton.jit
def ordered(p, x, o, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.atomic_store(p, 1, sem="relaxed")
    done = tl.atomic_poll(p, 1, timeout_ns=1000)
    tl.store(o, done.to(tl.int32) + tl.atomic_load(p, sem="acquire"))
    tl.atomic_add(x + i, 1.0, mask=i < 7, sem="release", scope="cta")
    tl.atomic_max(x + i, -1.5)
    tl.atomic_cas(p, 1, 2, sem="acquire", scope="sys")


@triton.jit
def products(a, s, b, o, x, M: tl.constexpr, K: tl.constexpr):
    m, k = tl.arange(0, M), tl.arange(0, K)
    u = tl.load(a + m[:, None] * (K // 2) + tl.arange(0, K // 2)[None, :])
    v = tl.load(b + k[:, None] * M + m[None, :])
    t = tl.load(s + m[:, None] * (K // 32) + tl.arange(0, K // 32)[None, :])
    r = tl.dot_scaled(u, t, "e2m1", v, None, "bf16")
    w = tl.load(x + m[:, None] * M + m[None, :])
    tl.store(o + m[:, None] * M + m[None, :], tl.dot(w, w, r, input_precision="tf32x3"))


@triton.jit
def descriptors(x, o, M, N, R: tl.constexpr, C: tl.constexpr):
    d = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[R, C])
    e = tl.make_tensor_descriptor(o, shape=[M, N], strides=[N, 1], block_shape=[R, C])
    for r in tl.range(0, M, R, loop_unroll_factor=2):
        e.store([r, 0], d.load([r, 0]))
    e.atomic_max([0, 0], d.load([R, C]))


@triton.jit(noinline=True)
def _outlined(x, n):
    if n > 3:
        return x * 2, n
    return x, n + 1


@triton.jit
def flow(x, o, n, B: tl.constexpr):
    i = tl.arange(0, B)
    if n == 0:
        return
    v = tl.load(x + i)
    while tl.max(v, 0) < n:
        if n > 7:
            v = v + 1
        else:
            v = v * 2
            tl.store(o, 0.0)
    s, k = _outlined(tl.load(x), n)
    for j in tl.static_range(2):
        v += s + k + j
    tl.store(o + i, v)


# name: (kernel, signature, constants)
KERNELS = {
    "hints": (hints, {"x": "*fp32", "o": "*fp32", "n": "i32"}, {"B": 32}),
    "regions": (regions, {"x": "*fp32", "o": "*fp32"}, {"B": 32}),
    "conversions": (conversions, {"x": "*fp32", "h": "*bf16", "q": "*fp8e5", "o": "*i32"}, {"B": 32}),
    "shapes": (shapes, {"x": "*fp32", "o": "*fp32"}, {"B": 32}),
    "ordered": (ordered, {"p": "*i32", "x": "*fp32", "o": "*i32"}, {"B": 32}),
    "products": (
        products,
        {"a": "*u8", "s": "*u8", "b": "*bf16", "o": "*fp32", "x": "*fp32"},
        {"M": 16, "K": 64},
    ),
    "descriptors": (
        descriptors,
        {"x": "*i32", "o": "*i32", "M": "i32", "N": "i32"},
        {"R": 8, "C": 16},
    ),
    "flow": (flow, {"x": "*fp32", "o": "*fp32", "n": "i32"}, {"B": 32}),
}
