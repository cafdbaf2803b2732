"""What data sheets do not say: seven constants per architecture, fitted on recorded timings.

`python -m benchmarks cost_model --data FOLDER --fit` fits them again. An architecture without recorded kernel
timings takes those of a fitted one: times are kept in cycles of the multiprocessors' clock, for a card of
twice the clock has about half the latency (A100 against L40S), and shares are properties of a design.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from headrace.ir.device import Backend, Device


@dataclass(frozen=True, slots=True)
class Constants:
    """The fitted constants of one architecture.

    Attributes:
        launch: cycles from the end of a kernel to the start of the next on one stream.
        latency: cycles from asking main memory to having the answer, loaded.
        dram: the share of the data sheet's bandwidth that a long stream reaches.
        sync: cycles of one iteration that nothing hides: barriers, addresses, the matrix pipeline's drain.
        traffic: the part of an iteration's traffic between shared memory and registers that is not hidden.
        convert: 8-bit integers that a multiprocessor turns to floats, per cycle.
        call: cycles of each small kernel around a library's attention (rearranging, metadata, merging).
    """

    launch: float
    latency: float
    dram: float
    sync: float
    traffic: float
    convert: float
    call: float

    def values(self) -> tuple[float, ...]:
        return tuple(float(getattr(self, field.name)) for field in fields(self))


# The mean of the fits on four halves of the A100's recorded shapes (seeds 0 and 1).
SM_80 = Constants(
    launch=2885.0, latency=753.0, dram=0.866, sync=156.0, traffic=0.33, convert=18.0, call=7660.0
)  # fmt: skip

# L40S: library products beyond the cache and FlashAttention 2's decode attention. What shapes an iteration
# (sync, traffic, convert) was not recorded there and is Ampere's.
SM_89 = Constants(
    launch=3560.0, latency=532.0, dram=0.881, sync=156.0, traffic=0.33, convert=18.0, call=10600.0
)  # fmt: skip

# MI300X: published hipBLASLt timings of few rows; the rest as on the A100.
GFX942 = Constants(
    launch=9890.0, latency=753.0, dram=0.88, sync=156.0, traffic=0.33, convert=18.0, call=7660.0
)  # fmt: skip

FITTED: Mapping[str, Constants] = {"sm_80": SM_80, "sm_89": SM_89, "gfx942": GFX942}


def of(device: Device) -> Constants:
    """The constants that the model uses for a GPU: its architecture's, else those of its maker's data-centre
    card."""
    return FITTED.get(device.arch, GFX942 if device.backend is Backend.ROCM else SM_80)
