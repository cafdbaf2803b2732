"""Units in worker processes: a crash or a hang costs one unit and is named; the rest goes on in a new
process."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass, field

HERE = pathlib.Path(__file__).parent
WORKER = HERE / "campaign_worker.py"


@dataclass
class Outcome:
    """Statuses by case, what is wrong in words, and units that took their process with them."""

    statuses: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(s == status for s in self.statuses.values())


def run(
    names: list[str], folder: pathlib.Path, *, worker: pathlib.Path = WORKER, limit: float = 1200.0
) -> Outcome:
    """Run every unit; a worker that dies, or says nothing new for ``limit`` seconds, is replaced."""
    outcome, left, turn = Outcome(), list(names), 0
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    while left:
        results, plan = folder / f"results{turn}.jsonl", folder / f"plan{turn}.json"
        plan.write_text(json.dumps(left))
        with (folder / f"errors{turn}.txt").open("w+") as errors:
            try:
                code = subprocess.run(
                    [sys.executable, str(worker), str(results), str(plan)],
                    stdout=subprocess.DEVNULL,  # kernels that print
                    stderr=errors,
                    env=environment,
                    timeout=limit,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = None
            errors.seek(0)
            said = errors.read()[-1500:]
        started = _read(results, outcome)
        if code == 0:
            return outcome
        # Generated kernels are started under names of their own, which begin with the generator's.
        reached = [k for k, name in enumerate(left) if name in started]
        at = reached[-1] if reached else 0
        if started and started[-1] not in left:
            generator = started[-1].split("/")[0]
            at = next(k for k, name in enumerate(left) if name.startswith(f"{generator}:"))
        how = "did not end" if code is None else f"ended its process with {code}"
        outcome.wrong.append(f"{started[-1] if started else left[0]} {how}: {said}")
        left = left[at + 1 :]
        turn += 1
    return outcome


def _read(results: pathlib.Path, outcome: Outcome) -> list[str]:
    """Fill the outcome from a worker's lines; the units that were started, in order."""
    started: list[str] = []
    for line in results.read_text().splitlines() if results.exists() else []:
        said = json.loads(line)
        if "start" in said:
            started.append(said["start"])
            continue
        outcome.statuses[said["case"]] = said["status"]
        if said["status"] in ("mismatch", "error"):
            outcome.wrong.append(f"{said['case']}: {said['detail']}")
    return started
