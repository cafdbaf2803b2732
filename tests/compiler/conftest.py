"""A pipeline of one trivial claim, and a resolver that computes Specs with PyTorch: the compiler without
codegen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from headrace.compiler import backend, notices, resolve, runtime
from headrace.compiler.options import Options
from headrace.ir.evidence import Rung
from headrace.ir.expr import Ref
from headrace.ir.graph import Graph
from headrace.ir.ops import Contract, Kernel
from headrace.ir.schedule import LIBRARY
from headrace.ir.spec import Gemm, Output, Spec, Weight


class ClaimProducts:
    """Every matrix product `mk,kn->mn` that is an FX value becomes a Gemm."""

    def run(self, graph: Graph) -> None:
        for node in list(graph):
            if isinstance(node.op, Contract) and node.fx is not None and node.type.rank == 2:
                x, w = graph.operands(node)
                n, k = int(node.type.shape[1]), int(x.type.shape[1])
                weight = Weight("w0", w.type.dtype, n, k, "kn")
                spec = Gemm(x.type.dtype, (weight,), (Output(node.type.dtype, Ref("acc_w0")),))
                graph.replace(node.name, graph.add(Kernel(spec), (x.name, w.name), node.type).name)
        graph.sweep()


def product(spec: Spec, schedule: object, device: object) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    return lambda inputs: (inputs[0].float() @ inputs[1].float()).to(spec.output_dtypes[0].to_torch())


@pytest.fixture
def stub_runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[runtime.Resolver]:
    """A resolver that always runs `product`; the real one comes back afterwards."""
    resolver = runtime.Resolver(
        lambda spec, sizes, device: runtime.Choice(LIBRARY, Rung.DEFAULT, "stub"),
        product,
        lambda tensor: None,
    )
    before = runtime.RUNTIME._resolver
    monkeypatch.setattr(resolve, "use", lambda options: None)
    runtime.RUNTIME.use(resolver)
    yield resolver
    runtime.RUNTIME._resolver = before
    runtime.RUNTIME.forget()


@pytest.fixture(autouse=True)
def fresh(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No warning was given before, no graph is compiled, and records go to a folder of the test's own."""
    notices.forget_notices()
    torch._dynamo.reset()
    monkeypatch.setattr(backend, "_RECORDS", backend.RecordStore(tmp_path / "graphs"))
    # A hit there skips our passes; what they do is what these tests are about.
    with torch._functorch.config.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()


@pytest.fixture
def stub_backend(stub_runtime: runtime.Resolver) -> Callable[..., Any]:
    """A backend with `ClaimProducts` for its passes, strict."""

    def compiler(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return backend.compile_graph(gm, inputs, Options(strict=True), lambda options: ClaimProducts())

    return compiler
