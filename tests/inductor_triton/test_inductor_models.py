"""Inductor with ``cpu_backend="triton"`` on whole models: as right as with its own C++ backend.

max|triton - REF| <= 2 max|cpp - REF| + eps max|REF|,  REF the same model in float64 (headrace.ir.tolerance)
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import inductor_models
from headrace.codegen.cpu.backend import driver
from headrace.ir.dtype import DType
from headrace.ir.tolerance import bound

pytestmark = [
    pytest.mark.skipif(driver.why_inactive() is not None, reason=f"inactive: {driver.why_inactive()}"),
    pytest.mark.filterwarnings("ignore"),
]
SAMPLE = ("mlp", "autoencoder", "unet")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that the CPU engine launched, once per launch. (Not of those that it loaded:
    Inductor loads a kernel that two models share once per process.)"""
    names: list[str] = []
    launch = driver.CpuLauncher.__call__

    def noted(self: Any, *args: Any) -> None:
        names.append(self._metadata.name)
        launch(self, *args)

    monkeypatch.setattr(driver.CpuLauncher, "__call__", noted)
    return names


@contextmanager
def inductor(backend: str, **settings: Any) -> Iterator[Callable[[nn.Module], Callable[..., Any]]]:
    """torch.compile with one of Inductor's backends for the CPU; no graph comes from a cache."""
    from torch._dynamo import config as dynamo_config
    from torch._functorch import config as functorch_config
    from torch._inductor import config

    torch._dynamo.reset()
    options = {
        "cpu_backend": backend,
        "compile_threads": 1,
        "fallback_random": True,
        "fx_graph_cache": False,
        **settings,
    }
    with (
        config.patch(options),
        dynamo_config.patch(allow_rnn=True),
        functorch_config.patch(enable_autograd_cache=False),
    ):
        yield lambda module: torch.compile(module, dynamic=False)


def in_double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def assert_as_right(
    got: Tensor,
    other: Tensor,
    reference: Tensor,
    *,
    backward: bool = False,
    scale: float | None = None,
    name: str = "result",
) -> None:
    """`scale` is what rounding errors are relative to, if that is more than the reference itself."""
    assert got.dtype == other.dtype, name
    assert got.isfinite().equal(reference.isfinite()), name
    scale = reference.abs().max().item() if scale is None else scale
    limit = bound(
        DType.from_torch(got.dtype), (other - reference).abs().max().item(), scale, backward=backward
    )
    assert (got - reference).abs().max().item() <= limit, name


def evaluated(module: nn.Module, inputs: Sequence[Any]) -> None:
    """A forward pass by both backends and in float64."""
    with torch.no_grad():
        reference = copy.deepcopy(module).double()(*map(in_double, inputs))
        results = []
        for backend in ("triton", "cpp"):
            with inductor(backend) as compiled:
                results.append(compiled(module)(*inputs))
    assert_as_right(*results, reference)


@dataclass(frozen=True)
class Step:
    """The loss of one step of SGD, and by the parameters' names their gradients and new values."""

    loss: Tensor
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def trained(module: nn.Module, inputs: Sequence[Any], run: Callable[..., Tensor]) -> Step:
    module = copy.deepcopy(module)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    torch.manual_seed(1)
    loss = run(module)(*inputs).pow(2).mean()
    loss.backward()
    optimiser.step()
    named = dict(module.named_parameters())
    gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
    return Step(loss.detach(), gradients, {name: p.detach() for name, p in named.items()})


def layer_scales(gradients: dict[str, Tensor]) -> dict[str, float]:
    """Per gradient, the largest value among the gradients of the same layer.

    All of a layer's gradients are sums over the same gradient of its output; their rounding errors are
    relative to the terms of the sum. Where the terms cancel the sum tells nothing of their size: that of a
    convolution's bias in front of a batch norm is 0 but for rounding. Its weights' gradient does.
    """
    layers: dict[str, float] = defaultdict(float)
    for name, gradient in gradients.items():
        layer = name.rpartition(".")[0]
        layers[layer] = max(layers[layer], gradient.abs().max().item())
    return {name: layers[name.rpartition(".")[0]] for name in gradients}


def one_step(module: nn.Module, inputs: Sequence[Any]) -> None:
    reference = trained(copy.deepcopy(module).double(), list(map(in_double, inputs)), lambda m: m)
    with inductor("triton") as compiled:
        got = trained(module, inputs, compiled)
    with inductor("cpp") as compiled:
        other = trained(module, inputs, compiled)
    assert_as_right(got.loss, other.loss, reference.loss, backward=True, name="loss")
    scales = layer_scales(reference.gradients)
    assert set(got.gradients) == set(other.gradients) == set(reference.gradients)
    for name, gradient in got.gradients.items():
        exact = reference.gradients[name]
        assert_as_right(gradient, other.gradients[name], exact, backward=True, scale=scales[name], name=name)
    for name, weight in got.weights.items():
        assert_as_right(weight, other.weights[name], reference.weights[name], backward=True, name=name)


def test_a_gradient_that_cancels_is_judged_by_its_layer() -> None:
    gradients = {"conv.weight": torch.tensor([2.0, -3.0]), "conv.bias": torch.tensor([1e-9])}
    scales = layer_scales({**gradients, "other.bias": torch.tensor([1e-9])})
    assert scales == {"conv.weight": 3.0, "conv.bias": 3.0, "other.bias": pytest.approx(1e-9)}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_small_model_is_as_right_as_with_cpp(name: str, launched: list[str]) -> None:
    evaluated(*inductor_models.build(name))
    assert launched


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in inductor_models.MODELS if name not in SAMPLE])
def test_a_model_is_as_right_as_with_cpp(name: str, launched: list[str]) -> None:
    evaluated(*inductor_models.build(name))
    assert launched


@pytest.mark.soak
@pytest.mark.parametrize("name", ["llama", "bert", "vit", "cnn"])
def test_a_model_in_bfloat16_is_as_right_as_with_cpp(name: str) -> None:
    module, inputs = inductor_models.build(name)
    evaluated(module.bfloat16(), [x.bfloat16() if x.is_floating_point() else x for x in inputs])


def test_a_training_step_is_as_right_as_with_cpp(launched: list[str]) -> None:
    one_step(*inductor_models.build("mlp", training=True))
    assert len(set(launched)) > 2


@pytest.mark.soak
@pytest.mark.parametrize("name", ["gpt2", "cnn", "llama", "unet"])
def test_a_training_step_of_a_larger_model(name: str) -> None:
    one_step(*inductor_models.build(name, training=True))


@pytest.mark.soak
@pytest.mark.parametrize(
    "settings",
    [
        {"triton.cooperative_reductions": False, "triton.multi_kernel": 1},
        {"max_autotune_pointwise": True},
        {"coordinate_descent_tuning": True},
        {"triton.persistent_reductions": False},
        {"triton.prefer_nd_tiling": True, "triton.max_tiles": 3},
        {"split_reductions": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_setting_of_inductor_keeps_results_right(settings: dict[str, Any]) -> None:
    module, inputs = inductor_models.build("mixer")
    with torch.no_grad():
        reference = copy.deepcopy(module).double()(*map(in_double, inputs))
        eager = module(*inputs)
        with inductor("triton", **settings) as compiled:
            got = compiled(module)(*inputs)
    assert_as_right(got, eager, reference)


@pytest.mark.soak
def test_sizes_that_change() -> None:
    module, (x,) = inductor_models.build("mlp")
    with torch.no_grad(), inductor("triton"):
        function = torch.compile(module, dynamic=True)
        for rows in (32, 5, 1, 77):
            inputs = x[:1].expand(rows, -1).contiguous() * torch.rand(rows, 1)
            reference = copy.deepcopy(module).double()(inputs.double())
            assert_as_right(function(inputs), module(inputs), reference)
