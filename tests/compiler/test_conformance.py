"""Compiled equals eager within the tolerance table, on small modules, static and dynamic, inference and
training.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from compiler_modules import CASES, Case, Heads, SwiGlu, sdpa
from torch import nn

from headrace.compiler import backend
from headrace.ir.dtype import DType
from headrace.ir.tolerance import bound

# Every kernel that exists is used, and any failure inside headrace is one here.
OPTIONS = {"claim": "all", "strict": True}


def compiled(module: nn.Module, **keywords: Any) -> Any:
    return torch.compile(module, backend=backend.backend, options=dict(OPTIONS), **keywords)


def worst(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.detach().double() - want.detach().double()).abs().max()) if got.numel() else 0.0


def hold(got: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor, *, backward: bool = False) -> None:
    """The tolerance table: twice eager's own error plus epsilon times the scale."""
    assert got.dtype == eager.dtype
    assert got.shape == eager.shape
    assert torch.equal(got.isnan(), eager.isnan())
    scale = float(exact.abs().max()) if exact.numel() else 0.0
    limit = bound(DType.from_torch(got.dtype), worst(eager, exact), scale, backward=backward)
    assert worst(got, exact) <= limit


def exact_inputs(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.double() if x.is_floating_point() else x for x in inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_inference(case: Case) -> None:
    torch.manual_seed(len(case.name))
    module = case.make().to(case.dtype).eval()
    reference = copy.deepcopy(module).double()
    function = compiled(module, dynamic=None if case.dynamic is None else True)
    with torch.no_grad():
        for extra in (0,) if case.dynamic is None else (0, 3, 12):
            inputs = case.inputs(extra)
            hold(function(*inputs), module(*inputs), reference(*exact_inputs(inputs)))
    if case.dynamic is not None:
        assert len(backend.records().recent()) == 1


TRAINED = {
    "mlp": (lambda: nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 8)), (5, 24)),
    "swiglu": (lambda: SwiGlu(24, 40), (2, 3, 24)),
    "attention": (lambda: Heads(lambda q, k, v: sdpa(q, k, v, is_causal=True)), (2, 6, 32)),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_step(name: str) -> None:
    torch.manual_seed(1)
    make, shape = TRAINED[name]
    module, x = make(), torch.randn(shape)
    reference = copy.deepcopy(module).double()
    function = compiled(module)

    def gradients(run: Any, inputs: torch.Tensor, owner: nn.Module) -> dict[str, torch.Tensor]:
        owner.zero_grad()
        inputs = inputs.detach().requires_grad_()
        run(inputs).square().mean().backward()
        assert inputs.grad is not None
        return {"input": inputs.grad} | {
            n: p.grad.clone() for n, p in owner.named_parameters() if p.grad is not None
        }

    got = gradients(function, x, module)
    eager = gradients(module, x, module)
    exact = gradients(reference, x.double(), reference)
    assert got.keys() == eager.keys()
    for key in got:
        hold(got[key], eager[key], exact[key], backward=True)


@pytest.mark.parametrize("name", ["swiglu", "attention"])
def test_autocast_inference(name: str) -> None:
    torch.manual_seed(2)
    make, shape = TRAINED[name]
    module, x = make().eval(), torch.randn(shape)
    function = compiled(module)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        got, eager = function(x), module(x)
    assert got.dtype == eager.dtype
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(x.double())
    limit = bound(DType.BF16, worst(eager, exact), float(exact.abs().max()))
    assert worst(got, exact) <= limit


def test_autocast_training() -> None:
    torch.manual_seed(3)
    module, x = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8)), torch.randn(5, 24)
    function = compiled(module)

    def gradient(run: Any) -> torch.Tensor:
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = run(x).float().square().mean()
        loss.backward()
        assert module[0].weight.grad is not None
        return module[0].weight.grad.clone()

    got, eager = gradient(function), gradient(module)
    assert worst(got, eager) <= 3 * 8e-3 * float(eager.abs().max()) + 1e-4


def test_nan_and_infinity_stay_where_they_are() -> None:
    module = nn.Sequential(nn.Linear(16, 32), nn.Softmax(-1), nn.Linear(32, 8)).eval()
    x = torch.randn(6, 16)
    x[1, 3], x[4, 0] = float("nan"), float("inf")
    with torch.no_grad():
        got, want = compiled(module)(x), module(x)
    assert torch.equal(got.isnan(), want.isnan())
    torch.testing.assert_close(got, want, equal_nan=True)
