"""A cell of the table: one operation at sizes, ours against its peers and the machine's limit, in turn.

The candidates are the default schedules of every dataflow, the one that the cost model chooses named first. A
short race picks the best of them, as the tuner would; then the usual one, the best and the peers run in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from benchmarks.common import Bar, race
from headrace.codegen.dataflows import dataflows
from headrace.codegen.kernel import Kernel, instantiate
from headrace.compiler.cli.output import seconds
from headrace.compiler.devices import host_device
from headrace.demo.measure import Timing
from headrace.ir.spec import Spec
from headrace.passes.cost import seconds as modelled

Step = Callable[[], object]
COLUMNS = ("case", "ours", "peer", "ratio", "of the limit", "bar", "held")
ONE_THREAD = 0.85  # what a bar asks of one thread: within 15 % of the ratio with two
_BUDGET, _LEAST, _MOST = 5.0, 7, 201
_BAND = 6  # rounds from which two halves of a race count as two runs


@dataclass(frozen=True)
class Limit:
    """What no kernel can beat: the better of some steps; `share` is the work over what a step does."""

    name: str
    steps: Mapping[str, Step]
    share: float = 1.0


@dataclass(frozen=True)
class Cell:
    """One operation at sizes.

    Attributes:
        ours: candidates, the default first. peers: what to compare with.
        over: the least ratio to a peer, by its name. of_limit: the least fraction of the limit.
    """

    label: str
    ours: Mapping[str, Step]
    peers: Mapping[str, Step]
    limit: Limit | None = None
    over: Mapping[str, float] = field(default_factory=dict)
    of_limit: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Measure:
    """How to measure.

    Attributes:
        rounds: of a race; 0 for as many as fit a few seconds.
        best: the best rounds count instead of the median of the paired ratios.
        cpu: processor time instead of wall time; for one thread on a machine that has other work.
    """

    rounds: int = 0
    best: bool = False
    cpu: bool = False

    @property
    def clock(self) -> Callable[[], float]:
        return time.process_time if self.cpu else time.perf_counter

    def ratio(self, slow: Timing, fast: Timing, share: float = 1.0) -> tuple[float, float, float]:
        """How many times faster `fast` is: over all rounds, and over each half, as two identical runs."""
        half = len(slow.seconds) // 2 if len(slow.seconds) >= _BAND else 0

        def over(a: tuple[float, ...], b: tuple[float, ...]) -> float:
            if self.best:
                return share * min(a) / min(b)
            return share * statistics.median(x / y for x, y in zip(a, b, strict=True))

        value = over(slow.seconds, fast.seconds)
        if not half:
            return value, value, value
        first = over(slow.seconds[:half], fast.seconds[:half])
        return value, first, over(slow.seconds[half:], fast.seconds[half:])

    def time(self, timing: Timing) -> float:
        return min(timing.seconds) if self.best else timing.median


@dataclass
class Found:
    """Rows and bars of a section."""

    rows: list[tuple[object, ...]] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def candidates(
    spec: Spec, sizes: tuple[int, ...], step: Callable[[Kernel], Step], prefer: str = ""
) -> dict[str, Step]:
    """The dataflows of a Spec at their defaults, the cost model's choice (or `prefer`) first."""
    device = host_device()
    found = []
    for flow in dataflows(spec, sizes, device):
        if flow.name != "library":
            schedule = flow.default(spec, sizes, device)
            found.append((flow.name != prefer, modelled(spec, sizes, schedule, device), flow.name, schedule))
    found.sort(key=lambda each: each[:2])
    return {name: step(instantiate(spec, schedule, device)) for _, _, name, schedule in found}


def _limit_timing(limit: Limit, timings: Mapping[str, Timing], measure: Measure) -> Timing:
    return min((timings[f"limit {name}"] for name in limit.steps), key=measure.time)


def measure(cell: Cell, how: Measure, found: Found) -> dict[str, float]:
    """Race a cell and add its rows and bars; how many times faster than each peer the best of ours is."""
    for step in (
        *cell.ours.values(),
        *cell.peers.values(),
        *(cell.limit.steps.values() if cell.limit else ()),
    ):
        step()
    usual = next(iter(cell.ours))
    best = usual
    if len(cell.ours) > 1:
        short = race(cell.ours, 5, warmup=1, clock=how.clock)
        best = min(cell.ours, key=lambda name: min(short[name].seconds))
    chosen = {name: cell.ours[name] for name in dict.fromkeys((usual, best))}
    steps: dict[str, Step] = {f"ours {name}": step for name, step in chosen.items()}
    steps |= {f"peer {name}": step for name, step in cell.peers.items()}
    if cell.limit is not None:
        steps |= {f"limit {name}": step for name, step in cell.limit.steps.items()}
    timings = race(steps, how.rounds or _rounds(steps), warmup=1, clock=how.clock)
    for name in chosen:
        _rows(cell, name, name == best, timings, how, found)
    return {peer: how.ratio(timings[f"peer {peer}"], timings[f"ours {best}"])[0] for peer in cell.peers}


def _rounds(steps: Mapping[str, Step]) -> int:
    start = time.perf_counter()
    for step in steps.values():
        step()
    return max(_LEAST, min(_MOST, int(_BUDGET / (time.perf_counter() - start))))


def _rows(
    cell: Cell, name: str, bars: bool, timings: Mapping[str, Timing], how: Measure, found: Found
) -> None:
    mine = timings[f"ours {name}"]
    shown = f"{name} {seconds(how.time(mine))}"
    limited: tuple[float, float, float] | None = None
    if cell.limit is not None:
        limited = how.ratio(_limit_timing(cell.limit, timings, how), mine, cell.limit.share)
    fraction = f"{limited[0]:.0%}" if limited else "-"
    if limited and cell.limit and cell.of_limit is not None and bars:
        bar = _bar(f"{cell.label}: of {cell.limit.name}", limited, cell.of_limit)
        found.bars.append(bar)
        found.rows.append(
            (cell.label, shown, cell.limit.name, "-", fraction, f">= {bar.bound:.0%}", bar.word)
        )
    for peer in cell.peers:
        ratio = how.ratio(timings[f"peer {peer}"], mine)
        beside = f"{peer} {seconds(how.time(timings[f'peer {peer}']))}"
        wanted, held = "-", "-"
        if peer in cell.over and bars:
            bar = _bar(f"{cell.label}: over {peer}", ratio, cell.over[peer])
            found.bars.append(bar)
            wanted, held = f">= {bar.bound:.2f}x", bar.word
        found.rows.append((cell.label, shown, beside, f"{ratio[0]:.2f}x", fraction, wanted, held))
    if not cell.peers and (cell.of_limit is None or not bars):
        found.rows.append((cell.label, shown, "-", "-", fraction, "-", "-"))


def _bar(name: str, values: tuple[float, float, float], least: float) -> Bar:
    threads = torch.get_num_threads()
    scaled = least * (ONE_THREAD if threads == 1 else 1.0)
    value, *halves = values
    return Bar(f"{name}, {threads} threads", value, scaled, best=max(halves))
