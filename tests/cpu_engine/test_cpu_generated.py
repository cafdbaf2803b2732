"""Seeded random kernels: the vector lowering against the reference lowering."""

from __future__ import annotations

import pathlib

import pytest
import torch
from cpu_generated import DOT_SIGNATURE, SIGNATURE, dot_case, sizes, source

from headrace.codegen.cpu import target
from headrace.codegen.cpu.direct import compile_direct
from tests.jit_text import load_kernel

# Kernels of these shapes are all within what the vector lowering takes, so declining one fails a test.
pytestmark = pytest.mark.skipif(
    target.host().vector_bits < 256 or not target.host().is_x86,
    reason="the vector lowering needs AVX2 or AVX-512",
)


def arguments(seed: int) -> dict[str, torch.Tensor | int | float]:
    g = torch.Generator().manual_seed(seed)
    m, n, bm, _ = sizes(seed)
    programs = -(-m // bm)
    return {
        "x": torch.randn(m, n, generator=g),
        "h": torch.randn(m, n, generator=g).bfloat16(),
        "k": torch.randint(-1000, 1000, (m, n), generator=g, dtype=torch.int32),
        "row": torch.randn(n, generator=g),
        "col": torch.randn(m, generator=g),
        "o": torch.full((m, n), 7.0),
        "oi": torch.full((m, n), 7, dtype=torch.int32),
        "r": torch.full((m,), 7.0),
        "c": torch.full((programs, n), 7.0),
        "M": m,
        "N": n,
        "scale": 0.6,
    }


def run(seed: int, engine: str, folder: pathlib.Path) -> dict[str, torch.Tensor]:
    m, _, bm, bn = sizes(seed)
    kernel = compile_direct(
        load_kernel(source(seed), folder), SIGNATURE, {"BM": bm, "BN": bn}, options={"engine": engine}
    )
    values = arguments(seed)
    kernel(-(-m // bm), 1, 1, *values.values())
    return {name: values[name] for name in ("o", "oi", "r", "c")}


def compare(seed: int, folder: pathlib.Path) -> None:
    wanted = run(seed, "reference", folder)
    found = run(seed, "vector", folder)
    assert torch.equal(found["oi"], wanted["oi"]), source(seed)
    for name in ("o", "r", "c"):
        a, b = found[name].double(), wanted[name].double()
        scale = max(1.0, b.nan_to_num(0, 0, 0).abs().max().item())
        assert torch.equal(a.isnan(), b.isnan()), source(seed)
        # A value that is rounded to bfloat16 or to an integer on the way may fall to the other side: few may
        # differ.
        wrong = (a - b).nan_to_num(0, 0, 0).abs() > 2e-5 * scale
        assert wrong.double().mean() <= 0.02, f"{name}\n{source(seed)}"


def compare_dot(seed: int, folder: pathlib.Path) -> None:
    case = dot_case(seed)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[case.element]
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(case.m, case.k, generator=g).to(dtype)
    b = torch.randn(case.k, case.n, generator=g).to(dtype)
    a = a.T.contiguous() if case.a_transposed else a
    b = b if case.b_by_rows else b.T.contiguous()
    d, row = torch.randn(case.m, case.n, generator=g).to(dtype), torch.randn(case.n, generator=g)
    signature = {name: kind.format(case.element) for name, kind in DOT_SIGNATURE.items()}
    results = []
    for engine in ("reference", "vector"):
        o = torch.full((case.m, case.n), float("nan"))
        meta = {"BM": case.bm, "BN": case.bn, "BK": case.bk}
        kernel = compile_direct(load_kernel(case.text, folder), signature, meta, options={"engine": engine})
        kernel(-(-case.m // case.bm), -(-case.n // case.bn), 1, a, b, d, row, o, case.m, case.n, case.k)
        results.append(o.double())
    wanted, found = results
    scale = max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(
        found, wanted, rtol=0, atol=2e-5 * scale, msg=lambda m: f"{m}\n{case}\n{case.text}"
    )


@pytest.mark.parametrize("seed", range(12))
def test_vector_and_reference_lowering_agree(seed: int, tmp_path: pathlib.Path) -> None:
    compare(seed, tmp_path)
    compare_dot(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(12, 600))
def test_vector_and_reference_lowering_agree_at_length(seed: int, tmp_path: pathlib.Path) -> None:
    compare(seed, tmp_path)
    compare_dot(seed, tmp_path)
