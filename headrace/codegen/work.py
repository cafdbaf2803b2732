"""Work: what a schedule makes a device do, in the units of the cost model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inner:
    """What one program of a GPU kernel repeats: a tile of `rows` x `columns`, reduced over `reduced`.

    A product has rows of x, columns of w and reduces over K; attention has queries, keys and the head
    dimension.

    Attributes:
        rows, columns, reduced: the tile; what exceeds the sizes is computed all the same.
        iterations: steps of the longest program.
        stages: tiles in flight, 1 without software pipelining.
        warps: of one program.
        bytes_rows, bytes_columns: of an element of the operand with the tile's rows, and with its columns.
        matrix: whether matrix units multiply; otherwise vector units do.
        products: of this tile in one iteration (two for a gated pair, and for attention's two).
        elements: of the tile that take an exponential.
        depth: latencies of main memory in a row outside of the loop.
        exposed: latencies in a row inside an iteration that no other iteration overlaps.
        merged: bytes of partial results that are written and read again.
        merges: launches that merge them, each after the one before.
    """

    rows: int
    columns: int
    reduced: int
    iterations: int
    stages: int = 1
    warps: int = 4
    bytes_rows: int = 2
    bytes_columns: int = 2
    matrix: bool = True
    products: int = 1
    elements: int = 0
    depth: float = 1.0
    exposed: float = 0.0
    merged: float = 0.0
    merges: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """Totals of one call.

    Attributes:
        flops: operations executed, padding included.
        bytes: moved to and from main memory, assuming that tiles reread by other programs hit a cache.
        programs: of the largest launch; the parallelism there is.
        on_chip_bytes: one program's tiles (shared memory on a GPU, cache on a CPU).
        launches: kernels.
        inner: what each program repeats, where the kernel is one of ours; GPUs are modelled by it.
    """

    flops: float
    bytes: float
    programs: int
    on_chip_bytes: int
    launches: int
    inner: Inner | None = None
