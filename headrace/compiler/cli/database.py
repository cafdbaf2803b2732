"""`headrace db`: what the database of tuned results holds, and why it answers as it does."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.compiler.cli.output import Json, Output, seconds, shortened
from headrace.compiler.options import nearest
from headrace.errors import SpecSyntaxError, SubjectError, UnknownOption
from headrace.ir.spec import Attention, Gemm, Rows, Spec, parse_spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.autotune.db.rows import Observation
    from headrace.autotune.db.store import Store

app = typer.Typer(help="Look into the database of tuned results.", no_args_is_help=True, add_completion=False)
KINDS = (Attention.kind, Gemm.kind, Rows.kind)

Database = Annotated[
    Path | None,
    typer.Option("--database", help="A database file; without it, the one that the settings name."),
]


@contextmanager
def opened(path: Path | None, *, readonly: bool = True) -> Iterator[Store]:
    """The store of a file given by hand, or of the settings.

    Raises:
        SubjectError: a path was given by hand and there is no such file.
        DatabaseRefused: the file is something else.
    """
    from headrace.autotune.db.recovery import refuse_foreign
    from headrace.autotune.db.store import Store
    from headrace.configuration import current

    if path is not None:
        refuse_foreign(path)
    if path is not None and readonly and not path.exists():
        raise SubjectError(f"there is no database {path}")
    chosen = path or current().database_path
    if readonly and not chosen.exists():
        yield Store.in_memory()
        return
    with Store.open(chosen, readonly=readonly) as store:
        yield store


@app.command()
def info(database: Database = None, json: Json = False) -> None:
    """Where the database is and what it holds.

    Example: headrace db info
    """
    from headrace.autotune.db.calibrations import names
    from headrace.configuration import current

    out = Output(json)
    with opened(database) as store:
        held = store.info()
        runs = store.runs()
        calibrations = names(store.calibrations())
    path = held.path or database or current().database_path
    out.facts(
        [
            ("database", path),
            ("state", "in use" if held.path else "not created yet: tuning makes it"),
            ("rows", held.rows),
            ("operations", held.operations),
            ("damaged rows", held.damaged),
            ("tuning runs", len(runs)),
            ("calibrations", ", ".join(calibrations) or "none"),
        ]
    )
    if held.verdicts:
        out.heading("Rows by verdict")
        out.facts(held.verdicts.items())
        out.heading("Rows by machine")
        out.facts(held.environments.items())
    out.result(
        {
            "database": str(path),
            "exists": held.path is not None,
            "rows": held.rows,
            "operations": held.operations,
            "damaged": held.damaged,
            "verdicts": held.verdicts,
            "environments": held.environments,
            "runs": len(runs),
            "calibrations": list(calibrations),
        }
    )


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Option("--kind", help="Attention, Gemm or Rows; without it, all.")
    ] = None,
    database: Database = None,
    json: Json = False,
) -> None:
    """The operations that were measured, the best schedule seen for each, and how many candidates failed.

    Example: headrace db list --kind Gemm
    """
    out = Output(json)
    if kind is not None and kind.lower() not in map(str.lower, KINDS):
        raise UnknownOption(f"--kind {kind}{nearest(kind.capitalize(), KINDS)}; known: {', '.join(KINDS)}")
    with opened(database) as store:
        entries = summaries(store.observations())
    if kind is not None:
        entries = [entry for entry in entries if entry["kind"].lower() == kind.lower()]
    out.table(
        ("key", "kind", "sizes", "fastest schedule", "median", "rows", "failed"),
        (
            (
                entry["digest"][:12], entry["kind"], "x".join(map(str, entry["sizes"])),
                shortened(entry["schedule"] or "-", 60), seconds(entry["seconds"]), entry["rows"],
                entry["failed"],
            )
            for entry in entries
        ),
    )  # fmt: skip
    if not entries:
        out.line("nothing measured yet: `headrace tune run --help` says how")
    out.result(entries)


def summaries(rows: tuple[Observation, ...]) -> list[dict[str, Any]]:
    """One entry per operation and sizes, by kind, key and sizes."""
    groups: dict[tuple[str, tuple[int, ...]], list[Observation]] = {}
    for row in rows:
        groups.setdefault((row.spec, row.sizes), []).append(row)
    found = []
    for (spec, sizes), members in groups.items():
        timed = [row for row in members if row.verdict.value == "ok" and row.median is not None]
        best = min(timed, key=lambda row: row.median or 0.0, default=None)
        verdicts = Counter(row.verdict.value for row in members)
        found.append(
            {
                "digest": members[0].op,
                "kind": spec.partition("{")[0],
                "spec": spec,
                "sizes": list(sizes),
                "schedule": best.schedule if best else None,
                "seconds": best.median if best else None,
                "rows": len(members),
                "failed": sum(count for verdict, count in verdicts.items() if verdict not in ("ok", "slow")),
                "verdicts": dict(sorted(verdicts.items())),
            }
        )
    return sorted(found, key=lambda entry: (entry["kind"], entry["digest"], entry["sizes"]))


@app.command()
def why(
    operation: Annotated[
        str, typer.Argument(help="A key from `db list` (its first digits do) or a Spec's text.")
    ],
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Run-time sizes, such as 1 or 1,1,512.")
    ] = None,
    database: Database = None,
    json: Json = False,
) -> None:
    """Which schedule the database gives for an operation here, rung by rung.

    Example: headrace db why 3fa94c --sizes 1
    """
    from headrace.autotune.evidence import DatabaseEvidence
    from headrace.autotune.ladder import answer_of
    from headrace.compiler.devices import host_device

    out = Output(json)
    with opened(database) as store:
        spec, known = find(store.observations(), operation)
        wanted = [_sizes(sizes, spec)] if sizes else known
        if not wanted:
            raise SubjectError(f"nothing was measured for {shortened(str(spec))}: give --sizes")
        evidence = DatabaseEvidence(store)
        device = host_device()
        answers = [(place, evidence.why(spec, place, device)) for place in wanted]
    out.line(str(spec))
    document = []
    for place, steps in answers:
        out.heading(f"at sizes {'x'.join(map(str, place))}")
        for step in steps:
            out.line(f"  {step}")
        answer = answer_of(steps)
        out.line(f"  -> {answer.schedule if answer else 'no answer: the heuristics choose'}")
        document.append(
            {
                "sizes": list(place),
                "rungs": [
                    {"rung": step.rung.name.lower(), "rows": step.rows, "left_out": step.refused}
                    for step in steps
                ],
                "schedule": str(answer.schedule) if answer else None,
                "seconds": answer.seconds if answer else None,
            }
        )
    out.result({"spec": str(spec), "answers": document})


def find(rows: tuple[Observation, ...], operation: str) -> tuple[Spec, list[tuple[int, ...]]]:
    """The Spec that a key or text names, and the sizes it was measured at.

    Raises:
        SubjectError: no operation, or several, start with the key.
    """
    if "{" in operation:
        spec = parse_spec(operation)
        return spec, sorted({row.sizes for row in rows if row.spec == str(spec)})
    matching = {row.op: row.spec for row in rows if row.op.startswith(operation.lower())}
    if len(matching) != 1:
        what = f"{len(matching)} operations in the database start" if matching else "no operation starts"
        raise SubjectError(f"{what} with {operation!r}; `headrace db list` shows the keys")
    op, text = next(iter(matching.items()))
    return parse_spec(text), sorted({row.sizes for row in rows if row.op == op})


def _sizes(text: str, spec: Spec) -> tuple[int, ...]:
    """The run-time sizes of a text.

    Raises:
        SpecSyntaxError: they are no sizes, or not as many as the operation has.
    """
    try:
        found = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise SpecSyntaxError(f"--sizes takes whole numbers such as 1,1,512, not {text!r}") from None
    names = _names(spec)
    if len(found) != len(names) or min(found) < 0:
        raise SpecSyntaxError(f"--sizes of this {spec.kind} are {', '.join(names)}, not {text!r}")
    return found


def _names(spec: Spec) -> tuple[str, ...]:
    match spec:
        case Attention():
            return "batch", "queries", "keys"
        case Gemm():
            return ("batch", "rows") if spec.batched else ("rows",)
        case Rows():
            return "rows", "columns"
