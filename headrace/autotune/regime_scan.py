"""Measuring the regimes of a Gemm: at each M of a log grid, the candidates of all dataflows in one race.

A first race finds who is close; final ones tell those apart. Each of these has a worker of its own and comes
when all M's have had the one before: how fast two kernels are beside each other differs by some per cent from
process to process and from minute to minute, and one draw must not decide (`regime_finals`: who meets when).
Calls are timed one at a time, between those of the others, on weights that rotate: as a model calls them.

Powers of two come first, so that a budget that ends early leaves a coarse table rather than half a fine one.
Every race is written at once; what an earlier run measured here is not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.autotune.bench import Bench, Outcome, WorkerBench
from headrace.autotune.db.rows import MAX_SAMPLES, SINGLE, Check, Observation, Policy, Stage, Verdict, race_of
from headrace.autotune.db.store import Store
from headrace.autotune.evidence import DatabaseEvidence
from headrace.autotune.inputs import weight_slots
from headrace.autotune.job import Budget
from headrace.autotune.keys import environment, numerics
from headrace.autotune.regime_finals import AGAINS, FINALS, Races
from headrace.autotune.registry import CODEGEN, Registry, load_registry, refusal
from headrace.autotune.report import Task
from headrace.autotune.stats import median
from headrace.autotune.verify import SEEDS
from headrace.errors import SpecSyntaxError, TuningError
from headrace.ir.device import Device
from headrace.ir.regime import RegimeTable
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, Spec

GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
WARMUP = 2
# A first race of all candidates, final ones of those that came close, others of those not yet told apart: the
# seconds that each should last, and the fewest and most samples of each candidate.
FIRST, FINAL, AGAIN = (2.5, 9, 31), (2.5, 13, 61), (5.0, 13, 61)
# A dataflow that needs this many times the best one's time on both sides of an M (or ever more) stays out.
HOPELESS = 2.0
# A schedule that came this close to the best at a neighbouring M is tried here too, and one that was this far
# off at each of them is not, unless it is the default here.
CLOSE, FAR = 1.25, 1.5
# A race that would last longer than this is split in several, which have the best candidate so far in common.
RACE_SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Raced:
    """One M done: its position in the grid's order, seconds per call by schedule, and time spent so far."""

    spec: Gemm
    m: int
    index: int
    total: int
    seconds: dict[Schedule, float]
    elapsed: float


@dataclass(frozen=True, slots=True)
class Scan:
    """What measuring came to: the table (None where too little was measured), the M's that were left out
    because the budget ended, failures by verdict, and the cost."""

    table: RegimeTable | None
    left: tuple[int, ...]
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    races: int = 0
    interrupted: bool = False


def measure_regimes(
    spec: Spec,
    device: Device,
    store: Store,
    budget: float,
    *,
    grid: Sequence[int] = GRID,
    registry: str = CODEGEN,
    bench: Bench | None = None,
    progress: Callable[[Raced], None] | None = None,
    seed: int = 0,
) -> Scan:
    """Race the candidates of all dataflows at each M of a grid and derive the table.

    Args:
        budget: seconds of wall time; what is finished when they are over is kept.
        grid: M's in any order; neighbours at most a factor of 2 apart make one table.
        registry: `module:class` of the dataflows, loaded here and in the worker.
        bench: where candidates run, a worker process when not given.
        progress: called after each M.

    Raises:
        TuningError: the Spec is no unbatched Gemm, the grid has an M below 1, or the budget is not positive.
    """
    if not isinstance(spec, Gemm) or spec.batched:
        raise TuningError(f"regimes are those of an unbatched Gemm, not of {str(spec)[:60]}")
    if not budget > 0:
        raise TuningError(f"budget of {budget} s; give a positive number of seconds")
    if not grid or any(type(m) is not int or m < 1 for m in grid):
        raise TuningError(f"grid {tuple(grid)}: give whole numbers from 1 on")
    dataflows = load_registry(registry)
    own = bench or WorkerBench(registry, device, [seed * 1000 + at for at in range(SEEDS)])
    scan = _Scan(spec, device, store, Budget(budget), dataflows, own)
    interrupted = False
    try:
        scan.run(sorted(set(grid)), progress or (lambda raced: None))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if bench is None:
            own.stop()
    table = DatabaseEvidence(store, dataflows).regimes(spec, device)
    left = tuple(m for m in sorted(set(grid)) if m not in scan.found)
    return Scan(table, left, scan.failures, scan.budget.elapsed, scan.races, interrupted)


def candidates(
    registry: Registry, spec: Gemm, device: Device, m: int, grid: Sequence[int]
) -> tuple[Schedule, ...]:
    """What is worth a race at M: each dataflow's default for M and for its neighbours in the grid (a tile of
    rows one step up or down), and the library."""
    at = grid.index(m)
    found: dict[Schedule, None] = {}
    for rows in (m, *grid[max(at - 1, 0) : at], *grid[at + 1 : at + 2]):
        for flow in registry.dataflows(spec, (rows,), device):
            schedule = LIBRARY if flow.name == LIBRARY.dataflow else flow.default(spec, (rows,), device)
            if refusal(registry, spec, (m,), schedule, device) is None:
                found[schedule] = None
    found[LIBRARY] = None
    return tuple(found)


class _Scan:
    def __init__(
        self,
        spec: Gemm,
        device: Device,
        store: Store,
        budget: Budget,
        registry: Registry,
        bench: Bench,
    ) -> None:
        self.budget = budget
        self.failures: dict[str, int] = {}
        self.races = 0
        self.found: dict[int, dict[Schedule, float]] = {}  # seconds per call by M
        self._spec, self._device, self._store = spec, device, store
        self._registry, self._bench = registry, bench
        self._environment, self._numerics = environment(device), numerics(device)
        self._cache = "cold" if weight_slots(spec) else "warm"
        self._failed: set[Schedule] = set()
        self._checks: dict[Schedule, Check] = {}
        self._races = Races()
        self._recall()

    def run(self, grid: list[int], progress: Callable[[Raced], None]) -> None:
        order = sorted(grid, key=lambda m: (m & (m - 1) != 0, m))
        for index, m in enumerate(order):
            wanted = [each for each in self._wanted(m, grid) if each not in self._failed]
            known = self._before(m, wanted)
            if known is None:
                known = self._measure(m, wanted)
            if known is None:
                if self.budget.left <= 0:
                    return
                continue
            self.found[m] = known
            progress(Raced(self._spec, m, index, len(order), known, self.budget.elapsed))
        done = [m for m in order if m in self.found]
        for turn in range(FINALS):
            self._final({m: self._races.rivals(m, turn) for m in done}, FINAL)
        for _ in range(AGAINS):
            self._final({m: self._races.undecided(m) for m in done}, AGAIN)

    def _final(self, rivals: dict[int, list[Schedule]], plan: tuple[float, int, int]) -> None:
        """One race for each M that has rivals, all in a process of their own."""
        due = {m: runners for m, runners in rivals.items() if runners}
        if due:
            self._bench.stop()
        for m, runners in due.items():
            rounds = _rounds(sum(self.found[m][each] for each in runners), plan)
            if self.budget.left > 0:
                self._heat(Task(self._spec, (m,)), runners, self._policy(rounds, Stage.FINAL))

    def _wanted(self, m: int, grid: list[int]) -> list[Schedule]:
        below = [each for each in sorted(self.found) if each < m]
        above = [each for each in sorted(self.found) if each > m]
        hopeless = set()
        for name in {s.dataflow for times in self.found.values() for s in times} - {LIBRARY.dataflow}:
            before = [self._loss(each, name) for each in below[-2:]]
            after = [self._loss(each, name) for each in above[:1]]
            worse = len(before) == 2 and before[0] <= before[1]
            if before and before[-1] > HOPELESS and (after[0] > HOPELESS if after else worse):
                hopeless.add(name)
        if below:  # nobody wins a race alone: the library always has somebody beside it
            hopeless.discard(min(sorted(hopeless), key=lambda name: self._loss(below[-1], name), default=""))
        found = dict.fromkeys(
            each
            for each in candidates(self._registry, self._spec, self._device, m, grid)
            if each.dataflow not in hopeless
        )
        for near in (*below[-1:], *above[:1]):
            times = self.found[near]
            for schedule, seconds in times.items():
                legal = refusal(self._registry, self._spec, (m,), schedule, self._device) is None
                if seconds <= CLOSE * min(times.values()) and legal:
                    found[schedule] = None
        own = candidates(self._registry, self._spec, self._device, m, (m,))
        return [each for each in found if each in own or not self._far(each, (*below[-1:], *above[:1]))]

    def _far(self, schedule: Schedule, near: Sequence[int]) -> bool:
        """Whether a schedule was slow wherever it was measured near by."""
        losses = [
            self.found[m][schedule] / min(self.found[m].values()) for m in near if schedule in self.found[m]
        ]
        return bool(losses) and min(losses) > FAR

    def _expected(self, m: int, wanted: Sequence[Schedule]) -> dict[Schedule, float] | None:
        """Seconds that candidates will need at most, from the next smaller M."""
        near = max((each for each in self.found if each < m), default=None)
        if near is None:
            return None
        some = median(list(self.found[near].values()))
        return {s: self.found[near].get(s, some) * m / near for s in wanted}

    def _heats(self, m: int, wanted: list[Schedule]) -> list[list[Schedule]]:
        """The candidates in races that are short enough, the likely best one in each of them."""
        times = self._expected(m, wanted)
        if times is None or len(wanted) < 3:
            return [wanted]
        first = min(wanted, key=lambda each: times[each])
        heats: list[list[Schedule]] = [[first]]
        for schedule in sorted((each for each in wanted if each != first), key=lambda each: times[each]):
            planned = sum(times[each] for each in (*heats[-1], schedule)) * FIRST[1]
            if planned > RACE_SECONDS and len(heats[-1]) > 1:
                heats.append([first])
            heats[-1].append(schedule)
        return heats

    def _loss(self, m: int, dataflow: str) -> float:
        """The best time of a dataflow at an M over the best of all; infinite where it was not tried."""
        times = self.found[m]
        mine = [seconds for schedule, seconds in times.items() if schedule.dataflow == dataflow]
        return min(mine) / min(times.values()) if mine else float("inf")

    def _before(self, m: int, wanted: Sequence[Schedule]) -> dict[Schedule, float] | None:
        """What earlier first races of all that is wanted gave at an M."""
        times = self._races.seconds(m)
        return times if set(wanted) <= times.keys() else None

    def _measure(self, m: int, wanted: list[Schedule]) -> dict[Schedule, float] | None:
        task = Task(self._spec, (m,))
        for schedule in [each for each in wanted if each not in self._checks]:
            checked = self._bench.run(task, [schedule], [], self._policy(1), self.budget.left)
            if checked.cut:
                return None
            if checked.verdict is Verdict.OK and checked.check is not None:
                self._checks[schedule] = checked.check
            else:
                self._fail(m, schedule, checked)
                wanted.remove(schedule)
        expected = self._expected(m, wanted) or {}
        done = [
            self._heat(task, heat, self._policy(_rounds(sum(expected.get(s, 0.0) for s in heat), FIRST)))
            for heat in self._heats(m, wanted)
        ]
        return self._races.seconds(m) if all(done) else None

    def _heat(self, task: Task, wanted: list[Schedule], policy: Policy) -> bool:
        (m,) = task.sizes
        outcome = self._race(task, wanted, policy)
        if outcome is not None and outcome.verdict is not Verdict.OK and not outcome.cut:
            for schedule in list(wanted):  # somebody fails only now: who, shows when each runs alone
                alone = self._race(task, [schedule], policy)
                if alone is not None and not alone.cut and alone.verdict is not Verdict.OK:
                    self._fail(m, schedule, alone)
                    wanted.remove(schedule)
            outcome = self._race(task, wanted, policy)
        if outcome is None or outcome.cut or outcome.verdict is not Verdict.OK:
            return False
        self._keep(m, outcome, policy)
        return True

    def _race(self, task: Task, schedules: list[Schedule], policy: Policy) -> Outcome | None:
        if not schedules:
            return None
        return self._bench.run(task, [], schedules, policy, self.budget.left)

    def _policy(self, rounds: int, stage: Stage = Stage.SCREEN) -> Policy:
        return Policy(stage, self._cache, warmup=WARMUP, rounds=rounds, version=SINGLE)

    def _keep(self, m: int, outcome: Outcome, policy: Policy) -> None:
        together = {s: run[:MAX_SAMPLES] for s, run in outcome.samples.items() if s not in outcome.slow}
        race = race_of([together[schedule] for schedule in sorted(together, key=str)])
        self._store.append(
            self._row(m, schedule, Verdict.OK, policy, samples=samples, race=race)
            for schedule, samples in together.items()
        )
        self._races.add(m, race, together, final=policy.stage is Stage.FINAL)
        self.races += 1

    def _fail(self, m: int, schedule: Schedule, outcome: Outcome) -> None:
        self._failed.add(schedule)
        self.failures[outcome.verdict.value] = self.failures.get(outcome.verdict.value, 0) + 1
        self._store.append([self._row(m, schedule, outcome.verdict, self._policy(1), cause=outcome.cause)])

    def _row(
        self,
        m: int,
        schedule: Schedule,
        verdict: Verdict,
        policy: Policy,
        *,
        samples: tuple[float, ...] = (),
        race: str = "",
        cause: str = "",
    ) -> Observation:
        return Observation(
            spec=str(self._spec),
            sizes=(m,),
            numerics=self._numerics,
            schedule=str(schedule),
            template_digest=self._registry.digest(schedule.dataflow),
            environment=self._environment,
            policy=policy,
            verdict=verdict,
            samples=samples,
            check=self._checks.get(schedule) if verdict.right else None,
            cause=cause,
            race=race,
        )

    def _recall(self) -> None:
        """What earlier runs found: checks and failures of implementations that are unchanged, races of this
        very setup."""
        for row in self._store.observations(str(self._spec), hard=self._environment.hard):
            if row.numerics != self._numerics or row.template_digest != self._registry.digest(row.dataflow):
                continue
            try:
                schedule = Schedule.parse(row.schedule)
            except SpecSyntaxError:
                continue  # a row may come from anybody's file
            here = row.environment == self._environment
            if row.verdict is Verdict.WRONG or (not row.verdict.right and here):
                self._failed.add(schedule)
            elif row.check is not None:
                self._checks[schedule] = row.check
            same = here and row.policy.cache == self._cache and row.policy.version == SINGLE
            if same and len(row.sizes) == 1 and row.verdict is Verdict.OK and row.race and row.samples:
                final = row.policy.stage is Stage.FINAL
                self._races.add(row.sizes[0], row.race, {schedule: row.samples}, final=final)


def _rounds(turn: float, plan: tuple[float, int, int]) -> int:
    """Samples of each candidate for a race that should last a plan's seconds; `turn`: those of one round."""
    seconds, least, most = plan
    return most if turn <= seconds / most else max(least, round(seconds / turn))
