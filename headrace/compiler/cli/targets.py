"""`headrace targets`: the same kernels built for every target, and what each build needs. No GPU is asked."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Annotated

import typer

from headrace.compiler.cli.output import Json, Output
from headrace.errors import BuildError


def targets(
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="cuda:90, hip:gfx942, ...; may repeat; without it, all."),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="bf16, f16 or f32.")] = "bf16",
    only: Annotated[str | None, typer.Option("--only", help="One dataflow, such as gemv or decode.")] = None,
    double_buffer: Annotated[
        bool, typer.Option("--double-buffer", help="The flat Gemms at 1 to 4 stages: asynchronous copies.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            help="A Markdown document whose table between <!-- table: defaults --> (or double-buffer) and "
            "<!-- end: ... --> gets the rows of the targets built.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Build each dataflow's default schedule for each target; registers, spills, shared memory, matrix units.

    Exits with 1 when a default schedule spills registers.

    Example: headrace targets --target cuda:90 --only decode

    Example: headrace targets --double-buffer --only flat --write docs/targets.md
    """
    from headrace.codegen import target_table
    from headrace.codegen.targets import GPU_TARGETS, examples

    out = Output(json)
    for name in target or ():
        if name not in GPU_TARGETS:
            raise BuildError(f"target {name!r} is unknown{_nearest(name, list(GPU_TARGETS))}")
    if dtype not in ("bf16", "f16", "f32"):
        raise BuildError(f"no kernels are built for dtype {dtype!r}{_nearest(dtype, ['bf16', 'f16', 'f32'])}")
    chosen = examples(dtype)
    if only is not None:
        known = sorted({example.dataflow for example in chosen})
        chosen = tuple(example for example in chosen if example.dataflow == only)
        if not chosen:
            raise BuildError(f"there is no dataflow {only!r}{_nearest(only, known)}")
    if write is not None and not double_buffer and (only is not None or dtype != "bf16"):
        raise BuildError(
            "--write replaces a target's rows of the table of bf16 kernels: leave out --only and --dtype"
        )
    made = target_table.double_buffer if double_buffer else target_table.table
    lines = made(tuple(target or GPU_TARGETS), chosen)
    if write is not None:
        name = "double-buffer" if double_buffer else "defaults"
        text = target_table.stages_markdown(lines) if double_buffer else target_table.markdown(lines)
        target_table.replace_table(write, name, text)
    out.table(
        (
            "target",
            "operation",
            "kernel",
            "schedule",
            "registers",
            "spilled",
            "shared",
            "matrix instructions",
            "asynchronous copies",
        ),
        (
            (
                line.target,
                line.title,
                line.kernel,
                line.schedule,
                line.registers,
                line.spills,
                f"{line.shared_bytes / 1024:.0f} KiB",
                line.matrix,
                line.copies,
            )
            for line in lines
        ),
    )
    spilled = [line for line in lines if line.spills]
    out.line(f"{len(lines)} kernels built, {len(spilled)} of them spill registers")
    out.result([{**dataclasses.asdict(line), "schedule": str(line.schedule)} for line in lines])
    if spilled and not double_buffer:  # of the stages, one is the default
        raise typer.Exit(1)


def _nearest(word: str, known: list[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(known)}"
