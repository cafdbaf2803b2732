"""Run a subject through capture, passes and emit, without Inductor: seconds instead of minutes.

The rewritten graphs are then executed node by node, so every claimed kernel resolves its Schedule exactly as
it does under `torch.compile(backend="headrace")`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from headrace import upstream
from headrace.compiler.cli.subject import Subject
from headrace.compiler.decisions import Decision
from headrace.compiler.options import Options
from headrace.compiler.records import GraphRecord
from headrace.compiler.scopes import RUNTIME, entered


@dataclass(frozen=True, slots=True)
class Traced:
    """What became of a subject: its graphs in the order of tracing, graph breaks by reason, and decisions."""

    name: str
    graphs: tuple[GraphRecord, ...]
    breaks: dict[str, int]
    decisions: tuple[Decision, ...]


def trace(subject: Subject, options: Options) -> Traced:
    """Trace a subject with its example arguments and run it once."""
    from headrace.compiler import licences, resolve
    from headrace.compiler.backend import interpreted
    from headrace.compiler.rewrite import Rewriting

    records: list[GraphRecord] = []
    # Here and once: a name that the database does not know is the user's mistake, not a failed rewrite.
    pipeline = functools.partial(resolve.default_pipeline, licences=licences.load(options))

    def backend(module: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        rewriting = Rewriting(f"{subject.name}#{len(records)}", options, pipeline)
        compiled = interpreted(module, inputs, rewriting)
        if rewriting.record is not None:
            records.append(rewriting.record)
        return compiled

    scope = RUNTIME.scope(options)
    breaks = _graph_breaks()
    scope.forget()  # so that what is found below was decided for this subject
    compiled = torch.compile(subject.function, backend=backend)
    with torch.no_grad(), upstream.many_recompilations(), entered(scope):
        subject.run(compiled)
    specs = {claim.spec for record in records for claim in record.claims}
    decisions = tuple(decision for decision in scope.decisions() if decision.spec in specs)
    return Traced(subject.name, tuple(records), dict(_graph_breaks() - breaks), decisions)


def _graph_breaks() -> Counter[str]:
    counters = upstream.fetch("torch._dynamo.utils", "counters")
    return Counter(dict(counters["graph_break"]))
