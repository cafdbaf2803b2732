"""`headrace calibrate`: score ranges of a model's attentions, and where a unified maximum is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.compiler.cli.database import Database
from headrace.compiler.cli.output import Json, Output, shortened
from headrace.compiler.cli.subject import HELP

if TYPE_CHECKING:
    from headrace.autotune.db.calibrations import HeadRow


def calibrate(
    subject: Annotated[str, typer.Argument(help=HELP)],
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Texts, for a model that has a tokenizer.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A text file, one prompt a line; or a .pt file: a list of argument tuples."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What the calibration is called; the subject's name.")
    ] = None,
    limit: Annotated[
        float, typer.Option("--limit", help="The share of rows of a head that may fall back.")
    ] = 1e-3,
    phi_step: Annotated[int, typer.Option("--phi-step", help="phi is a multiple of it, in nats.")] = 16,
    full: Annotated[bool, typer.Option("--full", help="Every head on a line of its own.")] = False,
    database: Database = None,
    json: Json = False,
) -> None:
    """Record what enters exp in every attention, and how many rows would leave a unified maximum's range.

    Example: headrace calibrate smollm2 --data prompts.txt --name chat
    """
    from headrace.autotune.db.recovery import refuse_foreign
    from headrace.compiler.calibrate import calibrate as run
    from headrace.compiler.cli.prompts import feed
    from headrace.configuration import current

    out = Output(json)
    path = database or current().database_path
    refuse_foreign(path)
    given = feed(subject, prompts or [], data)
    found = run(
        given.function, given.batches, name=name or given.name, limit=limit, step=phi_step,
        database=str(path), before=given.before,
    )  # fmt: skip
    sites = by_site(found.rows)
    out.line(f"calibration {found.name!r}: {found.batches} batches, {len(sites)} attention sites")
    out.table(
        ("site", "head", "scores", "99.99 %", "row maxima", "phi", "rows", "fall back", "unified maximum"),
        (_line(rows) for site in sites for rows in ([[row] for row in site] if full else [site])),
    )
    refused = sum(not granted(site) for site in sites)
    out.line(f"{len(sites) - refused} sites may use it, {refused} are refused (limit {limit:.2%} of rows)")
    out.line(f"database: {path}")
    out.line(f'use: torch.compile(model, backend="headrace", options={{"calibration": "{found.name}"}})')
    out.result(document(found.rows, found.name, found.batches))


def by_site(rows: tuple[HeadRow, ...]) -> list[list[HeadRow]]:
    """The rows of each site, in order."""
    found: dict[tuple[str, int], list[HeadRow]] = {}
    for row in rows:
        found.setdefault((row.fingerprint, row.place), []).append(row)
    return list(found.values())


def granted(rows: list[HeadRow]) -> bool:
    return max(row.rate for row in rows) <= rows[0].limit


def _line(rows: list[HeadRow]) -> tuple[object, ...]:
    worst = max(row.rate for row in rows)
    return (
        shortened(rows[0].site, 40),
        rows[0].head if len(rows) == 1 else f"{len(rows)} heads",
        f"{min(row.score_min for row in rows):.1f} … {max(row.score_max for row in rows):.1f}",
        f"{min(row.score_low for row in rows):.1f} … {max(row.score_high for row in rows):.1f}",
        f"{min(row.peak_min for row in rows):.1f} … {max(row.peak_max for row in rows):.1f}",
        rows[0].phi,
        sum(row.rows for row in rows),
        sum(row.fallback_rows for row in rows),
        "permitted" if granted(rows) else f"refused: {worst:.2%} of a head's rows",
    )


def document(rows: tuple[HeadRow, ...], name: str, batches: int) -> dict[str, Any]:
    """The stable JSON of a calibration."""
    return {
        "name": name,
        "batches": batches,
        "sites": [
            {
                "site": site[0].site,
                "fingerprint": site[0].fingerprint,
                "form": site[0].form,
                "phi": site[0].phi,
                "limit": site[0].limit,
                "permitted": granted(site),
                "heads": [
                    {
                        "head": row.head,
                        "rows": row.rows,
                        "fallback_rows": row.fallback_rows,
                        "scores": [row.score_min, row.score_low, row.score_high, row.score_max],
                        "row_maxima": [row.peak_min, row.peak_max],
                        "log_sums": [row.sum_min, row.sum_max],
                        "lengths": [
                            {"keys": part.keys, "rows": part.rows, "fallback_rows": part.fallback_rows}
                            for part in row.lengths
                        ],
                    }
                    for row in site
                ],
            }
            for site in by_site(rows)
        ],
    }
