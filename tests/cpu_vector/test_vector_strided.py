"""Loads of every second, third and fourth element, which are read as vectors and never past the last one."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import Guarded, run


@triton.jit
def every_nth(x_ptr, y_ptr, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i * STEP, mask=i < n), mask=i < n)


@triton.jit
def every_nth_of_all(x_ptr, y_ptr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i * STEP))


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("step", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.int64], ids=str)
def test_spaced_elements_are_read_within_their_memory(dtype: torch.dtype, step: int, at_end: bool):
    for n in (64, 50):
        with Guarded((n - 1) * step + 1, dtype, at_end) as memory:
            memory.copy_((torch.randn(memory.shape) * 50).to(dtype))
            y = torch.zeros(n, dtype=dtype)
            if n % 32 == 0:
                run(every_nth_of_all, [2], memory, y, STEP=step, BLOCK=32)
                assert torch.equal(y, memory[::step])
                y.zero_()
            run(every_nth, [2], memory, y, n, STEP=step, BLOCK=32)
            assert torch.equal(y, memory[::step])
