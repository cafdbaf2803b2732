"""The tuner over a simulated bench: what it decides, what it writes, when it stops."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from autotune_rows import CHECK
from fake_registry import Fake

from headrace.autotune.bench import Outcome
from headrace.autotune.db.rows import Policy, Verdict
from headrace.autotune.db.store import Store
from headrace.autotune.evidence import DatabaseEvidence
from headrace.autotune.report import Mode, Progress, Status, Task, TuneReport
from headrace.autotune.tuner import tune
from headrace.errors import TuningError
from headrace.ir.device import Backend, Device
from headrace.ir.evidence import Rung
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import parse_spec

DEVICE = Device("Test CPU", Backend.CPU, "x86_64", 2, ("avx2",))
SPEC = parse_spec("Gemm{x=f32; weights=[w:f32[8,8]nk]; extras=[]; outputs=[f32 = acc_w]; batched=false}")
WIDE = parse_spec("Gemm{x=f32; weights=[w:f32[80,8]nk]; extras=[]; outputs=[f32 = acc_w]; batched=false}")
DEFAULT = Schedule.of("flat", block=32, stages=1)
BEST = Schedule.of("flat", block=128, stages=3)
FAKE = "fake_registry:Fake"


class Simulated:
    """Times by formula with noise and drift, on a clock of its own; some schedules fail."""

    def __init__(
        self,
        *,
        noise: float = 0.0,
        seed: int = 0,
        failing: dict[Schedule, Verdict] | None = None,
        flat: float | None = None,
        interrupt_at: int = 10**9,
    ) -> None:
        self.now = 0.0
        self.requests: list[tuple[Schedule, ...]] = []
        self.checked: list[Schedule] = []
        self.tasks: list[Task] = []
        self._failing, self._flat, self._interrupt_at = failing or {}, flat, interrupt_at
        self._noise, self._random = noise, random.Random(seed)

    def seconds(self, task: Task, schedule: Schedule) -> float:
        scale = 1e-3 if task.spec is SPEC else 4e-3
        if schedule == LIBRARY:
            return 1.1 * scale
        if self._flat is not None:
            return scale * (1.0 if schedule == DEFAULT else self._flat)
        if schedule.dataflow != "flat":
            return 1.5 * scale
        steps = abs(int(schedule["block"]).bit_length() - 8) + abs(int(schedule["stages"]) - 3)
        return scale * (0.6 + 0.1 * steps)

    def run(
        self, task: Task, check: Sequence[Schedule], race: Sequence[Schedule], policy: Policy, seconds: float
    ) -> Outcome:
        if len(self.requests) >= self._interrupt_at:
            raise KeyboardInterrupt
        self.requests.append(tuple(race))
        self.tasks.append(task)
        self.checked += check
        self.now += 0.5
        if seconds < 0.5:
            return Outcome(Verdict.TIMEOUT, "late", cut=True)
        for schedule in (*check, *race):
            if schedule in self._failing:
                return Outcome(self._failing[schedule], "planted")
        samples: dict[Schedule, list[float]] = {schedule: [] for schedule in race}
        for _ in range(policy.rounds):
            drift = 1 + self.now / 100
            for schedule, runs in samples.items():
                own = 1 + abs(self._random.gauss(0, self._noise)) if self._noise else 1.0
                runs.append(self.seconds(task, schedule) * drift * own)
        return Outcome(Verdict.OK, "", CHECK, {schedule: tuple(runs) for schedule, runs in samples.items()})

    def stop(self) -> None:
        self.requests.append(())


def go(
    bench: Simulated, store: Store, budget: float = 60.0, tasks: Sequence[Task] = (), **more: Any
) -> TuneReport:
    return tune(tasks or [Task(SPEC, (4,))], DEVICE, store, budget, registry=FAKE, bench=bench, **more)


@pytest.fixture(autouse=True)
def simulated_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets run on the clock of the bench last made."""
    made: list[Simulated] = []
    real = Simulated.__init__

    def init(self: Simulated, **more: Any) -> None:
        real(self, **more)
        made.append(self)

    monkeypatch.setattr(Simulated, "__init__", init)
    monkeypatch.setattr(
        "headrace.autotune.tuner.Budget",
        lambda seconds: __import__("headrace.autotune.job").autotune.job.Budget(
            seconds, lambda: made[-1].now
        ),
    )


def test_default_and_library_are_raced_first_and_the_planted_best_is_found_under_noise() -> None:
    right = 0
    for seed in range(6):
        bench, store = Simulated(noise=0.05, seed=seed), Store.in_memory()
        report = go(bench, store, seed=seed)
        assert bench.requests[0] == (DEFAULT,)
        assert bench.requests[1] == (DEFAULT, LIBRARY)
        (result,) = report.results
        assert result.status is Status.TUNED
        assert result.answer is not None
        assert result.answer.rung is Rung.EXACT
        right += bench.seconds(result.task, result.answer.schedule) <= 0.7e-3
    assert right >= 5


def test_no_schedule_is_timed_twice_before_the_final() -> None:
    bench = Simulated()
    go(bench, Store.in_memory())
    assert len(bench.checked) == len(set(bench.checked))


def test_default_keeps_its_place_against_equals() -> None:
    for seed in range(8):
        store = Store.in_memory()
        report = go(Simulated(noise=0.05, seed=seed, flat=0.99), store, 8.0, seed=seed)
        answer = report.results[0].answer
        assert answer is not None
        assert answer.schedule == DEFAULT


def test_second_run_finds_the_rows_and_runs_no_trial(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        first = go(Simulated(), store)
    bench = Simulated()
    with Store.open(path) as store:
        second = go(bench, store)
        assert len(store.runs()) == 2
    assert second.trials == 0
    assert bench.requests == [()]
    assert second.results[0].status is Status.KNOWN
    assert second.results[0].answer == first.results[0].answer
    assert first.results[0].gain is not None
    assert first.results[0].gain > 1.5


def test_failures_become_rows_and_are_not_retried() -> None:
    bad = {
        Schedule.of("flat", block=128, stages=3): Verdict.WRONG,
        Schedule.of("flat", block=64, stages=3): Verdict.CRASHED,
        Schedule.of("tiled", block=32, stages=1): Verdict.TIMEOUT,
        Schedule.of("tiled", block=64, stages=1): Verdict.UNBUILDABLE,
    }
    store = Store.in_memory()
    report = go(Simulated(failing=bad), store)
    verdicts = {row.schedule: row.verdict for row in store.observations() if row.verdict is not Verdict.OK}
    assert {Schedule.parse(text) for text in verdicts} == set(bad)
    assert report.failures == len(bad)
    assert report.results[0].answer is not None
    assert report.results[0].answer.schedule not in bad
    again = Simulated(failing=bad)
    go(again, store, again=True)
    assert not set(bad) & set(again.checked)


def test_broken_default_leaves_the_library_as_the_default() -> None:
    store = Store.in_memory()
    report = go(Simulated(failing={DEFAULT: Verdict.WRONG}), store)
    assert report.results[0].status is Status.TUNED
    everything = {DEFAULT: Verdict.WRONG, LIBRARY: Verdict.CRASHED}
    assert go(Simulated(failing=everything), Store.in_memory()).results[0].status is Status.UNUSABLE


def test_candidate_that_fails_only_in_the_final_is_found_out() -> None:
    class Late(Simulated):
        def run(self, task: Task, check: Any, race: Any, policy: Policy, seconds: float) -> Outcome:
            outcome = super().run(task, check, race, policy, seconds)
            return (
                outcome if policy.stage == "screen" or BEST not in race else Outcome(Verdict.CRASHED, "late")
            )

    store = Store.in_memory()
    report = go(Late(), store)
    assert [row.schedule for row in store.observations() if row.verdict is Verdict.CRASHED] == [str(BEST)]
    answer = report.results[0].answer
    assert answer is not None
    assert answer.schedule not in (BEST, DEFAULT)


def test_budget_is_respected_and_goes_where_the_time_goes() -> None:
    bench = Simulated()
    tasks = [Task(SPEC, (4,), 1.0), Task(WIDE, (4,), 3.0)]
    report = go(bench, Store.in_memory(), budget=20.0, tasks=tasks)
    assert bench.now <= 20.5
    small, large = report.results
    assert large.trials > small.trials
    starved = Simulated()
    report = go(starved, Store.in_memory(), budget=0.7, tasks=tasks)
    assert starved.now <= 1.5
    assert [result.status for result in report.results] == [Status.PARTIAL, Status.SKIPPED]


def test_interrupt_keeps_finished_trials_and_the_next_run_goes_on() -> None:
    store = Store.in_memory()
    report = go(Simulated(interrupt_at=8), store)
    assert report.interrupted
    assert report.results[0].status is Status.PARTIAL
    assert len({row.schedule for row in store.observations()}) == 8
    resumed = Simulated()
    report = go(resumed, store)
    assert not report.interrupted
    assert report.results[0].status is Status.TUNED
    first = {Schedule.parse(row.schedule) for row in store.observations() if row.policy.stage == "screen"}
    assert len(first) == 8 + len(resumed.checked)


def test_same_buckets_are_one_task_at_the_heavier_sizes() -> None:
    bench = Simulated()
    report = go(bench, Store.in_memory(), tasks=[Task(SPEC, (9,), 1.0), Task(SPEC, (16,), 2.0)])
    assert [result.task for result in report.results] == [Task(SPEC, (16,), 3.0)]


def test_replay_reads_and_off_does_nothing() -> None:
    store = Store.in_memory()
    assert go(Simulated(), store, mode=Mode.REPLAY).results[0].answer is None
    go(Simulated(), store)
    bench, rows = Simulated(), store.observations()
    replayed = go(bench, store, mode="replay")
    assert replayed.results[0].answer == DatabaseEvidence(store, Fake()).best(SPEC, (4,), DEVICE)
    assert go(bench, store, mode=Mode.OFF).results == ()
    assert store.observations() == rows
    assert set(bench.requests) == {()}


def test_verify_refutes_a_wrong_winner_and_it_is_not_used_any_more() -> None:
    store = Store.in_memory()
    go(Simulated(), store)
    assert go(Simulated(), store, mode="verify").results[0].status is Status.VERIFIED
    report = go(Simulated(failing={BEST: Verdict.WRONG}), store, mode="verify")
    assert report.results[0].status is Status.REFUTED
    answer = report.results[0].answer
    assert answer is not None
    assert answer.schedule != BEST


@pytest.mark.parametrize("bandwidth", [1e10, 1e30], ids=["as before", "higher now"])
def test_implausible_time_is_no_row_unless_the_figures_were_too_low(
    bandwidth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Absurd(Simulated):
        def seconds(self, task: Task, schedule: Schedule) -> float:
            return 1e-9 if schedule == BEST else super().seconds(task, schedule)

    device = Device("Test CPU", Backend.CPU, "x86_64", 2, ("avx2",), bandwidth=1e6)
    again = replace(device, bandwidth=bandwidth)
    monkeypatch.setattr("headrace.autotune.job.remeasured", lambda device: again)
    store = Store.in_memory()
    report = tune([Task(SPEC, (4,))], device, store, 60.0, registry=FAKE, bench=Absurd())
    absurd = bandwidth == 1e10
    assert report.results[0].failures == ({"implausible": 1} if absurd else {})
    assert (str(BEST) in {row.schedule for row in store.observations()}) is not absurd


def test_progress_tells_every_trial_and_the_best_so_far() -> None:
    heard: list[Progress] = []
    report = go(Simulated(), Store.in_memory(), progress=heard.append)
    trials = [event for event in heard if event.event == "trial"]
    assert len(trials) == report.trials
    best = [event.best for event in trials if event.best is not None]
    assert best == sorted(best, reverse=True)
    assert heard[0].event == "start"
    assert heard[-1].event == "final"


def test_contradictory_requests_are_refused() -> None:
    with pytest.raises(TuningError, match="unknown mode"):
        go(Simulated(), Store.in_memory(), mode="fast")
    with pytest.raises(TuningError, match="budget"):
        go(Simulated(), Store.in_memory(), budget=0.0)
    with pytest.raises(TuningError, match="registry"):
        tune([], DEVICE, Store.in_memory(), 1.0, registry="nowhere:Thing")
