"""The number of rows of a product is compared with the thresholds of its regimes, while the graph runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recording import F32, MEASURED, SPEC, TEXT, Recording, call, product

from headrace.autotune.db.rows import Environment, Observation, Policy, Verdict
from headrace.autotune.db.store import Store
from headrace.codegen.dataflows import get
from headrace.compiler import resolve
from headrace.compiler.options import Options
from headrace.compiler.scopes import RUNTIME
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.expr import Ref
from headrace.ir.regime import Voice
from headrace.ir.spec import Gemm, Output, Weight


def test_rows_are_compared_with_the_thresholds_and_each_regime_has_one_kernel(
    use: Callable[..., Recording],
) -> None:
    recording = use(table=MEASURED, small=product, large=product)
    for rows in (1, 2, 5, 6, 7, 20, 19, 21, 64, 3, 1):
        call(rows)
    assert recording.asked_for_tables == 1
    assert recording.built == ["small", "large", "library"]
    assert not recording.asked  # the table has an answer for each of these
    served = {decision.sizes[0]: decision for decision in RUNTIME.decisions()}
    # The bucket (8,) lies in two regimes: 5 and 6 are served by one kernel, 7 by the other.
    assert {m: d.schedule for m, d in served.items()} == {
        1: "small{}", 2: "small{}", 3: "small{}", 5: "small{}",
        7: "large{}", 20: "large{}", 21: "library{}", 64: "library{}",
    }  # fmt: skip
    assert served[1].regime == "regime 1..6 of 3 (measured)"
    assert served[1].reason == "database, regime 1..6 of 3 (measured)"
    assert (served[1].rung, served[1].seconds, served[1].rows) == ("exact", 1e-6, ("r1", "r2"))
    assert served[7].regime == "regime 7..20 of 3 (measured)"


def test_sizes_outside_of_the_table_go_by_buckets(use: Callable[..., Recording]) -> None:
    recording = use(table=MEASURED, small=product, large=product)
    for rows in (65, 100, 128, 129, 4):
        call(rows)
    assert recording.asked == [(65,), (129,)]
    assert {d.regime for d in RUNTIME.decisions()} == {"", "regime 1..6 of 3 (measured)"}


def test_a_table_that_cannot_be_had_leaves_buckets(use: Callable[..., Recording]) -> None:
    recording = use(table=RuntimeError("no table"), small=product, large=product)
    call(3)
    assert recording.asked == [(3,)]
    use(table=RuntimeError("no table"), strict=True, small=product, large=product)
    with pytest.raises(RuntimeError, match="no table"):
        call(3)


def test_forgetting_asks_for_the_table_anew(use: Callable[..., Recording]) -> None:
    recording = use(table=MEASURED, small=product, large=product)
    call(3)
    recording.table = None
    RUNTIME.forget()
    call(3)
    assert recording.asked_for_tables == 2
    assert [d.regime for d in RUNTIME.decisions()] == [""]


def test_regimes_are_logged_once_and_so_is_each_switch(
    use: Callable[..., Recording], caplog: pytest.LogCaptureFixture
) -> None:
    use(table=MEASURED, small=product, large=product)
    with caplog.at_level("DEBUG", logger="headrace.compiler.decisions"):
        for rows in (1, 2, 9, 10, 1):
            call(rows)
    told = [record.getMessage() for record in caplog.records]
    assert sum("M1 = " in each for each in told) == 1
    assert sum("regime 1..6 of 3" in each for each in told) == 1
    assert sum("regime 7..20 of 3" in each for each in told) == 1


def test_batched_products_and_attention_ask_for_no_table(use: Callable[..., Recording]) -> None:
    batched = Gemm(F32, (Weight("w0", F32, 5, 4, "kn"),), (Output(F32, Ref("acc_w0")),), batched=True)
    recording = use(table=MEASURED, small=torch_bmm, large=torch_bmm, library=torch_bmm)
    torch.ops.headrace.run2x1(torch.randn(2, 3, 4), torch.randn(2, 4, 5), str(batched))
    assert recording.asked_for_tables == 0
    assert recording.asked == [(2, 3)]


def torch_bmm(inputs: Any) -> torch.Tensor:
    return torch.bmm(*inputs)


HOSTS = (
    Device(
        "a CPU", Backend.CPU, "x86_64", 2, bandwidth=3e10, flops_f32=3e11, flops_16=6e11, launch_seconds=5e-6
    ),
    Device("an unknown CPU", Backend.CPU, "x86_64", 2),
)


@pytest.mark.parametrize("device", HOSTS, ids=lambda device: device.name)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_the_models_table_has_a_legal_schedule_for_every_number_of_rows(device: Device, dtype: DType) -> None:
    spec = Gemm(dtype, (Weight("w0", dtype, 1536, 576),), (Output(dtype, Ref("acc_w0")),))
    table = resolve.modelled(spec, device)
    assert table.voice is Voice.MODEL
    assert table.regimes[-1].rows is None
    for rows in (*range(1, 300), 1000, 10**5):
        schedule = table.of(rows)
        assert schedule is not None
        assert get(schedule.dataflow).legal(spec, (rows,), schedule, device) is None


def test_what_is_known_of_single_sizes_is_worth_more_than_the_models_regimes(tmp_path: Path) -> None:
    """One tuned size, no table: buckets decide, so that the tuned one is used."""
    path, device = tmp_path / "results.db", HOSTS[0]
    chooser = resolve.Chooser(Options(database=str(path)))
    table = chooser.regimes(SPEC, device)
    assert table is not None
    assert table.voice is Voice.MODEL
    row = Observation(
        TEXT, (3,), "n", "library{}", "d", Environment("h", "d", "v"), Policy(), Verdict.WRONG, cause="x"
    )
    with Store.open(path) as store:
        store.append([row])
    assert resolve.Chooser(Options(database=str(path))).regimes(SPEC, device) is None
    assert resolve.Chooser(Options(database=str(path), target="library")).regimes(SPEC, device) is None
