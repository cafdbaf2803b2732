"""Triton's tutorials, after their description: matrix products: tiled, persistent, grouped, block scaled."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def leaky_relu(x):
    return tl.where(x >= 0, x, 0.01 * x)


@triton.jit
def swizzle(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Tiles in groups of GROUP rows, down the rows first, so that neighbours share columns of b."""
    per_group = GROUP * tiles_n
    group = tile // per_group
    first = group * GROUP
    height = min(tiles_m - first, GROUP)
    return first + ((tile % per_group) % height), (tile % per_group) // height


@triton.jit
def matmul(
    a, b, c, m, n, k, a_m, a_k, b_k, b_n, c_m, c_n,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    row, column = swizzle(tl.program_id(axis=0), tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N), GROUP)
    tl.assume(row >= 0)
    tl.assume(column >= 0)
    rows = (row * BLOCK_M + tl.arange(0, BLOCK_M)) % m
    columns = (column * BLOCK_N + tl.arange(0, BLOCK_N)) % n
    depth = tl.arange(0, BLOCK_K)
    left = a + (rows[:, None] * a_m + depth[None, :] * a_k)
    right = b + (depth[:, None] * b_k + columns[None, :] * b_n)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(tl.cdiv(k, BLOCK_K)):
        x = tl.load(left, mask=depth[None, :] < k - step * BLOCK_K, other=0.0)
        y = tl.load(right, mask=depth[:, None] < k - step * BLOCK_K, other=0.0)
        total = tl.dot(x, y, total)
        left += BLOCK_K * a_k
        right += BLOCK_K * b_k
    if ACTIVATION == "leaky_relu":
        total = leaky_relu(total)
    at_m = row * BLOCK_M + tl.arange(0, BLOCK_M)
    at_n = column * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (at_m[:, None] < m) & (at_n[None, :] < n)
    tl.store(c + c_m * at_m[:, None] + c_n * at_n[None, :], total.to(c.dtype.element_ty), mask=inside)


@triton.jit
def persistent_matmul(
    a, b, c, m, n, k, a_m, a_k, b_k, b_n, c_m, c_n,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):  # fmt: skip
    """As many programs as there are processors; each takes every PROGRAMS-th tile."""
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS, flatten=True):
        row, column = swizzle(tile, tiles_m, tiles_n, GROUP)
        at_m = row * BLOCK_M + tl.arange(0, BLOCK_M)
        at_n = column * BLOCK_N + tl.arange(0, BLOCK_N)
        rows = tl.max_contiguous(tl.multiple_of(tl.where(at_m < m, at_m, 0), BLOCK_M), BLOCK_M)
        columns = tl.max_contiguous(tl.multiple_of(tl.where(at_n < n, at_n, 0), BLOCK_N), BLOCK_N)
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(tl.cdiv(k, BLOCK_K)):
            at_k = step * BLOCK_K + depth
            x = tl.load(a + rows[:, None] * a_m + at_k[None, :] * a_k, mask=at_k[None, :] < k, other=0.0)
            y = tl.load(b + at_k[:, None] * b_k + columns[None, :] * b_n, mask=at_k[:, None] < k, other=0.0)
            total = tl.dot(x, y, total)
        inside = (at_m[:, None] < m) & (at_n[None, :] < n)
        tl.store(c + c_m * at_m[:, None] + c_n * at_n[None, :], total.to(c.dtype.element_ty), mask=inside)


@triton.jit
def persistent_matmul_descriptors(
    a, b, c, m, n, k,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):  # fmt: skip
    """The same with tensor descriptors that come from the host: a (m, k), b (n, k), c (m, n)."""
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS):
        row, column = swizzle(tile, tiles_m, tiles_n, GROUP)
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for step in range(tl.cdiv(k, BLOCK_K)):
            x = a.load([row * BLOCK_M, step * BLOCK_K])
            y = b.load([column * BLOCK_N, step * BLOCK_K])
            total = tl.dot(x, y.T, total)
        c.store([row * BLOCK_M, column * BLOCK_N], total.to(c.dtype))


@triton.jit
def grouped_gemm(
    left_at, right_at, out_at, sizes, strides, groups,
    PROGRAMS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Several products in one launch. Programs deal out the tiles of all of them among themselves; addresses,
    sizes and leading strides are read from memory."""
    tile = tl.program_id(0)
    before = 0
    for group in range(groups):
        m = tl.load(sizes + group * 3)
        n = tl.load(sizes + group * 3 + 1)
        k = tl.load(sizes + group * 3 + 2)
        tiles_n = tl.cdiv(n, BLOCK_N)
        tiles = tl.cdiv(m, BLOCK_M) * tiles_n
        while tile >= before and tile < before + tiles:
            lda = tl.load(strides + group * 3)
            ldb = tl.load(strides + group * 3 + 1)
            ldc = tl.load(strides + group * 3 + 2)
            a = tl.load(left_at + group).to(tl.pointer_type(tl.float16))
            b = tl.load(right_at + group).to(tl.pointer_type(tl.float16))
            c = tl.load(out_at + group).to(tl.pointer_type(tl.float16))
            mine = tile - before
            rows = (mine // tiles_n) * BLOCK_M + tl.arange(0, BLOCK_M)
            columns = (mine % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
            depth = tl.arange(0, BLOCK_K)
            left = a + rows[:, None] * lda + depth[None, :]
            right = b + depth[:, None] * ldb + columns[None, :]
            total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
            for step in range(tl.cdiv(k, BLOCK_K)):
                tl.multiple_of(left, [16, 16])
                tl.multiple_of(right, [16, 16])
                inside_k = depth < k - step * BLOCK_K
                x = tl.load(left, mask=(rows[:, None] < m) & inside_k[None, :], other=0.0)
                y = tl.load(right, mask=inside_k[:, None] & (columns[None, :] < n), other=0.0)
                total += tl.dot(x, y)
                left += BLOCK_K
                right += BLOCK_K * ldb
            inside = (rows[:, None] < m) & (columns[None, :] < n)
            tl.store(c + rows[:, None] * ldc + columns[None, :], total.to(tl.float16), mask=inside)
            tile += PROGRAMS
        before = before + tiles


@triton.jit
def scaled_matmul(
    a, a_scales, b, b_scales, c, m, n, k, a_m, b_n, c_m,
    A: tl.constexpr, B: tl.constexpr, A_PACK: tl.constexpr, B_PACK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PER_SCALE: tl.constexpr,
):  # fmt: skip
    """c = (a * its scales) (b * its scales)^T; a (m, k), b (n, k), PACK elements to a byte, one scale for
    PER_SCALE elements along k: a power of two, its exponent in a byte."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    scales_k = k // PER_SCALE
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        a_k = start // A_PACK + tl.arange(0, BLOCK_K // A_PACK)
        b_k = start // B_PACK + tl.arange(0, BLOCK_K // B_PACK)
        group = start // PER_SCALE + tl.arange(0, BLOCK_K // PER_SCALE)
        x = tl.load(a + rows[:, None] * a_m + a_k[None, :], mask=rows[:, None] < m, other=0.0)
        y = tl.load(b + columns[None, :] * b_n + b_k[:, None], mask=columns[None, :] < n, other=0.0)
        x_scale = tl.load(
            a_scales + rows[:, None] * scales_k + group[None, :], mask=rows[:, None] < m, other=127
        )
        y_scale = tl.load(
            b_scales + columns[:, None] * scales_k + group[None, :], mask=columns[:, None] < n, other=127
        )
        total = tl.dot_scaled(x, x_scale, A, y, y_scale, B, total)
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(c + rows[:, None] * c_m + columns[None, :], total, mask=inside)
