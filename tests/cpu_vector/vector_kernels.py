"""Kernels that the vector generator is tested with."""

# ruff: noqa: SIM108 (names and statements of Triton)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def unary(x_ptr, y_ptr, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=1.0).to(tl.float32)
    if OP == "exp":
        y = tl.exp(x)
    elif OP == "exp2":
        y = tl.exp2(x)
    elif OP == "log":
        y = tl.log(x)
    elif OP == "log2":
        y = tl.log2(x)
    elif OP == "sqrt":
        y = tl.sqrt(x)
    elif OP == "rsqrt":
        y = tl.rsqrt(x)
    elif OP == "erf":
        y = tl.erf(x)
    elif OP == "sigmoid":
        y = tl.sigmoid(x)
    elif OP == "abs":
        y = tl.abs(x)
    elif OP == "floor":
        y = tl.floor(x)
    elif OP == "ceil":
        y = tl.ceil(x)
    elif OP == "sin":
        y = tl.sin(x)
    elif OP == "cos":
        y = tl.cos(x)
    else:
        y = -x
    tl.store(y_ptr + i, y.to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def binary(x_ptr, y_ptr, z_ptr, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=1)
    y = tl.load(y_ptr + i, mask=i < n, other=1)
    if OP == "add":
        z = x + y
    elif OP == "sub":
        z = x - y
    elif OP == "mul":
        z = x * y
    elif OP == "div":
        z = x / y
    elif OP == "max":
        z = tl.maximum(x, y)
    elif OP == "min":
        z = tl.minimum(x, y)
    elif OP == "max_nan":
        z = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    elif OP == "min_nan":
        z = tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
    elif OP == "floordiv":
        z = x // y
    elif OP == "mod":
        z = x % y
    elif OP == "shl":
        z = x << y
    elif OP == "shr":
        z = x >> y
    elif OP == "and":
        z = x & y
    elif OP == "or":
        z = x | y
    elif OP == "xor":
        z = x ^ y
    elif OP == "less":
        z = tl.where(x < y, x, y + y)
    else:
        z = x
    tl.store(z_ptr + i, z.to(z_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def cast(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0)
    tl.store(y_ptr + i, x.to(y_ptr.dtype.element_ty), mask=i < n)


@triton.jit
def nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def product(a, b):
    return a * b


@triton.jit
def reduce_rows(x_ptr, y_ptr, rows, cols, OP: tl.constexpr, AXIS: tl.constexpr, BM: tl.constexpr,
                BN: tl.constexpr, OTHER: tl.constexpr):  # fmt: skip
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BN)
    x = tl.load(
        x_ptr + r[:, None] * cols + c[None, :], mask=(r[:, None] < rows) & (c[None, :] < cols), other=OTHER
    )
    if OP == "sum":
        y = tl.sum(x, AXIS)
    elif OP == "max":
        y = tl.max(x, AXIS)
    elif OP == "min":
        y = tl.min(x, AXIS)
    elif OP == "nan_max":
        y = tl.reduce(x, AXIS, nan_max)
    elif OP == "xor":
        y = tl.xor_sum(x, AXIS)
    else:
        y = tl.reduce(x, AXIS, product)
    if AXIS == 1:
        tl.store(y_ptr + r, y, mask=r < rows)
    else:
        tl.store(y_ptr + tl.program_id(0) * cols + c, y, mask=c < cols)


@triton.jit
def softmax(x_ptr, y_ptr, rows, cols, BM: tl.constexpr, BN: tl.constexpr):
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BN)
    mask = (r[:, None] < rows) & (c[None, :] < cols)
    x = tl.load(x_ptr + r[:, None] * cols + c[None, :], mask=mask, other=-float("inf")).to(tl.float32)
    e = tl.exp(x - tl.max(x, 1)[:, None])
    y = e / tl.sum(e, 1)[:, None]
    tl.store(y_ptr + r[:, None] * cols + c[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def layer_norm(x_ptr, w_ptr, b_ptr, y_ptr, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * cols
    c = tl.arange(0, BLOCK)
    keep = c < cols
    x = tl.load(x_ptr + row + c, mask=keep, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / cols
    d = tl.where(keep, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(d * d, 0) / cols + eps)
    w = tl.load(w_ptr + c, mask=keep, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + c, mask=keep, other=0.0).to(tl.float32)
    tl.store(y_ptr + row + c, (d * rstd * w + b).to(y_ptr.dtype.element_ty), mask=keep)


@triton.jit
def add_norm_in_place(x_ptr, r_ptr, y_ptr, cols, BLOCK: tl.constexpr):
    row = tl.program_id(0) * cols
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row + c, mask=c < cols, other=0.0)
    x += tl.load(r_ptr + row + c, mask=c < cols, other=0.0)
    tl.store(r_ptr + row + c, x, mask=c < cols)
    s = tl.sum(x * x, 0)
    tl.store(y_ptr + row + c, x / tl.sqrt(s), mask=c < cols)


@triton.jit
def unmasked_rows(x_ptr, y_ptr, z_ptr, BM: tl.constexpr, BN: tl.constexpr):
    at = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None] * BN + tl.arange(0, BN)[None, :]
    x = tl.load(x_ptr + at)
    e = tl.exp(x - tl.max(x, 1)[:, None])
    s = tl.sum(e, 1)
    tl.store(y_ptr + at, e / s[:, None])
    tl.store(z_ptr + tl.program_id(0) * BM + tl.arange(0, BM), tl.log(s))


@triton.jit
def gather_rows(table_ptr, index_ptr, y_ptr, rows, cols, BM: tl.constexpr, BN: tl.constexpr):
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.arange(0, BN)
    at = tl.load(index_ptr + r, mask=r < rows, other=0)
    keep = (r[:, None] < rows) & (c[None, :] < cols)
    x = tl.load(table_ptr + at[:, None] * cols + c[None, :], mask=keep, other=0.0)
    tl.store(y_ptr + r[:, None] * cols + c[None, :], x, mask=keep)


@triton.jit
def strided(x_ptr, y_ptr, n, step, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i * step, mask=i < n, other=0.0)
    tl.store(y_ptr + (n - 1 - i), x, mask=i < n)


@triton.jit
def transpose(x_ptr, y_ptr, M, N, B: tl.constexpr):
    m = tl.program_id(0) * B + tl.arange(0, B)
    n = tl.program_id(1) * B + tl.arange(0, B)
    x = tl.load(x_ptr + m[:, None] * N + n[None, :], mask=(m[:, None] < M) & (n[None, :] < N), other=0.0)
    tl.store(y_ptr + n[:, None] * M + m[None, :], tl.trans(x), mask=(n[:, None] < N) & (m[None, :] < M))


@triton.jit
def transpose_offsets(x_ptr, y_ptr, M, N, sx, sy, BM: tl.constexpr, BN: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    x = tl.load(x_ptr + m[:, None] * sx + n[None, :], mask=(m[:, None] < M) & (n[None, :] < N), other=-1.0)
    y = tl.trans(tl.exp(x))
    tl.store(
        y_ptr + n[:, None] * sy + m[None, :],
        y / tl.sum(y, 0)[None, :],
        mask=(n[:, None] < N) & (m[None, :] < M),
    )


@triton.jit
def odd_mask(x_ptr, y_ptr, n, period, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = (i < n) & (i % period != 0)
    x = tl.load(x_ptr + i, mask=keep, other=-7.0)
    tl.store(y_ptr + i, x * 2, mask=i < n)


@triton.jit
def window(x_ptr, y_ptr, low, high, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    keep = (i >= low) & (i < high)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=keep, other=0.0) + 1.0, mask=keep)


@triton.jit
def shift_in_place(x_ptr, n, by, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    tl.store(x_ptr + i + by, x, mask=i < n)


@triton.jit
def rotate_in_place(x_ptr, c_ptr, s_ptr, HALF: tl.constexpr):
    row = tl.program_id(0) * 2 * HALF
    i = tl.arange(0, HALF)
    a = tl.load(x_ptr + row + i)
    b = tl.load(x_ptr + row + HALF + i)
    c = tl.load(c_ptr + i)
    s = tl.load(s_ptr + i)
    tl.store(x_ptr + row + i, a * c - b * s)
    tl.store(x_ptr + row + HALF + i, b * c + a * s)


@triton.jit
def running(x_ptr, y_ptr, steps, n, BLOCK: tl.constexpr):
    """Carried tile with a store in the loop, and a scalar beside it."""
    i = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    count = 0.0
    for t in range(steps):
        x = tl.load(x_ptr + t * n + i, mask=i < n, other=0.0)
        total = total * 0.5 + x
        count += 1.0
        tl.store(y_ptr + t * n + i, total / count, mask=i < n)
    tl.store(y_ptr + steps * n + i, total + count, mask=i < n)


@triton.jit
def fibonacci(y_ptr, steps, BLOCK: tl.constexpr):
    """Two carried tiles that trade places."""
    i = tl.arange(0, BLOCK)
    a = tl.zeros([BLOCK], tl.float32) + i
    b = tl.zeros([BLOCK], tl.float32) + 1.0
    for _ in range(steps):
        c = a + b
        a = b
        b = c
    tl.store(y_ptr + i, a)
    tl.store(y_ptr + BLOCK + i, b)


@triton.jit
def branches(x_ptr, y_ptr, n, flag, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=0.0)
    if flag > 0:
        y = tl.exp(x)
        scale = 2.0
    else:
        y = x + 1.0
        scale = 3.0
    if flag > 1:
        tl.store(x_ptr + i, y, mask=i < n)
    tl.store(y_ptr + i, y * scale + x, mask=i < n)


@triton.jit
def collatz(x_ptr, y_ptr):
    p = tl.program_id(0)
    x = tl.load(x_ptr + p)
    steps = 0
    while x != 1:
        if x % 2 == 0:
            x = x // 2
        else:
            x = 3 * x + 1
        steps += 1
    tl.store(y_ptr + p, steps)


@triton.jit
def reshape_sum(x_ptr, y_ptr, BN: tl.constexpr, GROUP: tl.constexpr):
    i = tl.arange(0, BN)
    x = tl.load(x_ptr + i) * 2.0
    y = tl.sum(tl.reshape(x, [BN // GROUP, GROUP]), 1)
    tl.store(y_ptr + tl.arange(0, BN // GROUP), y)


@triton.jit
def wrapping(y_ptr, base, step, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = base + i * step
    tl.store(y_ptr + i, v.to(tl.int64))


@triton.jit
def wide_offsets(x_ptr, y_ptr, far, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    at = far.to(tl.int64) * 65536 + i
    back = at - far.to(tl.int64) * 65536
    tl.store(y_ptr + back, tl.load(x_ptr + back) + 1.0, mask=at >= 0)


@triton.jit
def two_jobs(
    x_ptr, a_ptr, b_ptr, y_ptr, z_ptr, K, NA, NB, SPLIT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):
    """Each branch has a loop that starts from the same constant, with bounds of its own."""
    tile = tl.program_id(0)
    row = tl.program_id(1)
    if tile < SPLIT:
        n = tile * BN + tl.arange(0, BN)
        acc = tl.zeros([BN], tl.float32)
        for k0 in range(0, K, BK):
            k = k0 + tl.arange(0, BK)
            keep = (n < NA)[:, None] & (k < K)[None, :]
            w = tl.load(a_ptr + n[:, None] * K + k[None, :], mask=keep, other=0.0)
            acc = acc * 0.5 + tl.sum(w * tl.load(x_ptr + row * K + k, mask=k < K, other=0.0)[None, :], 1)
        tl.store(y_ptr + row * NA + n, acc, mask=n < NA)
    else:
        n = (tile - SPLIT) * BN + tl.arange(0, BN)
        acc = tl.zeros([BN], tl.float32)
        for k0 in range(0, K, BK):
            k = k0 + tl.arange(0, BK)
            keep = (n < NB)[:, None] & (k < K)[None, :]
            w = tl.load(b_ptr + n[:, None] * K + k[None, :], mask=keep, other=0.0)
            acc = acc * 0.5 + tl.sum(w * tl.load(x_ptr + row * K + k, mask=k < K, other=0.0)[None, :], 1)
        tl.store(z_ptr + row * NB + n, acc, mask=n < NB)


@triton.jit
def two_bounds(x_ptr, y_ptr, z_ptr, few, many, BLOCK: tl.constexpr):
    """One costly value, stored up to two different bounds, the smaller one first."""
    i = tl.arange(0, BLOCK)
    e = tl.exp(tl.load(x_ptr + i, mask=i < many, other=0.0))
    tl.store(y_ptr + i, e, mask=i < few)
    tl.store(z_ptr + i, e, mask=i < many)


@triton.jit
def outside_depends_on_memory(m_ptr, x_ptr, y_ptr, n, BM: tl.constexpr, BN: tl.constexpr):
    """Beyond n the tile holds exp(0 - m) of an m that is overwritten before the tile is summed."""
    r = tl.arange(0, BM)
    c = tl.arange(0, BN)
    m = tl.load(m_ptr + r)
    x = tl.load(x_ptr + r[:, None] * n + c[None, :], mask=(c < n)[None, :], other=0.0)
    e = tl.exp(x - m[:, None])
    tl.store(m_ptr + r, tl.max(e, 1))
    tl.store(y_ptr + r, tl.sum(e, 1))


@triton.jit
def double_rows(x_ptr, y_ptr, cols, stride, BLOCK: tl.constexpr):
    """Rows of y = 2 x, ``stride`` elements apart."""
    row = tl.program_id(0).to(tl.int64) * stride
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row + c, mask=c < cols, other=0.0).to(tl.float32)
    tl.store(y_ptr + row + c, (x * 2.0).to(y_ptr.dtype.element_ty), mask=c < cols)


@triton.jit
def rotate(x_ptr, c_ptr, s_ptr, y_ptr, heads, shift, H: tl.constexpr, D: tl.constexpr):
    """Rotated halves of up to H heads to y + shift, and the first halves once more to y + 1."""
    h = tl.arange(0, H)[:, None]
    c = tl.arange(0, D // 2)[None, :]
    at = tl.program_id(0) * H * D + h * D + c
    cosine, sine = tl.load(c_ptr + c), tl.load(s_ptr + c)
    a = tl.load(x_ptr + at, mask=h < heads, other=0.0)
    b = tl.load(x_ptr + at + D // 2, mask=h < heads, other=0.0)
    tl.store(y_ptr + at + shift, a * cosine - b * sine, mask=h < heads)
    tl.store(y_ptr + at + D // 2 + shift, b * cosine + a * sine, mask=h < heads)
    tl.store(y_ptr + at + 1, a, mask=h < heads)
