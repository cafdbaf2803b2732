"""Each compiled graph runs under the options it was compiled with, and sees what the database has learnt."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recording import SPEC, TEXT, ClaimProducts, Recording, W, product

from headrace.autotune.db.rows import Check, Observation, Policy, Verdict
from headrace.autotune.db.store import Store
from headrace.autotune.keys import environment, numerics
from headrace.autotune.registry import Codegen
from headrace.compiler import backend, resolve, scopes
from headrace.compiler.devices import host_device
from headrace.compiler.notices import HeadraceWarning
from headrace.compiler.options import Options
from headrace.compiler.report import explain
from headrace.compiler.scopes import RUNTIME


def _raises(inputs: Any) -> torch.Tensor:
    raise ValueError("cannot launch")


def compiled(options: Options) -> Callable[..., Any]:
    """One function, compiled anew under options, with every product claimed."""

    def compiler(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return backend.compile_graph(gm, inputs, options, lambda _: ClaimProducts())

    return torch.compile(lambda x, w: (x @ w).relu(), backend=compiler)


def test_a_graph_keeps_its_options_when_others_are_compiled_after_it() -> None:
    """The three graphs are one to Inductor, whose caches give them one module."""
    asked: list[Options] = []

    def make(options: Options) -> Any:
        asked.append(options)
        kernel = product if options.database is None else _raises
        return Recording({"small": kernel}, strict=options.strict).resolver

    RUNTIME.resolve_by(make)
    try:
        x, w = torch.randn(3, 4), torch.randn(4, 5)
        plain = compiled(Options())
        strict = compiled(Options(strict=True, database="a"))
        lenient = compiled(Options(database="a"))
        with torch.no_grad():
            torch.testing.assert_close(plain(x, w), (x @ w).relu())
            with pytest.raises(ValueError, match="cannot launch"):
                strict(x, w)
            with pytest.warns(HeadraceWarning, match="cannot launch"):
                torch.testing.assert_close(lenient(x, w), (x @ w).relu())
            torch.testing.assert_close(plain(x, w), (x @ w).relu())
            with pytest.raises(ValueError, match="cannot launch"):
                strict(x, w)
            (mine,) = explain(plain)(x, w).decisions
            report = explain(lenient)(x, w)
        assert mine.schedule == "small{}"
        assert [d.schedule for d in report.decisions] == ["library{}"]
        assert report.database == "a"
        assert len(asked) == 3
    finally:
        RUNTIME.resolve_by(resolve.make_resolver)


def test_options_that_do_not_change_how_schedules_are_found_share_a_scope() -> None:
    one = RUNTIME.scope(Options(claim="all", tuning="off", dump="here"))
    assert RUNTIME.scope(Options(claim="none", tuning="off")) is one
    assert RUNTIME.scope(Options(claim="all", tuning="off", strict=True)) is not one


def test_operators_outside_of_graphs_follow_the_latest_program(use: Callable[..., Recording]) -> None:
    recording = use(small=product)
    RUNTIME.use(Options(database="a"))
    torch.ops.headrace.run2x1(torch.randn(2, 4), W, TEXT)
    assert recording.built == ["small"]
    assert RUNTIME.default.options.database == "a"
    assert len(RUNTIME.default.decisions()) == 1


def _row(schedule: str, seconds: float) -> Observation:
    device = host_device()
    return Observation(
        TEXT, (3,), numerics(device), schedule, Codegen().digest(schedule.partition("{")[0]),
        environment(device), Policy(), Verdict.OK, (seconds,) * 9, Check((0,), "float64", 2, 0.0, 1.0),
    )  # fmt: skip


WRITE = """
import sys
from pathlib import Path
from headrace.autotune.db.store import Store
with Store.open(Path(sys.argv[1])) as other, Store.open(Path(sys.argv[2])) as mine:
    mine.append(other.observations())
"""


def test_what_another_process_measures_is_used_when_the_next_graph_is_compiled(tmp_path: Path) -> None:
    path, beside, device = tmp_path / "results.db", tmp_path / "beside.db", host_device()
    options = Options(database=str(path))
    scope = RUNTIME.scope(options)
    sizes, x = (3,), torch.randn(3, 4)
    with scopes.entered(scope):
        torch.ops.headrace.run2x1(x, W, TEXT)
    (before,) = scope.decisions()
    assert not before.reason.startswith("database")
    other = next(
        flow.default(SPEC, sizes, device)
        for flow in Codegen().dataflows(SPEC, sizes, device)
        if flow.name != before.dataflow
    )
    with Store.open(beside) as store:
        store.append([_row(str(other), 1e-6), _row("library{}", 9e-6)])
    subprocess.run([sys.executable, "-c", WRITE, str(beside), str(path)], check=True)
    assert scope.decisions() == (before,)
    assert RUNTIME.scope(options) is scope  # as compiling a graph asks for it
    with scopes.entered(scope):
        torch.testing.assert_close(torch.ops.headrace.run2x1(x, W, TEXT), x @ W)
    (after,) = scope.decisions()
    assert after.schedule == str(other)
    assert after.reason.startswith("database")


def test_a_database_that_did_not_change_forgets_nothing(tmp_path: Path) -> None:
    scope = RUNTIME.scope(Options(database=str(tmp_path / "results.db")))
    with scopes.entered(scope):
        torch.ops.headrace.run2x1(torch.randn(3, 4), W, TEXT)
    host_device(str(tmp_path / "results.db"))
    RUNTIME.scope(scope.options)  # the figures of this machine may have been written meanwhile
    with scopes.entered(scope):
        torch.ops.headrace.run2x1(torch.randn(3, 4), W, TEXT)
    before = scope.decisions()
    RUNTIME.scope(scope.options)
    assert scope.decisions() == before != ()
