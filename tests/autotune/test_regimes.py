"""Regime tables: derived from rows of this very place alone, right about thresholds, honest about doubt."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from autotune_rows import HERE
from fake_registry import Fake, Flow
from regime_rows import CURVES, DEVICE, FLAT, GEMV, GRID, QUERY, SPEC, TILED, Times, inflections, names, rows

from headrace.autotune.db.rows import MAX_SECONDS, SINGLE, Observation, Policy, Verdict
from headrace.autotune.db.store import Store
from headrace.autotune.evidence import DatabaseEvidence
from headrace.autotune.keys import environment, numerics
from headrace.autotune.regimes import SWITCH, TIE, _costs, _path, _points, derive
from headrace.errors import ObservationError, SpecSyntaxError
from headrace.ir.regime import Regime, RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule


def test_crossings_of_known_curves_are_found_between_grid_points() -> None:
    table = derive(rows(CURVES), QUERY)
    assert names(table) == [(5, "gemv"), (40, "flat"), (256, "library")]
    assert table is not None
    assert table.voice is Voice.MEASURED
    assert inflections(table) == (6, 41)
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
        assert regime.rows is not None
        low, high = regime.interval
        assert low <= regime.rows <= high
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


def finals(races: Sequence[dict[Schedule, float]], m: int, noise: float) -> list[Observation]:
    """One more race per entry at an M, whose medians are the entry's seconds."""
    found = []
    for seed, times in enumerate(races):
        constant: dict[Schedule, Times] = {s: (lambda m, t=t: t) for s, t in times.items()}
        found += rows(constant, grid=(m,), noise=noise, seed=100 + seed, rounds=45)
    return found


def test_races_of_several_runs_count_together_and_a_disturbed_one_does_not_decide() -> None:
    """A first race at M = 24 in which somebody took a processor away from the flat product."""
    honest: dict[Schedule, Times] = {FLAT: lambda m: 1e-3, TILED: lambda m: 1.06e-3, LIBRARY: lambda m: 2e-3}
    disturbed: dict[Schedule, Times] = {**honest, FLAT: lambda m: 1.4e-3 if m == 24 else 1e-3}
    first = rows(disturbed, noise=0.01)
    assert [name for _, name in names(derive(first, QUERY))] == ["flat", "tiled", "flat"]
    again = finals([{FLAT: 1e-3, TILED: 1.06e-3}] * 2, 24, 0.01)
    assert names(derive(first + again, QUERY)) == [(256, "flat")]


def test_a_loss_to_the_library_that_longer_races_confirm_is_no_tie() -> None:
    """Two per cent behind the library: noise may explain that in 9 rounds, not in 99."""
    near: dict[Schedule, Times] = {FLAT: lambda m: 1.02e-3, LIBRARY: lambda m: 1e-3}
    grid = (64, 128, 256)
    few = rows(near, grid, noise=0.03, rounds=9, seed=3)
    assert names(derive(few, QUERY)) == [(256, "flat")]
    many = [row for m in grid for row in finals([{FLAT: 1.02e-3, LIBRARY: 1e-3}] * 2, m, 0.01)]
    assert names(derive(few + many, QUERY)) == [(256, "library")]


def test_one_M_at_which_another_schedule_gains_much_gets_a_regime_of_its_own() -> None:
    """A tile of 24 rows in the midst of the flat product's regime: the sum of losses sees 5 % at one M."""
    peak: dict[Schedule, Times] = {FLAT: lambda m: 1e-3, TILED: lambda m: 1e-3 * (0.95 if m == 24 else 1.1)}
    table = derive(rows(peak, noise=0.005), QUERY)
    assert [name for _, name in names(table)] == ["flat", "tiled", "flat"]
    assert table is not None
    assert [table.of(m) for m in (16, 24, 32)] == [FLAT, TILED, FLAT]


def test_calls_in_a_row_and_calls_between_others_are_not_mixed() -> None:
    """What tuning found at one M, by shortest groups of calls, says nothing about the races of a scan."""
    between = rows(CURVES, policy=Policy(cache="cold", version=SINGLE))
    tuned = rows(
        {GEMV: lambda m: 1e-9, FLAT: lambda m: 1e-3}, grid=(64, 128, 256), policy=Policy(cache="cold")
    )
    assert derive(between + tuned, QUERY) == derive(between, QUERY)


def test_heats_are_joined_by_whom_they_have_in_common() -> None:
    """Two heats with the flat product in both, and a long final without it: nobody is lost."""
    heats = rows({FLAT: lambda m: 1e-3, TILED: lambda m: 1.01e-3})
    heats += rows({FLAT: lambda m: 1e-3, GEMV: lambda m: 0.99e-3, LIBRARY: lambda m: 1.05e-3}, seed=5)
    final = [row for m in GRID for row in finals([{TILED: 1.01e-3, GEMV: 0.99e-3}], m, 0.0)]
    (point, *_) = _points(heats + final, QUERY, lambda row: None)
    assert set(point.ratios) == {FLAT, TILED, GEMV, LIBRARY}
    assert names(derive(heats + final, QUERY)) == [(256, "gemv")]


ELSEWHERE: dict[str, dict[str, Any]] = {
    "another device": {"where": replace(HERE, device="Other CPU/units=8/memory=64GiB")},
    "other software": {"where": replace(HERE, versions="torch=9")},
    "another architecture": {"where": replace(HERE, hard="cuda/sm_90/")},
    "another contract": {"kind": "tf32"},
    "another operation": {"spec": "Gemm{x=bf16}"},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_rows_from_elsewhere_never_speak(name: str) -> None:
    wrong = {GEMV: CURVES[LIBRARY], LIBRARY: CURVES[GEMV], FLAT: lambda m: 1e-9}
    foreign = rows(wrong, **ELSEWHERE[name])
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
    assert "gemv" not in {name for _, name in names(derive([*rows(CURVES), wrong], QUERY))}


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
    assert inflections(three) == (5, 65)
    assert [three.name(at) for at in range(3)] == [
        "regime 1..4 of 3 (model)", "regime 5..64 of 3 (model)", "regime 65.. of 3 (model)"
    ]  # fmt: skip
    assert table((None, GEMV)).m1 is None
    only = table((None, TILED))
    assert inflections(only) == (1, 1)
    assert "M1 = 5, M2 = 65" in str(three)
    assert three.as_json()["m1"] == {"rows": 5, "interval": None}


def test_evidence_of_regimes_never_raises() -> None:
    class Broken(Fake):
        flows = (Flow("flat"),)

        def digest(self, dataflow: str) -> str:
            raise RuntimeError("boom")

    store = Store.in_memory()
    store.append(rows(CURVES, where=environment(DEVICE), kind=numerics(DEVICE)))
    assert DatabaseEvidence(store, Broken()).regimes(SPEC, DEVICE) is None
