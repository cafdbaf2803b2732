"""Whole models compiled by Inductor: its Triton kernels on the CPU engine against its own C++ code."""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.cpu_engine.cells import Cell, Found, Measure, measure
from benchmarks.inductor_models import LARGE, MODELS, build


def run(how: Measure, found: Found, names: tuple[str, ...] = tuple(MODELS)) -> None:
    """A row per model, and the geometric mean of how many times faster than the C++ code the models are."""
    ratios = []
    for name in names:
        torch._dynamo.reset()
        print(f"inductor: {name}", file=sys.stderr, flush=True)
        module, inputs = build(name, LARGE)
        triton, cpp = (_compiled(module, inputs, backend) for backend in ("triton", "cpp"))
        torch.testing.assert_close(triton(), cpp(), rtol=1e-3, atol=1e-4)
        cell = Cell(f"inductor {name}", {"triton": triton}, {"cpp": cpp})
        ratios.append(measure(cell, how, found)["cpp"])
    mean = statistics.geometric_mean(ratios)
    found.rows.append((f"inductor, {len(ratios)} models", "triton", "cpp", f"{mean:.2f}x", "-", "-", "-"))
    found.notes.append(f"inductor: geometric mean over {len(ratios)} models {mean:.2f} x its C++ backend")


def _compiled(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], backend: str
) -> Callable[[], torch.Tensor]:
    function = torch.compile(module, dynamic=False, options={"cpu_backend": backend})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(*inputs)
    return lambda: function(*inputs)
