"""`doctor`, `config show`, and `explain` on small things of one's own."""

from __future__ import annotations

import pytest
import torch

MODULE = """
import torch

def block():
    layer = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 256)).eval()
    return layer, (torch.randn(4, 256),)

def layer():
    return torch.nn.Linear(64, 64, bias=False).eval(), (torch.randn(1, 64),)

def named():
    return torch.nn.Linear(64, 64).eval(), {"input": torch.randn(1, 64)}

def nothing():
    return 3
"""


@pytest.fixture
def mine(home, monkeypatch):
    (home / "mine_for_headrace.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(home))
    return "mine_for_headrace"


def test_config_show_tells_the_origin(headrace, monkeypatch):
    from headrace import configuration

    monkeypatch.setenv("HEADRACE_TUNING", "off")
    configuration.current.cache_clear()
    settings = headrace("config", "show", "--json").json["settings"]
    assert settings["tuning"] == {"value": "off", "origin": "environment HEADRACE_TUNING"}
    assert settings["claim"]["origin"] == "default"


def test_doctor_reports_every_section(headrace):
    ran = headrace("doctor", "--quick", "--json")
    assert ran.code in (0, 1)
    names = {finding["name"] for findings in ran.json["sections"].values() for finding in findings}
    assert {
        "torch",
        "triton",
        "CPU engine",
        "triton.backends cpu",
        "CPU features",
        "LLVM",
        "threads",
        "kernel cache",
        "C++ compiler",
        "database",
    } <= names
    assert ran.json["ok"] == (ran.code == 0)


def test_doctor_says_when_the_engine_is_off(headrace, monkeypatch):
    monkeypatch.setenv("HEADRACE_CPU_ENGINE", "off")
    ran = headrace("doctor", "--quick")
    assert ran.code == 1
    assert "HEADRACE_CPU_ENGINE=off" in ran.out


def test_doctor_says_what_the_engine_compiles_and_runs_with(headrace, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (tmp_path / "entry").mkdir()
    findings = headrace("doctor", "--quick", "--json").json["sections"]["CPU"]
    told = {finding["name"]: finding["value"] for finding in findings}
    assert told["kernel cache"] == f"{tmp_path}: 1 entries"
    assert "llvmlite" in told["LLVM"]
    assert "omp" in told["threads"]


def test_doctor_notices_a_file_that_is_no_database(headrace, home):
    (home / "results.db").write_text("nothing of the kind")
    ran = headrace("doctor", "--quick")
    assert ran.code == 1
    assert "results.db" in ran.out


def test_explain_a_function_of_ones_own(headrace, mine):
    (found,) = headrace("explain", f"{mine}:block", "--claim", "all", "--json").json
    (graph,) = found["graphs"]
    assert graph["kinds"] == {"Gemm": 2}
    assert len(found["decisions"]) == 2
    assert found["graph_breaks"] == {}


def test_explain_prints_every_kernel_and_its_schedule(headrace, mine):
    out = headrace("explain", f"{mine}:block", "--claim", "all").out
    assert "claimed: 2 Gemm" in out
    assert "Gemm{x=f32" in out


def test_explain_an_exported_program(headrace, home):
    layer = torch.nn.Linear(128, 256).eval()
    program = torch.export.export(layer, (torch.randn(2, 128),))
    torch.export.save(program, home / "layer.pt2")
    (found,) = headrace("explain", "layer.pt2", "--claim", "all", "--json").json
    assert found["subject"] == "layer"
    assert found["graphs"][0]["kinds"] == {"Gemm": 1}


def test_explain_writes_the_graphs_as_text(headrace, mine, home):
    assert headrace("explain", f"{mine}:block", "--claim", "all", "--ir", str(home / "ir")).code == 0
    names = {path.name for path in (home / "ir").iterdir()}
    assert names == {"000-captured.ir", "000-rewritten.ir"}
    assert "Gemm{" in (home / "ir/000-rewritten.ir").read_text()


def test_explain_shows_the_rendered_triton(headrace, mine):
    assert "@triton.jit" in headrace("explain", f"{mine}:block", "--claim", "all", "--source").out


def test_arguments_may_be_given_by_name(headrace, mine):
    assert headrace("explain", f"{mine}:named").code == 0


def test_a_function_that_returns_something_else_is_refused(headrace, mine):
    ran = headrace("explain", f"{mine}:nothing")
    assert ran.code == 1
    assert "must return (callable, arguments)" in ran.err


def test_tuning_announces_before_it_starts(headrace, mine, home):
    ran = headrace("tune", "run", f"{mine}:block", "--claim", "all", "--dry-run", "--json")
    assert ran.code == 0
    assert len(ran.json["operations"]) == ran.json["unknown"] == 2
    assert not (home / "results.db").exists()


def test_what_was_tuned_is_known_the_next_time(headrace, mine, home):
    subject = (f"{mine}:layer", "--claim", "all", "--json")
    first = headrace("tune", "run", *subject, "--budget", "20")
    assert first.code == 0
    assert first.json["trials"] > 0
    assert {task["status"] for task in first.json["tasks"]} <= {"tuned", "partial"}
    replayed = headrace("tune", "run", *subject, "--mode", "replay")
    assert replayed.json["trials"] == 0
    assert all(task["schedule"] for task in replayed.json["tasks"])
    assert len(headrace("db", "list", "--json").json) == 1
    (explained,) = headrace("explain", *subject).json
    assert explained["decisions"][0]["rung"] == "exact"
