"""The cost model of processors: a roofline over what a schedule makes the cores do.

    seconds = launches * L + max(flops / (F * f * u), bytes / (B * b * v)) * max(1, chip / C)
    u       = programs / (ceil(programs / units) * units)            the last wave is rarely full
    v       = min(1, programs / units)                               one unit cannot fill the memory bus

with L, F, B, C, units of the Device and f, b the shares of the peaks that a dataflow reaches (`EFFICIENCY`).
Out-of-order cores and prefetchers hide latencies, so none of a GPU's terms are here. Sizes enter as numbers,
through `codegen.work`: what is solved for, a crossing of two dataflows, is an integer, found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import sympy

from headrace.codegen.families import work_of
from headrace.codegen.work import Work
from headrace.ir.device import Device
from headrace.ir.dtype import DType
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Attention, Gemm, Spec

FLOPS, BYTES, PROGRAMS, CHIP, LAUNCHES = sympy.symbols("flops bytes programs chip launches", nonnegative=True)
PEAK, BANDWIDTH, UNITS, ON_CHIP, LAUNCH = sympy.symbols("F B units C L", positive=True)

_WAVES = PROGRAMS / (sympy.ceiling(PROGRAMS / UNITS) * UNITS)
_STREAMS = sympy.Min(1, PROGRAMS / UNITS)
SECONDS = LAUNCHES * LAUNCH + sympy.Max(FLOPS / (PEAK * _WAVES), BYTES / (BANDWIDTH * _STREAMS)) * sympy.Max(
    1, CHIP / ON_CHIP
)


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The shares of a device's peaks that a dataflow reaches.

    `matrix` where 16-bit products run at the device's 16-bit peak; `calls` multiplies the cost of a launch.
    """

    flops: float
    bandwidth: float
    matrix: bool = True
    calls: float = 1.0


# Default schedules on two Zen 4 cores, a transformer's sizes, against the peak of two fused multiply-adds a
# cycle; the library's calls carry repacking of 16-bit weights and the dispatch of an operator.
EFFICIENCY: Mapping[str, Efficiency] = {
    "gemv": Efficiency(0.50, 0.90),
    "flat": Efficiency(0.60, 0.85),
    "tiled": Efficiency(0.53, 0.80),
    "stream_k": Efficiency(0.50, 0.80),
    "prefill": Efficiency(0.20, 0.80),
    "decode": Efficiency(0.28, 0.85),
    "stream_decode": Efficiency(0.28, 0.85),
    "row": Efficiency(0.20, 0.90, matrix=False),
    "row_loop": Efficiency(0.20, 0.80, matrix=False),
    "row_split": Efficiency(0.20, 0.80, matrix=False),
    "library": Efficiency(0.45, 0.60, calls=8.0),
}
_CPU_ATTENTION = Efficiency(0.05, 0.60, calls=8.0)


def seconds(spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> float:
    """The model's time of one call.

    Raises:
        DeviceError: the device's bandwidth or peak is unknown.
    """
    reach = EFFICIENCY[schedule.dataflow]
    if isinstance(spec, Attention) and schedule == LIBRARY:
        reach = _CPU_ATTENTION
    return of_work(work_of(spec, sizes, schedule, device), reach, _sixteen(spec), device)


def of_work(work: Work, reach: Efficiency, sixteen: bool, device: Device) -> float:
    """The model's time of a Work; `sixteen` where products are of 16-bit operands."""
    peak = device.figure("flops_16" if reach.matrix and sixteen else "flops_f32")
    return _evaluator()(
        work.flops,
        work.bytes,
        max(work.programs, 1),
        work.on_chip_bytes,
        work.launches,
        peak * reach.flops,
        device.figure("bandwidth") * reach.bandwidth,
        max(device.units, 1),
        device.on_chip_bytes or 1 << 40,  # unknown caches slow nothing down
        device.figure("launch_seconds") * reach.calls,
    )


@lru_cache(maxsize=1)
def _evaluator() -> Callable[..., float]:
    order = (FLOPS, BYTES, PROGRAMS, CHIP, LAUNCHES, PEAK, BANDWIDTH, UNITS, ON_CHIP, LAUNCH)
    function: Callable[..., float] = sympy.lambdify(order, SECONDS, modules="math")
    return function


def _sixteen(spec: Spec) -> bool:
    if isinstance(spec, Gemm):
        return spec.x in (DType.F16, DType.BF16)
    return isinstance(spec, Attention) and spec.q in (DType.F16, DType.BF16)
