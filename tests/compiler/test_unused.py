"""Installed and unused, headrace changes nothing: plain Inductor and AOTInductor generate the same code and
compute the same bits as in a process where the package cannot be found. The one exception is documented.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Before torch: the package has no entry points and cannot be imported, as if it had been uninstalled.
COMMON = """
import importlib.metadata, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "headrace":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
if sys.argv[2] == "absent":
    sys.meta_path.insert(0, Absent())
    genuine = importlib.metadata.distributions
    others = lambda **kw: (d for d in genuine(**kw) if d.metadata["Name"] != "headrace")
    importlib.metadata.distributions = others

import hashlib, json, re, zipfile
import torch
import torch._inductor
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.utils import run_and_get_code
from torch.utils._triton import has_triton

found = {"has_triton": has_triton(), "backends": sorted(torch._dynamo.list_backends())}
settings = lambda: {k: repr(v) for k, v in config.save_config_portable(ignore_private_configs=False).items()}
found["settings"] = settings()
bits = lambda tensors: hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()
torch.manual_seed(0)
x = torch.randn(5, 16)
"""

# What a hit in the shared cache would hide is compiled first without the caches. Then the cache is asked: its
# key covers everything that Inductor believes to matter.
JIT = """
model = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, 7), nn.Softmax(-1))
def step(compiled):
    model.zero_grad()
    out = compiled(x)
    (out * torch.arange(7.0)).sum().backward()
    return [out, *(p.grad for p in model.parameters())]
with config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
    result, codes = run_and_get_code(step, torch.compile(model))
found["code"], found["bits"] = codes, bits(result)
torch._dynamo.reset()
counters.clear()
found["cached bits"] = bits(step(torch.compile(model)))
found["hits"] = counters["aot_autograd"]["autograd_cache_hit"]
found["settings unchanged"] = settings() == found["settings"]
found["loaded"] = sorted(m for m in sys.modules if m.partition(".")[0] == "headrace")
print(json.dumps(found))
"""

# Comments carry command lines and the folder.
AOTI = """
def code(package):
    with zipfile.ZipFile(package) as archive:
        sources = [name for name in archive.namelist() if name.endswith(".cpp")]
        names = sorted(sources, key=lambda name: name.split(".", 1)[-1])
        return [re.sub(r"(?m)^//.*\\n?", "", archive.read(name).decode()).strip() for name in names]
def compiled(model, *inputs):
    with torch.no_grad():
        program = torch.export.export(model, inputs)
    return torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1])
class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(16, 24), nn.LayerNorm(24)
    def forward(self, x):
        return torch.softmax(self.norm(torch.relu(self.linear(x))), -1)
class Repeat(nn.Module):
    def forward(self, counts):
        return torch.repeat_interleave(counts, output_size=10)
"""

PLAIN = """
package = compiled(Plain().eval(), x)
found["code"], found["bits"] = code(package), bits([torch._inductor.aoti_load_package(package)(x)])
found["settings unchanged"] = settings() == found["settings"]
"""

REPEAT = """
counts = torch.tensor([1, 2, 3, 4])
package = compiled(Repeat(), counts)
found["repeat code"] = code(package)
found["repeat bits"] = bits([torch._inductor.aoti_load_package(package)(counts)])
"""

REPORT = """
print(json.dumps(found))
"""


def run(program: str, folder: Path, absent: bool = False, **environment: str) -> dict[str, Any]:
    """What `program` found, in a process of its own; Inductor's caches below `folder` are shared."""
    state = "absent" if absent else "installed"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    clean |= {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TORCHINDUCTOR_COMPILE_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", COMMON + program, str(folder / f"{state}.pt2"), state],
        env=clean, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "headrace" not in done.stderr.lower(), done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unused")


def test_plain_inductor_trains_the_same_with_the_same_code_and_the_same_cache_key(folder: Path) -> None:
    absent, installed = run(JIT, folder, absent=True), run(JIT, folder)
    assert installed["has_triton"]
    assert set(installed["backends"]) - set(absent["backends"]) == {"headrace"}
    assert absent["loaded"] == []
    for name in ("settings", "code", "bits", "cached bits"):
        assert installed[name] == absent[name], name
    assert installed["settings unchanged"]
    assert len(installed["code"]) == 2  # forward and backward
    assert (absent["hits"], installed["hits"]) == (0, 1)


def test_unused_only_the_door_to_triton_is_loaded(folder: Path) -> None:
    done = run(
        'print(json.dumps(sorted(m for m in sys.modules if m.partition(".")[0] == "headrace")))', folder
    )
    assert "headrace.codegen.cpu.backend.driver" in done
    loaded = [name for name in done if not name.startswith("headrace.codegen.cpu.backend")]
    assert set(loaded) <= {
        "headrace",
        "headrace.codegen",
        "headrace.codegen.cpu",
        "headrace.codegen.cpu.fork",
    }


def test_a_setting_that_the_engine_refuses_is_no_concern_of_plain_inductor(folder: Path) -> None:
    program = "found['bits'] = bits([torch.compile(torch.relu)(x)]); print(json.dumps(found))"
    expected, found = run(program, folder), run(program, folder, HEADRACE_CPU_FEATURES="avx513")
    assert found["bits"] == expected["bits"]


@pytest.fixture(scope="module")
def packages(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What AOTInductor makes of both models: installed, absent."""
    program = AOTI + PLAIN + REPEAT + REPORT
    return run(program, folder), run(program, folder, absent=True)


def test_aot_inductor_packages_are_the_same(packages: tuple[dict[str, Any], dict[str, Any]]) -> None:
    installed, absent = packages
    for name in ("settings", "settings unchanged", "code", "bits"):
        assert installed[name] == absent[name], name
    assert len(installed["code"]) == 2  # kernels and wrapper


def test_the_documented_exception_of_aot_inductor_and_its_remedy(
    folder: Path, packages: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    installed, absent = packages
    remedied = run(AOTI + REPEAT + REPORT, folder, TORCHINDUCTOR_AUTOTUNE_AT_COMPILE_TIME="0")
    assert installed["repeat bits"] == absent["repeat bits"]
    assert remedied["repeat code"] == absent["repeat code"]
    if not absent["has_triton"]:
        assert "aoti_torch_cpu_repeat_interleave_Tensor" in installed["repeat code"][1]
        assert installed["repeat code"] != absent["repeat code"]
