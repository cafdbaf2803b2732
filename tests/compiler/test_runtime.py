"""The runtime: sizes pick kernels without recompiling, and no kernel failure reaches a model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.autotune.db.rows import Environment, Observation, Policy, Verdict
from headrace.autotune.db.store import Store
from headrace.codegen.dataflows import get
from headrace.compiler import operators, resolve, restride, runtime
from headrace.compiler.notices import HeadraceWarning
from headrace.compiler.options import Options
from headrace.compiler.runtime import RUNTIME, Choice, Resolver
from headrace.errors import EmitError
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.evidence import Rung
from headrace.ir.expr import Ref
from headrace.ir.regime import Curve, Regime, RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Attention, Gemm, Output, Weight

F32 = DType.F32
SPEC = Gemm(F32, (Weight("w0", F32, 5, 4, "kn"),), (Output(F32, Ref("acc_w0")),))
TEXT = str(SPEC)
W = torch.arange(20.0).reshape(4, 5)


def product(inputs: Any) -> torch.Tensor:
    return inputs[0] @ inputs[1]


class Recording:
    """Chooses by size and remembers what was asked of it."""

    def __init__(
        self,
        kernels: dict[str, Callable[[Any], Any]],
        strict: bool = False,
        table: RegimeTable | Exception | None = None,
    ) -> None:
        self.kernels = {"library": product, **kernels}
        self.asked: list[tuple[int, ...]] = []
        self.built: list[str] = []
        self.table = table
        self.asked_for_tables = 0
        self.resolver = Resolver(
            self.choose,
            self.build,
            lambda tensor: None,
            strict=strict,
            regimes=self.regimes,  # type: ignore
        )

    def regimes(self, spec: object, device: object) -> RegimeTable | None:
        self.asked_for_tables += 1
        if isinstance(self.table, Exception):
            raise self.table
        return self.table

    def choose(self, spec: object, sizes: tuple[int, ...], device: object) -> Choice:
        self.asked.append(sizes)
        dataflow = "small" if sizes[0] <= 4 else "large"
        return Choice(Schedule(dataflow), Rung.EXACT, f"database, {dataflow}", 1e-6, ("row",))

    def build(self, spec: object, schedule: Schedule, device: object) -> Callable[[Any], Any]:
        self.built.append(schedule.dataflow)
        kernel = self.kernels[schedule.dataflow]
        if kernel is None:
            raise RuntimeError("does not build")
        return kernel


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recording]]:
    def make(strict: bool = False, table: Any = None, **kernels: Any) -> Recording:
        recording = Recording(kernels, strict, table)
        monkeypatch.setattr(RUNTIME, "_resolver", recording.resolver)
        RUNTIME.forget()
        return recording

    yield make
    RUNTIME.forget()


def call(rows: int) -> torch.Tensor:
    x = torch.randn(rows, 4)
    result = torch.ops.headrace.run2x1(x, W, TEXT)
    torch.testing.assert_close(result, x @ W)
    return result


def test_each_bucket_is_resolved_once(use: Callable[..., Recording]) -> None:
    recording = use(small=product, large=product)
    for rows in (1, 1, 5, 8, 6, 1, 9, 16):
        call(rows)
    assert recording.asked == [(1,), (5,), (9,)]
    assert recording.built == ["small", "large", "large"]
    assert {d.bucket: d.schedule for d in RUNTIME.decisions()} == {
        (1,): "small{}", (8,): "large{}", (16,): "large{}"
    }  # fmt: skip


def test_forgetting_resolves_anew_also_for_functions_bound_before(use: Callable[..., Recording]) -> None:
    recording = use(small=product, large=product)
    bound = runtime.bind("CPU", TEXT)
    x = torch.randn(2, 4)
    for _ in range(2):
        torch.testing.assert_close(bound(x, W), x @ W)
    RUNTIME.forget()
    torch.testing.assert_close(bound(x, W), x @ W)
    assert recording.asked == [(2,), (2,)]


def _raises(inputs: Any) -> torch.Tensor:
    raise ValueError("cannot launch")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (None, "does not build"),
        (_raises, "cannot launch"),
        (lambda inputs: product(inputs)[:1].clone(), "instead of"),
        (lambda inputs: product(inputs).double(), "instead of"),
        (lambda inputs: (product(inputs), product(inputs)), "zip"),
    ],
)
def test_a_bad_kernel_is_replaced_by_the_library_with_one_warning(
    kernel: Any, said: str, use: Callable[..., Recording]
) -> None:
    recording = use(small=kernel, large=product)
    with pytest.warns(HeadraceWarning, match=said) as warned:
        call(3)
    call(3)
    call(3)
    assert len([w for w in warned if w.category is HeadraceWarning]) == 1
    assert recording.built == ["small", "library"]
    (decision,) = RUNTIME.decisions()
    assert decision.schedule == str(LIBRARY)
    assert "failed" in decision.reason


def test_strict_raises_what_a_kernel_raises(use: Callable[..., Recording]) -> None:
    use(strict=True, small=_raises)
    with pytest.raises(ValueError, match="cannot launch"):
        torch.ops.headrace.run2x1(torch.randn(2, 4), W, TEXT)


def test_results_are_laid_out_as_the_fake_values_promise(use: Callable[..., Recording]) -> None:
    spec = Attention(F32, F32, F32, F32, 3, 3, 3, 8, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    plain = lambda inputs: attend(*inputs, scale=1.0).contiguous()  # noqa: E731
    recording = use(small=plain, large=plain)
    for queries in (1, 4, 7):
        q, k, v = (torch.randn(2, 3, queries, 8) for _ in range(3))
        for _ in range(2):
            got = torch.ops.headrace.run3x1(q, k, v, str(spec))
            with torch._subclasses.FakeTensorMode() as mode:
                fake = torch.ops.headrace.run3x1(*map(mode.from_tensor, (q, k, v)), str(spec))
            assert restride.same_layout(got.shape, got.stride(), fake.stride())
            torch.testing.assert_close(got, attend(q, k, v, scale=1.0))
    assert recording.built


def test_many_threads_get_right_results(use: Callable[..., Recording]) -> None:
    recording = use(small=product, large=product)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for at in range(60):
                call(1 + (seed * 7 + at) % 33)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(recording.asked) == len(set(RUNTIME.decisions()))


def test_a_stream_of_new_sizes_does_not_grow_memory(
    use: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(small=product, large=product)
    monkeypatch.setattr(runtime, "REMEMBERED_SIZES", 16)
    for rows in range(1, 100):
        call(rows)
    assert len(runtime.TABLES["CPU"][TEXT]._by_sizes) <= 16


def test_operators_pass_torchs_own_checks(use: Callable[..., Recording]) -> None:
    use(small=product, large=product)
    torch.library.opcheck(
        torch.ops.headrace.run2x1.default,
        (torch.randn(3, 4), W, TEXT),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_no_operator_is_wider_than_the_table() -> None:
    with pytest.raises(EmitError, match="at most"):
        operators.operator(operators.MAX_INPUTS + 1, 1)


def _fails_after(calls: int) -> Callable[[Any], torch.Tensor]:
    left = [calls]

    def kernel(inputs: Any) -> torch.Tensor:
        left[0] -= 1
        return product(inputs) if left[0] >= 0 else _raises(inputs)

    return kernel


@pytest.mark.parametrize("bound", [False, True])
def test_a_kernel_that_fails_later_is_replaced_with_one_warning(
    bound: bool, use: Callable[..., Recording]
) -> None:
    use(small=_fails_after(2))
    run = runtime.bind("CPU", TEXT) if bound else lambda x, w: torch.ops.headrace.run2x1(x, w, TEXT)
    x = torch.randn(2, 4)
    for _ in range(2):
        torch.testing.assert_close(run(x, W), x @ W)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        torch.testing.assert_close(run(x, W), x @ W)
    torch.testing.assert_close(run(x, W), x @ W)
    assert [d.schedule for d in RUNTIME.decisions()] == ["library{}"]


SMALL, LARGE = Schedule("small"), Schedule("large")
MEASURED = RegimeTable(
    TEXT, "here", (Regime(6, SMALL, (5, 7)), Regime(20, LARGE, (18, 22)), Regime(64, LIBRARY)),
    Voice.MEASURED, evidence=("r1", "r2"), curves=(Curve(SMALL, ((1, 1e-6), (6, 5e-6))),),
)  # fmt: skip


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


@pytest.mark.parametrize("bound", [False, True])
def test_a_regimes_kernel_that_fails_is_replaced_in_that_regime_alone(
    bound: bool, use: Callable[..., Recording]
) -> None:
    recording = use(table=MEASURED, small=_raises, large=product)
    run = runtime.bind("CPU", TEXT) if bound else lambda x, w: torch.ops.headrace.run2x1(x, w, TEXT)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        run(torch.randn(3, 4), W)
    for rows in (3, 5, 8):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(run(x, W), x @ W)
    assert recording.built == ["small", "library", "large"]
    # A small kernel serves none of its regime any more, whichever size of it comes.
    assert {d.sizes[0]: d.schedule for d in RUNTIME.decisions()}[3] == "library{}"


def test_a_regime_whose_kernel_failed_later_says_so_at_every_size(use: Callable[..., Recording]) -> None:
    use(table=MEASURED, small=_fails_after(2))
    run = runtime.bind("CPU", TEXT)
    x = torch.randn(6, 4)
    for rows in (2, 3):
        torch.testing.assert_close(run(x[:rows], W), x[:rows] @ W)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        torch.testing.assert_close(run(x[:3], W), x[:3] @ W)
    torch.testing.assert_close(run(x[:5], W), x[:5] @ W)
    served = {decision.sizes[0]: decision.schedule for decision in RUNTIME.decisions()}
    assert served == {2: "small{}", 3: "library{}", 5: "library{}"}


def test_a_kernel_that_is_forgotten_while_it_fails_leaves_a_usable_regime(
    use: Callable[..., Recording],
) -> None:
    calls = []

    def forgotten(inputs: Any) -> torch.Tensor:
        calls.append(len(inputs[0]))
        if len(calls) > 1:
            RUNTIME.forget()  # as another thread may at any time
            raise RuntimeError("cannot launch")
        return product(inputs)

    use(table=MEASURED, small=forgotten)
    run = runtime.bind("CPU", TEXT)
    x = torch.randn(5, 4)
    torch.testing.assert_close(run(x[:3], W), x[:3] @ W)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        torch.testing.assert_close(run(x[:3], W), x[:3] @ W)
    torch.testing.assert_close(run(x[:5], W), x[:5] @ W)
    assert {decision.schedule for decision in RUNTIME.decisions()} == {"library{}"}


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
    with caplog.at_level("DEBUG", logger="headrace.compiler.runtime"):
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
