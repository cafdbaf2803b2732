"""The ladder: which rows answer which question."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from autotune_rows import HERE, row
from fake_registry import Fake

from headrace.autotune.db.rows import Observation, Stage, Verdict, race_of
from headrace.autotune.db.store import Store
from headrace.autotune.evidence import DatabaseEvidence
from headrace.autotune.keys import environment, numerics, versions
from headrace.autotune.ladder import Query, answer_of, climb, gain, winner
from headrace.autotune.stats import median, median_interval, quantile
from headrace.ir.device import Backend, Device
from headrace.ir.evidence import Rung
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

QUERY = Query("Gemm{x=f32}", (4,), "n", HERE)
NEWER = replace(HERE, versions="torch=9")
TWIN = replace(HERE, device="Other CPU/units=8/memory=64GiB")
OTHER = replace(HERE, hard="cuda/sm_90/")


def ask(*rows: Observation, query: Query = QUERY) -> tuple[str, Rung] | None:
    answer = answer_of(climb(rows, query))
    return None if answer is None else (str(answer.schedule), answer.rung)


def test_statistics_of_known_samples() -> None:
    assert median([3.0, 1.0, 2.0, 10.0]) == 2.5
    assert quantile([0.0, 10.0], 0.1) == pytest.approx(1.0)
    low, high = median_interval([float(k) for k in range(25)])
    assert (low, high) == (7.0, 17.0)  # the textbook 95 % order statistics of 25 samples: 8th and 18th
    assert median_interval([1.0] * 5)[0] == -float("inf")


def test_each_rung_answers_when_the_better_ones_are_silent() -> None:
    exact, newer, twin = row("a{}"), row("b{}", where=NEWER), row("c{}", where=TWIN)
    near, far = row("d{}", sizes=(7,)), row("e{}", sizes=(100,))
    assert ask(exact, newer, twin, near, far) == ("a{}", Rung.EXACT)
    assert ask(newer, twin, near, far) == ("b{}", Rung.SAME_DEVICE)
    assert ask(twin, near, far) == ("c{}", Rung.SAME_ARCHITECTURE)
    assert ask(far, near) == ("d{}", Rung.NEIGHBOUR_SIZES)
    assert ask(row(where=OTHER), row(numerics="m"), row(spec="Gemm{}")) is None
    assert ask() is None


def test_timings_of_other_sizes_in_the_bucket_are_not_compared() -> None:
    query = replace(QUERY, sizes=(30,))
    assert ask(row("a{}", 1e-3, sizes=(30,)), row("b{}", 1e-4, sizes=(20,)), query=query) == (
        "a{}",
        Rung.EXACT,
    )
    assert ask(row("b{}", 1e-4, sizes=(20,)), query=query) == ("b{}", Rung.EXACT)


def test_smaller_median_wins_without_a_default() -> None:
    assert ask(row("a{}", 2e-3), row("b{}", 1e-3)) == ("b{}", Rung.EXACT)


def test_final_rows_decide_over_screening() -> None:
    rows = [row("a{}", 1e-5), row("a{}", 3e-3, stage=Stage.FINAL), row("b{}", 2e-3, stage=Stage.FINAL)]
    assert ask(*rows) == ("b{}", Rung.EXACT)


def test_default_wins_ties() -> None:
    assert ask(row("a{}", 1.0e-3, baseline=True), row("b{}", 0.99e-3)) == ("a{}", Rung.EXACT)
    assert ask(row("a{}", 1.0e-3, baseline=True), row("b{}", 0.9e-3)) == ("b{}", Rung.EXACT)


@pytest.mark.parametrize("verdict", [Verdict.WRONG, Verdict.CRASHED, Verdict.TIMEOUT, Verdict.UNBUILDABLE])
def test_failed_implementation_is_never_an_answer(verdict: Verdict) -> None:
    good, bad = row("a{}", 1e-6), row("a{}", verdict=verdict, cause="x")
    assert ask(good, bad, row("b{}", 1e-3)) == ("b{}", Rung.EXACT)
    assert ask(good, row("a{}", verdict=verdict, digest="d1")) == ("a{}", Rung.EXACT)
    elsewhere = row("a{}", verdict=verdict, sizes=(1000,))
    assert ask(good, elsewhere) == (None if verdict is Verdict.WRONG else ("a{}", Rung.EXACT))
    assert ask(good, row("a{}", verdict=verdict, where=NEWER)) == ("a{}", Rung.EXACT)


def _race(ratio: float, noise: float, seed: int, count: int = 25) -> tuple[Observation, Observation]:
    """Two rows of one race: common drift and throttling, own noise."""
    rng = random.Random(seed)
    drift = [1 + 0.3 * (k > count // 2) + 0.01 * k for k in range(count)]
    base = tuple(1e-3 * d * (1 + abs(rng.gauss(0, noise))) for d in drift)
    other = tuple(ratio * 1e-3 * d * (1 + abs(rng.gauss(0, noise))) for d in drift)
    name = race_of([base, other])
    return (
        row("base{}", base, baseline=True, stage=Stage.FINAL, race=name),
        row("other{}", other, stage=Stage.FINAL, race=name),
    )


def fastest(*found: Observation) -> str:
    won = winner(found)
    assert won is not None
    return won[0]


def test_paired_samples_see_through_drift_and_noise_costs_at_most_two_percent() -> None:
    lost = 0
    for seed in range(100):
        base, other = _race(1.01, 0.05, seed)  # a challenger that is really 1 % slower
        lost += fastest(base, other) == "other{}"
    assert lost <= 5
    base, other = _race(0.8, 0.05, 0)
    assert fastest(base, other) == "other{}"
    assert gain([other], [base]) == pytest.approx(0.8, abs=0.05)
    unpaired = replace(other, race="")
    assert gain([unpaired], [base]) is None  # the drift hides it where samples cannot be paired


DEVICE = Device("Test CPU", Backend.CPU, "x86_64", 2, ("avx2",))
SPEC = parse_spec("Gemm{x=f32; weights=[w:f32[8,8]nk]; extras=[]; outputs=[f32 = acc_w]; batched=false}")


def _here(schedule: str, seconds: float, digest: str) -> Observation:
    return row(
        schedule, seconds, spec=str(SPEC), where=environment(DEVICE), numerics=numerics(DEVICE), digest=digest
    )


def test_evidence_answers_once_per_revision_and_forgets_stale_templates() -> None:
    store = Store.in_memory()
    evidence = DatabaseEvidence(store, Fake())
    assert evidence.best(SPEC, (4,), DEVICE) is None
    store.append([_here("flat{block=64, stages=1}", 1e-3, "digest of flat")])
    store.append([_here("flat{block=256, stages=4}", 1e-6, "digest of flat")])  # illegal
    store.append([_here("flat{block=16, stages=1}", 1e-6, "digest of an older flat")])
    answer = evidence.best(SPEC, (4,), DEVICE)
    assert answer is not None
    assert answer.schedule == Schedule.of("flat", block=64, stages=1)
    assert evidence.best(SPEC, (4,), DEVICE) is answer
    step = evidence.why(SPEC, (4,), DEVICE)[0]
    assert step.refused == {"not legal here": 1, "template has changed": 1}
    assert str(step).startswith("exact")
    assert "flat{block=64, stages=1} in 1004.0 us (1 rows); 1 left out: not legal here" in str(step)


@pytest.mark.parametrize(
    "schedule", ["flat{block=x, stages=1}", "flat{", "", "flat{stages=1}", "sparse{a=1}"]
)
def test_unreadable_schedule_in_a_row_does_not_hide_the_others(schedule: str) -> None:
    store = Store.in_memory()
    name = schedule.partition("{")[0]
    store.append([_here(schedule, 1e-6, f"digest of {name}")])
    store.append([_here("flat{block=64, stages=1}", 1e-3, "digest of flat")])
    answer = DatabaseEvidence(store, Fake()).best(SPEC, (4,), DEVICE)
    assert answer is not None
    assert str(answer.schedule) == "flat{block=64, stages=1}"


def test_evidence_never_raises() -> None:
    class Broken(Fake):
        def digest(self, dataflow: str) -> str:
            raise RuntimeError("boom")

    store = Store.in_memory()
    store.append([_here("flat{block=64, stages=1}", 1e-3, "d")])
    assert DatabaseEvidence(store, Broken()).best(SPEC, (4,), DEVICE) is None


def test_environment_names_no_place() -> None:
    where = environment(DEVICE)
    assert where.hard == "cpu/x86_64/avx2"
    assert "torch=" in versions(Backend.CPU)
    assert "llvmlite=" in versions(Backend.CPU)
    assert "llvmlite=" not in versions(Backend.CUDA)
    assert "/home" not in str(where)


PLAIN = (
    "Attention{q=f32; k=f32; v=f32; out=f32; heads=[2, 2, 2]; dims=[8, 8]; score=s; mask=true; "
    "normalizer=exp/sum/online; safe=false; extras=[]}"
)
SAFE = PLAIN.replace("safe=false", "safe=true")
UNLICENSED = "without a unified maximum"
SOFTMAX = (
    "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}"
)


@pytest.mark.parametrize(
    ("plain", "licensed", "sizes", "about"),
    [
        (PLAIN, PLAIN.replace("online", "unified(16)"), (1, 1, 64), UNLICENSED),
        (PLAIN, PLAIN.replace("online", "unified(0, proven)"), (1, 1, 64), UNLICENSED),
        (SOFTMAX, SOFTMAX.replace("reduced=[]", "reduced=[]; phi=3"), (4, 64), UNLICENSED),
        (PLAIN, SAFE, (1, 1, 64), "where rows of -inf are NaN"),
        (
            PLAIN,
            SAFE.replace("online", "unified(16)"),
            (1, 1, 64),
            f"{UNLICENSED}, where rows of -inf are NaN",
        ),
        (SAFE, SAFE.replace("online", "unified(16)"), (1, 1, 64), UNLICENSED),
    ],
)
def test_rows_of_a_relative_are_priors_where_nothing_else_is_known(
    plain: str, licensed: str, sizes: tuple[int, ...], about: str
) -> None:
    def measured(spec: str, schedule: str) -> Observation:
        return row(
            schedule, 1e-3, spec=str(parse_spec(spec)), sizes=sizes, where=environment(DEVICE),
            numerics=numerics(DEVICE), digest="digest of flat",
        )  # fmt: skip

    store = Store.in_memory()
    evidence = DatabaseEvidence(store, Fake())
    store.append([measured(plain, "flat{block=16, stages=1}")])
    answer = evidence.best(parse_spec(licensed), sizes, DEVICE)
    assert answer is not None
    assert (str(answer.schedule), answer.rung) == ("flat{block=16, stages=1}", Rung.SAME_DEVICE)
    assert f"({about})" in str(evidence.why(parse_spec(licensed), sizes, DEVICE)[-1])
    store.append([measured(licensed, "flat{block=64, stages=1}")])
    answer = evidence.best(parse_spec(licensed), sizes, DEVICE)
    assert answer is not None
    assert (str(answer.schedule), answer.rung) == ("flat{block=64, stages=1}", Rung.EXACT)
    answer = evidence.best(parse_spec(plain), sizes, DEVICE)  # never the other way round
    assert answer is not None
    assert str(answer.schedule) == "flat{block=16, stages=1}"
