"""Tuning: the budget goes where the time goes, and every trial is a row before the next one starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from headrace.autotune.bench import Bench, WorkerBench
from headrace.autotune.db.rows import Run
from headrace.autotune.db.store import Store
from headrace.autotune.evidence import DatabaseEvidence
from headrace.autotune.job import Budget, Job
from headrace.autotune.registry import CODEGEN, Registry, load_registry
from headrace.autotune.report import Mode, Progress, Status, Task, TaskResult, TuneReport
from headrace.autotune.verify import SEEDS
from headrace.errors import TuningError
from headrace.ir.device import Device
from headrace.ir.evidence import Answer, Rung, bucket
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Spec

Default = Callable[[Spec, tuple[int, ...], Device], Schedule]


def tune(
    tasks: Iterable[Task],
    device: Device,
    store: Store,
    budget_seconds: float,
    progress: Callable[[Progress], None] | None = None,
    seed: int = 0,
    *,
    mode: Mode | str = Mode.TUNE,
    registry: str = CODEGEN,
    default: Default | None = None,
    bench: Bench | None = None,
    again: bool = False,
) -> TuneReport:
    """Find the best Schedule of each task and record everything that was observed.

    Defaults and `library` of all tasks are measured first; what is left of the budget is then shared out by
    weight times measured time. A task that was tuned on this very setup before costs nothing. Ctrl-C ends
    the run: finished trials are kept, the report says `interrupted`, and the next call goes on from there.

    Args:
        budget_seconds: wall time for all tasks together; the trial under way when it ends is dropped.
        progress: called after each event.
        seed: of the search and of the operands' content.
        mode: see Mode; `tune` is the only one that searches.
        registry: `module:class` of the dataflows, loaded here and in the worker.
        default: the Schedule that is used without tuning, which a tuned one has to beat beyond noise; the
            first dataflow's own default when not given.
        bench: where candidates run, a worker process when not given.
        again: tune even what is known.

    Raises:
        TuningError: unknown mode, or a budget that is no positive number.
    """
    if mode not in tuple(Mode):
        raise TuningError(f"unknown mode {mode!r}; known: {', '.join(Mode)}")
    if not budget_seconds > 0:
        raise TuningError(f"budget of {budget_seconds} s; give a positive number of seconds")
    dataflows = load_registry(registry)
    run = _Run(
        tasks=_merge(tasks),
        device=device,
        store=store,
        budget=Budget(budget_seconds),
        report=progress or (lambda event: None),
        seed=seed,
        registry=dataflows,
        default=default or first_default(dataflows),
        bench=bench or WorkerBench(registry, device, [seed * 1000 + at for at in range(SEEDS)]),
    )
    try:
        match Mode(mode):
            case Mode.OFF:
                return TuneReport((), 0.0)
            case Mode.REPLAY:
                return run.replay()
            case Mode.VERIFY:
                return run.verify()
            case Mode.TUNE:
                return run.tune(again)
    finally:
        run.bench.stop()


def first_default(registry: Registry) -> Default:
    """The first dataflow's own default, `library` where there is none."""

    def default(spec: Spec, sizes: tuple[int, ...], device: Device) -> Schedule:
        for flow in registry.dataflows(spec, sizes, device):
            if flow.name != LIBRARY.dataflow:
                return flow.default(spec, sizes, device)
        return LIBRARY

    return default


def _merge(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """One task for each operation and size bucket, weights added up, at the sizes of the heaviest."""
    found: dict[tuple[Spec, tuple[int, ...]], Task] = {}
    for task in tasks:
        key = (task.spec, bucket(task.sizes))
        other = found.get(key)
        if other is not None:
            heavier = other if other.weight >= task.weight else task
            task = replace(heavier, weight=other.weight + task.weight)
        found[key] = task
    return tuple(found.values())


@dataclass(frozen=True)
class _Run:
    tasks: tuple[Task, ...]
    device: Device
    store: Store
    budget: Budget
    report: Callable[[Progress], None]
    seed: int
    registry: Registry
    default: Default
    bench: Bench

    def replay(self) -> TuneReport:
        """Answers only: no process is started, nothing is written."""
        return self._close([TaskResult(task, Status.KNOWN, self._answer(task)) for task in self.tasks])

    def verify(self) -> TuneReport:
        """Check the known best of each task again; a wrong one becomes a row and is not used any more."""
        results: list[TaskResult] = []
        interrupted = False
        try:
            for index, task in enumerate(self.tasks):
                answer = self._answer(task)
                if answer is None or self.budget.left <= 0:
                    results.append(TaskResult(task, Status.SKIPPED, answer))
                    continue
                right = self._job(index, task).check_again(answer.schedule)
                status = Status.SKIPPED if right is None else Status.VERIFIED if right else Status.REFUTED
                results.append(TaskResult(task, status, answer if right is not False else self._answer(task)))
        except KeyboardInterrupt:
            interrupted = True
        return self._close(results, "verify", interrupted=interrupted)

    def tune(self, again: bool) -> TuneReport:
        results: dict[int, TaskResult] = {}
        jobs: dict[int, Job] = {}
        interrupted = False
        try:
            for index, task in enumerate(self.tasks):
                job = self._job(index, task)
                answer = self._answer(task)
                if not again and answer is not None and answer.rung is Rung.EXACT and job.finished:
                    results[index] = TaskResult(task, Status.KNOWN, answer)
                    job.say("known", answer.schedule, best=answer.seconds)
                else:
                    jobs[index] = job
            ready = {index: job for index, job in jobs.items() if job.start()}
            shares = {index: job.task.weight * job.default_seconds for index, job in ready.items()}
            # The largest first: what they leave of their share goes to the others.
            for index in sorted(shares, key=lambda index: (-shares[index], index)):
                rest = sum(shares.values())
                ready[index].search(self.budget.left * shares.pop(index) / rest if rest else 0.0)
        except KeyboardInterrupt:
            interrupted = True
        for index, job in jobs.items():
            results[index] = job.result(self._answer(job.task))
        return self._close([results[index] for index in sorted(results)], "tune", interrupted=interrupted)

    def _job(self, index: int, task: Task) -> Job:
        return Job(
            index=index,
            total=len(self.tasks),
            task=task,
            device=self.device,
            store=self.store,
            budget=self.budget,
            report=self.report,
            seed=self.seed,
            registry=self.registry,
            default=self.default(task.spec, task.sizes, self.device),
            bench=self.bench,
        )

    def _answer(self, task: Task) -> Answer | None:
        return DatabaseEvidence(self.store, self.registry).best(task.spec, task.sizes, self.device)

    def _close(
        self, results: Sequence[TaskResult], kind: str | None = None, *, interrupted: bool = False
    ) -> TuneReport:
        report = TuneReport(tuple(results), self.budget.elapsed, interrupted)
        if kind is not None:
            cost = (report.seconds, len(report.results), report.trials, report.failures)
            self.store.record_run(Run(kind, time.time(), *cost, interrupted=interrupted))
        return report
