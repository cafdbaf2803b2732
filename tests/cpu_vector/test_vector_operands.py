"""Operands of products that lie in memory in unusual ways, and what products leave of a zero's sign."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from amx_support import run_in_software
from vector_support import Guarded, run

from headrace.codegen.cpu import target

TYPES = {
    torch.float32: (torch.float32, tl.float32),
    torch.bfloat16: (torch.float32, tl.float32),
    torch.int8: (torch.int32, tl.int32),
}


def numbers(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Small whole numbers, of which every product is exact."""
    return torch.randint(-4, 5, shape).to(dtype)


@pytest.fixture(params=["native", "avx2"])
def level(request, monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_CPU_FEATURES", request.param)


@triton.jit
def strided_product(a, b, out, am, ak, bk, bn, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    x = tl.load(a + m * am + k[None, :] * ak)
    y = tl.load(b + k[:, None] * bk + n * bn)
    tl.store(out + m * N + n, tl.dot(x, y))


@triton.jit
def rows_of_one(a, b, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, S: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    x = tl.load(a + m * K + k[None, :])
    y = tl.load(b + k[:, None] * 0 + n * S)
    tl.store(out + m * N + n, tl.dot(x, y))


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_right_operand_whose_rows_are_one_is_read_at_its_stride(dtype: torch.dtype, stride: int):
    a, b = numbers((16, 64), dtype), numbers((32 * stride,), dtype)
    out = torch.zeros(16, 32, dtype=TYPES[dtype][0])
    run(rows_of_one, [1], a, b, out, M=16, N=32, K=64, S=stride)
    assert torch.equal(out.double(), a.double() @ b[::stride].double().expand(64, 32))


@pytest.mark.skipif(target.host().vector_bits < 512, reason="the code around tiles is AVX-512")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
def test_tiles_of_a_right_operand_whose_rows_are_one(dtype: torch.dtype):
    a, b = numbers((16, 64), dtype), numbers((64,), dtype)
    out = torch.zeros(16, 32, dtype=TYPES[dtype][0])
    assert run_in_software(rows_of_one, [1], a, b, out, M=16, N=32, K=64, S=2)["tilezero"] > 0
    assert torch.equal(out.double(), a.double() @ b[::2].double().expand(64, 32))


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize(
    "strides", [(0, 3, 0, 3), (5, 0, 2, 0), (1, 16, 32, 1), (64, 1, 0, 1), (2, 40, 70, 2)]
)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_strides_known_at_run_time_only(dtype: torch.dtype, strides: tuple[int, int, int, int]):
    a, b = numbers((5000,), dtype), numbers((5000,), dtype)
    out = torch.zeros(16, 32, dtype=TYPES[dtype][0])
    run(strided_product, [1], a, b, out, *strides, M=16, N=32, K=64)
    x, y = a.as_strided((16, 64), strides[:2]), b.as_strided((64, 32), strides[2:])
    assert torch.equal(out.double(), x.double() @ y.double())


@triton.jit
def batch_is_innermost(
    a, b, out, n, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, SUM: tl.constexpr
):
    i, m = tl.arange(0, B)[:, None, None], tl.arange(0, M)[None, :, None]
    k, j = tl.arange(0, K), tl.arange(0, N)[None, None, :]
    x = tl.load(a + i + (m * K + k[None, None, :]) * B)
    y = tl.load(b + i * K * N + k[None, :, None] * N + j)
    acc = tl.zeros([B, M, N], SUM)
    for _ in range(n):
        acc = tl.dot(x, y, acc)
    tl.store(out + i * M * N + m * N + j, acc)


def batch(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    a, b = numbers((16, 64, 16), dtype), numbers((16, 64, 32), dtype)
    exact = 2 * torch.einsum("mkb,bkn->bmn", a.double(), b.double())
    return a, b, torch.zeros(16, 16, 32, dtype=TYPES[dtype][0]), exact


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_batch_whose_matrices_are_interleaved(dtype: torch.dtype):
    a, b, out, exact = batch(dtype)
    run(batch_is_innermost, [1], a, b, out, 2, B=16, M=16, N=32, K=64, SUM=TYPES[dtype][1])
    assert torch.equal(out.double(), exact)


@pytest.mark.skipif(target.host().vector_bits < 512, reason="the code around tiles is AVX-512")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
def test_tiles_of_a_batch_whose_matrices_are_interleaved(dtype: torch.dtype):
    a, b, out, exact = batch(dtype)
    calls = run_in_software(
        batch_is_innermost, [1], a, b, out, 2, B=16, M=16, N=32, K=64, SUM=TYPES[dtype][1]
    )
    assert calls["tileloadd64"] > 0
    assert torch.equal(out.double(), exact)


@triton.jit
def few_keys_and_many(
    q, k, few, many, n, M: tl.constexpr, D: tl.constexpr, FEW: tl.constexpr, MANY: tl.constexpr
):
    m, d = tl.arange(0, M)[:, None], tl.arange(0, D)[None, :]
    i, j = tl.arange(0, FEW), tl.arange(0, MANY)
    x = tl.load(q + m * D + d)
    for t in range(n):
        y = tl.load(k + (t * MANY + i)[:, None] * D + d)
        tl.store(few + (t * M + m) * FEW + i[None, :], tl.dot(x, tl.trans(y)))
        z = tl.load(k + (t * MANY + j)[:, None] * D + d)
        tl.store(many + (t * M + m) * MANY + j[None, :], tl.dot(x, tl.trans(z)))


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize(("few", "many"), [(4, 16), (2, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_of_two_sizes_share_a_packed_operand(dtype: torch.dtype, few: int, many: int):
    n, m, d = 3, 16, 32
    q, keys = numbers((m, d), dtype), numbers((n, many, d), dtype)
    short, long = torch.zeros(n, m, few), torch.zeros(n, m, many)
    with Guarded(keys.numel(), dtype, at_end=True) as guarded:
        guarded.copy_(keys.flatten())
        run(few_keys_and_many, [1], q, guarded, short, long, n, M=m, D=d, FEW=few, MANY=many)
    exact = q.double() @ keys.double().transpose(1, 2)
    assert torch.equal(long.double(), exact)
    assert torch.equal(short.double(), exact[:, :, :few])


@triton.jit
def reciprocal_of_sums(a, b, out, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, HOW: tl.constexpr):
    m, k, j = tl.arange(0, M)[:, None], tl.arange(0, K), tl.arange(0, N)[None, :]
    acc = tl.zeros([M, N], tl.float32)
    wide = tl.zeros([M, N, K], tl.float32)
    for t in range(n):
        x = tl.load(a + t * M * K + m * K + k[None, :])
        y = tl.load(b + j * K + k[:, None])
        if HOW == "dot":
            acc = tl.dot(x, y, acc)
        elif HOW == "product":
            acc += tl.dot(x, y)
        elif HOW == "sum":
            acc += tl.sum(x[:, None, :] * tl.trans(y)[None, :, :], 2)
        else:
            wide += x[:, None, :] * tl.trans(y)[None, :, :]
    if HOW == "later":
        acc = tl.sum(wide, 2)
    tl.store(out + m * N + j, 1 / acc)


@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("how", ["dot", "product", "sum", "later"])
@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("m", [1, 4])
def test_zero_plus_minus_zeros_is_zero(m: int, n: int, how: str):
    a, b, out = torch.zeros(2, m, 32), -torch.ones(16, 32), torch.zeros(m, 16)
    run(reciprocal_of_sums, [1], a, b, out, n, M=m, N=16, K=32, HOW=how)
    assert bool((out == float("inf")).all())
