"""The verifier: every way to be wrong that we know of is caught, right kernels pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_registry import Kernel

from headrace.autotune.db.rows import Verdict
from headrace.autotune.inputs import companion, make_inputs, weight_slots
from headrace.autotune.verify import compare, floor_seconds, scrub, verify
from headrace.errors import TuningError
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.evaluate import evaluate_spec
from headrace.ir.spec import Attention, Spec, parse_spec

GEMM = parse_spec(
    "Gemm{x=f32; weights=[w:f32[24,16]nk]; extras=[r:f32[mn], bias:f32[n]]; "
    "outputs=[f32 = add(add(acc_w, bias), r)]; batched=false}"
)
BF16 = parse_spec("Gemm{x=bf16; weights=[w:bf16[24,16]nk]; extras=[]; outputs=[bf16 = acc_w]; batched=false}")
SOFTMAX = parse_spec(
    "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}"
)
CACHE = parse_spec(
    "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[4, 2, 2]; dims=[16, 16]; score=mul(s, 0.25); "
    "mask=le(j, add(i, p)); normalizer=exp/sum/online; safe=false; extras=[p:i64[]]}"
)
CASES = [(GEMM, (5,)), (BF16, (1,)), (SOFTMAX, (3, 33)), (CACHE, (1, 1, 40)), (CACHE, (2, 7, 20))]
SEEDS = (1, 2, 3)


@pytest.mark.parametrize(("spec", "sizes"), CASES)
def test_right_kernel_passes_with_its_evidence(spec: Spec, sizes: tuple[int, ...]) -> None:
    judgement = verify(Kernel(spec, "none", True), spec, sizes, SEEDS)
    assert judgement.verdict is Verdict.OK, judgement.cause
    assert judgement.check is not None
    assert judgement.check.seeds == SEEDS
    assert judgement.check.max_error is not None
    assert judgement.check.bound is not None
    assert judgement.check.max_error <= judgement.check.bound


FAULTS = {
    "wrong": "max error", "replay": "max error", "partial": "differs from launch 1", "mutates": "inputs",
    "repeat": "differs from launch 1", "nan": "NaN", "shape": "instead of",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("spec", [GEMM, SOFTMAX], ids=["gemm", "softmax"])
def test_faulty_kernel_is_wrong(spec: Spec, fault: str) -> None:
    sizes = (5,) if spec is GEMM else (3, 33)
    judgement = verify(Kernel(spec, fault, True), spec, sizes, SEEDS)
    assert judgement.verdict is Verdict.WRONG
    assert FAULTS[fault] in judgement.cause or judgement.cause.startswith(("max error", "launch"))


@pytest.mark.parametrize("fault", ["raise", "fifth"])
def test_raising_kernel_is_crashed_and_its_message_names_no_path(fault: str) -> None:
    judgement = verify(Kernel(GEMM, fault, True), GEMM, (5,), SEEDS)
    assert judgement.verdict is Verdict.CRASHED
    assert "Error: " in judgement.cause
    assert "/" not in judgement.cause


def test_kernel_that_is_right_at_the_asked_sizes_only_is_wrong() -> None:
    class Narrow(Kernel):
        def __call__(self, inputs: Any) -> Any:
            out = super().__call__(inputs)
            return out if out.shape[0] > 5 else out + 1

    judgement = verify(Narrow(GEMM, "none", True), GEMM, (8,), SEEDS)
    assert judgement.verdict is Verdict.WRONG
    assert "sizes (5,)" in judgement.cause


def test_float_error_is_bounded_by_eagers_own() -> None:
    reference = torch.tensor([1.0, -2.0], dtype=torch.float64)
    eager = reference.float() + 1e-3
    assert compare(DType.F32, reference.float() + 2e-3, reference, eager)[0] == ""
    assert "max error" in compare(DType.F32, reference.float() + 3e-3, reference, eager)[0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_must_lie_where_the_reference_has_them(bad: float) -> None:
    reference = torch.tensor([1.0, bad], dtype=torch.float64)
    plain = torch.tensor([1.0, 5.0])
    assert compare(DType.F32, reference.float(), reference, reference.float())[0] == ""
    assert compare(DType.F32, plain, reference, reference.float())[0] != ""
    assert compare(DType.F32, reference.float(), plain.double(), plain)[0] != ""


def test_inputs_are_fresh_by_seed_and_positions_stay_inside_the_cache() -> None:
    one, two, again = (make_inputs(CACHE, (1, 3, 10), seed) for seed in (1, 2, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], two[0])
    positions = {int(make_inputs(CACHE, (1, 3, 10), seed)[3]) for seed in range(60)}
    assert positions == set(range(8))
    assert int(make_inputs(CACHE, (1, 3, 10), 0, fill=1.0)[3]) == 7
    assert [list(x.shape) for x in make_inputs(GEMM, (5,), 0)] == [[5, 16], [24, 16], [5, 24], [24]]
    with pytest.raises(TuningError, match="takes sizes"):
        make_inputs(GEMM, (1, 2), 0)


def test_every_visible_row_of_the_made_attention_is_finite() -> None:
    assert isinstance(CACHE, Attention)
    (out,) = evaluate_spec(CACHE, make_inputs(CACHE, (2, 3, 9), 5))
    assert bool(out.isfinite().all())


def test_companion_is_the_smallest_of_the_bucket() -> None:
    assert companion((8,)) == (5,)
    assert companion((1, 300)) == (1, 257)
    assert companion((4,)) is None
    assert weight_slots(GEMM) == (1,)


def test_floor_counts_weights_from_main_memory_and_operations() -> None:
    device = Device("d", Backend.CPU, "x", 1, bandwidth=1e9, flops_f32=1e9, flops_16=2e9)
    assert floor_seconds(GEMM, (1,), device, cold=True) == pytest.approx(24 * 16 * 4 / 1e9)
    assert floor_seconds(GEMM, (100,), device, cold=True) == pytest.approx(2 * 100 * 24 * 16 / 1e9)
    assert floor_seconds(GEMM, (1,), Device("d", Backend.CPU, "x", 1), cold=True) == 0.0


def test_scrubbed_messages_keep_their_sense() -> None:
    assert scrub("E: cannot open '/home/me/x.py', line 3\nmore") == "E: cannot open '<path>', line 3"
    assert scrub("") == ""
