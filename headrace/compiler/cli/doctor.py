"""`headrace doctor`: what this machine lets headrace do, and what to mend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

import typer

from headrace.compiler.cli import machine
from headrace.compiler.cli.machine import Finding
from headrace.compiler.cli.output import Json, Output


def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Skip the bandwidth measurement.")] = False,
    json: Json = False,
) -> None:
    """Check the installation; exits with 1 when something needs mending.

    Example: headrace doctor --quick
    """
    out = Output(json)
    sections = examine(quick=quick)
    for title, findings in sections.items():
        out.heading(title)
        out.facts((finding.name, _told(finding)) for finding in findings)
    wrong = [finding for findings in sections.values() for finding in findings if not finding.ok]
    out.line()
    out.line(f"{len(wrong)} to mend" if wrong else "all well")
    out.result(
        {
            "ok": not wrong,
            "sections": {
                title: [dataclasses.asdict(finding) for finding in findings]
                for title, findings in sections.items()
            },
        }
    )
    if wrong:
        raise typer.Exit(1)


def examine(*, quick: bool = False) -> dict[str, list[Finding]]:
    """All findings, by section."""
    measured = [] if quick else [machine.bandwidth(machine.threads())]
    return {
        "software": [
            machine.python(),
            *machine.packages(),
            machine.torch_window(),
            machine.backend_registered(),
        ],
        "CPU": [
            machine.cpu_engine(),
            machine.cpu_owner(),
            machine.cpu_features(),
            machine.cpu_compiler(),
            machine.cpu_threads(),
            machine.kernel_cache(),
            *measured,
        ],
        "around": [machine.accelerators(), machine.cpp_compiler(), _database(), _figures(), _settings()],
    }


def _told(finding: Finding) -> str:
    mark = "" if finding.ok else "  <- mend"
    return f"{finding.value}{mark}{f': {finding.advice}' if finding.advice and not finding.ok else ''}"


def _database() -> Finding:
    def look() -> Finding:
        from headrace.autotune.db.store import Store
        from headrace.configuration import current

        path = current().database_path
        if not path.exists():
            return Finding("database", f"{path} (not created yet: tuning makes it)")
        said: list[str] = []
        with Store.open(path, readonly=True, warn=said.append) as store:
            held = store.info()
        if said:
            return Finding("database", said[0], False, "`headrace db info` says more")
        damaged = f", {held.damaged} damaged and left out" if held.damaged else ""
        return Finding("database", f"{path}: {held.rows} rows over {held.operations} operations{damaged}")

    return _shielded("database", look)


def _figures() -> Finding:
    """What the cost model takes this machine for."""

    def look() -> Finding:
        import datetime

        from headrace.autotune.db.store import Store
        from headrace.autotune.discover import remembered
        from headrace.configuration import current

        path, threads = current().database_path, machine.threads()
        found = None
        if path.exists():
            with Store.open(path, readonly=True, warn=lambda _: None) as store:
                found = remembered(threads, store)
        if found is None:
            return Finding("remembered figures", f"none for {threads} threads (the first run measures them)")
        date = datetime.datetime.fromtimestamp(found.measured).date()
        taken = date.isoformat() if found.measured else "undated"
        return Finding(
            "remembered figures",
            f"reads {found.bandwidth / 1e9:.1f} GB/s, computes {found.flops_f32 / 1e9:.0f} GFLOP/s in f32, "
            f"{found.flops_16 / 1e9:.0f} in bf16 ({threads} threads, {taken}); "
            "`headrace tune run` measures again what is a day old",
        )

    return _shielded("remembered figures", look)


def _settings() -> Finding:
    def look() -> Finding:
        from headrace.configuration import current

        changed = [f"{entry.name}={entry.value}" for entry in current().origins if entry.origin != "default"]
        return Finding("settings", ", ".join(changed) or "all at their defaults")

    return _shielded("settings", look)


def _shielded(name: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:
        return Finding(name, f"{type(error).__name__}: {error}", False)
