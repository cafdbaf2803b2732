"""What PyTorch's own products cost: the best of the tiles that a vendor's library is known to ship.

A library does not pick the best kernel for a size every time; the model says it does, so near ties are its
error. One row is a matrix-vector product on vector units.
"""

from __future__ import annotations

import numpy as np

from headrace.ir.device import Device
from headrace.passes.cost.constants import Constants
from headrace.passes.cost.formula import evaluator
from headrace.passes.cost.tile import Number, Tile, matrix_peak, product

TILES = tuple(
    Tile(block_m, block_n, block_k, 5, warps)
    for block_m, block_n, block_k, warps in (
        (16, 64, 64, 4), (16, 128, 64, 4), (32, 64, 64, 4), (64, 32, 64, 4), (64, 64, 64, 4),
        (64, 128, 64, 4), (128, 64, 64, 4), (128, 128, 32, 4), (128, 256, 32, 8), (256, 128, 32, 8),
    )
)  # fmt: skip
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
VECTOR = Tile(1, 8, 512, 3, 4)
_BUFFERS = 6
_PARTITIONED = ("sm_80", "sm_90", "sm_100")
_PAIRS = [(tile, split) for tile in TILES for split in SPLITS]
_CANDIDATES = Tile(
    np.array([float(tile.block_m) for tile, _ in _PAIRS]),
    np.array([float(tile.block_n) for tile, _ in _PAIRS]),
    np.array([float(tile.block_k) for tile, _ in _PAIRS]),
    np.array([float(tile.stages) for tile, _ in _PAIRS]),
    np.array([float(tile.warps) for tile, _ in _PAIRS]),
    np.array([float(split) for _, split in _PAIRS]),
)


def gemm(
    m: Number, n: Number, k: Number, bytes_x: int, device: Device, constants: Constants, *,
    batch: Number = 1, hot: bool = False,
) -> Number:  # fmt: skip
    """Seconds of a library's product of 16-bit or 32-bit operands; numbers or numpy arrays.

    `hot`: the weights may still be in the last-level cache, as in a loop over few buffers.
    """
    m, n, k, batch = (
        value[..., None]
        for value in np.broadcast_arrays(*(np.asarray(v, dtype=float) for v in (m, n, k, batch)))
    )
    evaluate = evaluator()
    cached = hot & stays(batch * (n * k + m * k + m * n) * bytes_x, device)
    inputs = product(m, n, k, bytes_x, bytes_x, _CANDIDATES, device, constants,
                     peak=matrix_peak(device, bytes_x), batch=batch, cached=cached)  # fmt: skip
    allowed = (_CANDIDATES.split_k == 1) | (k >= _CANDIDATES.split_k * _CANDIDATES.block_k)
    best = np.where(allowed, evaluate(*inputs), np.inf).min(axis=-1)
    inputs = product(m, n, k, bytes_x, bytes_x, VECTOR, device, constants,
                     peak=matrix_peak(device, bytes_x, vector=True), batch=batch, cached=cached)  # fmt: skip
    best = np.where(m[..., 0] == 1, np.minimum(best, evaluate(*inputs)[..., 0]), best)
    return best if best.shape else float(best)


def stays(size: Number, device: Device) -> Number:
    """Whether operands are still in the last-level cache when a loop over several buffers comes back to them.

    Where the cache has two partitions, each keeps what its multiprocessors read (NVIDIA A100 white paper).
    """
    copies = 2 if device.arch in _PARTITIONED else 1
    return size * _BUFFERS * copies <= device.figure("last_level_bytes")
