"""What every benchmark shares: interleaved rounds, the bandwidth floor of the same run, and bars.

The floor of a step is the number of bytes that it must read over the read bandwidth measured between its own
rounds, over as many bytes, with as many threads, in several streams each, on the better kind of page.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from headrace.compiler.cli.bandwidth import Reader
from headrace.demo.measure import Timing, interleaved

# Below this, a buffer may live in a cache; weights are rotated over at least as much.
BEYOND_CACHES = 512 << 20


@dataclass(frozen=True)
class Bar:
    """A promise: the value must reach `least`."""

    name: str
    value: float
    least: float

    @property
    def held(self) -> bool:
        return self.value >= self.least

    def __str__(self) -> str:
        return (
            f"{'held  ' if self.held else 'MISSED'} {self.name}: {self.value:.2f} (at least {self.least:.2f})"
        )


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


def race(steps: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3) -> dict[str, Timing]:
    """Interleaved timings after a warm-up of every step."""
    for step in steps.values():
        for _ in range(warmup):
            step()
    return interleaved(steps, rounds)


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


def cycling(kernel: Callable[..., object], operands: list[tuple[torch.Tensor, ...]]) -> Callable[[], object]:
    """A step that calls the kernel on the next set of operands each time."""
    at = 0

    def step() -> object:
        nonlocal at
        at = (at + 1) % len(operands)
        return kernel(operands[at])

    return step
