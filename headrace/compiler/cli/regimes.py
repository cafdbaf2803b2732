"""Regime tables on the command line: printed, drawn, and measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.compiler.cli import plot
from headrace.compiler.cli.database import Database, opened
from headrace.compiler.cli.output import Json, Output, seconds
from headrace.compiler.cli.subject import HELP, load
from headrace.compiler.cli.trace import trace
from headrace.compiler.options import Options
from headrace.errors import SubjectError, TuningError
from headrace.ir.evidence import NoEvidence
from headrace.ir.regime import Curve, RegimeTable
from headrace.ir.spec import Gemm, Spec, parse_spec

if TYPE_CHECKING:
    from headrace.autotune.db.store import Store
    from headrace.autotune.regime_scan import Raced, Scan
    from headrace.ir.device import Device

SUBJECT = f"{HELP}; or the text of one Gemm, as `headrace db list` prints it"


def products(subject: str, claim: str) -> tuple[Gemm, ...]:
    """The unbatched Gemms that a subject runs, or the one that it is, each once.

    Raises:
        SubjectError: there are none.
    """
    if subject.lstrip().startswith("Gemm{"):
        found: Iterable[Spec] = [parse_spec(subject.strip())]
    else:
        traced = [trace(each, Options(claim=claim, tuning="off")) for each in load(subject)]
        found = [
            parse_spec(text)
            for text in dict.fromkeys(
                claim.spec for each in traced for graph in each.graphs for claim in graph.claims
            )
        ]
    specs = tuple(spec for spec in found if isinstance(spec, Gemm) and not spec.batched)
    if not specs:
        raise SubjectError(
            f"{subject[:60]} has no product of an activation and weights that headrace computes, so there "
            "are no regimes; `headrace explain` says what it has"
        )
    return specs


def title(spec: Gemm) -> str:
    """`[N, K] = [12288, 4096] bf16 nk`, with what follows the product where something does."""
    n = " + ".join(str(weight.n) for weight in spec.weights)
    weights = sorted({f"{weight.dtype.value} {weight.layout}" for weight in spec.weights})
    plain = all(str(output.expr).startswith("acc_") for output in spec.outputs)
    after = "" if plain else "; " + ", ".join(str(output.expr) for output in spec.outputs)
    return f"[N, K] = [{n}, {spec.k}] x {spec.x.value}, w {', '.join(weights)}{after}"


def table_of(spec: Gemm, store: Store, device: Device) -> RegimeTable:
    """The table as measured on this very setup, else the cost model's with its times."""
    from headrace.autotune.evidence import DatabaseEvidence
    from headrace.autotune.regime_scan import GRID
    from headrace.compiler.resolve import modelled
    from headrace.passes.choose import rank

    measured = DatabaseEvidence(store).regimes(spec, device)
    if measured is not None:
        return measured
    times: dict[Any, list[tuple[int, float]]] = {}
    for m in GRID:
        for ranked in rank(spec, (m,), device, NoEvidence()):
            if ranked.seconds is not None:
                times.setdefault(ranked.schedule, []).append((m, ranked.seconds))
    curves = tuple(Curve(schedule, tuple(points)) for schedule, points in times.items())
    return replace(modelled(spec, device), curves=curves, grid=GRID)


def show(out: Output, subject: str, claim: str, drawing: Path | None, database: Path | None = None) -> None:
    """Print the table of each product of a subject, and draw it."""
    from headrace.autotune.evidence import DatabaseEvidence
    from headrace.compiler.devices import host_device

    if drawing is not None and (drawing.is_dir() or not drawing.absolute().parent.is_dir()):
        what = "it is a folder" if drawing.is_dir() else "its folder does not exist"
        raise SubjectError(f"cannot write {drawing}: {what}")
    device = host_device()
    specs = products(subject, claim)
    with opened(database) as store:
        found = [(spec, table_of(spec, store, device)) for spec in specs]
        silent = {spec: DatabaseEvidence(store).silent(spec, device) for spec in specs}
    for spec, table in found:
        present(out, spec, table)
        for reason, count in silent[spec].items():
            out.line(f"{count} rows of the database do not speak: {reason}")
    if drawing is not None:
        drawing.write_text(plot.svg([(title(spec), table) for spec, table in found]), encoding="utf-8")
        out.line(f"drawn: {drawing}")
    out.result(
        {"regimes": [table.as_json() | {"silent": silent[spec]} for spec, table in found], "plot": drawing}
    )


def present(out: Output, spec: Gemm, table: RegimeTable) -> None:
    """One table: its regimes, M1 and M2, the evidence, and the curves in characters."""
    out.heading(title(spec))
    times = {str(curve.schedule): dict(curve.points) for curve in table.curves}
    out.table(
        ("rows M", "schedule", "end, 95 %", "time at the end"),
        [
            (
                table.span(at),
                str(regime.schedule),
                "-" if regime.interval is None else f"{regime.interval[0]} to {regime.interval[1]}",
                _near(times.get(str(regime.schedule), {}), table, at),
            )
            for at, regime in enumerate(table.regimes)
        ],
    )
    m1, m2 = table.m1, table.m2
    out.line(
        f"M1 = {m1 or 'beyond the table'} (GEMV ends), M2 = {m2 or 'beyond the table'} (flat product ends)"
    )
    rows = f"{len(table.evidence)} rows of the database, at M = {', '.join(map(str, table.grid))}"
    out.line(
        f"voice: {table.voice}" + (f", {rows}" if table.evidence else "; headrace tune regimes measures")
    )
    for line in plot.characters(table):
        out.line(line)


def _near(times: dict[int, float], table: RegimeTable, at: int) -> str:
    """The time at the largest M of the regime that has one."""
    end = table.regimes[at].rows
    inside = [m for m in times if m >= table.start(at) and (end is None or m <= end)]
    return f"{seconds(times[max(inside)])} at {max(inside)}" if inside else "-"


def regimes(
    subject: Annotated[str, typer.Argument(help=SUBJECT)],
    budget: Annotated[float, typer.Option("--budget", help="Seconds for all products together.")] = 600.0,
    grid: Annotated[
        str, typer.Option("--grid", help="M's to measure at, at most a factor of 2 apart: 1,2,4,8.")
    ] = "",
    claim: Annotated[str, typer.Option("--claim", help="auto or all, as the backend's option.")] = "auto",
    database: Database = None,
    json: Json = False,
) -> None:
    """Race all dataflows of each matrix product over a grid of M, and derive where which one serves.

    What earlier runs measured here costs nothing; Ctrl-C keeps what is finished. Compiled graphs compare M
    with the thresholds at run time and never recompile for it.

    Example: headrace tune regimes model.pt2 --budget 600
    """
    from headrace.autotune.regime_scan import GRID, measure_regimes
    from headrace.compiler.devices import host_device

    out = Output(json)
    chosen = _grid(grid) or GRID
    if not budget > 0:
        raise TuningError(f"budget of {budget} s; give a positive number of seconds")
    specs, device = products(subject, claim), host_device()
    scans: list[tuple[Gemm, Scan]] = []
    left = budget
    with opened(database, readonly=False) as store:
        for at, spec in enumerate(specs):
            out.heading(title(spec))
            share = left / (len(specs) - at)
            scan = measure_regimes(
                spec, device, store, max(share, 1e-3), grid=chosen, progress=lambda raced: _tell(out, raced)
            )
            scans.append((spec, scan))
            left -= scan.seconds
            _summary(out, spec, scan)
            if scan.interrupted:
                break
        place = store.path
    if place is not None:
        out.line(f"database: {place}")
    out.result({"products": [_document(spec, scan) for spec, scan in scans], "database": place})
    if any(scan.interrupted for _, scan in scans):
        raise typer.Exit(130)


def _grid(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SubjectError(f"--grid {text}: give whole numbers with commas, e.g. 1,2,4,8,16") from None


def _tell(out: Output, raced: Raced) -> None:
    best = sorted(raced.seconds.items(), key=lambda each: (each[1], str(each[0])))
    schedule, time = best[0]
    second = f", then {best[1][0].dataflow} at {best[1][1] / time:.2f}x" if len(best) > 1 else ""
    out.line(f"{raced.elapsed:5.0f} s  M = {raced.m}: {schedule} in {seconds(time)}{second}")


def _summary(out: Output, spec: Gemm, scan: Scan) -> None:
    failed = "".join(f", {count} {cause}" for cause, count in sorted(scan.failures.items()))
    out.line(f"{scan.races} races in {scan.seconds:.0f} s{failed}")
    if scan.left:
        out.line(
            f"the budget ended before M = {', '.join(map(str, scan.left))}; the same command goes on there"
        )
    if scan.table is None:
        out.line("too little was measured for a table: it takes three M's, each at most twice the one before")
        return
    present(out, spec, scan.table)


def _document(spec: Gemm, scan: Scan) -> dict[str, Any]:
    return {
        "spec": str(spec),
        "table": None if scan.table is None else scan.table.as_json(),
        "left": list(scan.left),
        "failures": scan.failures,
        "races": scan.races,
        "seconds": scan.seconds,
        "interrupted": scan.interrupted,
    }
