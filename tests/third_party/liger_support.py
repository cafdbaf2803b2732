"""Inputs that liger-kernel's cases share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from third_party_case import Case, Inputs

PACKAGE = "liger-kernel"
Dtype = torch.dtype
TAG = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def leaf(*shape: int, dtype: Dtype = torch.float32, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return (torch.randn(shape) * scale + shift).to(dtype).requires_grad_()


def log_probabilities(rows: int, columns: int, dtype: Dtype) -> torch.Tensor:
    return torch.log_softmax(torch.randn(rows, columns), -1).to(dtype).requires_grad_()


def probabilities(rows: int, columns: int, dtype: Dtype) -> torch.Tensor:
    return torch.softmax(torch.randn(rows, columns), -1).to(dtype).requires_grad_()


def labels(rows: int, columns: int, ignored: int = 0) -> torch.Tensor:
    found = torch.randint(0, columns, (rows,))
    found[:ignored] = -100
    return found


def angles(seq: int, dim: int, dtype: Dtype) -> tuple[torch.Tensor, torch.Tensor]:
    turn = torch.arange(seq)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)[None]
    both = torch.cat((turn, turn), -1)
    return both.cos().to(dtype)[None], both.sin().to(dtype)[None]


def liger_case(
    op: str,
    variant: str,
    inputs: Callable[[], Inputs],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *,
    dtype: Dtype,
    positional: bool = True,
    **options: Any,
) -> Case:
    """liger's functions name their arguments differently from the references; all go by position."""

    def by_position(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **given: function(*given.values())

    return Case(PACKAGE, op, variant, inputs, by_position(ours), by_position(theirs), **options)
