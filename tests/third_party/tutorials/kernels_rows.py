"""Triton's tutorials, after their description: vector addition, fused softmax, dropout, layer norm, external
functions."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(axis=0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@triton.jit
def softmax(out, x, x_stride, out_stride, rows, columns, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """Rows are dealt to a fixed number of programs, one row in fast memory at a time."""
    first = tl.program_id(0)
    step = tl.num_programs(0)
    for row in tl.range(first, rows, step, num_stages=STAGES):
        at = tl.arange(0, BLOCK)
        inside = at < columns
        values = tl.load(x + row * x_stride + at, mask=inside, other=-float("inf"))
        above = tl.exp(values - tl.max(values, axis=0))
        tl.store(out + row * out_stride + at, above / tl.sum(above, axis=0), mask=inside)


@triton.jit
def dropout_by_mask(x, kept, out, n, p, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    values = tl.load(x + at, mask=inside)
    keep = tl.load(kept + at, mask=inside)
    tl.store(out + at, tl.where(keep, values / (1 - p), 0.0), mask=inside)


@triton.jit
def dropout_by_seed(x, out, n, p, seed, BLOCK: tl.constexpr):
    """The mask is never stored: the seed makes it again."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    values = tl.load(x + at, mask=inside)
    keep = tl.rand(seed, at) > p
    tl.store(out + at, tl.where(keep, values / (1 - p), 0.0), mask=inside)


@triton.jit
def layer_norm_forward(x, y, weight, bias, means, rstds, stride, n, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x += row * stride
    y += row * stride
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / n
    square = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
        value = tl.where(at < n, value - mean, 0.0)
        square += value * value
    rstd = 1 / tl.sqrt(tl.sum(square, axis=0) / n + eps)
    tl.store(means + row, mean)
    tl.store(rstds + row, rstd)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < n
        w = tl.load(weight + at, mask=inside)
        b = tl.load(bias + at, mask=inside)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + at, (value - mean) * rstd * w + b, mask=inside)


@triton.jit
def layer_norm_backward(
    dx, dy, dw, db, x, weight, means, rstds, locks, stride, n, GROUPS: tl.constexpr, BLOCK: tl.constexpr
):
    """dx of one row; its share of dw and db goes to one of GROUPS buffers, each behind a lock."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < n
    x += row * stride
    dy += row * stride
    dx += row * stride
    group = row % GROUPS
    lock = locks + group
    used = lock + GROUPS
    dw = dw + group * n + at
    db = db + group * n + at
    value = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    grad = tl.load(dy + at, mask=inside, other=0).to(tl.float32)
    w = tl.load(weight + at, mask=inside).to(tl.float32)
    mean = tl.load(means + row)
    rstd = tl.load(rstds + row)
    unit = tl.where(inside, (value - mean) * rstd, 0.0)
    scaled = tl.where(inside, w * grad, 0.0)
    along = tl.sum(unit * scaled, axis=0) / n
    level = tl.sum(scaled, axis=0) / n
    tl.store(dx + at, (scaled - (unit * along + level)) * rstd, mask=inside)
    part_w = (grad * unit).to(w.dtype)
    part_b = grad.to(w.dtype)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    count = tl.load(used)
    if count == 0:
        tl.atomic_xchg(used, 1)
    else:
        part_w += tl.load(dw, mask=inside)
        part_b += tl.load(db, mask=inside)
    tl.store(dw, part_w, mask=inside)
    tl.store(db, part_b, mask=inside)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


@triton.jit
def layer_norm_backward_sum(dw, db, final_dw, final_db, m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    sum_w = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    sum_b = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, m, BLOCK_M):
        row = start + tl.arange(0, BLOCK_M)
        inside = (row[:, None] < m) & (column[None, :] < n)
        at = row[:, None] * n + column[None, :]
        sum_w += tl.load(dw + at, mask=inside, other=0.0)
        sum_b += tl.load(db + at, mask=inside, other=0.0)
    tl.store(final_dw + column, tl.sum(sum_w, axis=0), mask=column < n)
    tl.store(final_db + column, tl.sum(sum_b, axis=0), mask=column < n)


@triton.jit
def arc_sine(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(axis=0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out + at, libdevice.asin(tl.load(x + at, mask=inside)), mask=inside)
