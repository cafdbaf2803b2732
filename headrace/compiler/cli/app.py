"""The entry point: `headrace <verb>`. Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence

import typer

from headrace.compiler.cli import calibrate, config, database, doctor, explain, targets, tune
from headrace.errors import HeadraceError

app = typer.Typer(
    name="headrace",
    help="A graph optimizer and autotuner for PyTorch: inspect what it does and tune it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tune.app, name="tune")
app.command("explain")(explain.explain)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(database.app, name="db")
app.command("targets")(targets.targets)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")


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
