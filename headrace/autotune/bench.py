"""Where candidates run: checked, then raced, each request contained in an isolated worker."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.autotune.client import Worker, WorkerLate, WorkerLost
from headrace.autotune.db.rows import SINGLE, Check, Policy, Verdict, check_of
from headrace.autotune.report import Task
from headrace.autotune.verify import REPEATS
from headrace.autotune.wire import Message, device_fields
from headrace.ir.device import Backend, Device
from headrace.ir.schedule import Schedule

HARD_LIMIT = 60.0  # seconds; no honest trial takes longer
GRACE = 10.0
SLOW_FACTOR = 4.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request came to.

    `samples` holds seconds per call by schedule, taken in turns; `slow` the schedules that were left behind
    after one sample. `cut` means that the caller's time ran out, which says nothing about the candidate.
    """

    verdict: Verdict
    cause: str = ""
    check: Check | None = None
    samples: dict[Schedule, tuple[float, ...]] = field(default_factory=dict)
    slow: frozenset[Schedule] = frozenset()
    cut: bool = False


class Bench(Protocol):
    """A place to run candidates."""

    def run(
        self, task: Task, check: Sequence[Schedule], race: Sequence[Schedule], policy: Policy, seconds: float
    ) -> Outcome:
        """Build and verify the schedules of `check` in order, then time those of `race` in turns.

        Never raises for what a candidate does. `seconds` is what is left of the caller's budget.
        """
        ...

    def stop(self) -> None:
        """Let go of processes."""
        ...


class WorkerBench:
    """A Bench over one worker process; a lost worker is replaced at the next request.

    The time limit of a request is three times the longest good one plus 10 s, at most 60 s.
    """

    def __init__(self, registry: str, device: Device, seeds: Sequence[int]) -> None:
        self._worker = Worker(registry, device.units if device.backend is Backend.CPU else 0)
        self._device = device
        self._seeds = list(seeds)
        self._longest: float | None = None

    def run(
        self, task: Task, check: Sequence[Schedule], race: Sequence[Schedule], policy: Policy, seconds: float
    ) -> Outcome:
        if seconds <= 0:
            return Outcome(Verdict.TIMEOUT, "the budget is over", cut=True)
        limit = HARD_LIMIT if self._longest is None else min(HARD_LIMIT, 3 * self._longest + GRACE)
        self._worker.start()
        begin = time.monotonic()
        patience = max(1.0, min(limit, seconds))
        try:
            reply = self._worker.ask(self._request(task, check, race, policy, patience), patience)
        except WorkerLate as error:
            self._longest = None  # the next worker starts cold
            return Outcome(Verdict.TIMEOUT, str(error), cut=patience < limit)
        except WorkerLost as error:
            self._longest = None
            return Outcome(Verdict.CRASHED, str(error))
        self._longest = max(self._longest or 0.0, time.monotonic() - begin)
        return _outcome(reply, race)

    def stop(self) -> None:
        self._worker.stop()

    def _request(
        self, task: Task, check: Sequence[Schedule], race: Sequence[Schedule], policy: Policy, seconds: float
    ) -> Message:
        return {
            "do": "trial",
            "spec": str(task.spec),
            "sizes": list(task.sizes),
            "device": device_fields(self._device),
            "check": [str(schedule) for schedule in check],
            "race": [str(schedule) for schedule in race],
            "seeds": self._seeds,
            "repeats": REPEATS,
            "cache": policy.cache,
            "warmup": policy.warmup,
            "rounds": policy.rounds,
            "single": policy.version == SINGLE,
            "slow_factor": SLOW_FACTOR if len(race) == 2 else 0.0,
            "limit_seconds": seconds / 3,
        }


def _outcome(reply: Message, race: Sequence[Schedule]) -> Outcome:
    verdict = Verdict(reply["verdict"])
    check = check_of(reply["check"]) if reply["check"] else None
    if verdict is not Verdict.OK or "samples" not in reply:
        return Outcome(verdict, reply["cause"], check)
    samples = {schedule: tuple(run) for schedule, run in zip(race, reply["samples"], strict=True)}
    if any(not math.isfinite(sample) or sample <= 0 for run in samples.values() for sample in run):
        return Outcome(Verdict.CRASHED, "the clock went backwards")
    slow = frozenset(schedule for schedule, late in zip(race, reply["slow"], strict=True) if late)
    return Outcome(verdict, "", check, samples, slow)
