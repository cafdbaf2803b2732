"""What every benchmark shares: interleaved rounds, the bandwidth floor of the same run, and bars.

The floor of a step is the number of bytes that it must read over the read bandwidth measured between its own
rounds, over as many bytes, with as many threads, in several streams each, on the better kind of page.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from headrace.compiler.cli.bandwidth import Reader
from headrace.demo.measure import Timing, interleaved

# Below this, a buffer may live in a cache; weights are rotated over at least as much.
BEYOND_CACHES = 512 << 20


@dataclass(frozen=True)
class Bar:
    """A promise: the value must reach `bound` (with `at_most`: must not pass it).

    `best` is the better of two identical runs: a value inside their band holds as well.
    """

    name: str
    value: float
    bound: float
    at_most: bool = False
    best: float | None = None

    @property
    def held(self) -> bool:
        reached = [self.value] if self.best is None else [self.value, self.best]
        return min(reached) <= self.bound if self.at_most else max(reached) >= self.bound

    @property
    def word(self) -> str:
        return "held" if self.held else "MISSED"

    def __str__(self) -> str:
        way = "most" if self.at_most else "least"
        return f"{self.word.ljust(6)} {self.name}: {self.value:.2f} (at {way} {self.bound:.2f})"


@dataclass
class Result:
    """What a benchmark found: a table to print and the bars it holds."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)


@contextmanager
def readers(size: int) -> Iterator[dict[str, Callable[[], object]]]:
    """Peers that read `size` bytes, for `race`: one on small pages, one on huge ones."""
    made = {f"read {pages}": Reader(size, torch.get_num_threads(), pages) for pages in ("4 KiB", "huge")}
    try:
        yield {name: reader.read for name, reader in made.items()}
    finally:
        for reader in made.values():
            reader.close()


def floor(timings: Mapping[str, Timing]) -> float:
    """Seconds that the better reader needed."""
    return min(timing.median for name, timing in timings.items() if name.startswith("read "))


def race(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Interleaved timings after a warm-up of every step."""
    for step in steps.values():
        for _ in range(warmup):
            step()
    return interleaved(steps, rounds, clock)


def waited() -> float:
    """Seconds that threads of this process, ready to run, have spent without a processor; 0 where the system
    does not tell."""
    found = 0.0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # the thread has ended
            found += int(task.read_text().split()[1]) * 1e-9
    return found


def noise(timing: Timing) -> float:
    """Half the distance of the quartiles over the median: how much a single number means."""
    if len(timing.seconds) < 4:
        return 0.0
    low, _, high = statistics.quantiles(timing.seconds, n=4)
    return (high - low) / 2 / timing.median


def rotated(
    make: Callable[[], tuple[torch.Tensor, ...]], total: int = BEYOND_CACHES, most: int = 1024
) -> list[tuple[torch.Tensor, ...]]:
    """Copies of an operation's operands, enough that going round them hits no cache.

    Operands of a few KiB stay cached all the same: there are at most `most` copies.
    """
    first = make()
    each = sum(tensor.nbytes for tensor in first)
    copies = min(max(1, total // max(each, 1)), most)
    return [first] + [tuple(tensor.clone() for tensor in first) for _ in range(copies - 1)]


def cycling(
    operands: list[tuple[torch.Tensor, ...]],
) -> Callable[[Callable[..., object]], Callable[[], object]]:
    """Makes steps that call a kernel on the next set of operands each time.

    All steps made by one call take turns on the sets: whoever comes next gets what was used longest ago, so
    that no step finds in a cache what the one before it has read.
    """
    turn = itertools.cycle(operands)

    def made(kernel: Callable[..., object]) -> Callable[[], object]:
        return lambda: kernel(next(turn))

    return made
