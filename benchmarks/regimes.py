"""The heuristic dataflow of FlashDecoding++: is the choice by thresholds of M right, cell by cell?

Per weight matrix and type: (a) regimes are measured into a database of this run; (b) in a second, interleaved
run the kernel that the dispatcher picks at each M is raced against every dataflow and PyTorch; (c) the times
are added up over a decode-like histogram of M, and compared with the best single dataflow and with PyTorch.

Weights rotate over at least 512 MiB, so no weight is read from a cache (the largest matrix has 192 MiB, the
smallest 32 MiB). A cell holds if the choice is within 5 % of the best, or within the band that two identical
runs of the choice span. Where threads had to wait for a processor, because something else ran, a cell is
measured again, whatever it says; what remains is told.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.common import Bar, Result, waited
from headrace.autotune.db.store import Store
from headrace.autotune.measure import COLD_BYTES, Ring, race
from headrace.autotune.regime_scan import GRID, Scan, measure_regimes
from headrace.autotune.registry import Kernel
from headrace.autotune.stats import median_interval
from headrace.codegen.kernel import instantiate
from headrace.compiler import scopes
from headrace.compiler.cli.output import seconds
from headrace.compiler.devices import host_device
from headrace.compiler.options import Options
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
# The cells take turns, too: what disturbs the machine for a while must not decide one of them.
TURNS = 3
TURN_SECONDS = 1.4
LEAST_ROUNDS, MOST_ROUNDS = 5, 31
# A turn whose threads waited longer than this for a processor, as a share of its time, is measured again.
DISTURBED, ATTEMPTS = 0.15, 3
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
    waited: float = 0.0  # how long threads waited for a processor, as a share of the time

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
    name, device = f"[{n},{k}] {dtype}", host_device()
    with Store.open(place) as store:
        scan = measure_regimes(spec, device, store, arguments.budget, grid=grid)
    table = scan.table
    if table is None:
        raise SystemExit(f"{name}: {arguments.budget:.0f} s gave no table; M left: {scan.left}")
    result.notes += _told(name, scan, table)
    scope = scopes.RUNTIME.scope(Options(database=str(place)))
    dispatch = scopes.bind("CPU", str(spec))
    weights = Ring([torch.randn(n, k).to(DType(dtype).to_torch())], (0,), COLD_BYTES)
    matches = [_Match(m, spec, table, device, dispatch, arguments.rounds) for m in grid]
    with scopes.entered(scope):
        for _ in range(TURNS):
            for match in matches:
                match.play(weights)
    cells = [match.cell(name) for match in matches]
    for cell in cells:
        verdict = ("ok" if cell.held else "MISSED") + (", slower than torch" if cell.slower else "")
        result.rows.append(
            (
                name, cell.m, cell.schedule, seconds(cell.seconds), cell.best, f"{cell.over:.3f}",
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


class _Match:
    """The choice at one M against every dataflow and PyTorch; `samples` are seconds, in turns."""

    def __init__(
        self,
        m: int,
        spec: Gemm,
        table: RegimeTable,
        device: Device,
        dispatch: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]],
        rounds: int,
    ) -> None:
        self._m, self._table = m, table
        x = torch.randn(m, spec.k).to(spec.x.to_torch())
        measured = {curve.schedule: dict(curve.points).get(m) for curve in table.curves}
        self._known = {schedule: needed for schedule, needed in measured.items() if needed is not None}
        self._runners: dict[str, Kernel] = {
            "ours": lambda inputs: dispatch(x, *inputs),
            "ours again": lambda inputs: dispatch(x, *inputs),
            "torch": lambda inputs: torch.nn.functional.linear(x, *inputs),
        }
        best = min(self._known.values())
        near = [each for each, needed in self._known.items() if needed <= FAR * best and each != LIBRARY]
        for schedule in sorted(near, key=lambda each: self._known[each]):
            if schedule.dataflow not in self._runners:
                kernel = instantiate(spec, schedule, device, (m,))
                self._runners[schedule.dataflow] = lambda inputs, kernel=kernel: kernel((x, *inputs))
        turn = sum(self._known.values()) / len(self._known) * len(self._runners)
        self._rounds = rounds or max(LEAST_ROUNDS, min(MOST_ROUNDS, round(TURN_SECONDS / turn)))
        self._samples: dict[str, list[float]] = {name: [] for name in self._runners}
        self._waited: list[float] = []

    def play(self, weights: Ring) -> None:
        """One turn."""
        runners = list(self._runners.values())
        found = []
        for _ in range(ATTEMPTS):
            start, idle = time.perf_counter(), waited()
            raced = race(runners, weights, warmup=2, rounds=self._rounds, limit_seconds=60.0, single=True)
            found.append(((waited() - idle) / (time.perf_counter() - start), raced.samples))
            if found[-1][0] <= DISTURBED:
                break
        share, samples = min(found, key=lambda attempt: attempt[0])
        self._waited.append(share)
        for name, run in zip(self._runners, samples, strict=True):
            self._samples[name] += run

    def cell(self, name: str) -> Cell:
        """How the choice stands after all turns."""
        return _stand(name, self._m, self._table, self._samples, self._known, max(self._waited))


def _stand(
    name: str,
    m: int,
    table: RegimeTable,
    samples: Mapping[str, Sequence[float]],
    known: Mapping[Schedule, float],
    waited: float,
) -> Cell:
    # Two identical runs: both are ours, what they differ by is noise.
    one, two = samples["ours"], samples["ours again"]

    def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
        return [a / b for a, b in zip(mine, theirs, strict=True)]

    standing = {
        key: statistics.median(ratios(one, each) + ratios(two, each))
        for key, each in samples.items()
        if each is not one and each is not two
    }
    best = max(standing, key=lambda key: standing[key])
    twice = statistics.median(ratios(one, two))
    # What a median ratio of two equal runs may show: its own interval, as half a width, or what it came to.
    low, high = median_interval(ratios(one, two))
    band = max(abs(twice - 1), (high - low) / 2 if math.isfinite(high - low) else 0.0)
    mine = statistics.median([*one, *two])
    totals = {"ours": mine, **{key: mine / value for key, value in standing.items()}}
    for schedule, needed in known.items():  # who was too slow for a second race: by the first one's ratio
        if schedule.dataflow not in totals and schedule != LIBRARY and LIBRARY in known:
            totals[schedule.dataflow] = totals["torch"] * needed / known[LIBRARY]
    return Cell(
        shape=name,
        m=m,
        schedule=str(table.of(m)),
        seconds=mine,
        best=best,
        over=max(1.0, standing[best]),
        band=band,
        torch=standing["torch"],
        torch_low=min(median_interval(ratios(each, samples["torch"]))[0] for each in (one, two)),
        totals=totals,
        waited=waited,
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
    for cell in cells:
        if cell.waited > DISTURBED:
            result.notes.append(
                f"disturbed: {cell.shape} M={cell.m}: threads waited {cell.waited:.0%} of the time"
            )
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
