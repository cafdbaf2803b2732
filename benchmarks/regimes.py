"""The heuristic dataflow of FlashDecoding++: is the choice by thresholds of M right, cell by cell?

Per weight matrix and type: (a) regimes are measured into a database of this run; (b) in a second, interleaved
run the kernel that the dispatcher picks at each M is raced against every dataflow and PyTorch; (c) the times
are added up over a decode-like histogram of M, and compared with the best single dataflow and with PyTorch.

Weights rotate over at least 512 MiB, so no weight is read from a cache (the largest matrix has 192 MiB, the
smallest 32 MiB). A cell holds if the choice is within 5 % of the best, or within the band that two identical
runs of the choice span.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.common import Bar, Result, cycling, race, rotated
from headrace.autotune.db.store import Store
from headrace.autotune.regime_scan import GRID, Scan, measure_regimes
from headrace.autotune.stats import median_interval
from headrace.codegen.kernel import instantiate
from headrace.compiler import resolve, runtime
from headrace.compiler.cli.output import seconds
from headrace.compiler.options import Options
from headrace.demo.measure import Timing
from headrace.ir.device import Device
from headrace.ir.dtype import DType
from headrace.ir.regime import RegimeTable
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, parse_spec

# [N, K] of Llama-2-7B: q, k and v together; o; gate or up; down (FlashDecoding++, figure 9).
SHAPES = ((12288, 4096), (4096, 4096), (11008, 4096), (4096, 11008))
DTYPES = ("bf16", "f32")
QUICK = (1, 2, 4, 8, 16, 32, 64)
# Calls per hundred of a server that decodes: mostly few sequences at a time, thinning out up to 64, and two
# chunks of a prompt. A choice of ours; the paper gives none.
HISTOGRAM = {
    1: 24, 2: 12, 3: 8, 4: 10, 6: 8, 8: 8, 12: 6, 16: 6, 24: 5, 32: 5, 48: 3, 64: 3, 128: 1, 256: 1
}  # fmt: skip
WITHIN = 1.05
CELL_SECONDS = 4.0
LEAST_ROUNDS, MOST_ROUNDS = 9, 61
# Who needed this many times the best one's time while measuring is not raced a second time.
FAR = 2.0


@dataclass(frozen=True)
class Cell:
    """One M: the choice and its standing. `over` and `torch` are the median of paired time ratios."""

    shape: str
    m: int
    schedule: str
    seconds: float
    best: str
    over: float  # ours / the fastest other
    band: float  # half of what two identical runs of ours differ by, as a share
    torch: float  # ours / PyTorch
    torch_low: float  # the lower end of its 95 % interval
    totals: dict[str, float] = field(default_factory=dict)  # seconds by dataflow; `ours` and `torch` too

    @property
    def held(self) -> bool:
        return self.over <= WITHIN or self.over <= 1 + self.band

    @property
    def slower(self) -> bool:
        """Slower than PyTorch, and not by noise."""
        return self.torch_low > 1.0 and self.torch > 1 + self.band


def run_with(arguments: argparse.Namespace) -> Result:
    """All pieces that are asked for; with `--cells FILE` together with what earlier runs left there."""
    shapes = [tuple(map(int, text.split("x"))) for text in arguments.shape.split(",") if text] or SHAPES
    dtypes = [text for text in arguments.dtype.split(",") if text] or DTYPES
    grid = QUICK if arguments.quick else GRID
    result = Result(
        f"the dispatcher's choice by M, {arguments.threads} threads",
        ("[N,K] type", "M", "ours", "time", "best other", "ours/best", "band", "ours/torch", "cell"),
    )
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(arguments.database or Path(folder) / "regimes.db")
        for dtype in dtypes:
            for n, k in shapes:
                cells += _piece(n, k, dtype, grid, place, arguments, result)
    kept = {(cell.shape, cell.m): cell for cell in (*_earlier(arguments.cells), *cells)}
    if arguments.cells:
        Path(arguments.cells).write_text(json.dumps([asdict(cell) for cell in kept.values()], indent=1))
    _judge(list(kept.values()), result)
    return result


def _earlier(path: str) -> list[Cell]:
    if not path or not Path(path).exists():
        return []
    return [Cell(**fields) for fields in json.loads(Path(path).read_text())]


def _piece(
    n: int,
    k: int,
    dtype: str,
    grid: tuple[int, ...],
    place: Path,
    arguments: argparse.Namespace,
    result: Result,
) -> list[Cell]:
    spec = parse_spec(
        f"Gemm{{x={dtype}; weights=[w0:{dtype}[{n},{k}]nk]; extras=[]; outputs=[{dtype} = acc_w0]; "
        "batched=false}"
    )
    assert isinstance(spec, Gemm)
    name, device = f"[{n},{k}] {dtype}", resolve.host_device()
    with Store.open(place) as store:
        scan = measure_regimes(spec, device, store, arguments.budget, grid=grid)
    table = scan.table
    if table is None:
        raise SystemExit(f"{name}: {arguments.budget:.0f} s gave no table; M left: {scan.left}")
    result.notes += _told(name, scan, table)
    resolve.use(Options(database=str(place)))
    dispatch = runtime.Dispatcher(str(spec)).function()
    weights = rotated(lambda: (torch.randn(n, k).to(DType(dtype).to_torch()),))
    cells = []
    for m in grid:
        cell = _cell(name, m, spec, table, device, dispatch, weights, arguments.rounds)
        cells.append(cell)
        verdict = ("ok" if cell.held else "MISSED") + (", slower than torch" if cell.slower else "")
        result.rows.append(
            (
                name, m, cell.schedule, seconds(cell.seconds), cell.best, f"{cell.over:.3f}",
                f"{cell.band:.1%}", f"{cell.torch:.3f}", verdict,
            )
        )  # fmt: skip
    return cells


def _told(name: str, scan: Scan, table: RegimeTable) -> list[str]:
    found = [f"{name}: {scan.races} races in {scan.seconds:.0f} s; M1 = {table.m1}, M2 = {table.m2}"]
    for at, regime in enumerate(table.regimes):
        found.append(f"    M {table.span(at):<9} {regime.schedule} {regime.interval or ''}")
    if scan.failures:
        found.append(f"    failures: {scan.failures}")
    return found


def _cell(
    name: str,
    m: int,
    spec: Gemm,
    table: RegimeTable,
    device: Device,
    dispatch: Callable[..., object],
    weights: list[tuple[torch.Tensor, ...]],
    rounds: int,
) -> Cell:
    x = torch.randn(m, spec.k).to(spec.x.to_torch())
    measured = {curve.schedule: dict(curve.points).get(m) for curve in table.curves}
    known = {schedule: time for schedule, time in measured.items() if time is not None}
    step = cycling(weights)
    steps: dict[str, Callable[[], object]] = {
        "ours": step(lambda w: dispatch(x, w[0])),
        "ours again": step(lambda w: dispatch(x, w[0])),
        "torch": step(lambda w: torch.nn.functional.linear(x, w[0])),
    }
    fastest: dict[str, Schedule] = {}
    for schedule, time in sorted(known.items(), key=lambda each: each[1]):
        if schedule.dataflow not in fastest and time <= FAR * min(known.values()) and schedule != LIBRARY:
            fastest[schedule.dataflow] = schedule
            kernel = instantiate(spec, schedule, device, (m,))
            steps[schedule.dataflow] = step(lambda w, kernel=kernel: kernel((x, w[0])))
    each = sum(known.values()) / len(known) * len(steps)
    turns = rounds or max(LEAST_ROUNDS, min(MOST_ROUNDS, round(CELL_SECONDS / each)))
    timings = race(steps, turns, warmup=2)
    return _stand(name, m, table, timings, known)


def _stand(
    name: str, m: int, table: RegimeTable, timings: Mapping[str, Timing], known: Mapping[Schedule, float]
) -> Cell:
    # Two identical runs: their mean is ours, what they differ by is noise.
    ours = [(a + b) / 2 for a, b in zip(timings["ours"].seconds, timings["ours again"].seconds, strict=True)]

    def ratio(other: Timing) -> list[float]:
        return [mine / theirs for mine, theirs in zip(ours, other.seconds, strict=True)]

    others = {key: ratio(each) for key, each in timings.items() if not key.startswith("ours")}
    standing = {key: statistics.median(each) for key, each in others.items()}
    best = max(standing, key=lambda key: standing[key])
    twice = statistics.median(
        a / b for a, b in zip(timings["ours"].seconds, timings["ours again"].seconds, strict=True)
    )
    # What a median ratio of two equal runs may show: its own interval, as half a width, or what it came to.
    low, high = median_interval([a / b for a, b in zip(ours, timings["ours"].seconds, strict=True)])
    band = max(abs(twice - 1), (high - low) / 2 if math.isfinite(high - low) else 0.0)
    mine = statistics.median(ours)
    totals = {"ours": mine, **{key: mine / value for key, value in standing.items()}}
    for schedule, time in known.items():  # who was too slow for a second race: by the first one's ratio
        if schedule.dataflow not in totals and schedule != LIBRARY and LIBRARY in known:
            totals[schedule.dataflow] = totals["torch"] * time / known[LIBRARY]
    return Cell(
        shape=name,
        m=m,
        schedule=str(table.of(m)),
        seconds=mine,
        best=best,
        over=max(1.0, standing[best]),
        band=band,
        torch=standing["torch"],
        torch_low=median_interval(others["torch"])[0],
        totals=totals,
    )


def _judge(cells: list[Cell], result: Result) -> None:
    missed = [cell for cell in cells if not cell.held]
    slower = [cell for cell in cells if cell.slower]
    for cell in missed:
        result.notes.append(
            f"missed: {cell.shape} M={cell.m}: {cell.schedule} loses {cell.over:.3f} to {cell.best}"
        )
    for cell in slower:
        result.notes.append(f"slower than torch: {cell.shape} M={cell.m}: {cell.torch:.3f}")
    share = 1 - len(missed) / len(cells)
    mean = math.exp(statistics.fmean(math.log(cell.over) for cell in cells))
    for name in dict.fromkeys(cell.shape for cell in cells):
        result.notes.append(_histogram(name, [cell for cell in cells if cell.shape == name]))
    result.bars += [
        Bar(f"cells of {len(cells)} within 5 % of the best, or in the noise band", share, 0.95),
        Bar("geometric mean of ours over the best", mean, 1.02, at_most=True),
        Bar("cells slower than torch beyond noise", float(len(slower)), 0.0, at_most=True),
    ]


def _histogram(name: str, cells: list[Cell]) -> str:
    """Total time over the histogram: ours, the best single dataflow, PyTorch."""

    def total(way: str) -> float | None:
        times = [HISTOGRAM[cell.m] * cell.totals[way] for cell in cells if way in cell.totals]
        return sum(times) if len(times) == len(cells) else None

    ours = total("ours")
    static = {
        way: time
        for way in sorted({key for cell in cells for key in cell.totals} - {"ours"})
        if (time := total(way)) is not None
    }
    assert ours is not None
    best = min((way for way in static if way != "torch"), key=lambda way: static[way], default="torch")
    every = ", ".join(f"{way} {time / ours:.3f}" for way, time in sorted(static.items(), key=lambda e: e[1]))
    return (
        f"{name}, over the histogram of M: one dataflow for all M needs, over ours: {every}; "
        f"the best single dataflow ({best}) {static[best] / ours - 1:+.1%}, "
        f"torch {static['torch'] / ours - 1:+.1%}"
    )
