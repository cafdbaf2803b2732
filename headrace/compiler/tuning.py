"""`headrace.tune`: run a model once, then measure Schedules for the Specs and sizes that it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.compiler import resolve
from headrace.compiler.database import open_store
from headrace.compiler.devices import host_device
from headrace.compiler.report import Report, compiled, explain
from headrace.compiler.scopes import RUNTIME
from headrace.errors import SettingsError
from headrace.ir.spec import parse_spec

if TYPE_CHECKING:
    from headrace.autotune.report import Task


def tasks(report: Report) -> list[Task]:
    """What has run, as tuning tasks; each weighs as often as its Spec stands in the graphs."""
    from headrace.autotune.report import Task

    times = Counter(claim.spec for claim in report.claims)
    return [
        Task(parse_spec(decision.spec), decision.sizes, float(times[decision.spec]))
        for decision in report.decisions
    ]


def tune(
    function: Callable[..., Any],
    *,
    budget: float = 60.0,
    database: str | None = None,
    callback: Callable[[Any], None] | None = None,
) -> Callable[..., Any]:
    """Tune a model for given inputs: `headrace.tune(compiled, budget=60)(*inputs)`.

    Runs the function once, so that everything is compiled and its sizes are seen, then measures within
    `budget` seconds and writes to the database. Compiled graphs take the new Schedules at their next call;
    nothing recompiles.

    Returns:
        A function that takes the inputs and returns what `headrace.autotune` says about the run.

    Raises:
        NothingToExplain: no graph compiled by headrace ran.
    """

    def run(*arguments: Any, **keywords: Any) -> Any:
        from headrace.autotune.tuner import tune as measure

        report = explain(compiled(function))(*arguments, **keywords)
        store = open_store(database or report.database)
        if store is None:
            raise SettingsError("there is no database to write to; name one: tune(..., database=PATH)")
        wanted, device = tasks(report), host_device(database or report.database)
        with store:
            result = measure(wanted, device, store, budget, callback, default=resolve.untuned)
        RUNTIME.forget()
        return result

    return run
