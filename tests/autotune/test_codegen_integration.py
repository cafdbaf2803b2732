"""Tuning over the real dataflows: build, verify and race in the worker, then answer from the database."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.autotune.db.rows import Verdict
from headrace.autotune.db.store import Store
from headrace.autotune.discover import discover_cpu
from headrace.autotune.evidence import DatabaseEvidence
from headrace.autotune.registry import Codegen
from headrace.autotune.report import Status, Task
from headrace.autotune.space import Space
from headrace.autotune.tuner import tune
from headrace.ir.evidence import Rung
from headrace.ir.spec import parse_spec

GEMM = parse_spec(
    "Gemm{x=bf16; weights=[w:bf16[64,96]nk]; extras=[r:bf16[mn]]; "
    "outputs=[bf16 = add(cast:bf16(acc_w), r)]; batched=false}"
)
NORM = parse_spec(
    "Rows{inputs=[x:bf16[rn], w:bf16[n]]; reductions=[s = sum(mul(x, x))]; "
    "outputs=[bf16 = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}"
)
CACHE = parse_spec(
    "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[4, 2, 2]; dims=[16, 16]; score=mul(s, 0.25); "
    "mask=le(j, add(i, p)); normalizer=exp/sum/online; safe=false; extras=[p:i64[]]}"
)
TASKS = [Task(GEMM, (1,), 4.0), Task(NORM, (3, 96)), Task(CACHE, (1, 1, 64))]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.spec.kind)
def test_defaults_of_every_dataflow_are_legal_in_the_space(task: Task) -> None:
    device = discover_cpu(1, read_bytes=8 << 20)
    space = Space(Codegen(), task.spec, task.sizes, device)
    assert space.flows
    assert "library" not in space.flows
    assert all(space.legal(schedule) for schedule in space.defaults)


def test_tuning_records_right_results_and_the_second_run_needs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.autotune.job.PATIENCE", 2)  # a short search, however busy the machine is
    with Store.open(tmp_path / "db.sqlite") as store:
        device = discover_cpu(1, store, read_bytes=8 << 20)
        report = tune(TASKS, device, store, budget_seconds=300.0)
        assert {result.status for result in report.results} == {Status.TUNED}
        bad = {(row.schedule, row.cause) for row in store.observations() if row.verdict is Verdict.WRONG}
        assert bad == set()
        again = tune(TASKS, device, store, budget_seconds=300.0)
        assert again.trials == 0
        assert {result.status for result in again.results} == {Status.KNOWN}
        answer = DatabaseEvidence(store).best(GEMM, (1,), device)
        assert answer is not None
        assert answer.rung is Rung.EXACT
