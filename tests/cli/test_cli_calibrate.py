"""`headrace calibrate`, and what `explain` and `db` make of a calibration."""

from __future__ import annotations

import pytest
import torch

MODULE = """
import torch
import torch.nn.functional as F

class Block(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
        self.mix = torch.nn.Linear(16, 16)

    def forward(self, x):
        q, k = F.layer_norm(self.mix(x), (16,)), F.layer_norm(x, (16,))
        return x + F.scaled_dot_product_attention(q, k, x, scale=self.factor / 4)

def narrow():
    torch.manual_seed(0)
    return torch.nn.Sequential(Block(1.0), Block(2.0)).eval(), (torch.randn(1, 2, 8, 16),)

def wide():
    torch.manual_seed(0)
    return torch.nn.Sequential(Block(1.0), Block(120.0)).eval(), (torch.randn(1, 2, 8, 16),)

def layer():
    return torch.nn.Linear(16, 16).eval(), (torch.randn(1, 16),)
"""


@pytest.fixture
def mine(home, monkeypatch):
    (home / "mine_for_calibration.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(home))
    torch.save([(torch.randn(1, 2, n, 16),) for n in (8, 12)], home / "data.pt")
    torch._dynamo.reset()  # which sizes vary is remembered from test to test
    return "mine_for_calibration"


def test_calibrate_records_and_explain_shows_what_it_permits(headrace, mine):
    ran = headrace("calibrate", f"{mine}:wide", "--data", "data.pt", "--name", "chat", "--json")
    assert ran.code == 0, ran.err
    assert [(site["site"], site["permitted"]) for site in ran.json["sites"]] == [("0", True), ("1", False)]
    assert ran.json["sites"][0]["heads"][0]["rows"] == 20
    (found,) = headrace("explain", f"{mine}:wide", "--calibration", "chat", "--json").json
    claims = [claim for claim in found["graphs"][0]["claims"] if claim["kind"] == "Attention"]
    assert ["unified(0)" in claim["spec"] for claim in claims] == [True, False]
    assert "phi = 0, calibration 'chat'" in claims[0]["note"]
    assert "of the rows of a head would fall back" in claims[1]["note"]
    other = headrace("explain", f"{mine}:narrow", "--calibration", "chat").out
    assert "heads, dimensions or score expressions differ" in other


def test_the_environment_names_a_calibration_too(headrace, mine, monkeypatch):
    from headrace import configuration

    assert headrace("calibrate", f"{mine}:narrow", "--data", "data.pt").code == 0
    monkeypatch.setenv("HEADRACE_CALIBRATION", "narrow")
    configuration.current.cache_clear()
    assert "calibration 'narrow'" in headrace("explain", f"{mine}:narrow").out


def test_the_table_has_a_line_per_site_or_head(headrace, mine):
    short = headrace("calibrate", f"{mine}:wide", "--data", "data.pt")
    assert "1 sites may use it, 1 are refused" in short.out
    assert short.out.count("2 heads") == 2
    full = headrace("calibrate", f"{mine}:wide", "--data", "data.pt", "--full")
    assert "heads" not in full.out.split("unified maximum")[1].split("sites may")[0]


def test_db_lists_and_counts_calibrations(headrace, mine):
    assert headrace("db", "info", "--json").json["calibrations"] == []
    made = headrace("calibrate", f"{mine}:narrow", "--data", "data.pt", "--name", "chat")
    assert made.code == 0, made.err
    assert headrace("db", "info", "--json").json["calibrations"] == ["chat"]
    assert "chat" in headrace("db", "info").out


MISTAKES = {
    "no data": (("narrow",), "there is no data"),
    "text for tensors": (("narrow", "a prompt"), "takes tensors, not text"),
    "a file that is missing": (("narrow", "--data", "none.pt"), "cannot be read"),
    "a file that is text": (("narrow", "--data", "prompts.txt"), "no file of tensors"),
    "a file without batches": (("narrow", "--data", "empty.pt"), "holds no batch"),
    "a file with one tensor": (("narrow", "--data", "tensor.pt"), "must hold a list"),
    "a model without attention": (("layer", "--data", "layer.pt"), "no attention that headrace recognises"),
    "a limit of 2": (("narrow", "--data", "data.pt", "--limit", "2"), "share of rows"),
    "a name with a space": (("narrow", "--data", "data.pt", "--name", "a b"), "cannot be called"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_and_nothing_is_recorded(name, headrace, mine, home):
    torch.save([], home / "empty.pt")
    torch.save(torch.ones(3), home / "tensor.pt")
    torch.save([(torch.randn(1, 16),)], home / "layer.pt")
    (home / "prompts.txt").write_text("one\ntwo\n")
    (subject, *rest), message = MISTAKES[name]
    ran = headrace("calibrate", f"{mine}:{subject}", *rest)
    assert ran.code == 1
    assert message in ran.err
    assert headrace("db", "info", "--json").json["calibrations"] == []


def test_an_unknown_model_is_told(headrace):
    ran = headrace("calibrate", "smollm3", "a prompt")
    assert ran.code == 1
    assert "did you mean 'smollm2'" in ran.err


def test_a_text_model_without_a_prompt_is_told_before_it_is_loaded(headrace, home):
    (home / "blank.txt").write_text("\n\n")
    assert "there is no data" in headrace("calibrate", "smollm2").err
    assert "holds no prompt" in headrace("calibrate", "smollm2", "--data", "blank.txt").err


def test_explain_refuses_a_calibration_that_is_not_there(headrace, mine):
    made = headrace("calibrate", f"{mine}:narrow", "--data", "data.pt", "--name", "chat")
    assert made.code == 0, made.err
    ran = headrace("explain", f"{mine}:narrow", "--calibration", "chatt")
    assert ran.code == 1
    assert "did you mean 'chat'" in ran.err


@pytest.mark.parametrize("length", [0, 9])
def test_a_prompt_that_does_not_fit_the_context_is_told(length):
    from headrace.compiler.cli.prompts import _fitting
    from headrace.errors import CalibrationError

    prompts = [torch.ones(1, 3), torch.ones(1, length)]
    with pytest.raises(CalibrationError, match=rf"prompt 2 has {length} tokens; .* 1 to 8"):
        _fitting(prompts, 8)
    assert _fitting([torch.ones(1, 3), torch.ones(1, 8)], 8) == 8
