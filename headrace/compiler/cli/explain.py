"""`headrace explain`: what is claimed, what is not and why, and which schedule serves each kernel."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.compiler.cli import regimes as regime_tables
from headrace.compiler.cli.database import Database
from headrace.compiler.cli.output import Json, Output, seconds, shortened
from headrace.compiler.cli.subject import HELP, load
from headrace.compiler.cli.trace import Traced, trace
from headrace.compiler.decisions import Decision
from headrace.compiler.options import Options
from headrace.compiler.records import GraphRecord
from headrace.configuration import current
from headrace.errors import SubjectError, UnknownOption


def explain(
    subject: Annotated[str, typer.Argument(help=HELP)],
    claim: Annotated[
        str, typer.Option("--claim", help="auto, all or none, as the backend's option.")
    ] = "auto",
    full: Annotated[bool, typer.Option("--full", help="Every node on a line of its own.")] = False,
    ir: Annotated[
        Path | None, typer.Option("--ir", help="Write each graph as text into this folder.")
    ] = None,
    source: Annotated[
        bool, typer.Option("--source", help="Print the rendered Triton of each kernel.")
    ] = False,
    regimes: Annotated[
        bool,
        typer.Option(
            "--regimes", help="Which schedule serves which number of rows M of each product, instead."
        ),
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="With --regimes: draw them into this SVG file.")
    ] = None,
    database: Database = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="A calibration's name, as the backend's option.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what headrace makes of a model: kernels, schedules, and a reason for everything it leaves.

    Examples: headrace explain smollm2;  headrace explain smollm2 --regimes --plot regimes.svg
    """
    out = Output(json)
    calibration = calibration or current().settings.calibration
    if not regimes and (plot is not None or (database is not None and calibration is None)):
        raise UnknownOption(
            "--plot belongs to --regimes, --database to --regimes or --calibration: give one of these too"
        )
    if regimes:
        regime_tables.show(out, subject, claim, plot, database)
        return
    if ir is not None:
        _writable(ir)
    options = Options(
        claim=claim, dump=None if ir is None else str(ir), calibration=calibration,
        database=None if database is None else str(database),
    )  # fmt: skip
    found = [trace(each, options) for each in load(subject)]
    for traced in found:
        _show(out, traced, full=full)
    if ir is not None:
        out.line(f"graphs as text: {ir}")
    if source:
        _sources(out, [decision for traced in found for decision in traced.decisions])
    out.result([document(traced) for traced in found])


def _writable(folder: Path) -> None:
    """Make a folder where there is none.

    Raises:
        SubjectError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SubjectError(f"cannot write graphs into {folder}: {error.strerror}") from None


def document(traced: Traced) -> dict[str, Any]:
    """The stable JSON of one subject."""
    return {
        "subject": traced.name,
        "graph_breaks": traced.breaks,
        "graphs": [
            {
                "nodes": graph.nodes,
                "kinds": kinds(graph),
                "claims": [dataclasses.asdict(claim) for claim in graph.claims],
                "unclaimed": [dataclasses.asdict(left) for left in graph.unclaimed],
                "note": graph.note,
                "seconds": graph.seconds,
            }
            for graph in traced.graphs
        ],
        "decisions": [dataclasses.asdict(decision) for decision in traced.decisions],
    }


def kinds(graph: GraphRecord) -> dict[str, int]:
    """How many regions of each kind were claimed: `{"Attention": 30, "Gemm": 121, "Rows": 61}`."""
    return dict(sorted(Counter(claim.kind for claim in graph.claims).items()))


def reasons(graph: GraphRecord) -> list[tuple[int, str, str]]:
    """(count, operator, reason) of what was left, most frequent first."""
    # What no pass in particular declined is listed by the pass `unclaimed`, which the heading says already.
    counted = Counter((left.op, left.reason.removeprefix("unclaimed: ")) for left in graph.unclaimed)
    return [(count, op, reason) for (op, reason), count in counted.most_common()]


def _show(out: Output, traced: Traced, *, full: bool) -> None:
    for at, graph in enumerate(traced.graphs):
        name = traced.name if len(traced.graphs) == 1 else f"{traced.name}, graph {at + 1}"
        out.heading(name)
        claimed = ", ".join(f"{count} {kind}" for kind, count in kinds(graph).items()) or "nothing"
        out.line(
            f"{graph.nodes} nodes; claimed: {claimed}; left to Inductor: {len(graph.unclaimed)} compute nodes"
        )
        if graph.note:
            out.line(graph.note)
        _claims(out, graph, traced.decisions, full=full)
        _stabilizers(out, graph)
        if graph.unclaimed:
            out.heading("not claimed")
        if full:
            out.table(
                ("node", "operator", "reason", "where"),
                ((left.node, left.op, left.reason, left.source) for left in graph.unclaimed),
            )
        else:
            out.table(("nodes", "operator", "reason"), reasons(graph))
    for reason, count in traced.breaks.items():
        out.line(f"graph break ({count}): {reason}")


def _claims(out: Output, graph: GraphRecord, decisions: tuple[Decision, ...], *, full: bool) -> None:
    if not graph.claims:
        return
    chosen = {decision.spec: decision for decision in decisions}
    if full:
        out.table(
            ("kernel", "replaces", "spec", "where"),
            ((claim.node, len(claim.replaces), claim.spec, claim.source) for claim in graph.claims),
        )
        return
    counted = Counter(claim.spec for claim in graph.claims)
    rows = []
    for spec, count in counted.most_common():
        decision = chosen.get(spec)
        rows.append(
            (count, shortened(spec, 90), decision.schedule if decision else "-",
             _because(decision), seconds(decision.seconds if decision else None))
        )  # fmt: skip
    out.table(("kernels", "spec", "schedule", "because", "median"), rows)


def _stabilizers(out: Output, graph: GraphRecord) -> None:
    """What a calibration or a bound permits the attentions, and why not."""
    said: dict[str, list[str]] = {}
    for claim in graph.claims:
        if claim.note:
            said.setdefault(claim.note, []).append(claim.site or claim.node)
    if said:
        out.heading("unified maximum")
        out.table(
            ("sites", "first", "why"),
            ((len(found), shortened(found[0], 40), note) for note, found in said.items()),
        )


def _because(decision: Decision | None) -> str:
    return "-" if decision is None else decision.reason or decision.rung


def _sources(out: Output, decisions: list[Decision]) -> None:
    from headrace.codegen.kernel import instantiate
    from headrace.compiler.devices import host_device
    from headrace.ir.schedule import Schedule
    from headrace.ir.spec import parse_spec

    seen: set[tuple[str, str]] = set()
    for decision in decisions:
        if (decision.spec, decision.schedule) in seen:
            continue
        seen.add((decision.spec, decision.schedule))
        kernel = instantiate(parse_spec(decision.spec), Schedule.parse(decision.schedule), host_device())
        out.heading(f"{decision.schedule} for {shortened(decision.spec)}")
        out.line(kernel.source or "PyTorch's own operators")
