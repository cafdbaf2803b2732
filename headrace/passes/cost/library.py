"""What PyTorch's own products cost: the best of the tiles that a vendor's library is known to ship.

A library does not pick the best kernel for a size every time; the model says it does, so near ties are its
error. One row is a matrix-vector product on vector units. cuBLAS has no matrix tile of fewer than 32 rows:
few rows keep the matrix unit as busy as 32 do, which shows wherever few programs run.
"""

from __future__ import annotations

import numpy as np

from headrace.ir.device import Backend, Device
from headrace.passes.cost.constants import Constants
from headrace.passes.cost.formula import evaluator
from headrace.passes.cost.tile import Number, Tile, matrix_peak, product

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Rows of x, columns of the weights, step along K, stages, warps.
_LARGE = ((128, 64, 64, 5, 4), (128, 128, 32, 5, 4), (128, 256, 32, 5, 8), (256, 128, 32, 5, 8))
_CUBLAS = ((32, 64, 64, 6, 4), (64, 64, 64, 5, 4), (64, 128, 64, 4, 4), *_LARGE)
_HIPBLASLT = (
    (16, 64, 64, 5, 4), (16, 128, 64, 5, 4), (32, 64, 64, 5, 4), (64, 32, 64, 5, 4), (64, 64, 64, 5, 4),
    (64, 128, 64, 5, 4), *_LARGE,
)  # fmt: skip
_BUFFERS = 6
_PARTITIONED = ("sm_80", "sm_90", "sm_100")


def _candidates(tiles: tuple[tuple[int, ...], ...]) -> Tile:
    """Every tile with every split of K."""
    rows = np.array([(*tile, split) for tile in tiles for split in SPLITS], dtype=float)
    return Tile(*rows.T)


_CANDIDATES = {Backend.CUDA: _candidates(_CUBLAS), Backend.ROCM: _candidates(_HIPBLASLT)}
# Of one row: on NVIDIA cards each warp reads 512 adjacent bytes at a time, with nothing further in flight.
_VECTOR = {Backend.CUDA: Tile(1, 4, 256, 2, 4), Backend.ROCM: Tile(1, 8, 512, 3, 4)}


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
    tiles = _CANDIDATES[device.backend]
    inputs = product(m, n, k, bytes_x, bytes_x, tiles, device, constants,
                     peak=matrix_peak(device, bytes_x), batch=batch, cached=cached)  # fmt: skip
    allowed = (tiles.split_k == 1) | (k >= tiles.split_k * tiles.block_k)
    best = np.where(allowed, evaluate(*inputs), np.inf).min(axis=-1)
    inputs = product(m, n, k, bytes_x, bytes_x, _VECTOR[device.backend], device, constants,
                     peak=matrix_peak(device, bytes_x, vector=True), batch=batch, cached=cached)  # fmt: skip
    best = np.where(m[..., 0] == 1, np.minimum(best, evaluate(*inputs)[..., 0]), best)
    return best if best.shape else float(best)


def stays(size: Number, device: Device) -> Number:
    """Whether operands are still in the last-level cache when a loop over several buffers comes back to them.

    Where the cache has two partitions, each keeps what its multiprocessors read (NVIDIA A100 white paper).
    """
    copies = 2 if device.arch in _PARTITIONED else 1
    return size * _BUFFERS * copies <= device.figure("last_level_bytes")
