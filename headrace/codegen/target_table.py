"""What the builds for GPU targets need, as tables: default schedules, and the double buffer of `flat`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.codegen import dataflows
from headrace.codegen.build import build
from headrace.codegen.targets import GPU_TARGETS, Example, device_of, examples
from headrace.errors import BuildError
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

STAGES = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Line:
    """One kernel of one build in the table."""

    target: str
    title: str
    schedule: Schedule
    kernel: str
    registers: int
    spills: int
    shared_bytes: int
    matrix: str
    copies: str


def table(
    targets: Sequence[str] = tuple(GPU_TARGETS), chosen: Iterable[Example] | None = None
) -> tuple[Line, ...]:
    """Build every example with its default schedule for every target and read the artefacts.

    Raises:
        BuildError: a kernel does not build, or a default is not legal.
    """
    examples_ = tuple(chosen) if chosen is not None else examples()
    return tuple(
        line
        for target in targets
        for example in examples_
        for line in _lines(target, example, example.schedule(device_of(target)))
    )


def double_buffer(
    targets: Sequence[str] = tuple(GPU_TARGETS), chosen: Iterable[Example] | None = None
) -> tuple[Line, ...]:
    """The `flat` examples at 1 to 4 stages: copies that nobody waits for, and the memory they need."""
    flat = [e for e in (chosen if chosen is not None else examples()) if e.dataflow == "flat"]
    found = []
    for target in targets:
        device = device_of(target)
        for example in flat:
            knobs = dict(example.schedule(device).knobs)
            for stages in STAGES:
                schedule = Schedule("flat", tuple((knobs | {"num_stages": stages}).items()))
                if (
                    dataflows.get("flat").legal(parse_spec(example.spec), example.sizes, schedule, device)
                    is None
                ):
                    found.append(_lines(target, example, schedule)[0])
    return tuple(found)


def _lines(target: str, example: Example, schedule: Schedule) -> list[Line]:
    spec = parse_spec(example.spec)
    reason = dataflows.get(example.dataflow).legal(spec, example.sizes, schedule, device_of(target))
    if reason is not None:
        raise BuildError(f"{schedule} is not legal on {target} for {example.title}: {reason}")
    found = []
    for kernel in build(spec, schedule, target, example.sizes).kernels:
        r = kernel.resources
        found.append(Line(target, example.title, schedule, kernel.name, r.registers, r.spills, r.shared_bytes,
                          r.matrix_text, r.copies_text))  # fmt: skip
    return found


def markdown(lines: Iterable[Line]) -> str:
    """The table as Markdown."""
    rows = ["| target | kernel | schedule | registers | spilled bytes | shared bytes | matrix instructions |",
            "|---|---|---|---:|---:|---:|---|"]  # fmt: skip
    for line in lines:
        rows.append(
            f"| {line.target} | {line.title} (`{line.kernel}`) | `{line.schedule}` | {line.registers} "
            f"| {line.spills} | {line.shared_bytes} | {line.matrix} |"
        )
    return "\n".join(rows) + "\n"


def stages_markdown(lines: Iterable[Line]) -> str:
    """The table of `double_buffer` as Markdown."""
    rows = [
        "| target | operation | stages | shared bytes | asynchronous copies | registers | spilled |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for line in lines:
        rows.append(
            f"| {line.target} | {line.title} | {line.schedule['num_stages']} | {line.shared_bytes} "
            f"| {line.copies} | {line.registers} | {line.spills} |"
        )
    return "\n".join(rows) + "\n"


def replace_table(path: Path, name: str, text: str) -> None:
    """Put a table between `<!-- table: NAME -->` and `<!-- end: NAME -->` of a document.

    Rows of targets that the new table lacks stay, in the order of the targets.

    Raises:
        BuildError: the document has no such markers.
    """
    begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
    before, found, rest = path.read_text().partition(begin)
    old, closed, after = rest.partition(end)
    if not found or not closed:
        raise BuildError(f"{path} has no lines {begin.strip()} and {end} to put the table between")
    head, new = text.splitlines()[:2], text.splitlines()[2:]
    made = {_target(row) for row in new}
    kept = [row for row in old.splitlines()[2:] if _target(row) in GPU_TARGETS and _target(row) not in made]
    order = list(GPU_TARGETS)
    rows = sorted([*new, *kept], key=lambda row: order.index(_target(row)))
    path.write_text(before + begin + "\n".join([*head, *rows]) + "\n" + end + after)


def _target(row: str) -> str:
    return row.split("|")[1].strip() if row.startswith("|") else ""
