"""Softmax of float32 rows, out of the caches and in them: three passes against two, per length of a row.

`three_pass` reads a row for its maximum, its sum and its outputs; `online`, `lazy` and `pair` read it twice
(Two-Pass Softmax, arXiv 2001.04438: up to 28 % less time out of cache with AVX-512). All take the same
exponentials, so that only the passes differ. `chosen` is the default schedule of the dataflow that the cost
model ranks first; the floor is a copy of the row past the caches, one read and one write.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.common import BEYOND_CACHES, Bar, Result, race
from benchmarks.cpu_engine.machine import copiers
from headrace.codegen.dataflows import dataflows, get
from headrace.codegen.kernel import instantiate
from headrace.compiler.cli.output import seconds
from headrace.compiler.devices import host_device
from headrace.demo.measure import Timing
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec, parse_spec
from headrace.passes.cost import seconds as modelled

SOFTMAX = (
    "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}"
)
LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22)
STABILIZERS = ("three_pass", "online", "lazy", "pair")
IN_CACHE = 1 << 20
# Below it a row fits the second cache of a core, whose passes beyond the first read no memory.
LONG_ROW = 1 << 16
_BUDGET, _LEAST, _MOST = 4.0, 5, 101


@dataclass(frozen=True)
class Case:
    """Rows of one length; `calls` of a step are timed together."""

    place: str
    rows: int
    columns: int

    @property
    def calls(self) -> int:
        return max(1, (1 << 21) // (self.rows * self.columns))


def run(rounds: int = 0) -> Result:
    columns = (
        "where",
        "rows x length",
        "three_pass",
        *STABILIZERS[1:],
        "chosen",
        "",
        "against torch",
        "of the floor",
    )
    result = Result("softmax, time of three_pass over time of each", columns)
    cases = [Case("memory", max(BEYOND_CACHES // 4 // n, 1), n) for n in LENGTHS]
    cases += [Case("cache", max(IN_CACHE // 4 // n, 1), n) for n in LENGTHS if 4 * n <= IN_CACHE]
    cases += [Case("one row", 1, n) for n in LENGTHS[-3:]]
    x = torch.randn(BEYOND_CACHES // 4)
    y = torch.empty_like(x)
    gains: list[float] = []
    over: dict[str, list[float]] = {"memory": [], "cache": []}
    for case in cases:
        ratios, torchs = measure(case, x, y, rounds, result)
        if case.place == "memory" and case.columns >= LONG_ROW:
            gains.append(ratios)
        if case.place in over:
            over[case.place].append(torchs)
    threads = torch.get_num_threads()
    result.bars.append(
        Bar(
            f"pair over three_pass, long rows in memory, {threads} threads",
            statistics.geometric_mean(gains),
            1.1,
        )
    )
    for place, found in over.items():
        result.bars.append(
            Bar(f"chosen over torch, {place}, {threads} threads", statistics.geometric_mean(found), 1.2)
        )
    result.notes.append("ratios are medians of rounds in turn; the floor is a copy past the caches")
    return result


def measure(
    case: Case, source: torch.Tensor, target: torch.Tensor, rounds: int, result: Result
) -> tuple[float, float]:
    """A row of the table; how many times faster `pair` is than `three_pass`, and `chosen` than torch."""
    spec = parse_spec(SOFTMAX)
    sizes = (case.rows, case.columns)
    x, y = (tensor[: case.rows * case.columns].view(sizes) for tensor in (source, target))
    schedules = {how: looped(spec, sizes, how) for how in STABILIZERS}
    schedules["chosen"] = chosen(spec, sizes)
    steps: dict[str, Callable[[], object]] = {}
    for name, schedule in schedules.items():
        kernel = instantiate(spec, schedule, host_device(), sizes)
        steps[name] = lambda kernel=kernel: kernel.into((x,), (y,))
    steps["torch"] = lambda: torch.softmax(x, -1, out=y)
    steps |= copiers([x], y)
    timings = race(
        {name: repeated(step, case.calls) for name, step in steps.items()}, rounds or turns(steps, case)
    )
    slow = timings["three_pass"]
    gains = [f"{ratio(slow, timings[how]):.2f}x" for how in STABILIZERS[1:]]
    against = ratio(timings["torch"], timings["chosen"])
    floor = min((timings[name] for name in ("copy", "copy, streaming")), key=lambda timing: timing.median)
    result.rows.append(
        (
            case.place, f"{case.rows} x {case.columns}", seconds(slow.median / case.calls), *gains,
            f"{ratio(slow, timings['chosen']):.2f}x", short(schedules["chosen"]), f"{against:.2f}x",
            f"{ratio(floor, timings['chosen']):.0%}",
        )
    )  # fmt: skip
    return ratio(slow, timings["pair"]), against


def looped(spec: Spec, sizes: tuple[int, int], how: str) -> Schedule:
    """`row_loop` at its best block for a stabilizer."""
    block = 256 if how == "three_pass" and sizes[1] > 1024 else 1024
    return Schedule.of("row_loop", block_r=1, block_n=block, stabilizer=how)


def chosen(spec: Spec, sizes: tuple[int, int]) -> Schedule:
    """The default schedule that the cost model ranks first, without the library."""
    device = host_device()
    flows = [flow.name for flow in dataflows(spec, sizes, device) if flow.name != "library"]
    schedules = [get(name).default(spec, sizes, device) for name in flows]
    return min(schedules, key=lambda schedule: modelled(spec, sizes, schedule, device))


def short(schedule: Schedule) -> str:
    knobs: Mapping[str, object] = dict(schedule.knobs)
    return f"{schedule.dataflow} {knobs['stabilizer']}" if "stabilizer" in knobs else schedule.dataflow


def repeated(step: Callable[[], object], calls: int) -> Callable[[], object]:
    def many() -> None:
        for _ in range(calls):
            step()

    return many


def turns(steps: Mapping[str, Callable[[], object]], case: Case) -> int:
    """As many rounds as fit a few seconds."""
    for step in steps.values():
        step()
    start = time.perf_counter()
    for step in steps.values():
        step()
    return max(_LEAST, min(_MOST, int(_BUDGET / ((time.perf_counter() - start) * case.calls))))


def ratio(slow: Timing, fast: Timing) -> float:
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))
