"""Measuring regimes: who is raced where, how often, and what is not measured a second time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from autotune_rows import CHECK
from regime_rows import CURVES, DEVICE, FLAT, GEMV, GRID, SPEC, names, rows

from headrace.autotune.bench import Outcome
from headrace.autotune.db.rows import SINGLE, Policy, Stage, Verdict
from headrace.autotune.db.store import Store
from headrace.autotune.keys import environment, numerics
from headrace.autotune.regime_finals import AGAINS, FINALS, MATTERS
from headrace.autotune.regime_scan import Raced, measure_regimes
from headrace.autotune.report import Task
from headrace.autotune.stats import median
from headrace.errors import TuningError
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, parse_spec


class Curved:
    """A Bench that times schedules by `CURVES` of their block, and fails what it is told to."""

    def __init__(self, wrong: str = "", seconds: float = 0.0) -> None:
        self.wrong, self.stopped = wrong, 0
        self.checked: list[str] = []
        self.raced: list[tuple[int, tuple[str, ...]]] = []
        self.finals: list[tuple[int, int, tuple[str, ...]]] = []  # M, the worker that it was in, and who

    def run(
        self,
        task: Task,
        check: Sequence[Schedule],
        race: Sequence[Schedule],
        policy: Policy,
        seconds: float,
    ) -> Outcome:
        (m,) = task.sizes
        for schedule in check:
            self.checked.append(str(schedule))
            if schedule.dataflow == self.wrong:
                return Outcome(Verdict.WRONG, "planted")
        if race:
            self.raced.append((m, tuple(map(str, race))))
            assert policy.version == SINGLE
            if policy.stage is Stage.FINAL:
                self.finals.append((m, self.stopped, tuple(schedule.dataflow for schedule in race)))
        curve = {"flat": FLAT, "tiled": GEMV, "library": LIBRARY}
        later = 1 + 1e-6 * len(self.raced)  # no two races are one
        samples = {s: (CURVES[curve[s.dataflow]](m) * later,) * policy.rounds for s in race}
        return Outcome(Verdict.OK, check=CHECK, samples=samples)

    def stop(self) -> None:
        self.stopped += 1


REGISTRY = "fake_registry:Fake"
assert isinstance(SPEC, Gemm)


def test_measuring_gives_the_table_that_the_curves_have() -> None:
    store, bench, heard = Store.in_memory(), Curved(), list[Raced]()
    scan = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=bench, progress=heard.append)
    assert names(scan.table) == [(5, "tiled"), (40, "flat"), (256, "library")]
    assert (scan.left, len(heard)) == ((), len(GRID))
    assert [m for m, _ in bench.raced[: len(GRID)]] == [raced.m for raced in heard]
    assert sorted(bench.checked) == ["flat{block=32, stages=1}", "library{}", "tiled{block=32, stages=1}"]
    dropped = [m for m, race in bench.raced if not any("tiled" in each for each in race)]
    assert dropped  # nobody waits for a GEMV of 256 rows
    again = Curved()
    second = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=again)
    assert second.table == scan.table
    assert not again.raced  # what is measured is not measured again


class Slow(Curved):
    """As `Curved`, a thousand times slower."""

    def run(self, *arguments: Any) -> Outcome:
        outcome = super().run(*arguments)
        slower = {s: tuple(1000 * each for each in run) for s, run in outcome.samples.items()}
        return replace(outcome, samples=slower)


def test_races_that_would_last_too_long_are_split_and_joined_again() -> None:
    store, bench = Store.in_memory(), Slow()
    scan = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=bench)
    assert max(len(race) for _, race in bench.raced[1:]) == 2
    assert names(scan.table) == [(5, "tiled"), (40, "flat"), (256, "library")]
    again = Slow()
    assert measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=again).table == scan.table
    assert not again.raced


class Noisy(Curved):
    """As `Curved`, with noise that differs from race to race."""

    def run(self, *arguments: object) -> Outcome:
        outcome = super().run(*arguments)  # type: ignore[arg-type]  # as Curved's
        draw = random.Random(len(self.raced))
        return replace(
            outcome,
            samples={s: tuple(t * draw.uniform(1, 1.01) for t in run) for s, run in outcome.samples.items()},
        )


def test_who_came_close_is_raced_again_in_other_processes_when_all_sizes_are_done() -> None:
    store, bench = Store.in_memory(), Noisy()
    scan = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=bench)
    assert [name for _, name in names(scan.table)] == ["tiled", "flat", "library"]
    # At 32 the flat product and the library are 13 % apart; other curves, and those elsewhere, are further.
    assert [(m, set(who)) for m, _, who in bench.finals] == [(32, {"flat", "library"})] * FINALS
    assert [worker for _, worker, _ in bench.finals] == [1, 2]
    assert [m for m, _ in bench.raced[len(GRID) :]] == [32] * FINALS
    again = Noisy()
    assert measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=again).table == scan.table
    assert not again.raced


class Close(Curved):
    """At M = 32 the library needs `loss` more than the flat product, in noise of `noise`."""

    def __init__(self, loss: float, noise: float) -> None:
        super().__init__()
        self.loss, self.noise = loss, noise

    def run(self, *arguments: object) -> Outcome:
        outcome = super().run(*arguments)  # type: ignore[arg-type]  # as Curved's
        if not self.raced or self.raced[-1][0] != 32:
            return outcome
        draw = random.Random(len(self.raced))
        times = {"flat": 1e-3, "library": 1e-3 * (1 + self.loss)}
        samples = {
            s: tuple(times.get(s.dataflow, 1.3e-3) * draw.lognormvariate(0, self.noise) for _ in run)
            for s, run in outcome.samples.items()
        }
        return replace(outcome, samples=samples)


@pytest.mark.parametrize(
    ("loss", "noise", "least", "most"),
    [
        (0.02, 0.001, 0, 0),  # told apart at once
        (MATTERS / 4, 0.01, 0, 0),  # whoever is right, little is lost
        (0.02, 0.05, 1, AGAINS),  # told apart in the end
        (0.015, 0.1, 1, AGAINS),  # not told apart by as many samples as are enough
    ],
)
def test_schedules_that_the_finals_do_not_tell_apart_meet_again(
    loss: float, noise: float, least: int, most: int
) -> None:
    bench, store = Close(loss, noise), Store.in_memory()
    scan = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=bench)
    again = [(worker, set(who)) for m, worker, who in bench.finals if m == 32][FINALS:]
    assert least <= len(again) <= most
    assert all({"flat", "library"} <= who for _, who in again)
    assert len({worker for worker, _ in again}) == len(again)  # a process of its own for each
    second = Close(loss, noise)
    found = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=second)
    assert not second.raced
    assert found.table == scan.table


def test_rows_timed_in_another_way_do_not_spare_a_scan_its_races() -> None:
    store = Store.in_memory()
    store.append(rows(CURVES, where=environment(DEVICE), kind=numerics(DEVICE)))
    bench = Curved()
    measure_regimes(SPEC, DEVICE, store, 60.0, grid=(1, 2, 4), registry=REGISTRY, bench=bench)
    assert [m for m, _ in bench.raced][:3] == [1, 2, 4]


class Hopeless(Curved):
    """The library is ever more times as fast as all else."""

    def run(self, *arguments: object) -> Outcome:
        outcome = super().run(*arguments)  # type: ignore[arg-type]  # as Curved's
        (m,) = arguments[0].sizes  # type: ignore[attr-defined]  # a Task
        slower = {"flat": 3.0 * m, "tiled": 4.0 * m, "library": 1.0}
        samples = {s: (1e-3 * slower[s.dataflow],) * len(run) for s, run in outcome.samples.items()}
        return replace(outcome, samples=samples)


def test_somebody_runs_beside_the_library_at_every_size() -> None:
    bench = Hopeless()
    scan = measure_regimes(SPEC, DEVICE, Store.in_memory(), 60.0, registry=REGISTRY, bench=bench)
    assert names(scan.table) == [(256, "library")]
    assert scan.table is not None
    assert scan.table.grid == GRID
    assert {len(race) for m, race in bench.raced if m > 4} == {2}


def test_a_wrong_candidate_is_left_out_and_recorded() -> None:
    store = Store.in_memory()
    scan = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=Curved(wrong="tiled"))
    assert [name for _, name in names(scan.table)] == ["flat", "library"]
    assert scan.failures == {"wrong": 1}
    assert [row.cause for row in store.observations() if row.verdict is Verdict.WRONG] == ["planted"]


def test_powers_of_two_come_first() -> None:
    bench = Curved()
    measure_regimes(
        SPEC, DEVICE, Store.in_memory(), 60.0, grid=(1, 2, 3, 4, 6, 8), registry=REGISTRY, bench=bench
    )
    assert [m for m, _ in bench.raced][:6] == [1, 2, 4, 8, 3, 6]


def test_a_real_worker_measures_a_table() -> None:
    seen: list[int] = []
    scan = measure_regimes(
        SPEC, DEVICE, Store.in_memory(), 60.0, grid=(1, 2, 4), registry=REGISTRY,
        progress=lambda raced: seen.append(raced.m),
    )  # fmt: skip
    assert seen == [1, 2, 4]
    assert scan.table is not None
    assert scan.table.grid == (1, 2, 4)
    times = {curve.schedule: median([s for _, s in curve.points]) for curve in scan.table.curves}
    assert LIBRARY in times


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": 0.0}, "budget"),
        ({"grid": ()}, "grid"),
        ({"grid": (0, 1)}, "grid"),
        ({"spec": None}, "unbatched"),
    ],
)
def test_impossible_requests_are_refused(changes: dict[str, Any], said: str) -> None:
    batched = parse_spec(str(SPEC).replace("batched=false", "batched=true"))
    spec = batched if "spec" in changes else SPEC
    budget = changes.get("budget", 1.0)
    with pytest.raises(TuningError, match=said):
        measure_regimes(
            spec,
            DEVICE,
            Store.in_memory(),
            budget,
            grid=changes.get("grid", GRID),
            registry=REGISTRY,
        )
