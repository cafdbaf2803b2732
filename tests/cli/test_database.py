"""`headrace db`: what was measured, and why the database answers as it does."""

from __future__ import annotations

import pytest

from headrace.autotune.db.rows import Check, Observation, Policy, Stage, Verdict
from headrace.autotune.db.store import Store
from headrace.autotune.keys import environment, numerics
from headrace.autotune.registry import Codegen
from headrace.compiler.devices import host_device
from headrace.ir.spec import parse_spec

SPEC = "Gemm{x=bf16; weights=[w0:bf16[64,128]nk]; extras=[]; outputs=[bf16 = acc_w0]; batched=false}"


def observation(dataflow: str, seconds: float, verdict: Verdict = Verdict.OK, **changes) -> Observation:
    device, registry = host_device(), Codegen()
    spec = parse_spec(SPEC)
    flow = next(flow for flow in registry.dataflows(spec, (1,), device) if flow.name == dataflow)
    return Observation(
        spec=SPEC, sizes=(1,), numerics=numerics(device), schedule=str(flow.default(spec, (1,), device)),
        template_digest=registry.digest(dataflow), environment=environment(device),
        policy=Policy(Stage.FINAL),
        verdict=verdict, samples=(seconds,) * 9 if verdict is Verdict.OK else (),
        check=Check((1, 2), "float64", 1, 0.0, 1e-2) if verdict is Verdict.OK else None,
        cause="" if verdict is Verdict.OK else "wrong by 3", **changes,
    )  # fmt: skip


@pytest.fixture
def filled(home):
    with Store.open(home / "results.db") as store:
        store.append([observation("gemv", 2e-6), observation("library", 5e-6)])
        store.append([observation("flat", 0.0, Verdict.WRONG)])
    return home


def test_info_before_anything_was_tuned(headrace):
    ran = headrace("db", "info", "--json")
    assert ran.code == 0
    assert ran.json["rows"] == 0
    assert not ran.json["exists"]


def test_info_counts_rows_by_verdict(headrace, filled):
    document = headrace("db", "info", "--json").json
    assert document["rows"] == 3
    assert document["verdicts"] == {"ok": 2, "wrong": 1}
    assert "results.db" in headrace("db", "info").out


def test_list_names_the_fastest_and_counts_failures(headrace, filled):
    (entry,) = headrace("db", "list", "--json").json
    assert entry["kind"] == "Gemm"
    assert entry["schedule"].startswith("gemv")
    assert entry["failed"] == 1
    assert "gemv" in headrace("db", "list").out
    assert headrace("db", "list", "--kind", "Rows", "--json").json == []


def test_why_climbs_to_the_exact_rung(headrace, filled):
    key = parse_spec(SPEC).digest[:10]
    (answer,) = headrace("db", "why", key, "--sizes", "1", "--json").json["answers"]
    assert answer["rungs"][0]["rung"] == "exact"
    assert answer["schedule"].startswith("gemv")
    assert answer["seconds"] == pytest.approx(2e-6)


def test_why_without_rows_leaves_the_choice_to_the_heuristics(headrace):
    (answer,) = headrace("db", "why", SPEC, "--sizes", "1", "--json").json["answers"]
    assert answer["schedule"] is None


def test_looking_never_creates_a_database(headrace, home):
    headrace("db", "info")
    headrace("db", "list")
    assert not (home / "results.db").exists()


def test_another_programs_database_is_refused(headrace, home):
    import sqlite3

    with sqlite3.connect(home / "photos.db") as other:
        other.execute("create table photos (name text)")
    ran = headrace("db", "info", "--database", str(home / "photos.db"))
    assert ran.code == 1
    assert "photos.db" in ran.err


def test_a_file_that_is_no_database_is_refused(home, headrace):
    path = home / "notes.txt"
    path.write_text("no database\n")
    result = headrace("db", "info", "--database", str(path))
    assert result.code == 1
    assert "is no database" in result.err
    assert path.read_text() == "no database\n"
