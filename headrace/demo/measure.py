"""Time several ways of doing the same step, turn by turn, so that the machine's moods hit all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds a step took, over the rounds of one interleaved run."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def per_second(self) -> float:
        return 1.0 / self.median


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Run every step once a round, in alternating order, and time each run (seconds by `clock`).

    The caller has warmed the steps up: nothing is dropped here.
    """
    names = list(steps)
    found: dict[str, list[float]] = {name: [] for name in names}
    for at in range(rounds):
        for name in names if at % 2 == 0 else reversed(names):
            start = clock()
            steps[name]()
            found[name].append(clock() - start)
    return {name: Timing(name, tuple(seconds)) for name, seconds in found.items()}


def ratios(timings: Mapping[str, Timing], of: str, over: str) -> float:
    """How many times faster `of` is than `over`: the median over the rounds of their paired ratio."""
    pairs = zip(timings[over].seconds, timings[of].seconds, strict=True)
    return statistics.median(slow / fast for slow, fast in pairs)
