"""Block sizes of the Gemm dataflows on CPUs, as the engine's micro-kernels like them.

Masks cost next to nothing there (loops stop at the bounds), so a block need not divide a size; but a program
packs its operands for itself, which large blocks pay for, and every processor wants several programs.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.plan import cdiv, next_power_of_two

_STRIPS = {2: range(1, 128), 4: range(17, 41)}  # rows of which `tiled` takes strips, by an operand's size
_ROWS_IN_PLACE = range(8, 33)  # rows for which weights contiguous along k are read where they lie


@dataclass(frozen=True)
class Product:
    """x[m, k] times weights of n columns altogether; ``accumulators`` products share one program.

    ``along_k``: weights are contiguous along k; ``size``: bytes of an operand's element; ``units``:
    processors.
    """

    m: int
    n: int
    k: int
    accumulators: int
    along_k: bool
    size: int
    units: int


def flat(p: Product) -> tuple[int, int, int]:
    """Few rows: block_m, block_n, block_k."""
    block_m = min(64, next_power_of_two(p.m))
    if block_m not in _ROWS_IN_PLACE and p.along_k and block_m < 8:
        return block_m, 64, _dividing(p.k, 64, 16)
    block_n, block_k = (128, 1024) if p.along_k and block_m in _ROWS_IN_PLACE else (256, 256)
    while block_n > 32 and cdiv(p.n, block_n) < 8 * p.units:
        block_n //= 2
    return block_m, block_n, _dividing(p.k, block_k, block_k // 2)


def tiled(p: Product) -> tuple[int, int, int]:
    """Many rows: block_m, block_n, block_k. Three tiles of up to 256 KiB share the second cache.

    For `_STRIPS` rows, strips of 16 that take the weights where they lie beat one tile that is padded to a
    power of two (by a fifth at 17, 20 and 33 rows) and lose little where M is one (Zen 4, one thread).
    """
    if p.along_k and p.m in _STRIPS[p.size]:
        return (8 if p.m <= 8 else 16), 32, _dividing(p.k, 64, 16)
    block_m = min(256, max(16, next_power_of_two(p.m)))
    block_n = min(256 if p.accumulators == 1 else 128, max(16, next_power_of_two(p.n)))
    while block_m * block_n > 64 * 64 and cdiv(p.m, block_m) * cdiv(p.n, block_n) < 4 * p.units:
        if block_m >= block_n:
            block_m //= 2
        else:
            block_n //= 2
    return block_m, block_n, _dividing(p.k, 256, 128)


def _dividing(k: int, most: int, least: int) -> int:
    """The largest power of two from ``least`` to ``most`` that divides ``k``; if none does, ``most``."""
    most = max(16, min(most, next_power_of_two(k)))
    block = most
    while block > least and k % block:
        block //= 2
    return most if k % block else block
