"""Timing: kernels take turns, so that drift and throttling hit all of them alike; operands rotate where
asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headrace.autotune.inputs import HALF, make_inputs, weight_slots
from headrace.autotune.registry import Kernel
from headrace.ir.spec import Spec

# Larger than any cache: what a machine reports as its last level may be more than it gives us, or less.
COLD_BYTES = 512 << 20
BATCH_SECONDS = 1e-3  # one sample lasts at least this long, far above the clock's grain
MAX_INNER = 256
MAX_COPIES = 1024


class Ring:
    """Operand lists over which calls rotate: weights and caches differ from call to call, the rest stays."""

    def __init__(self, inputs: list[torch.Tensor], slots: Sequence[int], nbytes: int) -> None:
        """Copies of the operands in `slots` that add up to at least `nbytes` (one list when 0)."""
        size = sum(inputs[slot].numel() * inputs[slot].element_size() for slot in slots)
        copies = min(max(1, -(-nbytes // size)), MAX_COPIES) if size and nbytes else 1
        self.lists = [inputs]
        for _ in range(copies - 1):
            self.lists.append([x.clone() if at in slots else x for at, x in enumerate(inputs)])
        self._at = 0

    def next(self) -> list[torch.Tensor]:
        self._at = (self._at + 1) % len(self.lists)
        return self.lists[self._at]


def make_ring(spec: Spec, sizes: tuple[int, ...], seed: int, *, cold: bool, device: str = "cpu") -> Ring:
    """Operands to time on: attention caches half full; `cold` rotates weights over COLD_BYTES."""
    inputs = make_inputs(spec, sizes, seed, fill=HALF, device=device)
    return Ring(inputs, weight_slots(spec), COLD_BYTES if cold else 0)


@dataclass(frozen=True, slots=True)
class Race:
    """Seconds per call of each runner, sample k of each taken in turn k; None for a runner that was left
    behind.
    """

    samples: list[list[float]]
    slow: list[bool]


def race(
    runners: Sequence[Kernel],
    ring: Ring,
    *,
    warmup: int,
    rounds: int,
    slow_factor: float = 0.0,
    limit_seconds: float = 10.0,
    timer: Callable[[], float] = time.perf_counter,
    device: str = "cpu",
) -> Race:
    """Time runners in turns.

    Args:
        warmup: untimed calls of each, the last of which sizes its batches.
        rounds: samples of each; fewer (never below 6) when they would last longer than `limit_seconds`.
        slow_factor: a later runner that needs this many times the first one's time gets that one sample only.
        timer: monotonic seconds.
    """
    clock = _clock(timer, device)
    estimates = [_estimate(runner, ring, max(warmup, 1), clock) for runner in runners]
    slow = [
        bool(slow_factor) and at > 0 and estimate > slow_factor * estimates[0]
        for at, estimate in enumerate(estimates)
    ]
    inner = [min(max(1, round(BATCH_SECONDS / estimate)), MAX_INNER) for estimate in estimates]
    turn = sum(n * e for n, e, late in zip(inner, estimates, slow, strict=True) if not late)
    turns = max(min(rounds, int(limit_seconds / turn) if turn else rounds), min(rounds, 6))
    samples: list[list[float]] = [
        [estimate] if late else [] for estimate, late in zip(estimates, slow, strict=True)
    ]
    for round_ in range(turns):
        for step in range(len(runners)):
            at = (step + round_) % len(runners)  # nobody always runs after the same neighbour
            if not slow[at]:
                samples[at].append(_batch(runners[at], ring, inner[at], clock) / inner[at])
    return Race(samples, slow)


def _estimate(runner: Kernel, ring: Ring, warmup: int, clock: Callable[[], float]) -> float:
    """Seconds of the last of the warm-up calls (the first one may compile)."""
    seconds = 0.0
    for _ in range(warmup):
        seconds = _batch(runner, ring, 1, clock)
    return max(seconds, 1e-9)


def _batch(runner: Kernel, ring: Ring, calls: int, clock: Callable[[], float]) -> float:
    lists = [ring.next() for _ in range(calls)]
    begin = clock()
    for inputs in lists:
        runner(inputs)
    return max(clock() - begin, 1e-9)


def _clock(timer: Callable[[], float], device: str) -> Callable[[], float]:
    if device == "cpu":
        return timer

    def synchronised() -> float:
        torch.cuda.synchronize()
        return timer()

    return synchronised
