"""Fixtures of the CPU engine's tests: a cache of their own, and the interpreter's answers from a process of
its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
import torch

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def _own_triton_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="session")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of every case after a run in Triton's interpreter."""
    path = tmp_path_factory.mktemp("oracle") / "results.pt"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "cpu_interpret.py"), str(path)],
        check=True,
        env=environment,
    )
    return torch.load(path)
