"""Records: kept, found again by another process, and never in the way."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from headrace.compiler import records
from headrace.compiler.records import Claim, GraphRecord, RecordStore, Unclaimed, graph_key, prune

RECORD = GraphRecord(
    "k1", nodes=9, claims=(Claim("gemm", "Gemm", "Gemm{...}", ("mm",), "a.py:3 in f"),),
    unclaimed=(Unclaimed("cos", "map", "left"),), note="n", seconds=0.5,
)  # fmt: skip


def test_a_record_survives_its_process(tmp_path: Path) -> None:
    RecordStore(tmp_path / "deep" / "er").keep(RECORD)
    assert RecordStore(tmp_path / "deep" / "er").find("k1") == RECORD


def test_a_record_of_another_format_is_a_missing_one(tmp_path: Path) -> None:
    RecordStore(tmp_path).keep(RECORD)
    for text in ("{", '{"format": 99}', "[]", '{"format": 1}', "\x00"):
        (tmp_path / "k1.json").write_text(text)
        assert RecordStore(tmp_path).find("k1") is None


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = RecordStore(tmp_path / "file")
    store.keep(RECORD)
    assert store.find("k1") == RECORD


def test_a_folder_that_goes_away_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordStore(tmp_path / "graphs")
    written = Path.replace

    def and_gone(self: Path, target: Path) -> None:
        written(self, target).unlink()
        self.parent.rmdir()

    monkeypatch.setattr(Path, "replace", and_gone)
    store.keep(RECORD)
    assert store.find("k1") == RECORD
    assert records.prune(tmp_path / "graphs") == 0


def _aged(folder: Path, name: str, days: float) -> None:
    (folder / name).write_text("{}")
    then = time.time() - days * 86400
    os.utime(folder / name, (then, then))


def test_records_that_no_graph_uses_are_removed(tmp_path: Path) -> None:
    for name, days in (("a.json", 91), ("b.json", 89), ("c.json.part", 1), ("d.json.part", 0), ("notes", 99)):
        _aged(tmp_path, name, days)
    store = RecordStore(tmp_path)
    store.keep(RECORD)
    assert {path.name for path in tmp_path.iterdir()} == {"b.json", "d.json.part", "notes", "k1.json"}


def test_the_longest_unused_records_go_first(tmp_path: Path) -> None:
    for at in range(6):
        _aged(tmp_path, f"{at}.json", at)
    RecordStore(tmp_path).use("5")
    assert prune(tmp_path, records=3) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"5.json", "0.json", "1.json"}


def test_a_folder_of_records_stays_bounded_while_a_process_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_EVERY", 10)
    monkeypatch.setattr(records, "prune", functools.partial(prune, records=20))
    store = RecordStore(tmp_path)
    for at in range(95):
        store.keep(dataclasses.replace(RECORD, key=str(at)))
    assert len(list(tmp_path.iterdir())) < 30
    assert store.find("94") is not None


def _module(function: Callable[..., Any]) -> fx.GraphModule:
    return fx.symbolic_trace(function)


def test_the_key_knows_the_graph_its_inputs_and_the_salt() -> None:
    x = torch.ones(2, 3)
    one = graph_key(_module(lambda x: x + 1), [x], "")
    assert one == graph_key(_module(lambda x: x + 1), [torch.zeros(2, 3)], "")
    others = [
        graph_key(_module(lambda x: x + 2), [x], ""),
        graph_key(_module(lambda x: x + 1), [x.t()], ""),
        graph_key(_module(lambda x: x + 1), [x.double()], ""),
        graph_key(_module(lambda x: x + 1), [x], "all"),
    ]
    with torch.no_grad():
        others.append(graph_key(_module(lambda x: x + 1), [x], ""))
    assert len({one, *others}) == 6


@pytest.mark.parametrize("value", [3, 2.5, True])
def test_numbers_among_the_inputs_count(value: object) -> None:
    module = _module(lambda x, n: x * n)
    assert graph_key(module, [torch.ones(1), value], "") != graph_key(module, [torch.ones(1), 7], "")
