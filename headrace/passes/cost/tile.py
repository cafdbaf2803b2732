"""What a tiled product makes a multiprocessor do, from the tile's shape; numbers or numpy arrays.

A program computes block_m x block_n outputs over K in steps of block_k: Inductor's template, our `flat` and
`tiled`, and the tiles that a library picks from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.ir.device import Device
from headrace.passes.cost.constants import Constants
from headrace.passes.cost.formula import PORT

Number = Any  # a float or a numpy array of floats

# Cycles to gather one run of elements whose addresses are not aligned enough for asynchronous copies.
_GATHER = 5.7
# Registers a thread needs for addresses, masks and loop counters; what it may have; and the cycles that one
# more costs in each iteration, on its way to the first-level cache and back.
_REGISTERS, _MOST_REGISTERS, _SPILL = 40, 255, 80
# Bytes that main memory could have moved while it turns to another run of adjacent bytes. Weights are read in
# runs of a tile's width; recorded timings of A100 and L40S show 128-byte runs 6 % slower than 256-byte ones.
RUN = 16.0


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of a product: knob values, each a number or an array of equal length.

    `copy_x`, `copy_w`: bytes of one asynchronous copy that the operands' strides allow: 16, 8, 4, or 0 where
    elements are fetched one by one. `by_columns` is 1 where columns of w are adjacent ([K, N] row-major).
    """

    block_m: Number
    block_n: Number
    block_k: Number
    stages: Number = 3
    warps: Number = 4
    split_k: Number = 1
    copy_x: Number = 16
    copy_w: Number = 16
    by_columns: Number = 0


def warp_grid(block_m: Number, block_n: Number, warps: Number) -> tuple[Number, Number]:
    """Warps along M and N, as Triton lays out m16n8 matrix instructions over a tile.

    Each warp needs the operands of its rows and columns: warps along M read (and convert) the weights again.
    """
    rows, columns = np.broadcast_arrays(np.ones_like(block_m + warps), np.ones_like(block_n + warps))
    rows, columns = rows.astype(float).copy(), columns.astype(float).copy()
    for _ in range(5):
        open_, tall = rows * columns < warps, block_m / rows >= block_n / columns
        along_m = open_ & tall & (rows < np.floor(block_m / 16))
        rows, columns = (
            np.where(along_m, rows * 2, rows),
            np.where(open_ & ~along_m, columns * 2, columns),
        )
    return rows, columns


def resident(tile: Tile, bytes_x: Number, bytes_w: Number, device: Device) -> Number:
    """Programs that a multiprocessor holds at once: shared memory, registers and threads allow them."""
    rows, columns = warp_grid(tile.block_m, tile.block_n, tile.warps)
    buffers = np.maximum(tile.stages - 1, 1)
    shared = buffers * tile.block_k * (tile.block_m * bytes_x + tile.block_n * bytes_w) + 1024
    threads = tile.warps * max(device.warp, 32)
    registers = np.ceil(np.clip(_registers(tile, rows, columns, device), 32, _MOST_REGISTERS) / 8) * 8
    limits = (
        np.floor((device.unit_on_chip_bytes or device.figure("on_chip_bytes")) / shared),
        np.floor(device.figure("registers") / (registers * threads)),
        np.floor((device.threads or 2048) / threads),
        np.full_like(shared, 32.0),
    )
    return np.maximum(np.minimum.reduce(np.broadcast_arrays(*limits)), 1)


def _registers(tile: Tile, rows: Number, columns: Number, device: Device) -> Number:
    """Registers that a thread would like: sums, operands, and what it takes to fetch elements one by one."""
    lanes = max(device.warp, 32)
    threads = tile.warps * lanes
    sums = tile.block_m * tile.block_n / threads
    operands = tile.block_k * (tile.block_m / rows + tile.block_n / columns) / lanes / 4
    fetched = 3 * tile.block_m * tile.block_k / threads  # a value and an address of two registers
    return sums + operands + np.where(np.asarray(tile.copy_x) > 0, 0.0, fetched) + _REGISTERS


def cache_bandwidth(device: Device) -> float:
    """Bytes/s of the last-level cache: the record's figure, else 24 bytes a cycle and multiprocessor, or what
    main memory delivers three times, as far as ports take it.

    Caches do not feed all ports at once: 24 is what the recorded timings of A40 and L40S agree with best.
    Where memory is fast the cache is faster: 3.5 times on the A100, 3.2 on the MI300X.
    """
    cycles = device.units * device.figure("clock")
    most = min(3 * device.figure("bandwidth"), PORT * cycles)
    return device.last_level_bandwidth or max(24.0 * cycles, most)


def product(
    m: Number, n: Number, k: Number, bytes_x: Number, bytes_w: Number, tile: Tile, device: Device,
    constants: Constants, *, peak: float, batch: Number = 1, cached: Number = False,
) -> tuple[Number, ...]:  # fmt: skip
    """The INPUTS of the formula for x[M, K] times w[K, N] in one tile.

    Args:
        m, n, k: sizes; bytes_x, bytes_w: bytes of an element of each operand.
        tile: the tile.
        device, constants: where.
        peak: operations/s of the matrix units for these operands.
        batch: independent products in one launch.
        cached: whether the operands are in the last-level cache; otherwise main memory moves each once, and
            the result.
    """
    m, n, k, bytes_x, bytes_w = (np.asarray(v, dtype=float) for v in (m, n, k, bytes_x, bytes_w))
    bm, bn, bk, split = (
        np.asarray(v, dtype=float) for v in (tile.block_m, tile.block_n, tile.block_k, tile.split_k)
    )
    tile = Tile(bm, bn, bk, np.asarray(tile.stages, float), np.asarray(tile.warps, float), split,
                np.asarray(tile.copy_x, float), np.asarray(tile.copy_w, float),
                np.asarray(tile.by_columns))  # fmt: skip
    rows, columns = warp_grid(bm, bn, tile.warps)
    converted = np.where(bytes_w < bytes_x, bn * bk * rows / constants.convert, 0.0)
    run = np.where(tile.by_columns == 1, bn, bk) * bytes_w
    # Of rows shorter than a line of 128 bytes the rest is fetched for a neighbour that comes too late.
    waste = np.where(tile.by_columns == 1, np.sqrt(np.maximum(128.0 / run, 1.0)), 1.0) * (1 + RUN / run)
    unique = batch * (n * k * bytes_w * waste + m * k * bytes_x + m * n * bytes_x)
    spilled = np.maximum(_registers(tile, rows, columns, device) - _MOST_REGISTERS, 0.0)
    exposed = np.where(tile.copy_x > 0, 0.0, constants.latency + bk * _GATHER) + spilled * _SPILL
    copied = bk * (
        bm * bytes_x * 16 / np.maximum(tile.copy_x, 4) + bn * bytes_w * 16 / np.maximum(tile.copy_w, 4)
    )
    return (
        np.ceil(m / bm) * np.ceil(n / bn) * split * batch,
        np.ceil(np.ceil(k / bk) / split),
        2 * bm * bn * bk,
        converted,
        (bm * columns + bn * rows) * bk * bytes_x,
        bk * (bm * bytes_x + bn * bytes_w),
        np.maximum(tile.stages - 1, 1),
        tile.warps,
        resident(tile, bytes_x, bytes_w, device),
        np.where(cached, 0.0, unique),
        exposed,
        1.0,
        1.0,
        np.where(split > 1, 4 * batch * split * m * n, 0.0),
        np.where(split > 1, 1.0, 0.0),
        copied,
        bk / 16,
        *machine(device, constants, peak),
    )


def machine(device: Device, constants: Constants, peak: float) -> tuple[float, ...]:
    """The INPUTS that a device and its constants are.

    Raises:
        DeviceError: the device lacks a figure that the formula needs.
    """
    clock, units = device.figure("clock"), device.figure("units")
    return (
        peak / units / clock, units, clock, device.figure("bandwidth"), cache_bandwidth(device),
        constants.launch, constants.latency, constants.dram, constants.sync, constants.traffic,
    )  # fmt: skip


def matrix_peak(device: Device, bytes_x: int, *, vector: bool = False) -> float:
    """Operations/s of products of operands of 1, 2 or 4 bytes; `vector` where no matrix unit is used."""
    if vector or bytes_x >= 4:
        return device.figure("flops_f32")
    return device.figure("flops_8" if bytes_x == 1 else "flops_16")
