"""Matrix products and attention against float64."""

from __future__ import annotations

import pytest
import torch
import vector_matrix_kernels as k
from vector_support import run, worst

TYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 64, 64), (3, 37, 100), (16, 16, 16), (13, 100, 192), (40, 70, 33), (64, 64, 128)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("m", "n", "kk"), SHAPES)
@pytest.mark.parametrize("kernel", [k.matmul_nt, k.matmul_nn])
def test_matmul(kernel, m: int, n: int, kk: int, dtype: torch.dtype):
    torch.manual_seed(m)
    a = torch.randn(m, kk).to(dtype)
    b = torch.randn(*((n, kk) if kernel is k.matmul_nt else (kk, n))).to(dtype)
    c = torch.full((m * n + 5,), 7.0)
    run(kernel, [-(-m // 16), -(-n // 32)], a, b, c, m, n, kk, BM=16, BN=32, BK=32)
    exact = a.double() @ (b.double().T if kernel is k.matmul_nt else 2 * b.double())
    assert worst(c[: m * n].view(m, n), exact) < 2e-6
    assert bool((c[m * n :] == 7.0).all())


@pytest.mark.parametrize(("bm", "bn", "bk"), [(1, 16, 16), (2, 64, 64), (32, 32, 64), (64, 16, 32)])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_matmul_block_shapes(bm: int, bn: int, bk: int, dtype: torch.dtype):
    torch.manual_seed(bm)
    a, b = torch.randn(50, 96).to(dtype), torch.randn(70, 96).to(dtype)
    c = torch.empty(50, 70)
    run(k.matmul_nt, [-(-50 // bm), -(-70 // bn)], a, b, c, 50, 70, 96, BM=bm, BN=bn, BK=bk)
    assert worst(c, a.double() @ b.double().T) < 2e-6


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("bm", "bn", "bk"), [(16, 16, 16), (4, 32, 64), (32, 64, 16)])
def test_dot_of_computed_operands_adds_to_what_is_there(
    bm: int, bn: int, bk: int, dtype: torch.dtype, trans: bool
):
    torch.manual_seed(bk)
    a, b, c = torch.randn(bm, bk).to(dtype), torch.randn(bk, bn).to(dtype), torch.randn(bm, bn)
    left = torch.exp(a.double()).to(dtype).double()
    exact = left @ b.double() + c.double()
    run(k.dot_once, [1], a.T.contiguous() if trans else a, b, c, BM=bm, BN=bn, BK=bk, TRANS_A=trans)
    assert worst(c, exact) < (1e-6 if dtype == torch.float32 else 1e-3)


def reference(q, kk, v, scale, causal):
    s = q.double() @ kk.double().transpose(1, 2) * scale
    if causal:
        i, j = s.shape[1:]
        keep = torch.arange(j)[None, :] <= torch.arange(i)[:, None] + (j - i)
        s = s.masked_fill(~keep, -torch.inf)
    return torch.softmax(s, -1) @ v.double()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("i", "j"), [(1, 1), (1, 100), (3, 64), (17, 65), (64, 64), (50, 130)])
def test_attention(i: int, j: int, dtype: torch.dtype, causal: bool):
    torch.manual_seed(i * j)
    q, kk, v = (torch.randn(3, n, 32).to(dtype) for n in (i, j, j))
    o = torch.empty(3, i, 32)
    run(k.attention, [-(-i // 16), 3], q, kk, v, o, i, j, 0.18, CAUSAL=causal, BI=16, BJ=32, D=32)
    # p is rounded to the operands' type before the second product
    bound = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}[dtype]
    assert worst(o, reference(q, kk, v, 0.18, causal)) < bound


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("j", [1, 31, 64, 200])
def test_attention_of_one_query_without_dot(j: int, dtype: torch.dtype):
    torch.manual_seed(j)
    q, kk, v = (
        torch.randn(3, 1, 64).to(dtype),
        torch.randn(3, j, 64).to(dtype),
        torch.randn(3, j, 64).to(dtype),
    )
    o = torch.empty(3, 1, 64)
    run(k.attention_row, [3], q, kk, v, o, j, 0.125, BJ=32, D=64)
    assert worst(o, reference(q, kk, v, 0.125, False)) < 3e-6


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("i", "j"), [(1, 1), (1, 64), (4, 200), (33, 33), (64, 200), (100, 257)])
@pytest.mark.parametrize(("bi", "bj"), [(4, 64), (32, 64), (16, 16)])
def test_attention_in_whole_and_masked_blocks(i: int, j: int, bi: int, bj: int, dtype: torch.dtype):
    torch.manual_seed(i + j)
    q, kk, v = (torch.randn(2, n, 64).to(dtype) for n in (i, j, j))
    o = torch.empty(2, i, 64)
    run(k.attention_two_loops, [-(-i // bi), 2], q, kk, v, o, i, j, 0.125, BI=bi, BJ=bj, D=64)
    bound = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}[dtype]
    assert worst(o, reference(q, kk, v, 0.125, True)) < bound
