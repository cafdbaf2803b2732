"""The backend: what it claims, what it leaves alone, and what happens when something goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recording import ClaimProducts
from torch._inductor.custom_graph_pass import CustomGraphPass

from headrace.compiler import backend, resolve, scopes
from headrace.compiler.notices import HeadraceWarning
from headrace.compiler.options import Options
from headrace.compiler.rewrite import has_backward
from headrace.errors import HeadraceError
from headrace.ir.graph import Graph


class Broken:
    def run(self, graph: Graph) -> None:
        graph.sweep()
        raise RuntimeError("a pass is broken")


def with_passes(pipeline: Any, **options: Any) -> Callable[..., Any]:
    def compiler(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return backend.compile_graph(gm, inputs, Options(**options), lambda _: pipeline)

    return compiler


def layer() -> torch.nn.Module:
    return torch.nn.Linear(24, 16, bias=False)


def claimed() -> int:
    return sum(len(record.claims) for record in backend.records().recent())


def test_inference_is_claimed(stub_backend: Callable[..., Any]) -> None:
    model, x = layer(), torch.randn(3, 24)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=stub_backend)(x), model(x))
    assert claimed() == 1
    (decision,) = scopes.RUNTIME.decisions()
    assert decision.sizes == (3,)


def test_training_is_left_to_inductor_and_learns_the_same(stub_backend: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model, x = layer(), torch.randn(3, 24)
    compiled = torch.compile(model, backend=stub_backend)
    compiled(x).square().sum().backward()
    got = model.weight.grad.clone()
    model.zero_grad()
    model(x).square().sum().backward()
    torch.testing.assert_close(got, model.weight.grad)
    assert claimed() == 0
    assert [record.kind for record in backend.records().recent()] == ["training"]


def test_a_joint_graph_is_known_by_its_inputs() -> None:
    graph = torch.fx.Graph()
    graph.placeholder("arg0_1")
    assert not has_backward(graph)
    graph.placeholder("tangents_1")
    assert has_backward(graph)


def test_autocast_is_claimed_in_the_type_that_it_casts_to(stub_backend: Callable[..., Any]) -> None:
    model, x = layer(), torch.randn(3, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.compile(model, backend=stub_backend)(x)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, model(x), atol=3e-2, rtol=3e-2)
    (record,) = backend.records().recent()
    assert "x=bf16" in record.claims[0].spec


@pytest.mark.parametrize("how", ["dynamic", "mark_dynamic", "mark_unbacked"])
def test_one_compilation_serves_every_size(how: str, stub_backend: Callable[..., Any]) -> None:
    model = layer()
    compiled = torch.compile(model, backend=stub_backend, dynamic=True if how == "dynamic" else None)
    for rows in (8, 2, 33, 64):
        x = torch.randn(rows, 24)
        if how == "mark_dynamic":
            torch._dynamo.mark_dynamic(x, 0, min=2, max=256)
        elif how == "mark_unbacked":
            torch._dynamo.decorators.mark_unbacked(x, 0)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))
    if how == "mark_unbacked":
        one = torch.randn(1, 24)
        torch._dynamo.decorators.mark_unbacked(one, 0)
        with torch.no_grad():
            torch.testing.assert_close(compiled(one), model(one))
    assert len(backend.records().recent()) == 1
    assert len(scopes.RUNTIME.decisions()) >= 3


def test_a_broken_pass_costs_one_warning_and_nothing_else(stub_runtime: object) -> None:
    compiled = torch.compile(layer(), backend=with_passes(Broken()))
    x = torch.randn(3, 24)
    with torch.no_grad(), pytest.warns(HeadraceWarning, match=r"a pass is broken.*TORCH_LOGS"):
        torch.testing.assert_close(compiled(x), compiled._orig_mod(x))
    (record,) = backend.records().recent()
    assert "a pass is broken" in record.note


def test_a_dump_that_cannot_be_written_costs_one_warning_and_no_claim(
    stub_runtime: object, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("no folder")
    compiled = torch.compile(layer(), backend=with_passes(ClaimProducts(), dump=str(taken)))
    x = torch.randn(3, 24)
    with torch.no_grad(), pytest.warns(HeadraceWarning, match="cannot write graphs into") as told:
        torch.testing.assert_close(compiled(x), compiled._orig_mod(x))
    assert len(told) == 1
    assert claimed() == 1


def test_strict_raises_what_a_broken_pass_raises(stub_runtime: object) -> None:
    compiled = torch.compile(layer(), backend=with_passes(Broken(), strict=True))
    with torch.no_grad(), pytest.raises(Exception, match="a pass is broken"):
        compiled(torch.randn(3, 24))


def test_a_claim_that_inductor_cannot_compile_is_given_back(
    stub_runtime: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = backend._inductor

    def fails_with_our_pass(gm: Any, inputs: Any, options: Options, ours: list[Any]) -> Any:
        compiled = genuine(gm, inputs, options, ours)
        if ours:
            raise RuntimeError("Inductor does not like it")
        return compiled

    monkeypatch.setattr(backend, "_inductor", fails_with_our_pass)
    compiled = torch.compile(layer(), backend=with_passes(ClaimProducts()))
    x = torch.randn(3, 24)
    with torch.no_grad(), pytest.warns(HeadraceWarning, match="gets the original"):
        torch.testing.assert_close(compiled(x), compiled._orig_mod(x))
    assert claimed() == 0


def test_passes_of_others_stay_in_the_slot(stub_runtime: object) -> None:
    seen: list[str] = []

    class Theirs(CustomGraphPass):
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, graph: torch.fx.Graph) -> None:
            seen.append(self.name)

        def uuid(self) -> str:
            return f"{self.name}{id(seen)}"

    mine = (("joint_custom_pre_pass", Theirs("option")),)
    x = torch.randn(5, 24)
    with torch.no_grad():
        torch.compile(layer(), backend=with_passes(ClaimProducts(), inductor=mine))(x)
        with torch._inductor.config.patch(joint_custom_pre_pass=[Theirs("config")]):
            torch.compile(layer(), backend=with_passes(ClaimProducts()))(x[:2])
    assert seen == ["option", "config"]
    assert claimed() == 2
    assert torch._inductor.config.joint_custom_pre_pass is None


@pytest.mark.parametrize(
    ("options", "reason"), [({"claim": "none"}, "claim=none"), ({"claim": "auto"}, "engine is inactive")]
)
def test_standing_aside_means_plain_inductor(
    options: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "_engine_missing", lambda: "the CPU engine is inactive")
    compiled = torch.compile(layer(), backend=with_passes(ClaimProducts(), **options))
    x = torch.randn(3, 24)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), compiled._orig_mod(x))
    (record,) = backend.records().recent()
    assert record.kind == "delegated"
    assert reason in record.note


def test_a_compiled_graph_copies_no_cache(stub_backend: Callable[..., Any]) -> None:
    """A static KV cache that is written with index_copy_ is updated in place, next to a claimed product."""
    cache = torch.zeros(2, 64, 16)
    model = layer()

    def step(cache: torch.Tensor, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        new = model(x)
        cache.index_copy_(1, at, new.view(2, 1, 16))
        return cache.sum(1) + new

    compiled = torch.compile(step, backend=stub_backend)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        x, at = torch.randn(2, 24), torch.tensor([5])
        _, (code,) = torch._inductor.utils.run_and_get_code(compiled, cache, x, at)
    del profile
    allocated = [line for line in code.splitlines() if "empty_strided_cpu((2, 64, 16)" in line]
    assert allocated == []
    torch.testing.assert_close(cache[:, 5], model(x))
    assert claimed() == 1


def test_errors_of_headrace_are_its_own() -> None:
    for option in ({"database": "/nowhere/at/all.db"},):
        with pytest.raises(HeadraceError, match="does not exist"):
            resolve.make_resolver(Options(**option))
