"""The entry point: `headrace <verb>`. Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.

A verb's module, and torch with it, is imported when the verb is asked for: help and version come at once.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from headrace import __version__
from headrace.errors import HeadraceError

# The modules of `headrace.compiler.cli` with the verbs' first lines, in the order of the help page.
VERBS = {
    "tune": ("tune", "Measure schedules and remember them."),
    "explain": (
        "explain",
        "Show what headrace makes of a model: kernels, schedules, and a reason for everything it leaves.",
    ),
    "calibrate": (
        "calibrate",
        "Record what enters exp in every attention, and how many rows would leave a unified maximum's range.",
    ),
    "db": ("database", "Look into the database of tuned results."),
    "targets": (
        "targets",
        "Build each dataflow's default schedule for each target; registers, spills, shared memory, "
        "matrix units.",
    ),
    "doctor": ("doctor", "Check the installation; exits with 1 when something needs mending."),
    "config": ("config", "Look at the settings."),
}


def verb(name: str) -> Any:
    """The command of a verb, as click has it."""
    module = importlib.import_module(f"headrace.compiler.cli.{VERBS[name][0]}")
    found = getattr(module, "app", None)
    if found is None:  # the module is one verb, which is named after it
        found = typer.Typer(add_completion=False)
        found.command(name)(getattr(module, name))
    command = get_command(found)
    command.name = name
    return command


class _Verbs(TyperGroup):
    """Imports the verb that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else verb(name), rest


app = typer.Typer(
    cls=_Verbs,
    name="headrace",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"headrace {__version__}")
        raise typer.Exit


@app.callback()
def _headrace(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """A graph optimizer and autotuner for PyTorch: inspect what it does and tune it."""


def _stand_in() -> None:
    """Stands for a verb on the help page."""


for _name, (_, _line) in VERBS.items():
    app.command(_name, help=_line)(_stand_in)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Triton's announcement about its next release is for those who write kernels.
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    try:
        app(words, prog_name="headrace")
    except HeadraceError as error:
        _fail(type(error).__name__, str(error), as_json="--json" in words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(kind: str, message: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": {"kind": kind, "message": message}}, indent=2))
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)
