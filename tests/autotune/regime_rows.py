"""Rows of races over a grid of M, for tests of regimes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from autotune_rows import CHECK, HERE

from headrace.autotune.db.rows import Environment, Observation, Policy, Verdict, race_of
from headrace.autotune.ladder import Query
from headrace.autotune.regime_scan import GRID
from headrace.ir.device import Backend, Device
from headrace.ir.regime import RegimeTable
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import parse_spec

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


def inflections(table: RegimeTable) -> tuple[int, int]:
    assert table.m1 is not None
    assert table.m2 is not None
    return table.m1.rows, table.m2.rows
