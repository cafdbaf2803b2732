"""Device: the machine as the heuristics see it. Figures are discovered or measured, never guessed."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from headrace.errors import DeviceError


class Backend(enum.StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "hip"


@dataclass(frozen=True, slots=True)
class Device:
    """One machine or GPU.

    Attributes:
        name: the maker's name, e.g. `NVIDIA A100-SXM4-80GB`, `AMD EPYC`.
        backend: the Triton backend that builds for it.
        arch: `sm_90`, `gfx942`, or for CPUs `x86_64`.
        units: streaming multiprocessors, compute units, or threads used.
        features: instruction sets that matter, sorted, e.g. `avx512_bf16`, `avx512f`.
        on_chip_bytes: shared memory a block may use, or the L2 cache of a core.
        last_level_bytes: L2 (GPU) or L3 (CPU) cache.
        registers: 32-bit registers a unit holds (0 where the question has no meaning).
        warp: threads that run in step (1 on a CPU).
        bandwidth: bytes/s read from main memory, measured where measuring is possible, else the data sheet's.
        flops_f32, flops_16: peak operations/s in float32 and in bf16 (matrix units included), 0.0 if unknown.
        launch_seconds: cost of one kernel launch.
        flops_8: peak operations/s of 8-bit operands (int8 or fp8 matrix units), 0.0 if unknown.
        clock: cycles/s of a unit at its boost frequency (0.0 if unknown).
        threads: threads that a unit keeps resident (0 where the question has no meaning).
        unit_on_chip_bytes: shared memory of a unit, all its blocks together (0: as `on_chip_bytes`).
        last_level_bandwidth: bytes/s from the last-level cache, 0.0 if unknown.
    """

    name: str
    backend: Backend
    arch: str
    units: int
    features: tuple[str, ...] = ()
    on_chip_bytes: int = 0
    last_level_bytes: int = 0
    registers: int = 0
    warp: int = 1
    bandwidth: float = 0.0
    flops_f32: float = 0.0
    flops_16: float = 0.0
    launch_seconds: float = 0.0
    memory_bytes: int = 0
    flops_8: float = 0.0
    clock: float = 0.0
    threads: int = 0
    unit_on_chip_bytes: int = 0
    last_level_bandwidth: float = 0.0

    def figure(self, name: str) -> float:
        """A figure that must be known, e.g. `figure("bandwidth")`.

        Raises:
            DeviceError: the record has no value for it.
        """
        value = float(getattr(self, name))
        if not 0.0 < value < float("inf"):
            raise DeviceError(
                f"device {self.name!r} has no {name} ({value:g}): take a record of headrace.ir.devices, "
                f"measure the figure, or fill it with dataclasses.replace(device, {name}=...)"
            )
        return value

    @property
    def hard_key(self) -> str:
        """What decides whether a binary or a schedule is usable at all."""
        return f"{self.backend.value}/{self.arch}/{'+'.join(sorted(self.features))}"

    @property
    def soft_key(self) -> str:
        """What decides whether a timing is a fact or only a prior."""
        return f"{self.name}/units={self.units}/memory={self.memory_bytes >> 30}GiB"
