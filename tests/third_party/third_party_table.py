"""Counts what runs: every case of a package in a process of its own kind, as a table.

    python tests/third_party/third_party_table.py [--package NAME] [--only REGEX] [--write PAGE]

A worker process judges one case after another; if one crashes or hangs, it costs that case alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import select
import subprocess
import sys
from collections import defaultdict
from typing import Any

HERE = pathlib.Path(__file__).parent
PACKAGES = {"liger-kernel": "liger_cases", "fla-core": "fla_cases", "tutorials": "tutorial_cases"}
MARKERS = ("<!-- counts: third_party_table.py --write -->", "<!-- end of counts -->")
# Seconds for one case, compilation included.
LIMIT = 600


def load(package: str) -> list[Any]:
    """The cases of a package."""
    import importlib

    sys.path[:0] = [str(HERE)]
    return list(importlib.import_module(PACKAGES[package]).cases())


def work(package: str, index: int) -> None:
    """Names in, verdicts out, a line each."""
    import warnings

    warnings.simplefilter("ignore")
    cases = {case.name: case for case in load(package)}
    from third_party_case import autotuners, configuration, judge

    tuners = autotuners("fla", "liger_kernel")
    for line in sys.stdin:
        with configuration(index, tuners):
            verdict = judge(cases[line.strip()])
        print("verdict " + json.dumps(dataclasses.asdict(verdict)), flush=True)


class Worker:
    """A process that judges, replaced when it dies."""

    def __init__(self, package: str, index: int) -> None:
        self.command = [sys.executable, __file__, "--worker", package, "--configuration", str(index)]
        self.process: subprocess.Popen[str] | None = None

    def judge(self, name: str) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(name + "\n")
        process.stdin.flush()
        while True:
            ready, _, _ = select.select([process.stdout], [], [], LIMIT)
            line = process.stdout.readline() if ready else ""
            if line.startswith("verdict "):
                return dict(json.loads(line.removeprefix("verdict ")))
            if not line:
                if not ready:
                    process.kill()
                code = process.wait()
                why = f"the process ended with {code}" if ready else f"took more than {LIMIT} s"
                return {"forward": why, "backward": why, "kernels": {}, "compile_ms": {}, "worst": {}}


def _count(verdicts: list[dict[str, Any]], direction: str) -> str:
    tried = [v for v in verdicts if v[direction] is not None]
    return f"{sum(v[direction] == '' for v in tried)} of {len(tried)}" if tried else "-"


def _engines(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    """Kernels with the engine that lowered them; those whose compilation was seen."""
    found: dict[str, str] = {}
    for verdict in verdicts:
        found |= {name: engine for name, engine in verdict["kernels"].items() if engine}
    return found


def table(results: dict[str, dict[str, Any]], cases: list[Any]) -> str:
    """Passed of tried: per package, then per operator."""
    head = "| package | operators | cases forward | cases backward | kernels | on the vector engine |"
    lines = [head, "|---|---|---|---|---|---|"]
    details = ["| package | operator | dtypes and variants | forward | backward |", "|---|---|---|---|---|"]
    for package in PACKAGES:
        operators: dict[str, list[Any]] = defaultdict(list)
        for case in cases:
            if case.package == package and case.name in results:
                operators[case.op].append(case)
        if not operators:
            continue
        whole = 0
        for op, mine in operators.items():
            found = [results[c.name] for c in mine]
            whole += not any(v["forward"] or v["backward"] for v in found)
            variants = ", ".join(c.variant for c in mine)
            counts = " | ".join(_count(found, direction) for direction in ("forward", "backward"))
            details.append(f"| {package} | {op} | {variants} | {counts} |")
        verdicts = [results[c.name] for mine in operators.values() for c in mine]
        engines = _engines(verdicts)
        vector = sum(engine == "vector" for engine in engines.values())
        lines.append(
            f"| {package} | {whole} of {len(operators)} | {_count(verdicts, 'forward')} "
            f"| {_count(verdicts, 'backward')} | {len(engines)} | {vector} |"
        )
    return "\n".join([*lines, "", *details])


def rewrite(page: pathlib.Path, text: str) -> None:
    """Put the table between the page's markers."""
    before, rest = page.read_text().split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    page.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")


def failures(results: dict[str, dict[str, Any]]) -> str:
    """What did not pass, and kernels that the vector engine declines."""
    lines = []
    reasons: dict[str, set[str]] = defaultdict(set)
    for name, verdict in results.items():
        for direction in ("forward", "backward"):
            if verdict[direction] and verdict[direction] != "no forward":
                lines.append(f"{name} {direction}: {verdict[direction][:300]}")
        for kernel, engine in verdict["kernels"].items():
            if engine not in ("", "vector"):
                reasons[engine].add(kernel)
    lines += [f"{reason} ({', '.join(sorted(kernels))})" for reason, kernels in sorted(reasons.items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", choices=list(PACKAGES))
    parser.add_argument("--only", default="")
    parser.add_argument("--configuration", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path, help="all verdicts, for a closer look")
    parser.add_argument("--read", type=pathlib.Path, action="append", help="verdicts of an earlier --json")
    parser.add_argument("--write", type=pathlib.Path, help="the page whose table to replace")
    parser.add_argument("--worker")
    chosen = parser.parse_args()
    if chosen.worker:
        work(chosen.worker, chosen.configuration)
        return
    results: dict[str, dict[str, Any]] = {}
    cases: list[Any] = []
    for package in [chosen.package] if chosen.package else PACKAGES:
        mine = [case for case in load(package) if re.search(chosen.only, case.name)]
        cases += mine
        worker = Worker(package, chosen.configuration)
        for case in [] if chosen.read else mine:
            results[case.name] = worker.judge(case.name)
            bad = [d for d in ("forward", "backward") if results[case.name][d]]
            print(
                f"{case.name}: {'fails ' + ' and '.join(bad) if bad else 'passes'}",
                file=sys.stderr,
                flush=True,
            )
            if chosen.json:
                chosen.json.write_text(json.dumps(results, indent=1))
    for path in chosen.read or ():
        results |= json.loads(path.read_text())
    print(table(results, cases))
    print()
    if chosen.write:
        rewrite(chosen.write, table(results, cases))
    print(failures(results))


if __name__ == "__main__":
    main()
