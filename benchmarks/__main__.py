"""Run the benchmarks and hold the bars: `python -m benchmarks [name ...] [--no-bars] [--json]`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common import Result
from headrace.compiler.cli.output import Output
from headrace.compiler.devices import host_device

NAMES = (
    "decode_smollm2",
    "op_gemv",
    "op_attention",
    "op_rows",
    "softmax",
    "stream_decode",
    "cpu_engine",
    "cost_model",
    "regimes",
    "stabilizers",
)
# These take an hour, so that they run when they are named.
LONG = ("regimes",)


def main() -> int:
    """0 when every bar is held, 1 when one is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--no-bars", action="store_true", help="print only; a missed bar is no failure")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--only", default="", metavar="section,...", help="sections of a benchmark that has some (cpu_engine)"
    )
    parser.add_argument(
        "--best", action="store_true",
        help="cpu_engine: compare the best rounds, not the medians; for a machine with other work",
    )  # fmt: skip
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="cpu_engine: processor time instead of wall time; needs --threads 1",
    )
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds of each race; 0 lets each benchmark choose"
    )
    parser.add_argument("--dtype", default="", metavar="bf16,f32", help="regimes: types")
    parser.add_argument("--shape", default="", metavar="NxK,...", help="regimes: weights, e.g. 4096x4096")
    parser.add_argument("--quick", action="store_true", help="regimes: a coarse grid up to M = 64")
    parser.add_argument("--budget", type=float, default=600.0, help="regimes: seconds to measure a table")
    parser.add_argument("--database", default="", help="regimes: keep measurements here, and use what it has")
    parser.add_argument("--cells", default="", help="regimes: a JSON file that gathers the cells of all runs")
    parser.add_argument(
        "--data", type=Path, help="cost_model: the folder of recorded timings (setting: recorded_data)"
    )
    parser.add_argument(
        "--fit", action="store_true", help="cost_model: fit the constants again and print them"
    )
    parser.add_argument("--seed", type=int, default=0, help="cost_model: which halves of the shapes")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name!r}; known: {', '.join(NAMES)}")
    torch.set_num_threads(arguments.threads)
    out = Output(arguments.json)
    out.line(f"{host_device().name}, {arguments.threads} threads, torch {torch.__version__}")
    results: list[Result] = []
    with torch.no_grad():
        for name in arguments.names or [name for name in NAMES if name not in LONG]:
            results.append(_run(name, arguments))
            show(out, results[-1])
    out.result(
        [
            {
                "title": result.title,
                "rows": [dict(zip(result.columns, row, strict=True)) for row in result.rows],
                "notes": result.notes,
                "bars": [
                    {"name": b.name, "value": b.value, "bound": b.bound, "at_most": b.at_most, "held": b.held}
                    for b in result.bars
                ],
            }
            for result in results
        ]
    )
    missed = [bar for result in results for bar in result.bars if not bar.held]
    return 1 if missed and not arguments.no_bars else 0


def _run(name: str, arguments: argparse.Namespace) -> Result:
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "run_with"):
        asked: Result = module.run_with(arguments)
        return asked
    run: Callable[..., Result] = module.run
    if not hasattr(module, "SECTIONS"):
        return run(arguments.rounds)
    only = tuple(section for section in arguments.only.split(",") if section)
    return run(arguments.rounds, only=only, best=arguments.best, cpu=arguments.cpu_time)


def show(out: Output, result: Result) -> None:
    out.heading(result.title)
    out.table(result.columns, result.rows)
    for note in result.notes:
        out.line(note)
    for bar in result.bars:
        out.line(str(bar))


if __name__ == "__main__":
    raise SystemExit(main())
