"""Kernels that nobody here wrote (liger-kernel, fla-core) and those of Triton's tutorials, on CPU tensors.

`make test` runs a sample at one configuration of each kernel; `make soak` all of them, and autotuned kernels
at each of their configurations.
"""

from __future__ import annotations

import importlib
import pathlib
from importlib.metadata import version

import fla_cases
import liger_cases
import pytest
import torch
import tutorial_cases
from fla.ops import chunk_delta_rule
from third_party_case import Case, autotuners, configuration, judge

from headrace.codegen.cpu.backend import driver

pytestmark = [
    pytest.mark.skipif(driver.why_inactive() is not None, reason=f"inactive: {driver.why_inactive()}"),
    # The packages' own warnings, about devices that they would rather have.
    pytest.mark.filterwarnings("ignore"),
]

CASES = [*liger_cases.cases(), *fla_cases.cases(), *tutorial_cases.cases()]
TUNERS = autotuners("fla", "liger_kernel")
# Most autotuned kernels have fewer configurations than this that differ in more than warps and stages.
CONFIGURATIONS = 8


def check(case: Case, index: int = 0) -> None:
    with configuration(index, TUNERS):
        verdict = judge(case)
    assert verdict.forward == "", verdict.forward
    assert not verdict.backward, verdict.backward
    assert verdict.kernels


@pytest.mark.parametrize("case", [c for c in CASES if c.quick], ids=lambda c: c.name)
def test_a_sample_of_third_party_operators_agrees_with_their_references(case: Case) -> None:
    check(case)


@pytest.mark.soak
@pytest.mark.parametrize("case", [c for c in CASES if not c.quick], ids=lambda c: c.name)
def test_every_third_party_operator_agrees_with_its_reference(case: Case) -> None:
    check(case)


@pytest.mark.soak
@pytest.mark.parametrize("index", range(1, CONFIGURATIONS))
@pytest.mark.parametrize("case", [c for c in CASES if c.variant == "f32"], ids=lambda c: c.name)
def test_autotuned_operators_agree_at_each_of_their_configurations(case: Case, index: int) -> None:
    check(case, index)


@pytest.mark.soak
@pytest.mark.parametrize("op", ["l2norm", "hgrn-recurrent", "gla-recurrent", "retention-chunk"])
def test_a_package_times_its_own_configurations(op: str) -> None:
    """Nothing pruned: Triton's autotuner times every configuration with the engine's benchmarker."""
    case = next(c for c in CASES if c.op == op and c.variant == "f32")
    verdict = judge(case)
    assert (verdict.forward, verdict.backward) == ("", "")
    assert any(tuner.cache for tuner in TUNERS)


def test_a_wrong_result_does_not_pass() -> None:
    case = next(c for c in CASES if c.name == "tutorials-vector_add-f32")
    right = case.ours

    def off_by_little(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = right(x, y)
        out[-1] += 1e-3
        return out

    wrong = Case(**{**vars(case), "ours": off_by_little})
    assert "times the bound" in judge(wrong).forward


def test_an_operator_that_computes_with_torch_does_not_pass() -> None:
    case = next(c for c in CASES if c.name == "tutorials-vector_add-f32")
    assert judge(Case(**{**vars(case), "ours": case.reference})).forward == "launched no kernel"


def test_a_reference_that_disagrees_with_itself_excuses_nothing() -> None:
    """The bound grows with what eager loses against float64, so the two must compute the same."""
    case = next(c for c in CASES if c.name == "tutorials-vector_add-f32")

    def fickle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y if x.dtype == torch.float64 else x - y

    assert "too far from itself" in judge(Case(**{**vars(case), "reference": fickle})).forward


def test_the_packages_are_the_ones_that_the_table_counts() -> None:
    assert (version("liger-kernel"), version("fla-core")) == ("0.8.5", "0.6.0")


def test_what_the_page_says_is_refused_by_the_packages_is() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"fla\.layers"):
        importlib.import_module("fla.ops.deltaformer")
    half = torch.zeros(1, 64, 1, 32)
    with pytest.raises(AssertionError, match="does not support float32"):
        chunk_delta_rule(half, half, half, half[..., 0])


def test_the_page_lists_every_operator() -> None:
    page = (pathlib.Path(__file__).parents[2] / "docs" / "third-party.md").read_text()
    assert [c.op for c in CASES if f"| {c.package} | {c.op} |" not in page] == []
