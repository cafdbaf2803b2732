"""A pipeline of one trivial claim, and a resolver that computes Specs with PyTorch: the compiler without
codegen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from recording import HOST, ClaimProducts, Recording

from headrace.compiler import backend, notices, resolve
from headrace.compiler.decisions import Choice, Resolver
from headrace.compiler.options import Options
from headrace.compiler.scopes import RUNTIME
from headrace.ir.evidence import Rung
from headrace.ir.schedule import LIBRARY
from headrace.ir.spec import Spec


def product(spec: Spec, schedule: object, device: object) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    return lambda inputs: (inputs[0].float() @ inputs[1].float()).to(spec.output_dtypes[0].to_torch())


@pytest.fixture
def stub_runtime() -> Iterator[Resolver]:
    """A resolver that always runs `product`; the real one comes back afterwards."""
    resolver = Resolver(
        lambda spec, sizes, device: Choice(LIBRARY, Rung.DEFAULT, "stub"),
        product,
        lambda tensor: HOST,
    )
    RUNTIME.resolve_by(lambda options: resolver)
    yield resolver
    RUNTIME.resolve_by(resolve.make_resolver)


@pytest.fixture
def use() -> Iterator[Callable[..., Recording]]:
    """Makes the kernels of a `Recording` the ones that run."""

    def make(strict: bool = False, table: Any = None, others: Any = (), **kernels: Any) -> Recording:
        recording = Recording(kernels, strict, table, others)
        RUNTIME.resolve_by(lambda options: recording.resolver)
        return recording

    yield make
    RUNTIME.resolve_by(resolve.make_resolver)


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
def stub_backend(stub_runtime: Resolver) -> Callable[..., Any]:
    """A backend with `ClaimProducts` for its passes, strict."""

    def compiler(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return backend.compile_graph(gm, inputs, Options(strict=True), lambda options: ClaimProducts())

    return compiler
