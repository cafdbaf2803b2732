"""`explain --regimes` and `tune regimes`: tables are printed and drawn, and only rows of this place speak."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from headrace.autotune.db.rows import Check, Observation, Policy, Verdict, race_of
from headrace.autotune.db.store import Store
from headrace.autotune.keys import environment, numerics
from headrace.autotune.registry import Codegen
from headrace.compiler.cli import plot
from headrace.compiler.cli.regimes import title
from headrace.compiler.devices import host_device
from headrace.ir.regime import Curve, Regime, RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, parse_spec

TEXT = "Gemm{x=f32; weights=[w0:f32[96,64]nk]; extras=[]; outputs=[f32 = acc_w0]; batched=false}"
GEMV = "gemv{block_k=64, block_m=4, block_n=32, reduce=row}"
MODULE = """
import torch

def norm():
    return torch.nn.LayerNorm(64).eval(), (torch.randn(4, 64),)

def layer():
    return torch.nn.Linear(64, 96, bias=False).eval(), (torch.randn(2, 64),)
"""


def write(home, *, device=None, digest=None):
    """Rows by which a GEMV wins up to M = 4 and the library from there on."""
    place = environment(host_device())
    registry = Codegen()
    with Store.open(home / "results.db") as store:
        for m in (1, 2, 4, 8, 16):
            times = {GEMV: (m * 1e-6,) * 9, str(LIBRARY): (5e-6,) * 9}
            race = race_of(list(times.values()))
            store.append(
                Observation(
                    TEXT, (m,), numerics(host_device()), text,
                    digest or registry.digest(text.partition("{")[0]),
                    place if device is None else type(place)(place.hard, device, place.versions),
                    Policy(cache="cold"), Verdict.OK, run, Check((0,), "float64", 2, 0.0, 1.0), race=race,
                )
                for text, run in times.items()
            )  # fmt: skip


def test_a_measured_table_is_printed_with_its_inflection_points(headrace, home):
    write(home)
    ran = headrace("explain", TEXT, "--regimes")
    assert ran.code == 0
    assert "[N, K] = [96, 64] x f32" in ran.out
    assert "M1 = 6 [6, 6] (GEMV ends)" in ran.out
    assert "voice: measured, 10 rows of the database, at M = 1, 2, 4, 8, 16" in ran.out
    assert "g gemv  l library" in ran.out
    (table,) = headrace("explain", TEXT, "--regimes", "--json").json["regimes"]
    assert [regime["rows"] for regime in table["regimes"]] == [5, 16]
    assert table["m1"] == {"rows": 6, "interval": [6, 6]}
    assert len(table["evidence"]) == 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "Other CPU/units=64/memory=999GiB"}, "measured on another device"),
        ({"digest": "an older template"}, "template has changed"),
    ],
)
def test_rows_from_elsewhere_leave_the_word_to_the_model(headrace, home, changes, reason):
    write(home, **changes)
    (table,) = headrace("explain", TEXT, "--regimes", "--json").json["regimes"]
    assert table["voice"] == "model"
    assert table["evidence"] == []
    assert table["regimes"][-1]["rows"] is None
    assert table["silent"] == {reason: 10}


def test_the_drawing_is_well_formed_and_has_a_line_per_dataflow(headrace, home):
    write(home)
    ran = headrace("explain", TEXT, "--regimes", "--plot", "found.svg")
    assert ran.code == 0
    root = ET.fromstring((home / "found.svg").read_text())
    named = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert named.count("polyline") == 2
    assert named.count("circle") == 10
    words = {element.text for element in root.iter() if element.text}
    assert {"gemv", "library", "rows M", "16"} <= words


def test_a_models_products_are_found(headrace, home, monkeypatch):
    (home / "mine_with_products.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(home))
    (table,) = headrace("explain", "mine_with_products:layer", "--regimes", "--claim", "all", "--json").json[
        "regimes"
    ]
    assert "w0:f32[96,64]nk" in table["spec"]
    ran = headrace("explain", "mine_with_products:norm", "--regimes")
    assert ran.code == 1
    assert "has no product" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["explain", TEXT, "--plot", "x.svg"], "give one of these too"),
        (["explain", TEXT, "--regimes", "--plot", "nowhere/x.svg"], "folder does not exist"),
        (["explain", TEXT, "--regimes", "--plot", "."], "it is a folder"),
        (["explain", TEXT.replace("false", "true"), "--regimes"], "has no product"),
        (["explain", "Gemm{x=bf17}", "--regimes"], "cannot read"),
        (["tune", "regimes", TEXT, "--grid", "1,two"], "whole numbers"),
        (["tune", "regimes", TEXT, "--grid", "0,1"], "whole numbers from 1 on"),
        (["tune", "regimes", TEXT, "--budget", "-1"], "budget of -1.0 s"),
    ],
)
def test_mistakes_are_told(headrace, home, words, said):
    ran = headrace(*words)
    assert ran.code == 1
    assert said in ran.err
    assert not (home / "x.svg").exists()


def test_measuring_writes_rows_and_what_is_known_costs_nothing(headrace, home):
    words = ("tune", "regimes", TEXT, "--grid", "1,2,4", "--budget", "100", "--json")
    first = headrace(*words).json["products"][0]
    assert first["table"]["voice"] == "measured"
    assert first["table"]["grid"] == [1, 2, 4]
    assert first["races"] in range(3, 10)  # one a size, and two finals where several came close
    (table,) = headrace("explain", TEXT, "--regimes", "--json").json["regimes"]
    assert table == first["table"] | {"silent": {}}
    assert headrace(*words).json["products"][0]["races"] == 0


def test_a_budget_that_ends_early_says_what_is_left(headrace, home):
    ran = headrace("tune", "regimes", TEXT, "--grid", "1,2,4", "--budget", "0.001")
    assert ran.code == 0
    assert "the budget ended before M = 1, 2, 4" in ran.out
    assert "too little was measured" in ran.out


def test_plots_of_extreme_tables_stay_inside_their_frame():
    single = RegimeTable(
        TEXT, "here", (Regime(7, LIBRARY),), Voice.MEASURED, first=7, curves=(Curve(LIBRARY, ((7, 1e-3),)),)
    )
    wide = RegimeTable(
        TEXT, "here", (Regime(1, Schedule("gemv"), (1, 900)), Regime(None, LIBRARY)), Voice.MODEL,
        curves=(Curve(LIBRARY, ((1, 1e-9), (1024, 1e3))), Curve(Schedule("gemv"), ((1, 1e-9),))),
    )  # fmt: skip
    for table in (single, wide):
        lines = plot.characters(table)
        assert all(len(line) < 90 for line in lines)
        for element in ET.fromstring(plot.svg([("<a & b>", table)])).iter():
            for name in ("x", "cx", "x1", "x2"):
                assert 0 <= float(element.get(name, 0)) <= 720
    assert plot.characters(RegimeTable(TEXT, "here", (Regime(None, LIBRARY),), Voice.MODEL)) == []
    spec = parse_spec(TEXT)
    assert isinstance(spec, Gemm)
    assert title(spec) == "[N, K] = [96, 64] x f32, w f32 nk"
