"""What decode attention costs: one query per sequence against a cache of keys and values.

FlashDecoding as FlashAttention 2 ships it: heads that share keys are rows of one tile, keys are walked in
blocks, and where programs are few the keys are split and partial results merged by a second kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.codegen.work import Inner
from headrace.ir.device import Device
from headrace.passes.cost.constants import Constants
from headrace.passes.cost.formula import evaluator
from headrace.passes.cost.tile import Number, machine, matrix_peak


@dataclass(frozen=True, slots=True)
class Engine:
    """How a library cuts decode attention.

    Attributes:
        rows, keys: queries (padded) and keys of a tile.
        packs: whether heads that share keys are one tile.
        splits_single: whether keys are split also where no heads share them.
        copies: whether queries are rearranged by another kernel where heads share keys.
        depth: latencies in a row outside the loop: lengths, page table, first keys, first values, result.
    """

    rows: int = 64
    keys: int = 128
    packs: bool = True
    splits_single: bool = False
    copies: bool = True
    depth: float = 7.0


FLASH_ATTENTION_2 = Engine()
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# Exponentials that a multiprocessor takes per cycle (CUDA C++ programming guide, arithmetic throughput).
_EXPONENTIALS = 16.0


def decode(
    batch: Number, heads: Number, kv_heads: Number, dim: Number, length: Number, device: Device,
    constants: Constants, *, bytes_kv: Number = 2, bytes_q: int = 2, engine: Engine = FLASH_ATTENTION_2,
    hot: bool = False,
) -> Number:  # fmt: skip
    """Seconds of decode attention of a library; numbers or numpy arrays.

    `hot`: keys and values may still be in the last-level cache from the call before.
    """
    b, h, kv, d, n, size = np.broadcast_arrays(
        *(np.asarray(v, dtype=float) for v in (batch, heads, kv_heads, dim, length, bytes_kv))
    )
    group = h / kv if engine.packs else np.ones_like(h)
    tiles = b * (h / group) * np.ceil(group / engine.rows)
    blocks = np.maximum(np.ceil(n / engine.keys), 1)
    unique = 2 * b * kv * n * d * size + 2 * b * h * d * bytes_q
    if hot:
        unique = np.where(unique <= 0.8 * device.figure("last_level_bytes"), 0.0, unique)
    used = np.minimum(n, engine.keys)
    loaded = 2 * used * d * size
    shared = (engine.rows + 2 * engine.keys) * d * size + 1024
    held = np.maximum(np.floor((device.unit_on_chip_bytes or device.figure("on_chip_bytes")) / shared), 1)
    plain = machine(device, constants, matrix_peak(device, 2))
    copies = ((group > 1) & (kv > 1) & (b > 1)) if engine.copies else np.zeros(b.shape)
    best = np.full(b.shape, np.inf)
    for most in SPLITS:
        split = np.minimum(most, blocks)
        several = (split > 1).astype(float)
        seconds = evaluator()(
            tiles * split, np.ceil(blocks / split), 4 * engine.rows * engine.keys * d,
            engine.rows * used / _EXPONENTIALS, 4 * loaded, loaded, 1.0, 4.0, held, unique,
            constants.latency, engine.depth, 1.0, several * 4 * b * h * split * (d + 2),
            several * 0.5, loaded, 4.0, *plain,
        )  # fmt: skip
        seconds = seconds + constants.call / device.figure("clock") * (1 + copies + 0.5 * several)
        allowed = (split == 1) | (group > 1) | engine.splits_single
        best = np.minimum(best, np.where(allowed, seconds, np.inf))
    return best if best.shape else float(best)


def prefill(
    heads: int, d_k: int, d_v: int, batch: int, queries: int, keys: int, size: int
) -> tuple[int, Inner]:
    """Programs of a library's attention over many queries, and what each repeats: tiles of 128 x 64."""
    tiles = batch * heads * -(-queries // 128)
    inner = Inner(128, 64, (d_k + d_v) // 2, max(1, -(-keys // 64)), stages=2, warps=4, bytes_rows=size,
                  bytes_columns=size, products=2, elements=128 * 64, depth=3.0)  # fmt: skip
    return tiles, inner
