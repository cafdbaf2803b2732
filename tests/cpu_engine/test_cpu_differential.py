"""The lowerings against Triton's interpreter, kernel by kernel."""

from __future__ import annotations

import re

import pytest
import torch
from cpu_case import Case, tensors
from cpu_cases import BY_NAME, CASES
from test_cpu_parse import compiled

from headrace.codegen.cpu import jit, target, vector
from headrace.codegen.cpu.direct import DirectKernel, compile_direct
from headrace.codegen.cpu.lower import INTERNAL, lower
from headrace.codegen.cpu.parse import parse
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


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_vector_lowering_takes_every_kernel(case: Case) -> None:
    assert run(case, "vector")[0].engine == "vector"


def test_a_kernel_that_the_vector_lowering_declines_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def decline(*_: object) -> None:
        raise vector.VectorDeclined("not today")

    monkeypatch.setattr(vector, "lower", decline)
    module = parse(str(compiled(BY_NAME["masked_add"])))
    lowered = lower(module, target.host(), "auto")
    assert (lowered.engine, lowered.reason) == ("reference", "not today")
    with pytest.raises(UnsupportedTtir, match="declines masked_add: not today"):
        lower(module, target.host(), "vector")


@pytest.mark.parametrize("kind", [AssertionError, KeyError, IndexError])
def test_a_fault_of_the_vector_lowering_never_reaches_the_user(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise kind("strange")

    monkeypatch.setattr(vector, "lower", fail)
    module = parse(str(compiled(BY_NAME["masked_add"])))
    lowered = lower(module, target.host(), "auto")
    assert lowered.engine == "reference"
    assert re.fullmatch(rf"{INTERNAL}, {kind.__name__} at \w+\.py:\d+: .*strange.*", lowered.reason)
    with pytest.raises(UnsupportedTtir, match=r"vector lowering fails on masked_add: .*strange") as raised:
        lower(module, target.host(), "vector")
    assert isinstance(raised.value.__cause__, kind)


def test_text_that_llvm_rejects_is_replaced_by_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "lower", lambda *_: vector.Vectorised("define void @f( {", ()))
    module = parse(str(compiled(BY_NAME["masked_add"])))
    lowered = lower(module, target.host(), "auto")
    assert lowered.engine == "reference"
    assert "LLVM rejects" in lowered.reason
    with pytest.raises(CpuEngineError, match="LLVM rejects"):
        jit.check(lower(module, target.host(), "vector").ir)


def test_an_unknown_engine_is_an_error() -> None:
    with pytest.raises(CpuEngineError, match="use auto, vector, reference"):
        run(BY_NAME["masked_add"], "fastest")
