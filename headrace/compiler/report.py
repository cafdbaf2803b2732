"""`headrace.explain`: what was claimed in each graph, what was not and why, and which Schedules serve."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.compiler.decisions import Decision
from headrace.compiler.records import Claim, GraphRecord, Unclaimed
from headrace.compiler.scopes import Scope
from headrace.errors import NothingToExplain


@dataclass(frozen=True, slots=True)
class Report:
    """What happened to the graphs of a model.

    Attributes:
        graphs: one record per distinct graph that ran, in the order in which they first ran.
        decisions: the Schedule of each claimed Spec in each size bucket that has run in this process.
        missing: keys of graphs that ran but whose records are gone (a cache answered, and the records folder
            was emptied): compile with fresh caches to see them.
        database: the path that the graph which ran last was compiled with; None stands for the settings' own.
    """

    graphs: tuple[GraphRecord, ...]
    decisions: tuple[Decision, ...]
    missing: tuple[str, ...] = ()
    database: str | None = None

    @property
    def claims(self) -> tuple[Claim, ...]:
        return tuple(claim for graph in self.graphs for claim in graph.claims)

    @property
    def unclaimed(self) -> tuple[Unclaimed, ...]:
        return tuple(left for graph in self.graphs for left in graph.unclaimed)

    @property
    def counts(self) -> dict[str, int]:
        """How many kernels of each kind were claimed."""
        return dict(sorted(Counter(claim.kind for claim in self.claims).items()))

    @property
    def from_database(self) -> int:
        """How many decisions rest on measurements in the database."""
        return sum(decision.reason.startswith("database") for decision in self.decisions)

    def as_json(self) -> dict[str, Any]:
        return {
            "graphs": [graph.as_json() for graph in self.graphs],
            "decisions": [dataclasses.asdict(decision) for decision in self.decisions],
            "counts": self.counts,
            "missing": list(self.missing),
        }

    def __str__(self) -> str:
        lines: list[str] = []
        for graph in self.graphs:
            lines.append(f"graph {graph.key} ({graph.kind}, {graph.nodes} nodes): {_counted(graph)}")
            if graph.note:
                lines.append(f"  {graph.note}")
            for (spec, kind), times in Counter((claim.spec, claim.kind) for claim in graph.claims).items():
                lines.append(f"  {times:4d} x {kind}: {_shortened(spec)}")
                lines += [
                    f"         at {_sizes(decision)}: {decision.schedule} ({decision.reason})"
                    for decision in self.decisions
                    if decision.spec == spec
                ]
            said = Counter(claim.note for claim in graph.claims if claim.note)
            lines += [f"  {times:4d} attention sites: {note}" for note, times in said.items()]
            reasons = Counter((left.op, left.reason) for left in graph.unclaimed)
            lines += [
                f"  {times:4d} x {op} left to Inductor: {reason}" for (op, reason), times in reasons.items()
            ]
        lines += [f"graph {key}: no record; compile with fresh caches to see it" for key in self.missing]
        lines.append(
            f"{len(self.decisions)} decisions, {self.from_database} from database, "
            f"{len(self.decisions) - self.from_database} by other means"
        )
        return "\n".join(lines)


def _counted(graph: GraphRecord) -> str:
    counts = Counter(claim.kind for claim in graph.claims)
    return ", ".join(f"{times} {kind}" for kind, times in sorted(counts.items())) or "nothing claimed"


def _shortened(text: str, width: int = 150) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _sizes(decision: Decision) -> str:
    return "x".join(map(str, decision.sizes))


def explain(subject: Callable[..., Any] | str) -> Any:
    """Explain a compiled function or model, or a graph by its key.

    `explain(compiled)(*inputs)` runs it once and reports on the graphs that ran; something that is not
    compiled yet is compiled with headrace first. `explain("3fa9...")` reports on one graph from its record.

    Returns:
        A Report for a key; otherwise a function that takes the inputs and returns a Report.

    Raises:
        NothingToExplain: no record has that key, or no graph of headrace ran.
    """
    from headrace.compiler.backend import records

    if isinstance(subject, str):
        found = records().find(subject)
        if found is None:
            raise NothingToExplain(
                f"no record of a graph {subject!r}; headrace.explain(model)(*inputs) makes one"
            )
        return _report([found], ())

    def run(*arguments: Any, **keywords: Any) -> Report:
        from headrace.compiler.backend import listening

        function = compiled(subject)
        with listening() as heard:
            function(*arguments, **keywords)
        keys = list(dict.fromkeys(graph.key for graph in heard))
        if not keys:
            raise NothingToExplain(
                "no graph compiled by headrace ran: was it compiled with backend='headrace', and did it run?"
            )
        known = {key: records().find(key) for key in keys}
        return _report(
            [record for record in known.values() if record is not None],
            tuple(key for key, record in known.items() if record is None),
            tuple(dict.fromkeys(graph.scope for graph in heard if graph.scope is not None)),
        )

    return run


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself when torch.compile made it, else the function compiled with headrace."""
    if hasattr(function, "_torchdynamo_orig_callable") or hasattr(function, "_orig_mod"):
        return function
    import torch

    from headrace.compiler.backend import backend

    return torch.compile(function, backend=backend)


def _report(graphs: Sequence[GraphRecord], missing: tuple[str, ...], scopes: Sequence[Scope] = ()) -> Report:
    specs = {claim.spec for graph in graphs for claim in graph.claims}
    decisions = (decision for scope in scopes for decision in scope.decisions())
    return Report(
        tuple(graphs),
        tuple(decision for decision in decisions if decision.spec in specs),
        missing,
        scopes[-1].options.database if scopes else None,
    )
