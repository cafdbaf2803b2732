"""Random kernels: the vector generator against the reference lowering."""

from __future__ import annotations

import pathlib

import pytest
import random_kernels
import torch
from vector_support import run

from tests.jit_text import load_kernel


@pytest.mark.parametrize("seed", range(30))
def test_random_kernel_matches_the_reference(seed: int, tmp_path: pathlib.Path):
    text, bm, bn = random_kernels.source(seed)
    kernel = load_kernel(text, tmp_path, "k")
    torch.manual_seed(seed)
    for rows, cols, bound, steps in (
        (bm, bn, bn // 2, 2),
        (max(1, bm - 1), max(1, bn - 3), 1, 0),
        (1, 1, 0, 3),
    ):
        before = [torch.randn(bm * bn + 8) for _ in range(8)]
        ours, theirs = ([t.clone() for t in before] for _ in range(2))
        run(kernel, [1], *ours, rows, cols, bound, steps)
        run(kernel, [1], *theirs, rows, cols, bound, steps, engine="reference")
        for a, e in zip(ours, theirs, strict=True):
            assert torch.equal(a.isnan(), e.isnan())
            scale = e[e.isfinite()].abs().max()
            close = (
                (a == e)
                | a.isnan()
                | ((a - e).abs() <= 1e-4 * (1 + e.abs()))
                | ((a - e).abs() <= 1e-5 * scale)
            )
            assert bool(close.all())
