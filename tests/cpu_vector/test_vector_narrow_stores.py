"""Stores of narrowed integers under masks that are known when the kernel is compiled."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run

WIDE = {torch.int16: tl.int16, torch.int32: tl.int32, torch.int64: tl.int64}
NARROW = {torch.int8: tl.int8, torch.int16: tl.int16, torch.int32: tl.int32}


@triton.jit
def _third(
    y, n, LOW: tl.constexpr, HIGH: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr, N: tl.constexpr
):
    i = tl.arange(0, N)
    tl.store(y + i, ((i + n).to(FROM) // 3).to(TO), mask=(i >= LOW) & (i < HIGH))


@pytest.mark.parametrize(
    ("wide", "narrow"), [(w, n) for w in WIDE for n in NARROW if n.itemsize < w.itemsize], ids=str
)
@pytest.mark.parametrize("size", [4, 16, 64])
def test_one_narrowed_element_that_a_mask_leaves_is_stored_alone(
    wide: torch.dtype, narrow: torch.dtype, size: int
):
    for low, high in ((size - 1, size), (0, 1), (1, 3)):
        y, expected = (torch.full((size + 8,), 77, dtype=narrow) for _ in range(2))
        run(_third, (1,), y, 30, LOW=low, HIGH=high, FROM=WIDE[wide], TO=NARROW[narrow], N=size)
        expected[low:high] = ((torch.arange(size) + 30) // 3).to(narrow)[low:high]
        assert torch.equal(y, expected)
