"""Forks, Python threads and nested parallel regions at once: no deadlock, no crash, no wrong result.

Each run is a process of its own with its own seed (`stress_run.py`), the soak runs a hundred.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parent / "stress_run.py"


def stress(seed: int, cache: pathlib.Path) -> None:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(seed)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"seed {seed} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "passed" in done.stdout


@pytest.mark.parametrize("seed", range(1, 5))
def test_forks_threads_and_nested_regions_do_not_disturb_each_other(seed, tmp_path) -> None:
    stress(seed, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 200))
def test_a_hundred_stress_runs(seed, tmp_path) -> None:
    stress(seed, tmp_path)
