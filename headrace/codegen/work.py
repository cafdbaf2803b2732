"""Work: what a schedule makes a device do, in the units of the cost model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """Totals of one call.

    Attributes:
        flops: operations executed, padding included.
        bytes: moved to and from main memory, assuming that tiles reread by other programs hit a cache.
        programs: of the largest launch; the parallelism there is.
        on_chip_bytes: one program's tiles (shared memory on a GPU, cache on a CPU).
        launches: kernels.
    """

    flops: float
    bytes: float
    programs: int
    on_chip_bytes: int
    launches: int
