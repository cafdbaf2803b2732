"""Attention over tiles of keys, with the masks and layouts that decide how its products are lowered."""

# ruff: noqa: E741 (names and statements of Triton)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def flash(q_ptr, k_ptr, v_ptr, slope_ptr, o_ptr, I, J, row, scale, CAUSAL: tl.constexpr,
          WINDOW: tl.constexpr, BIAS: tl.constexpr, MASKED: tl.constexpr,
          BI: tl.constexpr, BJ: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """One head; rows of k and v are ``row`` elements apart. BIAS: 0 none, 1 per key, 2 a matrix [I, J]."""
    i = tl.program_id(0) * BI + tl.arange(0, BI)
    d = tl.arange(0, D)
    q = tl.load(q_ptr + i[:, None] * D + d[None, :], mask=(i < I)[:, None], other=0.0)
    m = tl.full([BI], float("-inf"), tl.float32)
    total = tl.zeros([BI], tl.float32)
    acc = tl.zeros([BI, D], tl.float32)
    for j0 in range(0, J, BJ):
        j = j0 + tl.arange(0, BJ)
        if MASKED:
            k = tl.load(k_ptr + j[:, None] * row + d[None, :], mask=(j < J)[:, None], other=0.0)
            v = tl.load(v_ptr + j[:, None] * row + d[None, :], mask=(j < J)[:, None], other=0.0)
        else:
            k = tl.load(k_ptr + j[:, None] * row + d[None, :])
            v = tl.load(v_ptr + j[:, None] * row + d[None, :])
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if BIAS == 1:
            s += tl.load(slope_ptr + j, mask=j < J, other=0.0)[None, :]
        if BIAS == 2:
            there = (i < I)[:, None] & (j < J)[None, :]
            s += tl.load(slope_ptr + i[:, None] * J + j[None, :], mask=there, other=0.0)
        seen = (j < J)[None, :] & (i >= 0)[:, None]
        if CAUSAL:
            seen = seen & (j[None, :] <= i[:, None])
        if WINDOW:
            seen = seen & (j[None, :] > i[:, None] - WINDOW)
        if MASKED or CAUSAL or WINDOW:
            s = tl.where(seen, s, float("-inf"))
        new = tl.maximum(m, tl.max(s, axis=1))
        shift = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp(s - shift[:, None])
        rescale = tl.exp(m - shift)
        m = new
        total = total * rescale + tl.sum(p, axis=1)
        acc = tl.dot(p.to(v.dtype), v, acc * rescale[:, None], input_precision="ieee")
    out = acc / total[:, None]
    tl.store(o_ptr + i[:, None] * D + d[None, :], out.to(o_ptr.dtype.element_ty), mask=(i < I)[:, None])
