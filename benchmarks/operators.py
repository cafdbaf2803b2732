"""One operator, every dataflow that can compute it, and PyTorch, in turn, operands out of the caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.common import Result, cycling, floor, noise, race, readers, rotated
from headrace.codegen.dataflows import dataflows
from headrace.codegen.kernel import instantiate
from headrace.compiler.cli.output import seconds
from headrace.compiler.devices import host_device
from headrace.ir.spec import Spec


@dataclass(frozen=True)
class Case:
    """An operation at sizes: how to make its operands, and what PyTorch would call."""

    label: str
    spec: Spec
    operands: Callable[[], tuple[torch.Tensor, ...]]
    torch: Callable[[tuple[torch.Tensor, ...]], object]


def compare(title: str, cases: list[Case], rounds: int) -> Result:
    """A row per case and dataflow: time, speed against PyTorch, and the fraction of the bandwidth floor."""
    result = Result(title, ("case", "dataflow", "time", "against torch", "of the floor", "noise"))
    device = host_device()
    for case in cases:
        operands = rotated(case.operands)
        sizes = case.spec.sizes([tensor.shape for tensor in operands[0]])
        each = sum(tensor.nbytes for tensor in operands[0])
        step = cycling(operands)
        steps: dict[str, Callable[[], object]] = {"torch": step(case.torch)}
        for flow in dataflows(case.spec, sizes, device):
            if flow.name != "library":
                kernel = instantiate(case.spec, flow.default(case.spec, sizes, device), device)
                steps[flow.name] = step(kernel)
        with readers(each * len(operands)) as reading:
            reads = race(reading, 3, warmup=1)
        timings = race(steps, rounds or 40)
        least = floor(reads) / len(operands)
        for name, timing in timings.items():
            result.rows.append(
                (
                    case.label,
                    name,
                    seconds(timing.median),
                    f"{timings['torch'].median / timing.median:.2f}x",
                    f"{least / timing.median:.0%}",
                    f"{noise(timing):.0%}",
                )
            )
    return result
