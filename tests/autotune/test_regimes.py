"""Regime tables: derived from rows of this very place alone, right about thresholds, honest about doubt."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from autotune_rows import CHECK, HERE
from fake_registry import Fake, Flow

from headrace.autotune.bench import Outcome
from headrace.autotune.db.rows import MAX_SECONDS, Environment, Observation, Policy, Verdict, race_of
from headrace.autotune.db.store import Store
from headrace.autotune.evidence import DatabaseEvidence
from headrace.autotune.keys import environment, numerics
from headrace.autotune.ladder import Query
from headrace.autotune.regime_scan import GRID, Raced, measure_regimes
from headrace.autotune.regimes import SWITCH, TIE, _costs, _path, _points, derive
from headrace.autotune.report import Task
from headrace.autotune.stats import median
from headrace.errors import ObservationError, SpecSyntaxError, TuningError
from headrace.ir.device import Backend, Device
from headrace.ir.regime import Regime, RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, parse_spec

DEVICE = Device("Test CPU", Backend.CPU, "x86_64", 2, ("avx2",))
SPEC = parse_spec("Gemm{x=f32; weights=[w:f32[8,8]nk]; extras=[]; outputs=[f32 = acc_w]; batched=false}")
QUERY = Query(str(SPEC), (), "n", HERE)
GEMV, FLAT, TILED = Schedule("gemv"), Schedule("flat"), Schedule("tiled")

Times = Callable[[int], float]
# They cross after M = 5 and after M = 40: a GEMV grows with M, a flat product starts higher and stays flat.
CURVES: dict[Schedule, Times] = {
    GEMV: lambda m: 1e-3 * m / 5.5,
    FLAT: lambda m: 1e-3 * max(1.0, m / 16) ** 0.5,
    LIBRARY: lambda m: 1e-3 * (40.5 / 16) ** 0.5,
}


def rows(
    curves: dict[Schedule, Times],
    grid: Sequence[int] = GRID,
    noise: float = 0.0,
    seed: int = 0,
    rounds: int = 15,
    where: Environment = HERE,
    spec: str = str(SPEC),
    kind: str = "n",
    digest: str = "d",
    policy: Policy = Policy(cache="cold"),  # noqa: B008 - frozen
) -> list[Observation]:
    """One race per M: noise of each sample, and a drift that all samples of a round share."""
    rng = random.Random(seed)
    found = []
    for m in grid:
        drift = [1 + 0.3 * (k > rounds // 2) for k in range(rounds)]
        samples = {
            schedule: tuple(time(m) * d * (1 + abs(rng.gauss(0, noise))) for d in drift)
            for schedule, time in curves.items()
        }
        race = race_of(list(samples.values()))
        found += [
            Observation(
                spec, (m,), kind, str(schedule), digest, where, policy, Verdict.OK, run, CHECK, race=race
            )
            for schedule, run in samples.items()
        ]
    return found


def names(table: RegimeTable | None) -> list[tuple[int | None, str]]:
    assert table is not None
    return [(regime.rows, regime.schedule.dataflow) for regime in table.regimes]


def test_crossings_of_known_curves_are_found_between_grid_points() -> None:
    table = derive(rows(CURVES), QUERY)
    assert names(table) == [(5, "gemv"), (40, "flat"), (256, "library")]
    assert table is not None
    assert table.voice is Voice.MEASURED
    assert (table.m1.rows, table.m2.rows) == (6, 41)  # type: ignore[union-attr]
    assert len(table.evidence) == 3 * len(GRID)
    assert [table.of(m) for m in (1, 5, 6, 40, 41, 256, 257)] == [
        GEMV, GEMV, FLAT, FLAT, LIBRARY, LIBRARY, None
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_intervals_hold_the_true_crossings_under_noise_and_drift(seed: int) -> None:
    table = derive(rows(CURVES, noise=0.05, seed=seed, rounds=25), QUERY)
    assert [name for _, name in names(table)] == ["gemv", "flat", "library"]
    assert table is not None
    for regime, true in zip(table.regimes, (5, 40), strict=False):
        assert regime.interval is not None
        low, high = regime.interval
        assert low <= regime.rows <= high  # type: ignore[operator]
        assert low - 2 <= true <= high + 2
    assert table == derive(rows(CURVES, noise=0.05, seed=seed, rounds=25), QUERY)


def test_more_noise_means_wider_intervals() -> None:
    def width(noise: float) -> int:
        table = derive(rows(CURVES, noise=noise, seed=3), QUERY)
        assert table is not None
        return sum(each.interval[1] - each.interval[0] for each in table.regimes if each.interval)

    assert width(0.0) <= width(0.02) < width(0.2)


def test_curves_that_cross_twice_get_both_crossings() -> None:
    bump: dict[Schedule, Times] = {
        FLAT: lambda m: 1e-3,
        TILED: lambda m: 1e-3 * (0.8 if 8 <= m <= 24 else 1.3),
    }
    table = derive(rows(bump), QUERY)
    assert [name for _, name in names(table)] == ["flat", "tiled", "flat"]
    assert table is not None
    assert 6 <= table.bounds[0] < 8
    assert 24 <= table.bounds[1] < 32
    assert table.m2 is None  # the flat product serves to the end of the grid


def test_the_choice_is_the_cheapest_of_all_choices() -> None:
    rng = random.Random(7)
    schedules = [Schedule("gemv"), Schedule("flat"), Schedule("tiled")]
    for _ in range(20):
        times = [{m: 1e-3 * rng.uniform(1.0, 1.3) for m in (1, 2, 4, 8, 16)} for _ in schedules]
        curves: dict[Schedule, Times] = {s: t.__getitem__ for s, t in zip(schedules, times, strict=True)}
        points = _points(rows(curves, grid=(1, 2, 4, 8, 16)), QUERY, lambda row: None)
        costs = [_costs(point) for point in points]

        def total(path: Sequence[Schedule], costs: list[dict[Schedule, float]] = costs) -> float:
            switches = sum(a != b for a, b in itertools.pairwise(path))
            return sum(cost[s] for cost, s in zip(costs, path, strict=True)) + SWITCH * switches

        best = min(total(path) for path in itertools.product(schedules, repeat=5))
        assert total(_path(points)) == pytest.approx(best)


def test_a_tie_goes_to_the_choice_whose_numerics_are_pinned() -> None:
    tied = {LIBRARY: lambda m: 1.00e-3, FLAT: lambda m: 1.005e-3}
    assert names(derive(rows(tied, noise=0.02), QUERY)) == [(256, "flat")]
    faster = {LIBRARY: lambda m: 1.00e-3, FLAT: lambda m: 1.2e-3}
    assert names(derive(rows(faster, noise=0.02), QUERY)) == [(256, "library")]


def test_noise_explains_no_more_than_a_tie() -> None:
    """The interval of the ratio holds 1, yet its median says more than TIE: the expectation counts."""
    made = rows({LIBRARY: lambda m: 1.0e-3, FLAT: lambda m: 1.0e-3})

    def slower(by: float) -> list[Observation]:
        run = tuple(1e-3 * (0.9 if k % 3 == 0 else 1 + by) for k in range(15))
        return [replace(row, samples=run) if row.schedule == "flat{}" else row for row in made]

    level = [replace(row, samples=(1e-3,) * 15) if row.schedule != "flat{}" else row for row in made]
    made = level
    assert names(derive(slower(TIE / 2), QUERY)) == [(256, "flat")]
    assert names(derive(slower(TIE * 2), QUERY)) == [(256, "library")]


def test_hysteresis_a_gain_inside_the_noise_band_switches_nothing() -> None:
    rng = random.Random(1)
    wobble = {m: 1 + rng.uniform(-0.004, 0.004) for m in GRID}
    near: dict[Schedule, Times] = {FLAT: lambda m: 1e-3, TILED: lambda m: 1e-3 * wobble[m]}
    assert len(names(derive(rows(near, noise=0.03), QUERY))) == 1


def test_a_schedule_that_is_not_legal_everywhere_serves_where_it_was_measured() -> None:
    some = [
        row
        for row in rows({GEMV: lambda m: 1e-3, FLAT: lambda m: 2e-3, LIBRARY: lambda m: 3e-3})
        if row.schedule != "gemv{}" or row.sizes[0] <= 16
    ]
    assert names(derive(some, QUERY)) == [(16, "gemv"), (256, "flat")]


ELSEWHERE = {
    "another device": {"where": replace(HERE, device="Other CPU/units=8/memory=64GiB")},
    "other software": {"where": replace(HERE, versions="torch=9")},
    "another architecture": {"where": replace(HERE, hard="cuda/sm_90/")},
    "another contract": {"kind": "tf32"},
    "another operation": {"spec": "Gemm{x=bf16}"},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_rows_from_elsewhere_never_speak(name: str) -> None:
    wrong = {GEMV: CURVES[LIBRARY], LIBRARY: CURVES[GEMV], FLAT: lambda m: 1e-9}
    foreign = rows(wrong, **ELSEWHERE[name])  # type: ignore[arg-type]
    assert derive(foreign, QUERY) is None
    assert derive(rows(CURVES) + foreign, QUERY) == derive(rows(CURVES), QUERY)


def test_rows_of_an_older_template_never_speak() -> None:
    store = Store.in_memory()
    here, kind = environment(DEVICE), numerics(DEVICE)
    flat, tiled = (Schedule.of(name, block=32, stages=1) for name in ("flat", "tiled"))
    fast: dict[Schedule, Times] = {flat: lambda m: 1e-6, tiled: lambda m: 1e-3}
    store.append(rows(fast, where=here, kind=kind, digest="digest of an older flat"))
    evidence = DatabaseEvidence(store, Fake())
    assert evidence.regimes(SPEC, DEVICE) is None
    honest: dict[Schedule, Times] = {flat: lambda m: 1e-3 * m, tiled: lambda m: 6.5e-3}
    for row in rows(honest, where=here, kind=kind):
        store.append([replace(row, template_digest=f"digest of {row.dataflow}")])
    table = evidence.regimes(SPEC, DEVICE)
    assert names(table) == [(6, "flat"), (256, "tiled")]
    assert evidence.regimes(SPEC, replace(DEVICE, units=1)) is None
    illegal: dict[Schedule, Times] = {
        Schedule.of("flat", block=256, stages=4): lambda m: 1e-9,
        tiled: lambda m: 1e-3,
    }
    for row in rows(illegal, where=here, kind=kind):
        store.append([replace(row, template_digest=f"digest of {row.dataflow}")])
    assert evidence.regimes(SPEC, DEVICE) == table


def test_a_schedule_that_was_ever_wrong_serves_no_regime() -> None:
    wrong = Observation(
        str(SPEC), (128,), "n", str(GEMV), "d", HERE, Policy(cache="cold"), Verdict.WRONG, cause="off by one"
    )
    assert "gemv" not in dict(map(reversed, names(derive([*rows(CURVES), wrong], QUERY))))  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", [(), (1,), (7,), (1, 2), (1, 8, 64), (1, 2048)])
def test_too_little_is_no_table(grid: tuple[int, ...]) -> None:
    assert derive(rows(CURVES, grid), QUERY) is None


def test_schedules_that_were_never_raced_together_make_no_table() -> None:
    alone = [replace(row, race="") for row in rows(CURVES)]
    assert derive(alone, QUERY) is None
    assert derive(rows({GEMV: CURVES[GEMV]}), QUERY) is None


def test_a_gap_in_the_grid_ends_the_table() -> None:
    table = derive(rows(CURVES, (1, 2, 4, 8, 128, 256)), QUERY)
    assert table is not None
    assert table.grid == (1, 2, 4, 8)
    assert table.of(9) is None
    upper = derive(rows(CURVES, (1, 32, 48, 64, 96)), QUERY)
    assert upper is not None
    assert (upper.first, upper.of(31), upper.of(32)) == (32, None, FLAT)


@pytest.mark.parametrize("sample", [math.nan, math.inf, -1e-3, 0.0])
def test_samples_that_are_no_times_make_no_row_and_no_table(sample: float) -> None:
    good = rows(CURVES)
    with pytest.raises(ObservationError, match="no time"):
        replace(good[0], samples=(sample,) * 15)
    for row in good:  # as if a row had slipped past its own check
        if row.schedule == "gemv{}":
            object.__setattr__(row, "samples", (sample,) * 15)
    assert [name for _, name in names(derive(good, QUERY))] == ["flat", "library"]
    for row in good:
        object.__setattr__(row, "samples", (sample,) * 15)
    assert derive(good, QUERY) is None
    assert sample != MAX_SECONDS


def test_timings_of_cold_and_warm_weights_are_not_mixed() -> None:
    warm = rows({GEMV: lambda m: 1e-9, FLAT: lambda m: 1e-3}, policy=Policy(cache="warm"))
    assert derive(rows(CURVES) + warm, QUERY) == derive(rows(CURVES), QUERY)


@pytest.mark.parametrize("ends", [(), (0,), (4, 4), (8, 4), (None, 8), (4, None, None)])
def test_a_table_whose_ends_do_not_grow_is_refused(ends: tuple[int | None, ...]) -> None:
    with pytest.raises(SpecSyntaxError, match="regimes end at"):
        RegimeTable("Gemm{}", "here", tuple(Regime(end, FLAT) for end in ends), Voice.MODEL)


def test_inflection_points_of_tables() -> None:
    def table(*parts: tuple[int | None, Schedule]) -> RegimeTable:
        return RegimeTable("Gemm{}", "here", tuple(Regime(*part) for part in parts), Voice.MODEL)

    three = table((4, GEMV), (64, FLAT), (None, LIBRARY))
    assert (three.m1.rows, three.m2.rows) == (5, 65)  # type: ignore[union-attr]
    assert [three.name(at) for at in range(3)] == [
        "regime 1..4 of 3 (model)", "regime 5..64 of 3 (model)", "regime 65.. of 3 (model)"
    ]  # fmt: skip
    assert table((None, GEMV)).m1 is None
    only = table((None, TILED))
    assert (only.m1.rows, only.m2.rows) == (1, 1)  # type: ignore[union-attr]
    assert "M1 = 5, M2 = 65" in str(three)
    assert three.as_json()["m1"] == {"rows": 5, "interval": None}


class Curved:
    """A Bench that times schedules by `CURVES` of their block, and fails what it is told to."""

    def __init__(self, wrong: str = "", seconds: float = 0.0) -> None:
        self.wrong = wrong
        self.checked: list[str] = []
        self.raced: list[tuple[int, tuple[str, ...]]] = []

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
        curve = {"flat": FLAT, "tiled": GEMV, "library": LIBRARY}
        samples = {s: (CURVES[curve[s.dataflow]](m),) * policy.rounds for s in race}
        return Outcome(Verdict.OK, check=CHECK, samples=samples)

    def stop(self) -> None:
        return None


REGISTRY = "fake_registry:Fake"
assert isinstance(SPEC, Gemm)


def test_measuring_gives_the_table_that_the_curves_have() -> None:
    store, bench, heard = Store.in_memory(), Curved(), list[Raced]()
    scan = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=bench, progress=heard.append)
    assert names(scan.table) == [(5, "tiled"), (40, "flat"), (256, "library")]
    assert (scan.left, scan.races, len(heard)) == ((), len(GRID), len(GRID))
    assert sorted(bench.checked) == ["flat{block=32, stages=1}", "library{}", "tiled{block=32, stages=1}"]
    dropped = [m for m, race in bench.raced if not any("tiled" in each for each in race)]
    assert dropped  # nobody waits for a GEMV of 256 rows
    again = Curved()
    second = measure_regimes(SPEC, DEVICE, store, 60.0, registry=REGISTRY, bench=again)
    assert second.table == scan.table
    assert not again.raced  # what is measured is not measured again


class Slow(Curved):
    """As `Curved`, a thousand times slower."""

    def run(self, *arguments: object) -> Outcome:
        outcome = super().run(*arguments)  # type: ignore[arg-type]
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
    assert [m for m, _ in bench.raced] == [1, 2, 4, 8, 3, 6]


def test_a_real_worker_measures_a_table() -> None:
    seen: list[int] = []
    scan = measure_regimes(
        SPEC, DEVICE, Store.in_memory(), 60.0, grid=(1, 2, 4), registry=REGISTRY, rounds=7,
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
def test_impossible_requests_are_refused(changes: dict[str, object], said: str) -> None:
    batched = parse_spec(str(SPEC).replace("batched=false", "batched=true"))
    spec = batched if "spec" in changes else SPEC
    budget = float(changes.get("budget", 1.0))  # type: ignore[arg-type]
    with pytest.raises(TuningError, match=said):
        measure_regimes(
            spec,
            DEVICE,
            Store.in_memory(),
            budget,
            grid=changes.get("grid", GRID),
            registry=REGISTRY,  # type: ignore[arg-type]
        )


def test_evidence_of_regimes_never_raises() -> None:
    class Broken(Fake):
        flows = (Flow("flat"),)

        def digest(self, dataflow: str) -> str:
            raise RuntimeError("boom")

    store = Store.in_memory()
    store.append(rows(CURVES, where=environment(DEVICE), kind=numerics(DEVICE)))
    assert DatabaseEvidence(store, Broken()).regimes(SPEC, DEVICE) is None
