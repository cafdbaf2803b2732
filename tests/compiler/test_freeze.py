"""Freezing: a promise that is checked at every call."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

import headrace
from headrace.compiler import freeze as freezing
from headrace.errors import FrozenWeightChanged


def test_a_change_of_a_frozen_weight_raises_at_the_next_call(stub_backend: Callable[..., Any]) -> None:
    model = headrace.freeze(torch.nn.Linear(32, 32, bias=False))
    compiled = torch.compile(model, backend=stub_backend)
    x = torch.randn(4, 32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        model.weight.mul_(2)
        with pytest.raises(FrozenWeightChanged, match="weight was frozen"):
            compiled(x)
        headrace.unfreeze(model)
        torch.testing.assert_close(compiled(x), model(x))


def test_freezing_after_the_first_call_is_noticed(stub_backend: Callable[..., Any]) -> None:
    model = torch.nn.Linear(32, 32, bias=False)
    compiled = torch.compile(model, backend=stub_backend)
    x = torch.randn(4, 32)
    with torch.no_grad():
        compiled(x)
        headrace.freeze(model)
        compiled(x)
        model.weight.add_(1)
        with pytest.raises(FrozenWeightChanged):
            compiled(x)
    headrace.unfreeze(model)


def test_packed_copies_are_made_once_and_die_with_the_promise() -> None:
    model = headrace.freeze(torch.nn.Linear(4, 4))
    constant = freezing.constant(model.weight)
    assert constant is not None
    made = []

    def pack(weight: torch.Tensor) -> torch.Tensor:
        made.append(1)
        return weight.t().contiguous()

    packed = constant.packed("transposed", pack)
    assert constant.packed("transposed", pack) is packed
    assert made == [1]
    assert constant.packed_bytes == 64
    headrace.unfreeze(model)
    assert freezing.constant(model.weight) is None


def test_a_changed_weight_is_not_packed() -> None:
    model = headrace.freeze(torch.nn.Linear(4, 4))
    constant = freezing.constant(model.weight)
    assert constant is not None
    with torch.no_grad():
        model.weight.zero_()
    with pytest.raises(FrozenWeightChanged):
        constant.packed("any", lambda weight: weight)
    headrace.unfreeze(model)


def test_a_deleted_model_leaves_nothing_behind() -> None:
    before = len(freezing.REGISTRY)
    model = headrace.freeze(torch.nn.Linear(4, 4))
    assert len(freezing.REGISTRY) == before + 2
    del model
    gc.collect()
    assert len(freezing.REGISTRY) == before
