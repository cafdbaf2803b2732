"""A command that makes no sense exits with 2, one that fails with 1; both name what was probably meant."""

from __future__ import annotations

import pytest

GEMM = "Gemm{x=f32; weights=[w0:f32[48,32]nk]; extras=[]; outputs=[f32 = acc_w0]; batched=false}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explane", "x"], "explain"),
        (["tune", "rum", "x"], "run"),
        (["db", "lst"], "list"),
        (["doctor", "--quik"], "--quick"),
        (["tune", "run", "x", "--budget", "much"], "--budget"),
        (["tune", "run"], "subject"),
    ],
)
def test_a_command_that_cannot_be_read_exits_with_2(headrace, words, said):
    ran = headrace(*words)
    assert ran.code == 2
    assert said in ran.err.lower()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain", "smollm"], "did you mean 'smollm2'"),
        (["explain", "missing.pt2"], "there is no file missing.pt2"),
        (["explain", "nowhere_at_all:function"], "cannot import 'nowhere_at_all'"),
        (["explain", "json:dumpz"], "did you mean 'dump"),
        (["explain", ":dumps"], "names no function"),
        (["explain", "os.path:join"], "needs arguments"),
        (["explain", "smollm2", "--ir", "taken"], "cannot write graphs into taken"),
        (["explain", "smollm2", "--claim", "every"], "option claim cannot be 'every'"),
        (["db", "info", "--database", "missing.db"], "there is no database missing.db"),
        (["db", "why", "ffff"], "no operation starts"),
        (["db", "why", "Gemm{x=bf17}", "--sizes", "1"], "cannot read"),
        (["db", "why", GEMM, "--sizes", "1,2"], "--sizes of this Gemm are rows, not '1,2'"),
        (["db", "why", GEMM, "--sizes", "-1"], "--sizes of this Gemm are rows, not '-1'"),
        (["db", "list", "--kind", "gem"], "did you mean 'Gemm'"),
        (["targets", "--target", "cuda:91"], "did you mean 'cuda:90'"),
        (["targets", "--only", "gem"], "did you mean 'gemv'"),
        (["targets", "--dtype", "bf17"], "did you mean 'bf16'"),
    ],
)
def test_a_command_that_fails_exits_with_1_and_says_why(headrace, home, words, said):
    (home / "taken").write_text("no folder")
    ran = headrace(*words)
    assert ran.code == 1
    assert ran.err.startswith("error: ")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_with_json_a_failure_is_a_document_too(headrace):
    ran = headrace("explain", "smollm", "--json")
    assert ran.code == 1
    assert ran.json["error"]["kind"] == "SubjectError"


def test_a_misspelt_setting_names_the_nearest(headrace, home):
    (home / "pyproject.toml").write_text('[tool.headrace]\ntunning = "off"\n')
    ran = headrace("config", "show")
    assert ran.code == 1
    assert "did you mean 'tuning'" in ran.err


COMMANDS = ("explain", "tune run", "db info", "db list", "db why", "targets", "doctor", "config show")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example(headrace, command):
    ran = headrace(*command.split(), "--help")
    assert ran.code == 0
    assert f"headrace {command}" in " ".join(ran.out.split())
    assert "--json" in ran.out
