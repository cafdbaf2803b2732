"""What the dataflows' `choices` share: the protocol, and the limits of a device.

Defaults are the first guess for a device that was never measured. On GPUs they keep accumulators within the
register file and tiles within shared memory, so that no default spills (held by the builds in `targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from headrace.ir.device import Backend, Device
from headrace.ir.schedule import Knob, Schedule, Value
from headrace.ir.spec import Spec

Sizes = tuple[int, ...]
MAX_TILE = 1 << 17  # elements of one tensor in a kernel; far below Triton's 2^20, which no cache holds


class Choices(Protocol):
    """What a dataflow asks and what it allows."""

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]: ...

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None: ...


def powers(low: int, high: int) -> tuple[int, ...]:
    """Powers of two from `low` to `high`, both included."""
    return tuple(1 << e for e in range(low.bit_length() - 1, high.bit_length()))


def nearest(values: Sequence[Value], wanted: int) -> int:
    """The largest value not above `wanted`, else the smallest."""
    below = [int(v) for v in values if int(v) <= wanted]
    return max(below) if below else min(int(v) for v in values)


def gpu(device: Device) -> bool:
    return device.backend is not Backend.CPU


def narrow(single: bool, device: Device) -> bool:
    """RDNA in float32: its compiler unrolls a product's step whole and runs out of the 256 registers."""
    return single and device.backend is Backend.ROCM and device.warp == 32


def launch_knobs(device: Device, warps: int, stages: int | None) -> tuple[Knob, ...]:
    if not gpu(device):
        return ()
    found = [Knob("num_warps", warps, powers(1, max(8, warps)))]
    if stages is not None:
        found.append(Knob("num_stages", stages, (1, 2, 3, 4, 5)))
    return tuple(found)


def unknown(schedule: Schedule, allowed: Mapping[str, tuple[Value, ...]]) -> str | None:
    """A knob that is missing, unknown, or has a value outside its range."""
    given = dict(schedule.knobs)
    if set(given) != set(allowed):
        return f"knobs {sorted(given)} given, {sorted(allowed)} expected"
    for name, values in allowed.items():
        if given[name] not in values:
            return f"{name}={given[name]} is none of {', '.join(map(str, values))}"
    return None


def launch_ranges(device: Device, stages: bool) -> dict[str, tuple[Value, ...]]:
    if not gpu(device):
        return {}
    found: dict[str, tuple[Value, ...]] = {"num_warps": (1, 2, 4, 8, 16)}
    if stages:
        found["num_stages"] = (1, 2, 3, 4, 5)
    return found


MOST_PROGRAMS = 65535  # of a GPU's grid in its second and third dimension


def most_programs(device: Device, warps: int) -> tuple[int, int, int]:
    """The largest grid of a GPU, 0 where no size reaches the limit: CUDA takes 2^31 - 1 programs in the first
    dimension (programming guide, technical specifications), HIP 2^32 - 1 threads."""
    rocm = device.backend is Backend.ROCM
    first = ((1 << 32) - 1) // (warps * max(device.warp, 32)) if rocm else 0
    return first, MOST_PROGRAMS, MOST_PROGRAMS


def crowded(device: Device, *extents: int) -> str | None:
    """Why a grid with these second and third extents is none for the device, or None."""
    return limit("the grid", max(extents), MOST_PROGRAMS, "programs in a row") if gpu(device) else None


def threads(schedule: Schedule, device: Device) -> int:
    return int(schedule["num_warps"]) * max(device.warp, 32)


def limit(name: str, need: int, have: int, unit: str) -> str | None:
    return f"{name} needs {need} {unit}, the device has {have}" if 0 < have < need else None
