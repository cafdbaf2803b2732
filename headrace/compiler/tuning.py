"""`headrace.tune`: run a model once, then measure Schedules for the Specs and sizes that it ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.compiler import resolve
from headrace.compiler.report import compiled, explain
from headrace.compiler.runtime import RUNTIME, Decision
from headrace.ir.spec import parse_spec


def tasks(decisions: Sequence[Decision]) -> list[tuple[Any, list[tuple[int, ...]]]]:
    """(Spec, sizes to tune) for what has run, each Spec once."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for decision in decisions:
        found.setdefault(decision.spec, []).append(decision.sizes)
    return [(parse_spec(text), sizes) for text, sizes in found.items()]


def tune(
    function: Callable[..., Any],
    *,
    budget: float = 60.0,
    database: str | None = None,
    callback: Callable[[Any], None] | None = None,
) -> Callable[..., Any]:
    """Tune a model for given inputs: `headrace.tune(compiled, budget=60)(*inputs)`.

    Runs the function once, so that everything is compiled and its sizes are seen, then measures within `budget`
    seconds and writes to the database. Compiled graphs take the new Schedules at their next call; nothing recompiles.

    Returns:
        A function that takes the inputs and returns what `headrace.autotune` says about the run.

    Raises:
        NothingToExplain: no graph compiled by headrace ran.
    """

    def run(*arguments: Any, **keywords: Any) -> Any:
        from headrace.autotune.tune import tune_many

        report = explain(compiled(function))(*arguments, **keywords)
        store = resolve.open_store(database or resolve.in_use().database)
        result = tune_many(
            tasks(report.decisions), resolve.host_device(), store, budget_seconds=budget, callback=callback
        )
        RUNTIME.forget()
        return result

    return run
