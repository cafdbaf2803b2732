"""Products on AMX tiles, which software stands in for: against float64 and exact integers."""

from __future__ import annotations

import pytest
import torch
import vector_matrix_kernels as mk
import vector_narrow_kernels as k
from amx_support import assembly, run_in_software
from vector_support import Guarded, worst

from headrace.codegen.cpu import amx, target

pytestmark = pytest.mark.skipif(target.host().vector_bits < 512, reason="the code around tiles is AVX-512")


@pytest.mark.parametrize("kernel", [mk.matmul_nt, mk.matmul_nn])
@pytest.mark.parametrize(
    ("m", "n", "kk", "bm", "bn", "bk"),
    [(40, 70, 100, 32, 32, 64), (13, 64, 64, 16, 32, 32), (8, 32, 96, 8, 16, 32), (70, 40, 64, 64, 64, 32)],
)
def test_bf16_matmul(kernel, m: int, n: int, kk: int, bm: int, bn: int, bk: int):
    a, b = (
        torch.randn(m, kk).bfloat16(),
        torch.randn(*((n, kk) if kernel is mk.matmul_nt else (kk, n))).bfloat16(),
    )
    c = torch.full((m * n + 5,), 7.0)
    calls = run_in_software(kernel, [-(-m // bm), -(-n // bn)], a, b, c, m, n, kk, BM=bm, BN=bn, BK=bk)
    assert calls["tdpbf16ps"] > 0
    exact = a.double() @ (b.double().T if kernel is mk.matmul_nt else 2 * b.double())
    assert worst(c[: m * n].view(m, n), exact) < 2e-6
    assert bool((c[m * n :] == 7.0).all())


@pytest.mark.parametrize("b_along_k", [False, True])
@pytest.mark.parametrize(
    ("m", "n", "kk", "bm", "bn", "bk"), [(40, 70, 101, 32, 32, 64), (50, 33, 64, 64, 16, 64)]
)
def test_int8_products_are_exact(m: int, n: int, kk: int, bm: int, bn: int, bk: int, b_along_k: bool):
    a, b = (torch.randint(-128, 128, s, dtype=torch.int8) for s in ((m, kk), (n, kk)))
    c = torch.zeros(m, n, dtype=torch.int32)
    right = b if b_along_k else b.T.contiguous()
    calls = run_in_software(k.matmul_int8, [-(-m // bm), -(-n // bn)], a, right, c, m, n, kk,
                            A_ALONG_M=False, B_ALONG_K=b_along_k, BM=bm, BN=bn, BK=bk)  # fmt: skip
    assert calls["tdpbssd"] > 0
    assert torch.equal(c.long(), a.long() @ b.long().T)


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize(("bm", "bn", "bk"), [(16, 16, 32), (8, 32, 64), (64, 32, 32)])
def test_products_of_computed_operands_add_to_what_is_there(bm: int, bn: int, bk: int, trans: bool):
    a, b, c = torch.randn(bm, bk).bfloat16(), torch.randn(bk, bn).bfloat16(), torch.randn(bm, bn)
    exact = torch.exp(a.double()).bfloat16().double() @ b.double() + c.double()
    calls = run_in_software(mk.dot_once, [1], a.T.contiguous() if trans else a, b, c, BM=bm, BN=bn, BK=bk,
                            TRANS_A=trans)  # fmt: skip
    assert calls["tdpbf16ps"] > 0
    assert worst(c, exact) < 1e-3


@pytest.mark.parametrize("at_end", [False, True])
def test_tiles_are_loaded_from_where_the_weights_lie_and_from_nowhere_else(at_end: bool):
    a, c = torch.randn(16, 128).bfloat16(), torch.zeros(16, 64)
    with Guarded(64 * 128, torch.bfloat16, at_end) as memory:
        w = memory.view(64, 128)
        w.copy_(torch.randn(64, 128))
        run_in_software(mk.matmul_nt, [1, 2], a, w, c, 16, 64, 128, BM=16, BN=32, BK=64)
        assert worst(c, a.double() @ w.double().T) < 2e-6


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("i", "j"), [(17, 65), (64, 64)])
def test_attention_on_tiles(i: int, j: int, causal: bool):
    q, kk, v = (torch.randn(2, n, 32).bfloat16() for n in (i, j, j))
    o = torch.empty(2, i, 32)
    calls = run_in_software(
        mk.attention, [-(-i // 16), 2], q, kk, v, o, i, j, 0.18, CAUSAL=causal, BI=16, BJ=32, D=32
    )
    s = q.double() @ kk.double().transpose(1, 2) * 0.18
    if causal:
        s = s.masked_fill(torch.arange(j)[None, :] > torch.arange(i)[:, None] + (j - i), -torch.inf)
    assert calls["tdpbf16ps"] > 0
    assert worst(o, torch.softmax(s, -1) @ v.double()) < 6e-3


def test_each_thread_configures_its_tiles_once_and_releases_them():
    a, b, c = torch.randn(64, 64).bfloat16(), torch.randn(64, 64).bfloat16(), torch.zeros(64, 64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calls = run_in_software(mk.matmul_nt, [4, 2], a, b, c, 64, 64, 64, BM=16, BN=32, BK=32)
    finally:
        torch.set_num_threads(threads)
    assert calls["ldtilecfg"] == calls["tilerelease"] == 1


def test_the_machine_code_has_tile_instructions():
    a, b, c = torch.zeros(64, 64).bfloat16(), torch.zeros(64, 64).bfloat16(), torch.zeros(64, 64)
    text = assembly(mk.matmul_nt, a, b, c, 64, 64, 64, BM=64, BN=32, BK=32)  # adds to what is there
    text += assembly(mk.matmul_nt, a, b, c, 64, 64, 64, BM=32, BN=32, BK=32)  # c^T, added afterwards
    for instruction in ("ldtilecfg", "tilezero", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"):
        assert instruction in text
    i, o = torch.zeros(64, 64, dtype=torch.int8), torch.zeros(64, 64, dtype=torch.int32)
    text = assembly(k.matmul_int8, i, i, o, 64, 64, 64, A_ALONG_M=False, B_ALONG_K=True, BM=32, BN=32, BK=64)
    assert "tdpbssd" in text


def test_without_permission_or_by_setting_there_is_no_amx(monkeypatch):
    import llvmlite.binding as llvm

    found = {**llvm.get_host_cpu_features(), "amx-tile": True, "amx-bf16": True, "amx-int8": True}
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: found)
    for level, permitted, expected in (
        ("native", True, True),
        ("native", False, False),
        ("avx512", True, False),
    ):
        monkeypatch.setattr(amx, "permitted", lambda answer=permitted: answer)
        made = target._host.__wrapped__(level)
        assert made.has("amx-tile") is expected
        assert ("amx-tile" in made.disabled) is not expected
