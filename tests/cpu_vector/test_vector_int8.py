"""Integer products are exact; products with int8 and int4 weights."""

from __future__ import annotations

import pytest
import torch
import vector_narrow_kernels as k
from vector_support import run, worst

LEVELS = ["native", "avx512", "avx2"]


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    monkeypatch.setenv("HEADRACE_CPU_FEATURES", request.param)
    try:
        from headrace.codegen.cpu import target

        target.host()
    except Exception as lacking:
        pytest.skip(str(lacking))
    return request.param


def integers(*shape: int) -> torch.Tensor:
    made = torch.randint(-128, 128, shape, dtype=torch.int8)
    made[0] = -128
    return made


@pytest.mark.parametrize("b_along_k", [False, True])
@pytest.mark.parametrize(
    ("bm", "bn", "bk"), [(16, 32, 64), (1, 16, 64), (32, 32, 32), (4, 8, 128), (16, 2, 8)]
)
@pytest.mark.parametrize(("m", "n", "kk"), [(3, 37, 101), (40, 70, 33)])
def test_int8_products_are_exact(
    level: str, m: int, n: int, kk: int, bm: int, bn: int, bk: int, b_along_k: bool
):
    a, b = integers(m, kk), integers(n, kk)
    c = torch.full((m * n + 5,), 7, dtype=torch.int32)
    right = b if b_along_k else b.T.contiguous()
    made = run(k.matmul_int8, [-(-m // bm), -(-n // bn)], a, right, c, m, n, kk,
               A_ALONG_M=False, B_ALONG_K=b_along_k, BM=bm, BN=bn, BK=bk)  # fmt: skip
    assert not made.metadata["outlined"]
    assert torch.equal(c[: m * n].view(m, n).long(), a.long() @ b.long().T)
    assert bool((c[m * n :] == 7).all())


@pytest.mark.parametrize("b_along_k", [False, True])
def test_a_left_operand_that_is_contiguous_along_m(b_along_k: bool):
    a, b = integers(50, 192), integers(70, 192)
    c = torch.zeros(50, 70, dtype=torch.int32)
    run(k.matmul_int8, [2, 2], a.T.contiguous(), b if b_along_k else b.T.contiguous(), c, 50, 70, 192,
        A_ALONG_M=True, B_ALONG_K=b_along_k, BM=32, BN=64, BK=64)  # fmt: skip
    assert torch.equal(c.long(), a.long() @ b.long().T)


def test_sums_wrap_like_32_bit_integers():
    a, b = integers(16, 64), integers(32, 64)
    c = torch.randint(-(2**31), 2**31 - 1, (16, 32), dtype=torch.int64).to(torch.int32)
    out = torch.zeros(16, 32, dtype=torch.int32)
    from triton.language import int32

    run(k.dot, [1], a, b, c, out, M=16, N=32, K=64, OUT=int32, PRECISION="ieee", START=True)
    assert torch.equal(out, (a.long() @ b.long().T + c.long()).to(torch.int32))


@pytest.mark.parametrize("kk", [128, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gemv_with_int8_weights(level: str, dtype: torch.dtype, kk: int):
    w, x, s = integers(70, kk), torch.randn(kk).to(dtype), torch.rand(70)
    y = torch.empty(70)
    made = run(k.weight_gemv, [3], x, w, s, y, 70, kk, BN=32, BK=128)
    assert not made.metadata["outlined"]
    assert worst(y, s.double() * (w.double() @ x.double())) < 2e-6


@pytest.mark.parametrize("kk", [256, 1000])
def test_every_byte_is_converted_exactly(level: str, kk: int):
    w = (torch.arange(kk)[None, :] * 37 + torch.arange(70)[:, None] * 11).to(torch.int8)
    assert w.unique().numel() == 256
    x, y = torch.randint(-8, 9, (kk,)), torch.empty(70)
    run(k.weight_gemv, [3], x.bfloat16(), w, torch.ones(70), y, 70, kk, BN=32, BK=128)
    assert torch.equal(y.long(), w.long() @ x)  # sums below 2^24


def test_bytes_against_infinities_and_nan(level: str):
    w = integers(70, 256)
    w[:, 3] = torch.arange(70) - 35
    for special in (float("inf"), float("-inf"), float("nan")):
        x, y = torch.randn(256).bfloat16(), torch.empty(70)
        x[3] = special
        run(k.weight_gemv, [3], x, w, torch.ones(70), y, 70, 256, BN=32, BK=128)
        expected = (w.float() * x.float()).sum(1)  # NaN where the weight is 0
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y[y.isinf()], expected[expected.isinf()])


@pytest.mark.parametrize(("m", "bm"), [(1, 1), (3, 4), (13, 16), (32, 32)])
def test_matmul_with_int8_weights(level: str, m: int, bm: int):
    w, x = integers(70, 200), torch.randn(m, 200).bfloat16()
    y = torch.empty(m, 70)
    made = run(k.weight_matmul, [3], x, w, y, m, 70, 200, BM=bm, BN=32, BK=64)
    assert not made.metadata["outlined"]
    assert worst(y, x.double() @ w.double().T) < 2e-6


def test_gemv_with_int4_weights(level: str):
    q, x, y = torch.randint(0, 16, (70, 512), dtype=torch.uint8), torch.randn(512), torch.empty(70)
    made = run(k.int4_gemv, [3], x, q[:, ::2] | (q[:, 1::2] << 4), y, 70, K=512, BN=32, BK=128)
    assert not made.metadata["outlined"]
    assert worst(y, (q.double() - 8) @ x.double()) < 2e-6
