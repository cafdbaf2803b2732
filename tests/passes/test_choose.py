"""Choosing: the database leads, the cost model ranks the rest, regimes change where the model does."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace

import pytest

from headrace.codegen.dataflows import dataflows, get
from headrace.codegen.plan import next_power_of_two
from headrace.errors import DeviceError
from headrace.ir.device import Backend, Device
from headrace.ir.devices import RECORDS, named
from headrace.ir.evidence import Answer, NoEvidence, Rung
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, Spec, parse_spec
from headrace.passes.choose import KEEP, rank, regimes, weighed
from headrace.passes.cost import seconds

CPU = Device("cpu", Backend.CPU, "x86_64", 8, ("avx512f",), 1 << 20, 32 << 20, 0, 1, 80e9, 8e11, 1.6e12, 5e-6)
A100 = named("NVIDIA A100-SXM4-80GB")
DEVICES = [pytest.param(CPU, id="cpu"), pytest.param(A100, id="a100")]

SPECS: list[tuple[str, tuple[int, ...]]] = [
    ("Gemm{x=bf16; weights=[w0:bf16[4096,4096]nk]; extras=[]; outputs=[bf16 = acc_w0]; batched=false}", (1,)),
    ("Gemm{x=f32; weights=[w0:f32[64,48]nk]; extras=[]; outputs=[f32 = acc_w0]; batched=true}", (3, 7)),
    (
        "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[9, 3, 3]; dims=[64, 64]; score=mul(s, 0.125); "
        "mask=le(j, e0); normalizer=exp/sum/online; safe=true; extras=[e0:i64[]]}",
        (1, 1, 512),
    ),
    (
        "Rows{inputs=[x0:f32[rn]]; reductions=[r0 = max(x0), r1 = sum(exp(sub(x0, r0)))]; "
        "outputs=[f32 = div(exp(sub(x0, r0)), r1)]; reduced=[]}",
        (5, 1000),
    ),
]


def product(n: int, k: int) -> Gemm:
    spec = parse_spec(
        f"Gemm{{x=f16; weights=[w0:f16[{n},{k}]nk]; extras=[]; outputs=[f16 = acc_w0]; batched=false}}"
    )
    assert isinstance(spec, Gemm)
    return spec


@dataclass(frozen=True)
class Knows:
    """Evidence that always gives one answer."""

    answer: Answer

    def best(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Answer | None:
        return self.answer


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("text", "sizes"), SPECS, ids=["gemv", "batched", "attention", "rows"])
def test_every_candidate_is_legal_and_the_library_is_one(
    text: str, sizes: tuple[int, ...], device: Device
) -> None:
    spec = parse_spec(text)
    ranked = rank(spec, sizes, device, NoEvidence())
    assert {each.schedule.dataflow for each in ranked} == {
        flow.name for flow in dataflows(spec, sizes, device)
    }
    assert LIBRARY in [each.schedule for each in ranked]
    for each in ranked:
        assert get(each.schedule.dataflow).legal(spec, sizes, each.schedule, device) is None
        assert (each.seconds or 0.0) > 0
        assert each.voice == "heuristic"
        assert each.rung is Rung.DEFAULT
    order = [weighed(spec, sizes, each.schedule, each.seconds or 0.0, device) for each in ranked]
    assert order == sorted(order)


def test_the_database_leads_whatever_the_model_thinks() -> None:
    spec, sizes = parse_spec(SPECS[0][0]), (1,)
    slow = rank(spec, sizes, CPU, NoEvidence())[-1].schedule
    ranked = rank(spec, sizes, CPU, Knows(Answer(slow, Rung.EXACT, 1e-3)))
    assert (ranked[0].schedule, ranked[0].voice, ranked[0].seconds) == (slow, "database", 1e-3)
    assert ranked[0].reason == "database, exact"
    assert len(ranked) == len({each.schedule for each in ranked})


@pytest.mark.parametrize(
    "schedule", [Schedule.of("gone"), Schedule.of("gemv", block_m=3), Schedule.of("row", block_r=1)], ids=str
)
def test_an_answer_that_is_not_legal_here_is_ignored(schedule: Schedule) -> None:
    ranked = rank(parse_spec(SPECS[0][0]), (1,), CPU, Knows(Answer(schedule, Rung.EXACT)))
    assert {each.voice for each in ranked} == {"heuristic"}


def test_a_gemv_wins_one_row_and_not_a_thousand() -> None:
    spec = parse_spec(SPECS[0][0])
    for device in (CPU, A100):
        assert rank(spec, (1,), device, NoEvidence())[0].schedule.dataflow == "gemv"
        assert rank(spec, (1024,), device, NoEvidence())[0].schedule.dataflow != "gemv"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (12288, 4096), (1536, 576)])
def test_regimes_change_exactly_where_the_model_does(n: int, k: int, device: Device) -> None:
    spec = product(n, k)
    found = regimes(spec, device)
    ends = [each.rows for each in found if each.rows is not None]
    assert found[-1].rows is None
    assert len(ends) == len(found) - 1
    assert ends == sorted(set(ends))
    assert found[0].schedule.dataflow == "gemv"

    def lag(schedule: Schedule, rows: int) -> float:
        best = rank(spec, (rows,), device, NoEvidence())[0]
        took = weighed(spec, (rows,), schedule, seconds(spec, (rows,), schedule, device), device)
        return took / weighed(spec, (rows,), best.schedule, best.seconds or 0.0, device)

    low = 1
    for here, there in itertools.pairwise(found):
        assert here.rows is not None
        for rows in {low, (low + here.rows) // 2, here.rows}:
            assert get(here.schedule.dataflow).legal(spec, (rows,), here.schedule, device) is None
        # On a CPU the defaults are those of the next power of two.
        assert lag(here.schedule, low) <= (KEEP if device is CPU else 1.0)
        assert lag(here.schedule, here.rows) <= KEEP
        after = here.rows + 1
        illegal = get(here.schedule.dataflow).legal(spec, (after,), here.schedule, device) is not None
        flow = get(here.schedule.dataflow)
        other = device is CPU and flow.default(spec, (next_power_of_two(after),), device) != here.schedule
        assert illegal or other or lag(here.schedule, after) > KEEP
        assert lag(there.schedule, after) <= (KEEP if device is CPU else 1.0)
        low = after


def test_a_large_matrix_on_a_large_gpu_goes_from_vector_to_matrix_units() -> None:
    names = [each.schedule.dataflow for each in regimes(product(12288, 4096), A100)]
    assert names[0] == "gemv"
    assert names[1] in ("flat", "stream_k", "tiled")
    assert names[-1] in ("tiled", "library")


@pytest.mark.parametrize(
    "card", ["NVIDIA A100-SXM4-80GB", "NVIDIA B200", "NVIDIA L40S", "AMD Radeon RX 9070 XT"]
)
@pytest.mark.parametrize(("n", "k", "m"), [(512, 8192, 8), (1024, 16384, 16)])
def test_k_is_split_where_the_tiles_of_n_fill_less_than_half_of_the_units(
    n: int, k: int, m: int, card: str
) -> None:
    ours = [each for each in rank(product(n, k), (m,), named(card), NoEvidence()) if each.schedule != LIBRARY]
    best = dict(ours[0].schedule.knobs)
    assert ours[0].schedule.dataflow in ("flat", "stream_k")
    assert best.get("split_k", 2) > 1


def test_decode_attention_splits_keys_where_heads_are_few_and_not_where_they_are_many() -> None:
    spec = parse_spec(
        "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[32, 8, 8]; dims=[128, 128]; score=mul(s, 0.088); "
        "mask=true; normalizer=exp/sum/online; safe=false; extras=[]}"
    )
    for card in ("NVIDIA A100-SXM4-80GB", "NVIDIA H200", "NVIDIA L40S", "AMD Instinct MI300X"):
        for batch, length in ((1, 8192), (256, 512)):
            ranked = rank(spec, (batch, 1, length), named(card), NoEvidence())
            (decode,) = [each for each in ranked if each.schedule.dataflow == "decode"]
            splits = int(dict(decode.schedule.knobs)["splits"])
            assert (splits >= 8) if batch == 1 else (splits == 1), card


def test_a_call_takes_at_least_its_bytes_and_not_much_more() -> None:
    spec, sizes = parse_spec(SPECS[0][0]), (1,)
    schedule = get("gemv").default(spec, sizes, A100)
    time = seconds(spec, sizes, schedule, A100)
    weights = 4096 * 4096 * 2
    assert weights / A100.bandwidth < time < 4 * weights / A100.bandwidth + 2 * A100.launch_seconds


@pytest.mark.parametrize(
    ("device", "figure"),
    [
        (Device("unknown", Backend.CPU, "x86_64", 1), "flops"),
        (RECORDS["AMD Instinct MI308X"].device, "(flops|bandwidth)"),
        (replace(A100, bandwidth=0.0), "bandwidth"),
        (replace(A100, bandwidth=float("nan")), "bandwidth"),
    ],
    ids=["cpu", "mi308x", "no bandwidth", "nan"],
)
def test_where_a_figure_is_missing_the_library_leads_and_the_reason_names_it(
    device: Device, figure: str
) -> None:
    spec = product(4096, 4096)
    ranked = rank(spec, (8,), device, NoEvidence())
    assert ranked[0].schedule == LIBRARY
    assert {each.seconds for each in ranked} == {None}
    assert re.search(figure, ranked[0].reason)
    assert [each.schedule for each in regimes(spec, device)] == [LIBRARY]
    with pytest.raises(DeviceError, match=figure):
        seconds(spec, (8,), LIBRARY, device)
