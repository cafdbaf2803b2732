"""`headrace config`: the settings in force and where each comes from."""

from __future__ import annotations

import typer

from headrace.compiler.cli.output import Json, Output

app = typer.Typer(help="Look at the settings.", no_args_is_help=True, add_completion=False)


@app.callback()
def _group() -> None:
    """Keeps `show` a verb of its own while it is the only one."""


@app.command()
def show(json: Json = False) -> None:
    """Every setting, its value and its origin: argument, environment, project file, user file or default.

    Example: HEADRACE_TUNING=off headrace config show
    """
    from headrace.configuration import Settings, current

    out = Output(json)
    found = current()
    out.table(
        ("setting", "value", "origin", "meaning"),
        (
            (entry.name, entry.value, entry.origin, Settings.model_fields[entry.name].description or "")
            for entry in found.origins
        ),
    )
    out.line(f"database in use: {found.database_path}")
    out.result(
        {
            "settings": {
                entry.name: {"value": entry.value, "origin": entry.origin} for entry in found.origins
            },
            "database_path": found.database_path,
        }
    )
