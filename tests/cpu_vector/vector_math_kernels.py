"""Kernels that apply one math function, given as a constant."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def one_operand(x_ptr, y_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=1.0)
    tl.store(y_ptr + i, FUNCTION(x), mask=i < n)


@triton.jit
def two_operands(x_ptr, y_ptr, z_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=1.0)
    y = tl.load(y_ptr + i, mask=i < n, other=1.0)
    tl.store(z_ptr + i, FUNCTION(x, y), mask=i < n)


@triton.jit
def on_scalars(x_ptr, y_ptr, FUNCTION: tl.constexpr):
    p = tl.program_id(0)
    tl.store(y_ptr + p, FUNCTION(tl.load(x_ptr + p)))


@triton.jit
def remainder(x_ptr, y_ptr, z_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=1.0)
    y = tl.load(y_ptr + i, mask=i < n, other=1.0)
    tl.store(z_ptr + i, x % y, mask=i < n)


@triton.jit
def divide(x_ptr, y_ptr, q_ptr, r_ptr, n, by, HOW: tl.constexpr, BLOCK: tl.constexpr):
    """Quotient and remainder by a tensor, by a scalar argument, or by a constant."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x_ptr + i, mask=i < n, other=0)
    if HOW == "tensor":
        b = tl.load(y_ptr + i, mask=i < n, other=1)
    elif HOW == "scalar":
        b = by.to(x_ptr.dtype.element_ty)
    else:
        b = tl.full([BLOCK], HOW, x_ptr.dtype.element_ty)
    tl.store(q_ptr + i, a // b, mask=i < n)
    tl.store(r_ptr + i, a % b, mask=i < n)


@triton.jit
def through_f32(x_ptr, y_ptr, n, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < n, other=1.0).to(tl.float32)
    tl.store(y_ptr + i, FUNCTION(x).to(y_ptr.dtype.element_ty), mask=i < n)
