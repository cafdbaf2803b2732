"""Triton's tutorials, after their description: fused attention, forward and backward (FlashAttention-2)."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def inner(
    total, weight, highest, q, keys, values, first, last, row, scale, n,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys from ``first`` to ``last``; logits in powers of two."""
    at_m = row * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, D)
    for start in tl.range(first, last, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)
        at_n = start + tl.arange(0, BLOCK_N)
        k = tl.load(keys + at_n[None, :] * D + channel[:, None], mask=at_n[None, :] < n, other=0.0)
        logits = tl.dot(q, k) * scale
        if MASKED:
            logits = tl.where((at_m[:, None] >= at_n[None, :]) & (at_n[None, :] < n), logits, -1.0e6)
        else:
            logits = tl.where(at_n[None, :] < n, logits, -1.0e6)
        above = tl.maximum(highest, tl.max(logits, 1))
        p = tl.math.exp2(logits - above[:, None])
        shrink = tl.math.exp2(highest - above)
        total = total * shrink[:, None]
        v = tl.load(values + at_n[:, None] * D + channel[None, :], mask=at_n[:, None] < n, other=0.0)
        total = tl.dot(p.to(v.dtype), v, total)
        weight = weight * shrink + tl.sum(p, 1)
        highest = above
    return total, weight, highest


@triton.jit
def attention_forward(
    q, k, v, out, logsumexp, n, scale,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    at_m = row * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, D)
    at = head * n * D + at_m[:, None] * D + channel[None, :]
    queries = tl.load(q + at, mask=at_m[:, None] < n, other=0.0)
    highest = tl.zeros([BLOCK_M], dtype=tl.float32) - float("inf")
    weight = tl.zeros([BLOCK_M], dtype=tl.float32) + 1.0
    total = tl.zeros([BLOCK_M, D], dtype=tl.float32)
    power = scale * 1.44269504
    k += head * n * D
    v += head * n * D
    if CAUSAL:
        # Keys before the diagonal block need no mask.
        total, weight, highest = inner(
            total, weight, highest, queries, k, v, 0, row * BLOCK_M, row, power, n, D, BLOCK_M, BLOCK_N, False
        )
        total, weight, highest = inner(
            total, weight, highest, queries, k, v, row * BLOCK_M, tl.minimum((row + 1) * BLOCK_M, n), row,
            power, n, D, BLOCK_M, BLOCK_N, True,
        )  # fmt: skip
    else:
        total, weight, highest = inner(
            total, weight, highest, queries, k, v, 0, n, row, power, n, D, BLOCK_M, BLOCK_N, False
        )
    # The first block shrank the initial weight of one to nothing.
    tl.store(logsumexp + head * n + at_m, highest + tl.math.log2(weight), mask=at_m < n)
    tl.store(out + at, (total / weight[:, None]).to(out.dtype.element_ty), mask=at_m[:, None] < n)


@triton.jit
def attention_delta(out, grad, delta, n, D: tl.constexpr, BLOCK_M: tl.constexpr):
    """Per row the product of the output with its gradient."""
    at_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(1).to(tl.int64)
    at = head * n * D + at_m[:, None] * D + tl.arange(0, D)[None, :]
    inside = at_m[:, None] < n
    product = tl.load(out + at, mask=inside, other=0.0).to(tl.float32) * tl.load(
        grad + at, mask=inside, other=0.0
    )
    tl.store(delta + head * n + at_m, tl.sum(product, axis=1), mask=at_m < n)


@triton.jit
def attention_backward(
    q, k, v, grad, dq, dk, dv, logsumexp, delta, n, scale,
    D: tl.constexpr, BLOCK: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Program i makes dk and dv of its block of keys, then dq of its block of queries."""
    block = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, D)
    shift = head * n * D
    power = scale * 1.44269504
    mine = block * BLOCK + tl.arange(0, BLOCK)
    at = shift + mine[:, None] * D + channel[None, :]
    inside = mine[:, None] < n
    keys = tl.load(k + at, mask=inside, other=0.0)
    values = tl.load(v + at, mask=inside, other=0.0)
    sum_k = tl.zeros([BLOCK, D], dtype=tl.float32)
    sum_v = tl.zeros([BLOCK, D], dtype=tl.float32)
    first = block * BLOCK if CAUSAL else 0
    for start in range(first, n, BLOCK):
        rows = start + tl.arange(0, BLOCK)
        other = shift + rows[:, None] * D + channel[None, :]
        queries = tl.load(q + other, mask=rows[:, None] < n, other=0.0)
        up = tl.load(grad + other, mask=rows[:, None] < n, other=0.0)
        lse = tl.load(logsumexp + head * n + rows, mask=rows < n, other=0.0)
        level = tl.load(delta + head * n + rows, mask=rows < n, other=0.0)
        # Transposed: keys along the rows.
        p = tl.math.exp2(tl.dot(keys, tl.trans(queries)) * power - lse[None, :])
        seen = (rows[None, :] < n) & (mine[:, None] < n)
        if CAUSAL:
            seen = seen & (rows[None, :] >= mine[:, None])
        p = tl.where(seen, p, 0.0)
        sum_v += tl.dot(p.to(up.dtype), up)
        ds = p * (tl.dot(values, tl.trans(up)) - level[None, :])
        sum_k += tl.dot(ds.to(queries.dtype), queries)
    tl.store(dv + at, sum_v.to(dv.dtype.element_ty), mask=inside)
    tl.store(dk + at, (sum_k * scale).to(dk.dtype.element_ty), mask=inside)

    queries = tl.load(q + at, mask=inside, other=0.0)
    up = tl.load(grad + at, mask=inside, other=0.0)
    lse = tl.load(logsumexp + head * n + mine, mask=mine < n, other=0.0)
    level = tl.load(delta + head * n + mine, mask=mine < n, other=0.0)
    sum_q = tl.zeros([BLOCK, D], dtype=tl.float32)
    last = tl.minimum((block + 1) * BLOCK, n) if CAUSAL else n
    for start in range(0, last, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        turned = shift + columns[None, :] * D + channel[:, None]
        key = tl.load(k + turned, mask=columns[None, :] < n, other=0.0)
        value = tl.load(v + turned, mask=columns[None, :] < n, other=0.0)
        p = tl.math.exp2(tl.dot(queries, key) * power - lse[:, None])
        seen = (columns[None, :] < n) & inside
        if CAUSAL:
            seen = seen & (mine[:, None] >= columns[None, :])
        p = tl.where(seen, p, 0.0)
        ds = p * (tl.dot(up, value) - level[:, None])
        sum_q += tl.dot(ds.to(key.dtype), tl.trans(key))
    tl.store(dq + at, (sum_q * scale).to(dq.dtype.element_ty), mask=inside)
