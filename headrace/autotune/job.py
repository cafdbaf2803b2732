"""One task being tuned: default and library first, then the search, then a final race of the best."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from headrace.autotune.bench import Bench, Outcome
from headrace.autotune.db.rows import MAX_SAMPLES, Check, Observation, Policy, Stage, Verdict, race_of
from headrace.autotune.db.store import Store
from headrace.autotune.discover import remeasured
from headrace.autotune.inputs import weight_slots
from headrace.autotune.keys import environment, numerics
from headrace.autotune.registry import Registry
from headrace.autotune.report import Progress, Status, Task, TaskResult
from headrace.autotune.search import Search
from headrace.autotune.space import Space
from headrace.autotune.stats import median
from headrace.autotune.verify import PLAUSIBLE, floor_seconds
from headrace.errors import SpecSyntaxError
from headrace.ir.device import Device
from headrace.ir.evidence import Answer, bucket
from headrace.ir.schedule import LIBRARY, Schedule

SCREEN_ROUNDS, FINAL_ROUNDS = 9, 25
FINALISTS = 3
# The search of a task ends when this many trials in a row have not improved on its best by 1 %.
PATIENCE = 48
FINAL_SHARE = 0.2


def _readable(schedule: str) -> bool:
    try:
        Schedule.parse(schedule)
    except SpecSyntaxError:
        return False
    return True


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The median ratio of samples that were taken in turns, None where they were not."""
    if len(mine) != len(theirs):
        return None
    return median([a / b for a, b in zip(mine, theirs, strict=True)])


class Budget:
    """Wall time that only runs down."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._begin = clock()

    @property
    def elapsed(self) -> float:
        return self._clock() - self._begin

    @property
    def left(self) -> float:
        return self.seconds - self.elapsed


class Job:
    """A task, what is known of it, and what is being found out. Every finished trial is a row at once."""

    def __init__(
        self,
        *,
        index: int,
        total: int,
        task: Task,
        device: Device,
        store: Store,
        budget: Budget,
        report: Callable[[Progress], None],
        seed: int,
        registry: Registry,
        default: Schedule,
        bench: Bench,
    ) -> None:
        self.task = task
        self.default = default
        self.default_seconds = 0.0
        self._index, self._total, self._seed = index, total, seed
        self._device, self._store, self._budget, self._bench = device, store, budget, bench
        self._report, self._registry = report, registry
        self._spec = str(task.spec)
        self._environment = environment(device)
        self._numerics = numerics(device)
        self._cache = "cold" if weight_slots(task.spec) else "warm"
        self._trials = 0
        self._failures: Counter[str] = Counter()
        self._status = Status.SKIPPED
        self._rows = self._known_rows()
        self._ratios: dict[Schedule, float | None] = {}
        self._checks: dict[Schedule, Check | None] = {
            Schedule.parse(row.schedule): row.check for row in self._rows if row.check
        }

    @property
    def finished(self) -> bool:
        """Whether the final race of this task has been run on this very setup."""
        own = self._policy(Stage.FINAL).version  # not the final race of a scan of regimes
        return any(
            row.policy.stage is Stage.FINAL and row.policy.version == own and row.verdict is Verdict.OK
            for row in self._here()
        )

    def start(self) -> bool:
        """Measure the default and the library; False when neither runs or the budget is over."""
        self.say("start")
        default = self._opening(self.default)
        if default is None and self._budget.left > 0 and self.default != LIBRARY:
            self.default = LIBRARY  # the default does not work here: the library is what runs without tuning
            default = self._opening(LIBRARY)
        if default is None:
            self._status = Status.UNUSABLE if self._budget.left > 0 else Status.SKIPPED
            return False
        self.default_seconds = default
        self._ratios[self.default] = 1.0
        self._status = Status.PARTIAL
        self._remember()
        if self.default != LIBRARY and LIBRARY not in self._ratios:
            self._try(LIBRARY)
        return True

    def search(self, seconds: float) -> None:
        """Spend up to `seconds` on trials and the final race."""
        begin = self._budget.left
        space = Space(self._registry, self.task.spec, self.task.sizes, self._device)
        reserve = FINAL_SHARE * seconds
        search, stale = Search(space, self._seed, self._ratios), 0
        best = self._best_ratio()
        queue = [
            schedule for schedule in space.defaults if schedule not in self._ratios and space.legal(schedule)
        ]
        while stale < PATIENCE and min(seconds - (begin - self._budget.left), self._budget.left) > reserve:
            schedule = queue.pop(0) if queue else search.propose()
            if schedule is None:
                break
            if not self._try(schedule):
                break
            search.tell(schedule, self._ratios[schedule])
            stale = 0 if self._best_ratio() < 0.99 * best else stale + 1
            best = min(best, self._best_ratio())
        if self._budget.left > 0:
            self._finish()

    def check_again(self, schedule: Schedule) -> bool | None:
        """Verify a known schedule without timing it; None when the budget ended first."""
        outcome = self._bench.run(self.task, [schedule], [], self._policy(Stage.SCREEN), self._budget.left)
        if outcome.cut:
            return None
        if outcome.verdict is not Verdict.OK:
            self._fail(schedule, outcome, Stage.SCREEN)
        self.say("trial", schedule, verdict=outcome.verdict.value)
        return outcome.verdict is Verdict.OK

    def result(self, answer: Answer | None) -> TaskResult:
        """How the task stands."""
        library = self._ratios.get(LIBRARY)
        return TaskResult(
            task=self.task,
            status=self._status,
            answer=answer,
            default_seconds=self.default_seconds or None,
            library_seconds=library * self.default_seconds if library else None,
            trials=self._trials,
            failures=dict(self._failures),
        )

    def say(
        self,
        event: str,
        schedule: Schedule | None = None,
        *,
        verdict: str = "",
        seconds: float | None = None,
        best: float | None = None,
    ) -> None:
        """Report progress."""
        if best is None and self.default_seconds:
            best = self._best_ratio() * self.default_seconds
        happened = Progress(
            index=self._index,
            total=self._total,
            task=self.task,
            event=event,
            elapsed=self._budget.elapsed,
            budget=self._budget.seconds,
            trials=self._trials,
            failures=self._failures.total(),
            schedule=schedule,
            verdict=verdict,
            seconds=seconds,
            best=best,
        )
        self._report(happened)

    def _known_rows(self) -> list[Observation]:
        """Rows of this operation whose implementation is unchanged, on this architecture."""
        return [
            row
            for row in self._store.observations(self._spec, hard=self._environment.hard)
            if row.numerics == self._numerics
            and row.template_digest == self._digest(row.dataflow)
            and _readable(row.schedule)
        ]

    def _here(self) -> list[Observation]:
        sizes = bucket(self.task.sizes)
        return [row for row in self._rows if row.bucket == sizes and row.environment == self._environment]

    def _remember(self) -> None:
        """Take over what earlier runs found: failures are not retried, timings not repeated."""
        for row in self._rows:
            failed = not row.verdict.right and row.environment.versions == self._environment.versions
            if failed and (row.verdict is Verdict.WRONG or row.bucket == bucket(self.task.sizes)):
                self._ratios[Schedule.parse(row.schedule)] = None
        here = [row for row in self._here() if row.sizes == self.task.sizes and row.samples]
        defaults = {row.race: row for row in here if row.schedule == str(self.default)}
        for row in here:
            schedule, rival = Schedule.parse(row.schedule), defaults.get(row.race)
            if schedule not in self._ratios:
                paired = _ratio(row.samples, rival.samples) if rival is not None and row.race else None
                self._ratios[schedule] = paired or median(row.samples) / self.default_seconds

    def _opening(self, schedule: Schedule) -> float | None:
        """The default's seconds per call, by measuring or from an earlier run; None when it does not run."""
        for row in self._here():
            if Schedule.parse(row.schedule) == schedule and row.sizes == self.task.sizes:
                if not row.verdict.right:
                    return None
                if row.baseline and row.median is not None:
                    return row.median
        policy = self._policy(Stage.SCREEN)
        outcome = self._bench.run(self.task, [schedule], [schedule], policy, self._budget.left)
        if outcome.cut:
            return None
        self._trials += 1
        if outcome.verdict is not Verdict.OK:
            self._fail(schedule, outcome, Stage.SCREEN, baseline=True)
            return None
        self._checks[schedule] = outcome.check
        samples = outcome.samples[schedule]
        self._keep(schedule, Verdict.OK, Stage.SCREEN, samples=samples, baseline=True)
        self.say("trial", schedule, verdict="ok", seconds=median(samples), best=median(samples))
        return median(samples)

    def _try(self, schedule: Schedule) -> bool:
        """One trial against the default; False when the budget ended under it."""
        policy = self._policy(Stage.SCREEN)
        outcome = self._bench.run(self.task, [schedule], [self.default, schedule], policy, self._budget.left)
        if outcome.cut:
            return False
        self._trials += 1
        if outcome.verdict is not Verdict.OK:
            self._fail(schedule, outcome, Stage.SCREEN)
            self.say("trial", schedule, verdict=outcome.verdict.value)
            return True
        self._checks[schedule] = outcome.check
        mine, theirs = outcome.samples[schedule], outcome.samples[self.default]
        if self._implausible(median(mine), median(theirs)):
            # No row: that says something about the clock or the bandwidth figure, not about the kernel.
            self._ratios[schedule] = None
            self._failures["implausible"] += 1
            self.say("trial", schedule, verdict="implausible", seconds=median(mine))
            return True
        late = schedule in outcome.slow
        self._ratios[schedule] = _ratio(mine, theirs) or mine[0] / median(theirs)
        # Both sides are kept: a run that ends before its final can still compare like with like.
        race = "" if late else race_of([theirs, mine])
        self._keep(schedule, Verdict.SLOW if late else Verdict.OK, Stage.SCREEN, samples=mine, race=race)
        if not late:
            self._keep(self.default, Verdict.OK, Stage.SCREEN, samples=theirs, race=race, baseline=True)
        self.say("trial", schedule, verdict="slow" if late else "ok", seconds=median(mine))
        return True

    def _finish(self) -> None:
        """Race the best few, the default and the library with more samples: these rows decide."""
        better = {s: ratio for s, ratio in self._ratios.items() if ratio is not None and ratio < 1.0}
        finalists = sorted(better, key=lambda s: (better[s], str(s)))[:FINALISTS]
        anchors = [self.default]
        if self._ratios.get(LIBRARY) is not None and LIBRARY not in finalists and self.default != LIBRARY:
            anchors.append(LIBRARY)
        outcome = self._race([*anchors, *finalists])
        if outcome is None and self._budget.left > 0:
            # Somebody fails only now: race each alone against the default to find out who.
            for schedule in finalists:
                if self._race([self.default, schedule], blame=schedule) is None and self._budget.left <= 0:
                    return
            outcome = self._race(anchors)
        if outcome is not None:
            self._status = Status.TUNED
            # Figures of one race can be compared with the answer's; the first ones may lie minutes back.
            self.default_seconds = median(outcome.samples[self.default])
            if LIBRARY in outcome.samples:
                self._ratios[LIBRARY] = median(outcome.samples[LIBRARY]) / self.default_seconds
            self.say("final")

    def _race(self, schedules: list[Schedule], blame: Schedule | None = None) -> Outcome | None:
        policy = self._policy(Stage.FINAL)
        unchecked = [schedule for schedule in schedules if schedule not in self._checks]
        outcome = self._bench.run(self.task, unchecked, schedules, policy, self._budget.left)
        if outcome.cut:
            return None
        if outcome.verdict is not Verdict.OK:
            if blame is not None:
                self._ratios[blame] = None
                self._fail(blame, outcome, Stage.FINAL)
            return None
        together = {s: run[:MAX_SAMPLES] for s, run in outcome.samples.items() if s not in outcome.slow}
        race = race_of([together[schedule] for schedule in sorted(together, key=str)])
        for schedule, samples in together.items():
            self._keep(
                schedule,
                Verdict.OK,
                Stage.FINAL,
                samples=samples,
                race=race,
                baseline=schedule == self.default,
            )
        return outcome

    def _fail(self, schedule: Schedule, outcome: Outcome, stage: Stage, *, baseline: bool = False) -> None:
        self._ratios[schedule] = None
        self._failures[outcome.verdict.value] += 1
        self._keep(schedule, outcome.verdict, stage, cause=outcome.cause, baseline=baseline)

    def _keep(
        self,
        schedule: Schedule,
        verdict: Verdict,
        stage: Stage,
        *,
        samples: tuple[float, ...] = (),
        cause: str = "",
        race: str = "",
        baseline: bool = False,
    ) -> None:
        row = Observation(
            spec=self._spec,
            sizes=self.task.sizes,
            numerics=self._numerics,
            schedule=str(schedule),
            template_digest=self._digest(schedule.dataflow),
            environment=self._environment,
            policy=self._policy(stage),
            verdict=verdict,
            samples=samples,
            check=self._checks.get(schedule) if verdict.right else None,
            cause=cause,
            baseline=baseline,
            race=race,
        )
        self._store.append([row])

    def _policy(self, stage: Stage) -> Policy:
        rounds = FINAL_ROUNDS if stage is Stage.FINAL else SCREEN_ROUNDS
        return Policy(stage, self._cache, rounds=rounds)

    def _digest(self, dataflow: str) -> str:
        return self._registry.digest(dataflow)

    def _implausible(self, mine: float, default: float) -> bool:
        """Whether a time lies below what memory and arithmetic allow, though the default's does not."""
        if not mine < PLAUSIBLE * self._floor() <= PLAUSIBLE * default:
            return False
        # The figures may date from a busier moment: only what also beats those of this moment is refused.
        self._device = remeasured(self._device)
        return mine < PLAUSIBLE * self._floor()

    def _floor(self) -> float:
        return floor_seconds(self.task.spec, self.task.sizes, self._device, cold=self._cache == "cold")

    def _best_ratio(self) -> float:
        return min((ratio for ratio in self._ratios.values() if ratio is not None), default=1.0)
