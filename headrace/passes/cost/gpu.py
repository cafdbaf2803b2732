"""Our kernels on a GPU: a Work as the formula's inputs."""

from __future__ import annotations

from functools import lru_cache

from headrace.codegen.work import Inner, Work
from headrace.ir.device import Device
from headrace.passes.cost.constants import Constants
from headrace.passes.cost.tile import RUN, Tile, machine, matrix_peak, resident, warp_grid

# Bytes that a program without a tile of its own (normalisations, softmax) asks for at a time.
_STREAM = 16384.0
# Exponentials that a multiprocessor takes per cycle (CUDA C++ programming guide, arithmetic throughput).
_EXPONENTIALS = 16.0


def inputs(work: Work, device: Device, constants: Constants) -> tuple[float, ...]:
    """The INPUTS of the formula for one call.

    Raises:
        DeviceError: the device lacks a figure that the formula needs.
    """
    return (
        _streamed(work, device, constants)
        if work.inner is None
        else _tiled(work, work.inner, device, constants)
    )


def _tiled(work: Work, inner: Inner, device: Device, constants: Constants) -> tuple[float, ...]:
    wide = max(inner.bytes_rows, inner.bytes_columns)
    peak = matrix_peak(device, wide, vector=not inner.matrix)
    if not inner.matrix:
        peak /= 2  # 16-bit operands are converted before each multiply-add
    rows, columns, held = _layout(inner, device)
    if inner.elements:
        rows, columns = float(inner.warps), 1.0  # attention keeps whole rows of scores in one warp
    area = float(inner.rows * inner.columns * inner.reduced * inner.products)
    loaded = inner.reduced * (
        (0 if inner.elements else inner.rows * inner.bytes_rows)
        + inner.columns * inner.products * inner.bytes_columns
    )
    converted = 0.0
    if inner.matrix and inner.bytes_columns < inner.bytes_rows:
        converted = inner.columns * inner.products * inner.reduced * rows / constants.convert
    elif inner.matrix and inner.bytes_rows < inner.bytes_columns:
        converted = inner.rows * inner.reduced * columns / constants.convert
    shared = 0.0
    if inner.matrix:
        shared = wide * inner.reduced * (inner.rows * columns + inner.columns * inner.products * rows)
    return (
        float(max(work.programs, 1)), float(inner.iterations), 2 * area,
        converted + inner.elements / _EXPONENTIALS, shared, float(loaded), float(max(inner.stages - 1, 1)),
        float(inner.warps), held,
        max(work.bytes - 2 * inner.merged, 0.0) * (1 + RUN / _run(inner)), inner.exposed * constants.latency,
        inner.depth, 1.0, inner.merged, float(inner.merges), float(loaded),
        inner.reduced / 16 if inner.matrix else 0.0, *machine(device, constants, peak),
    )  # fmt: skip


def _run(inner: Inner) -> float:
    """Adjacent bytes that a tile reads: a row of it, or all of the keys that it takes."""
    return float(inner.reduced * inner.bytes_columns * (inner.columns if inner.elements else 1))


@lru_cache(maxsize=4096)
def _layout(inner: Inner, device: Device) -> tuple[float, float, float]:
    """Warps along the tile's rows and columns, and programs that a multiprocessor holds."""
    tile = Tile(inner.rows, inner.columns * inner.products, inner.reduced, inner.stages, inner.warps)
    rows, columns = warp_grid(inner.rows, inner.columns, inner.warps)
    held = resident(tile, inner.bytes_rows, inner.bytes_columns, device)
    return float(rows), float(columns), float(held)


def _streamed(work: Work, device: Device, constants: Constants) -> tuple[float, ...]:
    """A kernel that reads its rows once, or a library's chain of operators over them."""
    programs = float(max(work.programs, 1))
    each = work.bytes / programs
    steps = max(1.0, each / _STREAM)
    return (
        programs, steps, work.flops / programs / steps, 0.0, 0.0, each / steps, 1.0, 4.0, 8.0, work.bytes,
        0.0, 1.0, float(max(work.launches, 1)), 0.0, 0.0, each / steps, 0.0,
        *machine(device, constants, matrix_peak(device, 4) / 2),
    )  # fmt: skip
