"""`headrace.explain`: what ran, what was claimed, what was not and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import headrace
from headrace.compiler import backend
from headrace.compiler.tuning import tasks
from headrace.errors import NothingToExplain


def test_a_compiled_model_is_explained(stub_backend: Callable[..., Any]) -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(16, 16, bias=False), torch.nn.Tanh(), torch.nn.Linear(16, 8, bias=False)
    )
    compiled = torch.compile(model, backend=stub_backend)
    with torch.no_grad():
        compiled(torch.randn(3, 16))
        report = headrace.explain(compiled)(torch.randn(3, 16))
    assert report.counts == {"Gemm": 2}
    assert len(report.graphs) == 1
    assert len(report.decisions) == 2
    assert "2 Gemm" in str(report)
    assert json.loads(json.dumps(report.as_json()))["counts"] == {"Gemm": 2}
    again = headrace.explain(report.graphs[0].key)
    assert again.graphs == report.graphs
    assert [(task.sizes, task.weight) for task in tasks(report)] == [((3,), 1.0), ((3,), 1.0)]


def test_only_graphs_that_ran_are_reported(stub_backend: Callable[..., Any]) -> None:
    one = torch.compile(torch.nn.Linear(8, 8, bias=False), backend=stub_backend)
    two = torch.compile(torch.nn.Linear(8, 4, bias=False), backend=stub_backend)
    x = torch.randn(2, 8)
    with torch.no_grad():
        one(x)
        assert [claim.spec for claim in headrace.explain(two)(x).claims] == [
            "Gemm{x=f32; weights=[w0:f32[4,8]kn]; extras=[]; outputs=[f32 = acc_w0]; batched=false}"
        ]


def test_a_record_that_is_gone_is_said_to_be_missing(stub_backend: Callable[..., Any]) -> None:
    compiled = torch.compile(torch.nn.Linear(8, 8, bias=False), backend=stub_backend)
    x = torch.randn(2, 8)
    with torch.no_grad():
        compiled(x)
        backend._RECORDS = backend.RecordStore()
        report = headrace.explain(compiled)(x)
    assert len(report.missing) == 1
    assert "fresh caches" in str(report)


def test_there_may_be_nothing_to_explain() -> None:
    with pytest.raises(NothingToExplain, match="no record"):
        headrace.explain("0123")
    compiled = torch.compile(lambda x: x + 1, backend="eager")
    with pytest.raises(NothingToExplain, match="backend='headrace'"):
        headrace.explain(compiled)(torch.ones(2))
