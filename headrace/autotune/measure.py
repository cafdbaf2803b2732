"""Timing: kernels take turns, so that drift and throttling hit all of them alike; operands rotate where
asked.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from headrace.autotune.inputs import HALF, make_inputs, weight_slots
from headrace.autotune.registry import Kernel
from headrace.ir.spec import Spec

# Larger than any cache: what a machine reports as its last level may be more than it gives us, or less.
COLD_BYTES = 512 << 20
GRAIN_SECONDS = 50e-6  # calls are timed in groups that last at least this long, far above the clock's grain
SAMPLE_SECONDS = 1e-3  # one sample is the shortest of the groups that fit into this, of at least MIN_GROUPS
MIN_GROUPS, MAX_GROUPS, MAX_GROUP = 3, 16, 64
MAX_COPIES = 1024
ALIGNMENT = 64  # as torch's own allocator


class Ring:
    """Operand lists over which calls rotate: weights and caches differ from call to call, the rest stays."""

    def __init__(
        self, inputs: list[torch.Tensor], slots: Sequence[int], nbytes: int, arena: torch.Tensor | None = None
    ) -> None:
        """Copies of the operands in `slots` that add up to at least `nbytes` (one list when 0).

        They are laid into `arena`, a tensor of bytes, where one is given: memory that is new to the process
        is slow to get, so that a worker keeps one arena for all its rings.
        """
        size = sum(_padded(inputs[slot]) for slot in slots)
        copies = min(max(1, -(-nbytes // size)), MAX_COPIES) if size and nbytes else 1
        if arena is None and copies > 1:
            arena = torch.empty(size * (copies - 1), dtype=torch.uint8, device=inputs[0].device)
        self.lists, self._at = [inputs], 0
        offset = 0
        for _ in range(copies - 1):
            made = list(inputs)
            for slot in slots:
                end = offset + _padded(inputs[slot])
                if arena is None or end > arena.numel():
                    return
                made[slot] = _copy(inputs[slot], arena[offset:end])
                offset = end
            self.lists.append(made)

    def next(self) -> list[torch.Tensor]:
        self._at = (self._at + 1) % len(self.lists)
        return self.lists[self._at]


def _padded(tensor: torch.Tensor) -> int:
    """Bytes of a tensor with what alignment adds."""
    return -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT


def _copy(tensor: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    nbytes = tensor.numel() * tensor.element_size()
    return room[:nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


def make_ring(
    spec: Spec,
    sizes: tuple[int, ...],
    seed: int,
    *,
    cold: bool,
    device: str = "cpu",
    arena: torch.Tensor | None = None,
) -> Ring:
    """Operands to time on: attention caches half full; `cold` rotates weights over COLD_BYTES."""
    inputs = make_inputs(spec, sizes, seed, fill=HALF, device=device)
    return Ring(inputs, weight_slots(spec), COLD_BYTES if cold else 0, arena)


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
    single: bool = False,
) -> Race:
    """Time runners in turns, whose order is drawn anew (and the same in each run) for each turn.

    Args:
        warmup: untimed calls of each, the shortest of which sizes its groups.
        rounds: samples of each; fewer (never below 6) when they would last longer than `limit_seconds`.
        slow_factor: a later runner that needs this many times the first one's time gets that one sample only.
        timer: monotonic seconds.
        single: a sample is one group, as a model calls a kernel: between other kernels. Otherwise it is the
        shortest of several that follow each other, which finds the kernel itself in the caches.
    """
    clock = _clock(timer, device)
    estimates = [_estimate(runner, ring, max(warmup, 1), clock) for runner in runners]
    slow = [
        bool(slow_factor) and at > 0 and estimate > slow_factor * estimates[0]
        for at, estimate in enumerate(estimates)
    ]
    plans = [_plan(estimate, single) for estimate in estimates]
    turn = sum(g * n * e for (g, n), e, late in zip(plans, estimates, slow, strict=True) if not late)
    turns = max(min(rounds, int(limit_seconds / turn) if turn else rounds), min(rounds, 6))
    samples: list[list[float]] = [[e] if late else [] for e, late in zip(estimates, slow, strict=True)]
    order, draw = list(range(len(runners))), random.Random(0)
    for _ in range(turns):
        draw.shuffle(order)  # nobody always runs after the same neighbour
        for at in order:
            if not slow[at]:
                samples[at].append(_sample(runners[at], ring, plans[at], clock))
    return Race(samples, slow)


def _plan(estimate: float, single: bool) -> tuple[int, int]:
    """(groups, calls in each) of a sample."""
    calls = min(max(1, math.ceil(GRAIN_SECONDS / estimate)), MAX_GROUP)
    if single:
        return 1, calls
    groups = min(max(MIN_GROUPS, round(SAMPLE_SECONDS / (calls * estimate))), MAX_GROUPS)
    return groups, calls


def _estimate(runner: Kernel, ring: Ring, warmup: int, clock: Callable[[], float]) -> float:
    """Seconds of the shortest of the warm-up calls (the first one may compile)."""
    return _sample(runner, ring, (warmup, 1), clock)


def _sample(runner: Kernel, ring: Ring, plan: tuple[int, int], clock: Callable[[], float]) -> float:
    """Seconds per call of the shortest group: what else runs on the machine can only lengthen a group."""
    groups, calls = plan
    best = math.inf
    for _ in range(groups):
        lists = [ring.next() for _ in range(calls)]
        begin = clock()
        for inputs in lists:
            runner(inputs)
        best = min(best, clock() - begin)
    return max(best / calls, 1e-9)


def _clock(timer: Callable[[], float], device: str) -> Callable[[], float]:
    if device == "cpu":
        return timer

    def synchronised() -> float:
        torch.cuda.synchronize()
        return timer()

    return synchronised
