"""What a row says: one implementation of one operation, observed once in one environment.

Rows are immutable and their id is the SHA-256 of their canonical content, so a merge of two databases is set
union, an update cannot be lost and damage shows. Rows hold names and numbers: never source, paths, hosts or
users.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from headrace.autotune.stats import median, quantile
from headrace.errors import ObservationError
from headrace.ir.evidence import bucket

CONTENT_VERSION = 1
# What a sample is: the shortest of several groups of calls in succession, or one group between other kernels.
SHORTEST, SINGLE = 1, 2
MAX_SAMPLES = 256
MAX_SECONDS = 1e5
MAX_SIZE = 1 << 48


class Verdict(enum.StrEnum):
    """What became of a candidate. Only `ok` is usable; `slow` was right but not worth timing further."""

    OK = "ok"
    WRONG = "wrong"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    UNBUILDABLE = "unbuildable"
    SLOW = "slow"

    @property
    def right(self) -> bool:
        return self in (Verdict.OK, Verdict.SLOW)


class Stage(enum.StrEnum):
    """`screen`: a candidate timed beside the incumbent; `final`: the best raced again, interleaved, with more
    samples.
    """

    SCREEN = "screen"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Environment:
    """Where an observation was made, in three parts of falling force.

    `hard` decides whether a schedule is usable (backend, architecture, features), `device` and `versions`
    whether its timing is a fact or a prior (the machine; the software on it).
    """

    hard: str
    device: str
    versions: str


@dataclass(frozen=True, slots=True)
class Policy:
    """How it was timed; timings under different policies are not compared. Text:
    `final/cold/warmup=2/rounds=15/v1`. `version` is SHORTEST or SINGLE.
    """

    stage: Stage = Stage.SCREEN
    cache: str = "warm"
    warmup: int = 4
    rounds: int = 9
    version: int = SHORTEST

    def __str__(self) -> str:
        return f"{self.stage}/{self.cache}/warmup={self.warmup}/rounds={self.rounds}/v{self.version}"

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            stage, cache, warmup, rounds, version = text.split("/")
            return cls(
                Stage(stage),
                cache,
                int(warmup.removeprefix("warmup=")),
                int(rounds.removeprefix("rounds=")),
                int(version.removeprefix("v")),
            )
        except ValueError as error:
            raise ObservationError(f"cannot read measuring policy {text!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class Check:
    """The evidence that a result was right: input seeds, reference, and how often the launch was repeated."""

    seeds: tuple[int, ...]
    reference: str
    repeats: int
    max_error: float | None
    bound: float | None


@dataclass(frozen=True)
class Observation:
    """One row.

    Attributes:
        spec, sizes: the operation by its canonical text, and its run-time sizes.
        numerics: the arithmetic contract (accumulator, reduced precision, tolerance table).
        schedule: the canonical text of the Schedule that was run; `template_digest` the hash of its template.
        environment, policy: where and how.
        verdict: what became of it; `cause` says why it is not ok, without paths.
        samples: seconds per call in the order taken; empty when it was never timed.
        check: the evidence of correctness, None when it never ran to an end.
        baseline: whether this schedule was the default, the one used without tuning, at the time.
        race: common to rows whose samples were taken alternately, so that sample k of each was taken at one
            time.
    """

    spec: str
    sizes: tuple[int, ...]
    numerics: str
    schedule: str
    template_digest: str
    environment: Environment
    policy: Policy
    verdict: Verdict
    samples: tuple[float, ...] = ()
    check: Check | None = None
    cause: str = ""
    baseline: bool = False
    race: str = ""

    def __post_init__(self) -> None:
        if not all(type(size) is int and 0 <= size < MAX_SIZE for size in self.sizes):
            raise ObservationError(f"sizes {self.sizes!r} must be integers in [0, 2^48)")
        if len(self.samples) > MAX_SAMPLES:
            raise ObservationError(f"{len(self.samples)} samples; a row holds at most {MAX_SAMPLES}")
        for sample in self.samples:
            if type(sample) is not float or not math.isfinite(sample) or not 0 < sample < MAX_SECONDS:
                raise ObservationError(f"timing sample {sample!r} is no time in seconds")
        if self.verdict is Verdict.OK and self.check is None:
            raise ObservationError("a row can only say ok with the evidence of a check")

    @property
    def dataflow(self) -> str:
        return self.schedule.partition("{")[0]

    @property
    def bucket(self) -> tuple[int, ...]:
        return bucket(self.sizes)

    @cached_property
    def median(self) -> float | None:
        """Median seconds per call."""
        return median(self.samples) if self.samples else None

    @cached_property
    def band(self) -> tuple[float, float] | None:
        """The 10 % and 90 % quantiles of the seconds per call."""
        return (quantile(self.samples, 0.1), quantile(self.samples, 0.9)) if self.samples else None

    @cached_property
    def op(self) -> str:
        """The hash of the operation's canonical text, as Spec.digest."""
        return hashlib.sha256(self.spec.encode()).hexdigest()

    @cached_property
    def id(self) -> str:
        """SHA-256 of the canonical content: 64 hex digits."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @property
    def canonical(self) -> str:
        """The content as one line of JSON: sorted keys, no spaces, floats as hexadecimal text."""
        return canonical_json(
            {
                "content": CONTENT_VERSION,
                "op": {"spec": self.spec, "sizes": list(self.sizes)},
                "numerics": self.numerics,
                "impl": {
                    "schedule": self.schedule,
                    "template": self.template_digest,
                    "baseline": self.baseline,
                },
                "hard": self.environment.hard,
                "soft": {"device": self.environment.device, "versions": self.environment.versions},
                "policy": str(self.policy),
                "race": self.race,
                "verdict": self.verdict.value,
                "cause": self.cause,
                "samples": list(self.samples),
                "check": None if self.check is None else check_fields(self.check),
            }
        )


def check_fields(check: Check) -> dict[str, object]:
    """A Check as plain values, in its stored form."""
    return {
        "seeds": list(check.seeds),
        "reference": check.reference,
        "repeats": check.repeats,
        "max_error": check.max_error,
        "bound": check.bound,
    }


def check_of(fields: dict[str, object]) -> Check:
    """The Check of its stored form.

    Raises:
        ObservationError: a field is missing or has another type.
    """
    try:
        seeds, error, bound = fields["seeds"], fields["max_error"], fields["bound"]
        if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
            raise TypeError("seeds")
        if not isinstance(error, float | None) or not isinstance(bound, float | None):
            raise TypeError("error")
        reference, repeats = fields["reference"], fields["repeats"]
        if not isinstance(reference, str) or not isinstance(repeats, int):
            raise TypeError("reference")
        return Check(tuple(seeds), reference, repeats, error, bound)
    except (KeyError, TypeError) as problem:
        raise ObservationError(f"cannot read the check of a row: {problem}") from None


def canonical_json(value: object) -> str:
    """JSON with one spelling per value, so that it can be hashed: sorted keys, no spaces, floats in
    hexadecimal.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def race_of(samples: Sequence[Sequence[float]]) -> str:
    """The name of a race, from its samples: short, and the same for every row of that race."""
    text = canonical_json([list(run) for run in samples])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Decision:
    """Which schedule a region of a compiled graph runs, and why: what `explain` shows on a cache hit.

    `graph` is the graph's hash, `region` the operator's place in it; a later decision for the same graph,
    region and sizes takes the earlier one's place.
    """

    graph: str
    region: str
    spec: str
    sizes: tuple[int, ...]
    schedule: str
    rung: str
    seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One tuning run, for people: the time is shown, never used to decide."""

    kind: str
    finished: float
    seconds: float
    tasks: int
    trials: int
    failures: int
    interrupted: bool = False
