"""The nouns of tuning: tasks in, progress while it runs, a report at the end."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from headrace.ir.evidence import Answer
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec


class Mode(enum.StrEnum):
    """`off`: nothing; `replay`: only read; `tune`: search what is unknown; `verify`: check what is known."""

    OFF = "off"
    REPLAY = "replay"
    TUNE = "tune"
    VERIFY = "verify"


class Status(enum.StrEnum):
    """What became of a task.

    `known`: measured before on this very setup; `tuned`: raced to the end; `partial`: the budget ended
    before the final race; `skipped`: no budget left to begin; `unusable`: neither default nor library ran;
    `verified` and `refuted`: what mode verify found.
    """

    KNOWN = "known"
    TUNED = "tuned"
    PARTIAL = "partial"
    SKIPPED = "skipped"
    UNUSABLE = "unusable"
    VERIFIED = "verified"
    REFUTED = "refuted"


@dataclass(frozen=True, slots=True)
class Task:
    """An operation at run-time sizes; `weight` is how often a run of the model executes it."""

    spec: Spec
    sizes: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What just happened: `index` of `total` tasks, an event of `known start trial final done`, and the
    figures.

    `seconds` is the time per call of `schedule` and `best` that of the task's best so far, None where
    unknown.
    """

    index: int
    total: int
    task: Task
    event: str
    elapsed: float
    budget: float
    trials: int
    failures: int
    schedule: Schedule | None = None
    verdict: str = ""
    seconds: float | None = None
    best: float | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task ended. `default_seconds` and `library_seconds` are per call, None where not measured now."""

    task: Task
    status: Status
    answer: Answer | None
    default_seconds: float | None = None
    library_seconds: float | None = None
    trials: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """How many times faster the answer is than the default."""
        if self.answer is None or self.answer.seconds is None or self.default_seconds is None:
            return None
        return self.default_seconds / self.answer.seconds


@dataclass(frozen=True, slots=True)
class TuneReport:
    """All tasks in the order given (duplicates merged), and the cost."""

    results: tuple[TaskResult, ...]
    seconds: float
    interrupted: bool = False

    @property
    def trials(self) -> int:
        return sum(result.trials for result in self.results)

    @property
    def failures(self) -> int:
        return sum(count for result in self.results for count in result.failures.values())
