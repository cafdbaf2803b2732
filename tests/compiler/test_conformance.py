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


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("auto", torch.float32),
        ("auto", torch.bfloat16),
        ("library", torch.float32),
        ("library", torch.float16),
    ],
)
def test_rows_of_infinite_scores_are_what_eager_makes_of_them(target: str, dtype: torch.dtype) -> None:
    """Scaled dot-product attention gives zeros to a row of -inf, softmax NaN; +inf and NaN give NaN, except
    where PyTorch's own operator is asked for: in 16 bits it loses some rows of +inf.
    """
    hide = torch.ones(20, 20, dtype=torch.bool).triu(1)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            sdpa(q, k, v),
            sdpa(q, k.flip(-2), v, is_causal=True),
            (q @ k.mT * 0.25).softmax(-1) @ v,
            (q * 0.5 @ k.mT).masked_fill(hide, -torch.inf).softmax(-1) @ v,
        )

    torch.manual_seed(len(target))
    q, k, v = (torch.randn(2, 3, 20, 16) for _ in range(3))
    kinds = torch.randperm(120).view(2, 3, 20) % 4
    k[..., 0] = k[..., 0].abs() + 0.1
    for kind, value in ((1, -torch.inf), (2, torch.inf), (3, torch.nan)):
        q[..., 0][kinds == kind] = value
    q, k, v = (x.to(dtype) for x in (q, k, v))
    function = torch.compile(attend, backend=backend.backend, options=OPTIONS | {"target": target})
    results = function(q, k, v)
    (record,) = backend.records().recent()
    assert [claim.kind for claim in record.claims] == ["Attention"] * 4
    exact = attend(*exact_inputs((q, k, v)))
    for at, (got, eager, reference) in enumerate(zip(results, attend(q, k, v), exact, strict=True)):
        assert torch.equal(got.isnan(), (eager if target == "library" and at < 2 else reference).isnan())
        rest = ~reference.isnan()
        hold(got[rest], eager[rest], reference[rest])
    for zero, lost in zip(results[:2], results[2:], strict=True):
        assert (zero[kinds == 1] == 0).all()
        assert lost[kinds == 1].isnan().all()
