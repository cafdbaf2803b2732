"""Tune what a model runs, and show how it goes: a bar on a terminal, a line now and then through a pipe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from headrace.compiler.cli.output import Output, seconds, shortened
from headrace.compiler.decisions import Decision
from headrace.compiler.records import GraphRecord
from headrace.compiler.scopes import RUNTIME
from headrace.ir.evidence import Rung
from headrace.ir.spec import parse_spec

if TYPE_CHECKING:
    from headrace.autotune.db.store import Store
    from headrace.autotune.report import Progress, Task, TaskResult, TuneReport
    from headrace.ir.device import Device

EVERY = 10.0


def tasks(
    decisions: Iterable[Decision],
    graphs: Iterable[GraphRecord],
    times: Callable[[Decision], float] = lambda decision: 1.0,
) -> list[Task]:
    """What ran, as tuning tasks: each weighs as often as its Spec was claimed, times how often that runs."""
    from headrace.autotune.report import Task

    claimed = Counter(claim.spec for graph in graphs for claim in graph.claims)
    return [
        Task(parse_spec(decision.spec), decision.sizes, claimed.get(decision.spec, 1) * times(decision))
        for decision in decisions
    ]


def unknown(wanted: Iterable[Task], store: Store, device: Device) -> list[Task]:
    """The tasks for which the database has no answer measured on this very setup."""
    from headrace.autotune.evidence import DatabaseEvidence

    evidence = DatabaseEvidence(store)
    answers = ((task, evidence.best(task.spec, task.sizes, device)) for task in wanted)
    return [task for task, answer in answers if answer is None or answer.rung is not Rung.EXACT]


def tune(
    wanted: Iterable[Task],
    store: Store,
    device: Device,
    budget: float,
    out: Output,
    *,
    seed: int = 0,
    mode: str = "tune",
) -> TuneReport:
    """Tune within `budget` seconds and let compiled graphs take the results at their next call.

    Raises:
        TuningError: the mode or the budget makes no sense.
    """
    from headrace.autotune.tuner import tune as run
    from headrace.compiler import resolve

    with _display(out, budget) as shown:
        report = run(wanted, device, store, budget, shown, seed, mode=mode, default=resolve.untuned)
    RUNTIME.forget()
    return report


def summary(out: Output, report: TuneReport) -> None:
    """A table of the tasks and one line of cost."""
    out.table(
        ("operation", "sizes", "status", "schedule", "median", "over default", "trials"),
        (
            (
                shortened(str(result.task.spec), 56),
                "x".join(map(str, result.task.sizes)),
                result.status.value,
                shortened(str(result.answer.schedule), 48) if result.answer else "-",
                seconds(result.answer.seconds if result.answer else None),
                f"{result.gain:.2f}x" if result.gain is not None else "-",
                result.trials,
            )
            for result in report.results
        ),
    )
    known = sum(result.status.value == "known" for result in report.results)
    failed: Counter[str] = Counter()
    for result in report.results:
        failed.update(result.failures)
    causes = "".join(f", {count} {cause}" for cause, count in sorted(failed.items()))
    ending = "; interrupted, finished trials are kept" if report.interrupted else ""
    out.line(
        f"{report.trials} trials over {len(report.results)} operations in {report.seconds:.0f} s; "
        f"{known} known before{causes}{ending}"
    )


def document(report: TuneReport) -> dict[str, Any]:
    """The stable JSON of a run."""
    return {
        "seconds": report.seconds,
        "trials": report.trials,
        "failures": report.failures,
        "interrupted": report.interrupted,
        "tasks": [_task(result) for result in report.results],
    }


def _task(result: TaskResult) -> dict[str, Any]:
    return {
        "spec": str(result.task.spec),
        "sizes": list(result.task.sizes),
        "weight": result.task.weight,
        "status": result.status.value,
        "schedule": str(result.answer.schedule) if result.answer else None,
        "seconds": result.answer.seconds if result.answer else None,
        "default_seconds": result.default_seconds,
        "library_seconds": result.library_seconds,
        "gain": result.gain,
        "trials": result.trials,
        "failures": result.failures,
    }


def _display(out: Output, budget: float) -> AbstractContextManager[Callable[[Progress], None]]:
    if out.json:
        return nullcontext(lambda event: None)
    return _Bar(out, budget) if out.terminal else nullcontext(_Lines(out))


def _told(event: Progress) -> str:
    best = f", best {seconds(event.best)}" if event.best is not None else ""
    failures = f", {event.failures} failed" if event.failures else ""
    what = f"{event.task.spec.kind} {'x'.join(map(str, event.task.sizes))}"
    return f"operation {event.index + 1} of {event.total} ({what}): {event.trials} trials{failures}{best}"


class _Lines:
    """A line every ten seconds."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._next = time.monotonic() + EVERY

    def __call__(self, event: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._out.line(f"{event.elapsed:.0f} of {event.budget:.0f} s: {_told(event)}")


class _Bar(AbstractContextManager["_Bar"]):
    """A bar that fills with the budget, and the best so far beside it."""

    def __init__(self, out: Output, budget: float) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=out.console,
            transient=True,
        )
        self._bar = self._progress.add_task("measuring the defaults", total=budget)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, event: Progress) -> None:
        self._progress.update(self._bar, completed=event.elapsed, description=_told(event))
