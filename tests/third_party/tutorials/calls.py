"""Calls of the tutorials' kernels on tensors, with their backward passes where they have one."""

from __future__ import annotations

from typing import Any

import kernels_attention
import kernels_matrix
import kernels_rows
import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

Tensor = torch.Tensor


def add(x: Tensor, y: Tensor) -> Tensor:
    out = torch.empty_like(x)
    kernels_rows.add[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, y, out, x.numel(), BLOCK=1024)
    return out


def softmax(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    rows, columns = x.shape
    block = triton.next_power_of_2(columns)
    kernels_rows.softmax[(min(rows, 5),)](
        out, x, x.stride(0), out.stride(0), rows, columns, BLOCK=block, STAGES=2
    )
    return out


def dropout_by_mask(x: Tensor, kept: Tensor, p: float) -> Tensor:
    out = torch.empty_like(x)
    kernels_rows.dropout_by_mask[(triton.cdiv(x.numel(), 1024),)](x, kept, out, x.numel(), p, BLOCK=1024)
    return out


def dropout_by_seed(x: Tensor, p: float, seed: int) -> Tensor:
    out = torch.empty_like(x)
    kernels_rows.dropout_by_seed[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), p, seed, BLOCK=1024)
    return out


class LayerNorm(torch.autograd.Function):
    """Layer norm over the last axis of a matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y = torch.empty_like(x)
        rows, n = x.shape
        mean, rstd = torch.empty(rows), torch.empty(rows)
        block = triton.next_power_of_2(n)
        kernels_rows.layer_norm_forward[(rows,)](
            x, y, weight, bias, mean, rstd, x.stride(0), n, eps, BLOCK=min(block, 64)
        )
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.block = block
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        rows, n = x.shape
        groups = 8
        locks = torch.zeros(2 * groups, dtype=torch.int32)
        part_w, part_b = torch.zeros(groups, n, dtype=x.dtype), torch.zeros(groups, n, dtype=x.dtype)
        dx, dw, db = torch.empty_like(dy), torch.empty_like(weight), torch.empty_like(weight)
        kernels_rows.layer_norm_backward[(rows,)](
            dx, dy.contiguous(), part_w, part_b, x, weight, mean, rstd, locks, x.stride(0), n,
            GROUPS=groups, BLOCK=ctx.block,
        )  # fmt: skip
        kernels_rows.layer_norm_backward_sum[(triton.cdiv(n, 128),)](
            part_w, part_b, dw, db, groups, n, BLOCK_M=32, BLOCK_N=128
        )
        return dx, dw, db, None


def arc_sine(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    kernels_rows.arc_sine[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), BLOCK=1024)
    return out


def matmul(a: Tensor, b: Tensor, activation: str = "") -> Tensor:
    (m, k), n = a.shape, b.shape[1]
    c = torch.empty(m, n, dtype=a.dtype)
    kernels_matrix.matmul[lambda meta: (triton.cdiv(m, meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"]),)](
        a, b, c, m, n, k, *a.stride(), *b.stride(), *c.stride(),
        BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, GROUP=8, ACTIVATION=activation,
    )  # fmt: skip
    return c


def persistent_matmul(a: Tensor, b: Tensor) -> Tensor:
    (m, k), n = a.shape, b.shape[1]
    c = torch.empty(m, n, dtype=a.dtype)
    kernels_matrix.persistent_matmul[(3,)](
        a, b, c, m, n, k, *a.stride(), *b.stride(), *c.stride(),
        BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, GROUP=8, PROGRAMS=3,
    )  # fmt: skip
    return c


def persistent_matmul_descriptors(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k), b (n, k)."""
    (m, k), n = a.shape, b.shape[0]
    c = torch.empty(m, n, dtype=a.dtype)
    kernels_matrix.persistent_matmul_descriptors[(3,)](
        TensorDescriptor.from_tensor(a, [32, 32]),
        TensorDescriptor.from_tensor(b, [64, 32]),
        TensorDescriptor.from_tensor(c, [32, 64]),
        m, n, k, BLOCK_M=32, BLOCK_N=64, BLOCK_K=32, GROUP=8, PROGRAMS=3,
    )  # fmt: skip
    return c


def grouped_gemm(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    out = [torch.empty(a.shape[0], b.shape[1], dtype=a.dtype) for a, b in zip(left, right, strict=True)]

    def addresses(tensors: list[Tensor]) -> Tensor:
        return torch.tensor([t.data_ptr() for t in tensors])

    sizes = [[a.shape[0], b.shape[1], a.shape[1]] for a, b in zip(left, right, strict=True)]
    strides = [[a.stride(0), b.stride(0), c.stride(0)] for a, b, c in zip(left, right, out, strict=True)]
    kernels_matrix.grouped_gemm[(4,)](
        addresses(left), addresses(right), addresses(out),
        torch.tensor(sizes, dtype=torch.int32), torch.tensor(strides, dtype=torch.int32), len(left),
        PROGRAMS=4, BLOCK_M=32, BLOCK_N=32, BLOCK_K=32,
    )  # fmt: skip
    return out


def scaled_matmul(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, kinds: tuple[str, str]) -> Tensor:
    packs = [2 if kind == "e2m1" else 1 for kind in kinds]
    m, n, k = a.shape[0], b.shape[0], a.shape[1] * packs[0]
    c = torch.empty(m, n)
    kernels_matrix.scaled_matmul[(triton.cdiv(m, 32), triton.cdiv(n, 32))](
        a, a_scales, b, b_scales, c, m, n, k, a.stride(0), b.stride(0), c.stride(0),
        A=kinds[0], B=kinds[1], A_PACK=packs[0], B_PACK=packs[1],
        BLOCK_M=32, BLOCK_N=32, BLOCK_K=64, PER_SCALE=32,
    )  # fmt: skip
    return c


class Attention(torch.autograd.Function):
    """Softmax attention of q, k, v (batch, heads, n, d)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
        batch, heads, n, d = q.shape
        out, lse = torch.empty_like(q), torch.empty(batch, heads, n)
        kernels_attention.attention_forward[(triton.cdiv(n, 64), batch * heads)](
            q, k, v, out, lse, n, scale, D=d, BLOCK_M=64, BLOCK_N=32, CAUSAL=causal
        )
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.causal, ctx.scale = causal, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        batch, heads, n, d = q.shape
        grad = grad.contiguous()
        dq, dk, dv, delta = (
            torch.empty_like(q),
            torch.empty_like(k),
            torch.empty_like(v),
            torch.empty_like(lse),
        )
        kernels_attention.attention_delta[(triton.cdiv(n, 64), batch * heads)](
            out, grad, delta, n, D=d, BLOCK_M=64
        )
        kernels_attention.attention_backward[(triton.cdiv(n, 32), batch * heads)](
            q, k, v, grad, dq, dk, dv, lse, delta, n, ctx.scale, D=d, BLOCK=32, CAUSAL=ctx.causal
        )
        return dq, dk, dv, None, None
