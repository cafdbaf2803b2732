"""Records: kept, found again by another process, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import fx

from headrace.compiler.records import Claim, GraphRecord, RecordStore, Unclaimed, graph_key

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


def _module(function: object) -> fx.GraphModule:
    return fx.symbolic_trace(function)  # type: ignore[arg-type]


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
