"""The ladder: from rows to an answer, best evidence first. Pure functions over rows; "best" is this query.

    EXACT              same operation and size bucket, same machine, same software
    SAME_DEVICE        other versions of the software: the timing is a prior
    SAME_ARCHITECTURE  another machine with the same instruction sets
    NEIGHBOUR_SIZES    another size bucket, nearest first

Rows of an operation without the permission of a unified maximum answer for the one that has it, and rows of
an attention whose rows of -inf are NaN for the one that gives them zeros, where nothing else does: never as
EXACT (`priors`).

Within a rung only rows are compared that were measured at the same sizes, in the same place, under the same
policy.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from headrace.autotune.db.rows import Environment, Observation, Stage, Verdict
from headrace.autotune.stats import median, median_interval
from headrace.ir.evidence import Answer, Rung, bucket
from headrace.ir.schedule import Schedule

# A challenger takes the default's place when its time ratio lies below 1 - MARGIN with 95 % confidence.
MARGIN = 0.02
_FAILED = (Verdict.WRONG, Verdict.CRASHED, Verdict.TIMEOUT, Verdict.UNBUILDABLE)


@dataclass(frozen=True, slots=True)
class Query:
    """An operation's canonical text at run-time sizes, under an arithmetic contract, somewhere."""

    spec: str
    sizes: tuple[int, ...]
    numerics: str
    environment: Environment


@dataclass(frozen=True, slots=True)
class Step:
    """One rung climbed: how many rows spoke, what they said, and what was left out for which reason."""

    rung: Rung
    rows: int
    answer: Answer | None
    refused: dict[str, int] = field(default_factory=dict)
    about: str = ""  # whose rows these are, if not the operation's own

    def __str__(self) -> str:
        said = "nothing known"
        if self.answer is not None:
            seconds = self.answer.seconds
            timing = "" if seconds is None else f" in {seconds * 1e6:.1f} us"
            said = f"{self.answer.schedule}{timing} ({len(self.answer.rows)} rows)"
        left = "".join(f"; {count} left out: {reason}" for reason, count in sorted(self.refused.items()))
        about = f" ({self.about})" if self.about else ""
        return f"{self.rung.name.lower():<18} {self.rows:>5} rows  {said}{left}{about}"


def climb(
    rows: Iterable[Observation],
    query: Query,
    refuse: Callable[[Observation], str | None] = lambda row: None,
) -> tuple[Step, ...]:
    """The rungs from EXACT down to the first that answers (all of them when none does).

    Args:
        rows: observations of the operation, any place, any sizes.
        refuse: why a row's implementation cannot be used now (stale template, illegal here), or None.
    """
    spoken = [row for row in rows if row.spec == query.spec and row.numerics == query.numerics]
    kept, refused = usable(spoken, query, refuse)
    steps: list[Step] = []
    for rung in (Rung.EXACT, Rung.SAME_DEVICE, Rung.SAME_ARCHITECTURE, Rung.NEIGHBOUR_SIZES):
        here = [row for row in kept if _rung(row, query) is rung]
        answer = _answer(here, query, rung)
        reasons = Counter(reason for row, reason in refused if _rung(row, query) is rung)
        steps.append(Step(rung, len(here) + reasons.total(), answer, dict(reasons)))
        if answer is not None:
            break
    return tuple(steps)


def priors(step: Step, about: str) -> Step:
    """A rung of another operation, which `about` tells apart: its timings are no more than priors."""
    answer = step.answer
    if answer is not None and answer.rung is Rung.EXACT:
        answer = replace(answer, rung=Rung.SAME_DEVICE)
    return replace(step, answer=answer, about=about)


def answer_of(steps: Sequence[Step]) -> Answer | None:
    """The answer of the rung that gave one."""
    return steps[-1].answer if steps else None


def usable(
    rows: list[Observation], query: Query, refuse: Callable[[Observation], str | None]
) -> tuple[list[Observation], list[tuple[Observation, str]]]:
    """The rows whose implementation may run here, and the others with the reason."""
    here = bucket(query.sizes)
    damned: dict[tuple[str, str], list[Observation]] = defaultdict(list)
    for row in rows:
        # A wrong result damns the implementation at all sizes of this architecture, other failures here.
        if row.verdict in _FAILED and (row.verdict is Verdict.WRONG or row.bucket == here):
            damned[row.schedule, row.template_digest].append(row)

    def seen(row: Observation) -> Verdict | None:
        """A failure under the row's own software, or under ours."""
        for failure in damned[row.schedule, row.template_digest]:
            where = failure.environment
            if where.hard == query.environment.hard and where.versions in (
                row.environment.versions,
                query.environment.versions,
            ):
                return failure.verdict
        return None

    kept: list[Observation] = []
    refused: list[tuple[Observation, str]] = []
    for row in rows:
        if row.environment.hard != query.environment.hard:
            refused.append((row, "other architecture"))
        elif row.verdict in _FAILED:
            refused.append((row, row.verdict.value))
        elif (verdict := seen(row)) is not None:
            refused.append((row, f"seen {verdict.value}"))
        elif (reason := refuse(row)) is not None:
            refused.append((row, reason))
        else:
            kept.append(row)
    return kept, refused


def _rung(row: Observation, query: Query) -> Rung:
    there, here = row.environment, query.environment
    if row.bucket != bucket(query.sizes):
        return Rung.NEIGHBOUR_SIZES
    if there.device != here.device or there.hard != here.hard:
        return Rung.SAME_ARCHITECTURE
    return Rung.EXACT if there.versions == here.versions else Rung.SAME_DEVICE


def _answer(rows: list[Observation], query: Query, rung: Rung) -> Answer | None:
    places: dict[tuple[tuple[int, ...], Environment], list[Observation]] = defaultdict(list)
    for row in rows:
        places[row.sizes, row.environment].append(row)

    def order(place: tuple[tuple[int, ...], Environment]) -> tuple[object, ...]:
        sizes, where = place
        other = where.device != query.environment.device
        return (distance(sizes, query.sizes), other, where.versions != query.environment.versions,
                -len(places[place]), where.device, where.versions)  # fmt: skip

    for place in sorted(places, key=order):
        found = winner(places[place])
        if found is not None:
            schedule, seconds, ids = found
            return Answer(Schedule.parse(schedule), rung, seconds, ids)
    return None


def distance(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """How far two lists of sizes lie apart: the sum of |log2 ratio|; infinite when they differ in number."""
    if len(one) != len(other):
        return math.inf
    return sum(abs(math.log2((a + 1) / (b + 1))) for a, b in zip(one, other, strict=True))


def winner(rows: Sequence[Observation]) -> tuple[str, float, tuple[str, ...]] | None:
    """The schedule to use out of comparable rows: its text, median seconds and the ids of its rows.

    The default schedule wins unless a challenger is faster beyond noise, so that a tuned choice does not
    lose to not tuning. Without a default the smallest median wins.
    """
    timed = [row for row in rows if row.verdict is Verdict.OK and row.samples]
    finals = [row for row in timed if row.policy.stage is Stage.FINAL]
    by_policy: dict[tuple[str, int], list[Observation]] = defaultdict(list)
    for row in finals or timed:
        by_policy[row.policy.cache, row.policy.version].append(row)
    if not by_policy:
        return None
    chosen = max(sorted(by_policy), key=lambda policy: len({row.schedule for row in by_policy[policy]}))
    runs: dict[str, list[Observation]] = defaultdict(list)
    for row in by_policy[chosen]:
        runs[row.schedule].append(row)
    seconds = {
        schedule: median([s for row in group for s in row.samples]) for schedule, group in runs.items()
    }
    defaults = [schedule for schedule, group in runs.items() if any(row.baseline for row in group)]
    if defaults:
        best = min(defaults, key=lambda schedule: (seconds[schedule], schedule))
        challengers = {
            schedule: ratio for schedule in runs if (ratio := gain(runs[schedule], runs[best])) is not None
        }
        best = min(challengers, key=lambda schedule: (challengers[schedule], schedule), default=best)
    else:
        best = min(seconds, key=lambda schedule: (seconds[schedule], schedule))
    return best, seconds[best], tuple(sorted(row.id for row in runs[best]))


def gain(challenger: Sequence[Observation], incumbent: Sequence[Observation]) -> float | None:
    """The median time ratio challenger/incumbent when it is a gain beyond noise, else None.

    Samples of one race were taken alternately: their ratios cancel drift and throttling. Without a common
    race the two medians' intervals must not touch.
    """
    races = {row.race: row for row in incumbent if row.race}
    ratios = [
        mine / theirs
        for row in challenger
        if row.race in races
        for mine, theirs in zip(row.samples, races[row.race].samples, strict=False)
    ]
    if ratios:
        _, upper = median_interval(ratios)
        return median(ratios) if upper <= 1 - MARGIN else None
    mine = [sample for row in challenger for sample in row.samples]
    theirs = [sample for row in incumbent for sample in row.samples]
    ratio = median(mine) / median(theirs)
    apart = median_interval(mine)[1] < median_interval(theirs)[0]
    return ratio if apart and ratio <= 1 - MARGIN else None
