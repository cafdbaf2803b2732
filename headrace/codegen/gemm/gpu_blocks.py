"""Block sizes of `flat` on GPUs: which side of the product the matrix instruction sees as its short one.

What Triton 3.9 emits for 16-bit operands of m rows (found by building; `docs/targets.md` has the counts):

| target        | x . w^T (rows are the instruction's m)   | swapped, w . x^T (rows are its n)   |
|---------------|------------------------------------------|-------------------------------------|
| sm_80, sm_120 | mma.m16n8k16, half idle where m <= 8     | mma.m16n8k16, nothing idle at m = 8 |
| sm_90         | mma.m16n8k16: wgmma wants 64 rows        | wgmma.m64n8k16 and up, block_n >= 64 |
| sm_100        | mma.m16n8k16: tcgen05 wants 64 rows      | tcgen05.mma, block_n >= 64          |
| gfx90a, gfx942 | mfma 16x16x16; 8 rows fall to 4x4x4 or to vector units | the same        |
| gfx950        | mfma 16x16x32, only x goes through LDS   | mfma, weights by loads into LDS     |
| gfx12         | wmma 16x16x16, weights into registers    | wmma, weights through LDS           |

So NVIDIA swaps and pads rows to 8. AMD pads to 16 and does not swap, but for gfx950, whose loads into LDS
(the double buffer that holds no registers) then carry the weights. In float32 there is no matrix instruction
of full precision, and nothing is gained by a swap.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.knobs import narrow, nearest
from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.ir.device import Backend, Device

SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True)
class Flat:
    """The defaults of `flat`."""

    block_m: int
    block_n: int
    block_k: int
    swap: int
    split_k: int
    num_warps: int
    num_stages: int


def swaps(device: Device, single: bool) -> bool:
    """Whether rows are the n of the target's matrix instruction; `single`: products in float32."""
    return not single and (device.backend is Backend.CUDA or device.arch == "gfx950")


def depth(k: int, single: bool, device: Device) -> int:
    """block_k: a cache line or two of an operand's row."""
    return max(16, min(16 if narrow(single, device) else (32 if single else 64), next_power_of_two(k)))


def flat(m: int, n: int, k: int, accumulators: int, single: bool, device: Device) -> Flat:
    """Blocks for x[m, k] times weights of n columns altogether, `accumulators` products in a program.

    Tiles of N alone rarely fill a GPU: K is split until they do, as far as four steps are left in a part.
    """
    units = max(device.units, 1)
    swap = swaps(device, single)
    block_m = min(64, max(8 if swap and device.backend is Backend.CUDA else 16, next_power_of_two(m)))
    block_n = 64
    while block_n > 16 and block_m * block_n * accumulators > (
        16 * 64 if narrow(single, device) else 64 * 128
    ):
        block_n //= 2
    # wgmma and tcgen05 take 64 of the swapped rows at least; other instructions are as good at 32.
    if not (swap and device.arch in ("sm_90", "sm_100")):
        while block_n > 32 and cdiv(n, block_n) < units:
            block_n //= 2
    block_k = depth(k, single, device)
    tiles = max(1, cdiv(n, block_n) * cdiv(m, block_m))
    split = nearest(SPLITS, min(units // tiles, cdiv(k, 4 * block_k)))
    stages = 2 if single else (4 if device.backend is Backend.CUDA else (3 if swap else 2))
    return Flat(block_m, block_n, block_k, int(swap), split, 4, stages)
