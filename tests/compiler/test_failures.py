"""What is broken around headrace costs one clear warning; the model still runs right. Each in its own
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MODEL = """
import sys, warnings
import torch
from torch import nn
from headrace.compiler import backend as b, scopes
from headrace.compiler.notices import HeadraceWarning
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 48), nn.SiLU(), nn.Linear(48, 32), nn.LayerNorm(32)).eval()
compiled = torch.compile(model, backend=b.backend)
x = torch.randn(5, 32)
with warnings.catch_warnings(record=True) as caught, torch.no_grad():
    warnings.simplefilter("always")
    got = [compiled(x), compiled(x)][-1]
    torch.testing.assert_close(got, model(x), atol=1e-5, rtol=1e-4)
told = [str(w.message) for w in caught if issubclass(w.category, HeadraceWarning)]
print("WARNINGS", len(told))
for message in told:
    print("TOLD", message)
print("CLAIMED", sum(len(r.claims) for r in b.records().recent()))
print("RAN", len(scopes.RUNTIME.decisions()))
"""


def run(tmp_path: Path, before: str = "", **environment: str) -> dict[str, list[str]]:
    """Run the model in a fresh process with caches and folders of its own; its output by first word."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    clean |= {
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data"),
        # Compiled C++ is shared between the tests; graphs are not, since a hit would skip our passes.
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path.parent / "inductor"), "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
        **environment,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", before + MODEL], env=clean, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[str]] = {"TOLD": []}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        found.setdefault(word, []).append(rest)
    return found


def test_without_a_cpp_compiler_claimed_kernels_still_run(tmp_path: Path) -> None:
    found = run(tmp_path, CXX="/nonexistent/g++", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"))
    assert found["WARNINGS"] == ["1"]
    assert "C++ compiler" in found["TOLD"][0]
    assert int(found["CLAIMED"][0]) >= 2
    assert int(found["RAN"][0]) >= 2


HIDE = """
import importlib.util, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llvmlite":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
genuine = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "llvmlite" else genuine(name, package)
"""


def test_without_llvmlite_plain_inductor_compiles(tmp_path: Path) -> None:
    found = run(tmp_path, HIDE)
    assert found["WARNINGS"] == ["1"]
    assert "llvmlite is not installed" in found["TOLD"][0]
    assert found["CLAIMED"] == ["0"]


def test_with_the_engine_switched_off_nothing_is_said(tmp_path: Path) -> None:
    found = run(tmp_path, HEADRACE_CPU_ENGINE="off")
    assert (found["WARNINGS"], found["CLAIMED"]) == (["0"], ["0"])


def corrupt(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "headrace.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)


def no_database(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "headrace.db").write_text("this is a letter, not a database\n" * 40)


def a_folder(folder: Path) -> None:
    (folder / "headrace.db").mkdir(parents=True)


def a_file_in_the_way(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("")


@pytest.mark.parametrize("spoil", [corrupt, no_database, a_folder, a_file_in_the_way])
def test_a_default_database_that_cannot_be_used_costs_one_warning(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    spoil(tmp_path / "data" / "headrace")
    found = run(tmp_path)
    assert found["WARNINGS"] == ["1"], found["TOLD"]
    assert "database" in found["TOLD"][0]
    assert int(found["CLAIMED"][0]) >= 2


CACHES = """
import torch
from headrace.compiler import backend as b
from torch._dynamo.utils import counters
import headrace
compiled = torch.compile(torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.ReLU(), torch.nn.Linear(48,
                         16)), backend=b.backend)
with torch.no_grad():
    compiled(torch.ones(4, 32))
    report = headrace.explain(compiled)(torch.ones(4, 32))
print("HITS", counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_hit"])
print("CLAIMS", len(report.claims), len(report.missing), len(report.decisions))
"""


def test_a_second_process_hits_the_caches_and_explain_still_knows(tmp_path: Path) -> None:
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data"),
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
    }  # fmt: skip

    def once() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", CACHES], env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.split("\n")

    first, second = once(), once()
    assert first[0] == "HITS 0 0"
    assert second[0].split()[1] == "1"
    assert first[1] == second[1]
    assert first[1].split()[1:3] == ["2", "0"]
