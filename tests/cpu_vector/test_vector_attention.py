"""Attention against float64: every way in which its two products are lowered."""

from __future__ import annotations

import contextlib

import pytest
import torch
import vector_attention_kernels as kernels
from vector_support import TYPES, Guarded, run, worst

from headrace.codegen.cpu import target
from headrace.codegen.cpu.direct import compile_direct
from headrace.codegen.cpu.vector.dot import direct, turned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LIMIT = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def reference(q, k, v, scale, *, causal=False, window=0, bias=None):
    s = q.double() @ k.double().T * scale
    if bias is not None:
        s = s + bias.double()
    i, j = torch.arange(s.shape[0])[:, None], torch.arange(s.shape[1])[None, :]
    seen = torch.ones_like(s, dtype=torch.bool)
    if causal:
        seen &= j <= i
    if window:
        seen &= j > i - window
    return torch.softmax(s.masked_fill(~seen, -torch.inf), -1) @ v.double()


def attend(q, k, v, *, bi=64, bj=32, causal=False, window=0, bias=None):
    """The kernel on q[I, D] and rows of k and v that may lie apart."""
    rows, d = q.shape
    keys = k.shape[0]
    out = torch.full((rows * d + 3,), 7.0, dtype=q.dtype)
    kind = 0 if bias is None else bias.ndim
    constants = {"CAUSAL": causal, "WINDOW": window, "BIAS": kind, "MASKED": keys % bj != 0}
    extra = torch.zeros(1) if bias is None else bias
    run(kernels.flash, [-(-rows // bi)], q, k, v, extra, out, rows, keys, k.stride(0), d**-0.5,
        BI=bi, BJ=bj, D=d, **constants)  # fmt: skip
    assert bool((out[rows * d :] == 7.0).all())
    return out[: rows * d].view(rows, d)


def operands(rows: int, keys: int, d: int, dtype: torch.dtype, apart: int = 0):
    """q, and k and v whose rows are d + ``apart`` elements from each other."""
    q = torch.randn(rows, d).to(dtype)
    k, v = (torch.randn(keys, d + apart).to(dtype)[:, :d] for _ in range(2))
    return q, k, v


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", [{}, {"causal": True}, {"causal": True, "window": 20}], ids=str)
@pytest.mark.parametrize(("rows", "keys"), [(64, 128), (50, 96), (100, 77)])
def test_many_queries(dtype: torch.dtype, mask: dict[str, int], rows: int, keys: int):
    q, k, v = operands(rows, keys, 64, dtype)
    out = attend(q, k, v, bi=32, **mask)
    exact = reference(q, k, v, 64**-0.5, **mask)
    assert worst(out, exact) < LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("bi", "bj"), [(1, 64), (2, 32), (4, 64), (8, 16), (16, 16), (64, 64), (128, 16)])
def test_tiles_of_any_size(dtype: torch.dtype, bi: int, bj: int):
    q, k, v = operands(bi + 1, 128, 32, dtype)
    assert worst(attend(q, k, v, bi=bi, bj=bj), reference(q, k, v, 32**-0.5)) < LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("apart", [1, 3, 64])
def test_rows_of_keys_at_any_distance(dtype: torch.dtype, apart: int):
    q, k, v = operands(40, 64, 64, dtype, apart)
    assert worst(attend(q, k, v, bi=32), reference(q, k, v, 64**-0.5)) < LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("matrix", [False, True])
def test_biases(dtype: torch.dtype, matrix: bool):
    q, k, v = operands(40, 96, 64, dtype)
    bias = torch.randn((40, 96) if matrix else (96,))
    out = attend(q, k, v, bi=32, bias=bias)
    assert worst(out, reference(q, k, v, 64**-0.5, bias=bias)) < LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("bi", [4, 32])
def test_nothing_beyond_the_operands_is_read(dtype: torch.dtype, at_end: bool, bi: int):
    q, k, v = operands(33, 77, 64, dtype)
    with contextlib.ExitStack() as stack:
        views = []
        for tensor in (q, k, v):
            held = stack.enter_context(Guarded(tensor.numel(), dtype, at_end))
            views.append(held.copy_(tensor.reshape(-1)).view(tensor.shape))
        out = attend(*views, bi=bi, causal=True)
    assert worst(out, reference(q, k, v, 64**-0.5, causal=True)) < LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_nan_stays_in_its_row_and_a_row_without_keys_is_nan(dtype: torch.dtype):
    q, k, v = operands(64, 64, 64, dtype)
    q[5, 3] = torch.nan
    out = attend(q, k, v, bi=32)
    assert out.isnan().any(1).nonzero().flatten().tolist() == [5]
    # Rows from 64 + 7 on see no key.
    q = torch.randn(96, 64).to(dtype)
    out = attend(q, k, v, bi=32, causal=True, window=8)
    exact = reference(q, k, v, 64**-0.5, causal=True, window=8)
    assert out[71:].isnan().all()
    assert worst(out[:71], exact[:71]) < LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_scores_keep_their_order(dtype: torch.dtype):
    q, k, v = operands(32, 64, 64, dtype)
    q, k = q * 30, k * 30
    assert worst(attend(q, k, v, bi=32), reference(q, k, v, 64**-0.5)) < 3 * LIMIT[dtype]


@pytest.mark.skipif(target.host().vector_bits < 512, reason="register tiles of 6 rows divide no power of two")
def test_operands_of_attention_are_not_packed_in_the_loop(monkeypatch: pytest.MonkeyPatch):
    taken: list[str] = []
    for family in (turned, direct):
        lower = family.lower

        def spy(p, lower=lower, name=family.__name__):
            taken.append(name.rpartition(".")[2])
            return lower(p)

        monkeypatch.setattr(family, "lower", spy)
    pointer = TYPES[torch.float32]
    kinds = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "slope_ptr", "o_ptr"), pointer)
    kinds |= {"I": "i32", "J": "i32", "row": "i32", "scale": "fp32"}
    constants = {"CAUSAL": False, "WINDOW": 0, "BIAS": 0, "MASKED": False, "BI": 64, "BJ": 16, "D": 128}
    compile_direct(kernels.flash, kinds, constants)
    assert taken == ["turned", "direct"]
