"""The lowerings against Triton's interpreter, kernel by kernel."""

from __future__ import annotations

import pytest
import torch
from cpu_cases import BY_NAME, CASES, Case, tensors

from headrace.codegen.cpu.direct import DirectKernel, compile_direct
from headrace.errors import CpuEngineError, UnsupportedTtir


def run(case: Case, engine: str) -> tuple[DirectKernel, dict[str, torch.Tensor]]:
    kernel = compile_direct(case.kernel, case.signature(), case.meta, options={"engine": engine})
    arguments = case.arguments()
    kernel(*case.grid, *arguments.values())
    return kernel, tensors(arguments)


def expected(case: Case, interpreted) -> dict[str, torch.Tensor]:
    return case.expect(case.arguments()) if case.expect else interpreted[case.name]


def check(case: Case, found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, want in wanted.items():
        if case.tol and want.is_floating_point():
            scale = want.double().abs().nan_to_num(0, 0, 0).max().item()
            torch.testing.assert_close(
                found[name].double(), want.double(), rtol=0, atol=case.tol * max(scale, 1.0), equal_nan=True
            )
        else:
            torch.testing.assert_close(found[name], want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_reference_lowering_matches_the_interpreter(case: Case, interpreted) -> None:
    check(case, run(case, "reference")[1], expected(case, interpreted))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_default_engine_matches_the_interpreter(case: Case, interpreted) -> None:
    kernel, found = run(case, "auto")
    assert kernel.engine == "vector" or kernel.engine_reason  # a fallback says why
    check(case, found, expected(case, interpreted))


def test_a_kernel_that_the_vector_lowering_declines_can_be_refused() -> None:
    case = BY_NAME["spin_lock"]
    assert run(case, "auto")[0].engine == "reference"
    with pytest.raises(UnsupportedTtir, match="atomic_cas"):
        run(case, "vector")


def test_an_unknown_engine_is_an_error() -> None:
    with pytest.raises(CpuEngineError, match="use auto, vector, reference"):
        run(BY_NAME["masked_add"], "fastest")
