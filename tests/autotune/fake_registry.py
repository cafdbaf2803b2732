"""Dataflows for tests: plain torch functions with planted speeds and faults, chosen by knob values."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headrace.ir.device import Device
from headrace.ir.dtype import DType
from headrace.ir.evaluate import evaluate_spec
from headrace.ir.schedule import Knob, Schedule, Value
from headrace.ir.spec import Spec

FAULTS: tuple[Value, ...] = (
    "none", "wrong", "replay", "partial", "mutates", "repeat", "crash", "exit", "hang", "raise",
    "unbuildable",
    "nan", "shape", "fifth",
)  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """A dataflow `name` with knobs block (8..256), stages (1..4) and fault."""

    name: str

    def knobs(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> tuple[Knob, ...]:
        return (Knob("block", 32, (8, 16, 32, 64, 128, 256)), Knob("stages", 1, (1, 2, 3, 4)))

    def legal(self, spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> str | None:
        product = int(schedule["block"]) * int(schedule["stages"])
        return None if product <= 512 else f"block * stages = {product} exceeds 512"

    def default(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Schedule:
        return Schedule.of(self.name, block=32, stages=1)


class Fake:
    """Two sound dataflows."""

    flows: Sequence[Flow] = (Flow("flat"), Flow("tiled"))

    def dataflows(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Sequence[Flow]:
        return self.flows

    def digest(self, dataflow: str) -> str:
        return f"digest of {dataflow}"

    def instantiate(self, spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Kernel:
        fault = str(dict(schedule.knobs).get("fault", "none"))
        if fault == "unbuildable":
            raise RuntimeError("no registers left in /secret/place/kernel.py")
        return Kernel(spec, fault, dict(schedule.knobs).get("block", 64) == 64)


@dataclass(frozen=True)
class FaultyFlow(Flow):
    """One dataflow whose only knob is the fault."""

    def knobs(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> tuple[Knob, ...]:
        return (Knob("fault", "none", FAULTS),)

    def legal(self, spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> str | None:
        return None

    def default(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Schedule:
        return Schedule.of(self.name, fault="none")


class Faulty(Fake):
    flows = (FaultyFlow("faulty"),)


class Kernel:
    """Evaluates the Spec as eager does, then misbehaves as told; `fast` spares it a pause of 2 ms."""

    def __init__(self, spec: Spec, fault: str, fast: bool) -> None:
        self.spec, self.fault, self.fast = spec, fault, fast
        self.calls = 0
        self.kept: torch.Tensor | None = None

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        if not self.fast:
            time.sleep(0.002)
        (value,) = evaluate_spec(self.spec, list(inputs), exact=False)
        out = torch.empty(value.shape, dtype=self.spec.output_dtypes[0].to_torch())
        match self.fault:
            case "wrong":
                value = value * 1.01
            case "replay":
                self.kept = value = (
                    value if self.kept is None or self.kept.shape != value.shape else self.kept
                )
            case "partial":
                out[..., :-1] = value[..., :-1]
                return out
            case "mutates":
                inputs[0].mul_(0.5)
            case "repeat":
                value = value + 1e-9 * self.calls * (value.dtype != DType.BF16.to_torch())
            case "fifth" if self.calls >= 5:
                raise RuntimeError("fault at launch 5")
            case "crash":
                ctypes.string_at(0)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(1000)
            case "raise":
                raise ValueError("bad launch in /home/somebody/kernel.py")
            case "nan":
                value = value.nan_to_num()
            case "shape":
                return value[..., :-1].clone()
        out.copy_(value)
        return out
