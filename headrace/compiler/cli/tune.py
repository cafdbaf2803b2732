"""`headrace tune`: measure schedules for what a model runs, within a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.compiler.cli import regimes, tuning
from headrace.compiler.cli.database import Database, opened
from headrace.compiler.cli.output import Json, Output
from headrace.compiler.cli.subject import HELP, load
from headrace.compiler.cli.trace import trace
from headrace.compiler.options import Options

app = typer.Typer(help="Measure schedules and remember them.", no_args_is_help=True, add_completion=False)


@app.command()
def run(
    subject: Annotated[str, typer.Argument(help=HELP)],
    budget: Annotated[float, typer.Option("--budget", help="Seconds for all measurements together.")] = 60.0,
    mode: Annotated[str, typer.Option("--mode", help="tune, replay or verify.")] = "tune",
    claim: Annotated[str, typer.Option("--claim", help="auto or all, as the backend's option.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the search and of the operands' content.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be tuned, and stop.")] = False,
    database: Database = None,
    json: Json = False,
) -> None:
    """Tune all that a model runs; Ctrl-C keeps what is finished, and the same command goes on from there.

    Example: headrace tune run model.pt2 --budget 120
    """
    from headrace.compiler.devices import host_device, host_device_of_today

    out = Output(json)
    options = Options(claim=claim, tuning="off")
    traced = [trace(each, options) for each in load(subject)]
    wanted = [task for each in traced for task in tuning.tasks(each.decisions, each.graphs)]
    only_read = dry_run or mode == "replay"
    with opened(database, readonly=only_read) as store:
        device = host_device() if only_read else host_device_of_today(store)
        missing = tuning.unknown(wanted, store, device)
        out.line(f"{len(wanted)} operations, {len(missing)} of them unknown here; {budget:.0f} s at most")
        if dry_run or not wanted:
            out.table(
                ("operation", "sizes", "times"),
                ((task.spec, "x".join(map(str, task.sizes)), int(task.weight)) for task in wanted),
            )
            out.result(
                {
                    "operations": [
                        {"spec": str(task.spec), "sizes": list(task.sizes), "weight": task.weight}
                        for task in wanted
                    ],
                    "unknown": len(missing),
                }
            )
            return
        report = tuning.tune(wanted, store, device, budget, out, seed=seed, mode=mode)
        place = store.path
    tuning.summary(out, report)
    if place is not None:
        out.line(f"database: {place}")
    if report.interrupted:
        out.line(f"to go on: headrace tune run {subject} --budget {budget:.0f}")
    out.result({**tuning.document(report), "database": place})
    if report.interrupted:
        raise typer.Exit(130)


app.command("regimes")(regimes.regimes)
