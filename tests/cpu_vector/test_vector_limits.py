"""Masks that compare an index with the ends of int64: loop bounds made of them do not wrap around."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run


@triton.jit
def _kept(x, y, limit, offset, STRICT: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK) + offset
    n = tl.load(limit)
    mask = i < n if STRICT else i <= n
    tl.store(y + tl.arange(0, BLOCK), tl.load(x + tl.arange(0, BLOCK), mask=mask, other=-1.0))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("offset", [0, 64])
def test_a_bound_at_the_end_of_its_type(offset: int, dtype: torch.dtype, strict: bool) -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    ends = torch.iinfo(dtype)
    for value in (ends.min, ends.min + 1, offset + 5, ends.max - 1, ends.max):
        y, limit = torch.empty_like(x), torch.tensor([value], dtype=dtype)
        run(_kept, (1,), x, y, limit, offset, STRICT=strict, BLOCK=64)
        index = torch.arange(offset, offset + 64)
        inside = index < limit if strict else index <= limit
        assert torch.equal(y, torch.where(inside, x, -1.0)), value
