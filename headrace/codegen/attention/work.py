"""What an Attention schedule makes a device do."""

from __future__ import annotations

from headrace.codegen.attention import plans as attention
from headrace.codegen.attention.bounds import bounds
from headrace.codegen.plan import cdiv
from headrace.codegen.work import Work
from headrace.ir.device import Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention


def work(spec: Attention, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
    b, i, j = sizes
    per_key = spec.k_heads * spec.d_k * spec.k.itemsize + spec.v_heads * spec.d_v * spec.v.itemsize
    moved = b * j * per_key + b * i * spec.heads * (spec.d_k * spec.q.itemsize + spec.d_v * spec.out.itemsize)
    seen = 0.5 if _causal(spec) and i > 1 and i >= j else 1.0
    flops = 2.0 * b * spec.heads * i * j * (spec.d_k + spec.d_v) * seen
    if schedule.dataflow == "library":
        masked = b * i * j * 2 if spec.extras or refs_j(spec) else 0
        return Work(flops / seen, float(moved + masked), device.units, 0, 2 if masked else 1)
    block_j = int(schedule["block_j"])
    chip = block_j * (spec.d_k * spec.k.itemsize + spec.d_v * spec.v.itemsize)
    if schedule.dataflow == "prefill":
        block_i = int(schedule["block_i"])
        tiles = cdiv(i, block_i)
        padded = flops * tiles * block_i / max(i, 1)
        return Work(
            padded, float(moved), tiles * b * spec.heads, chip + block_i * spec.d_k * spec.q.itemsize, 1
        )
    group, block_r, splits = attention.group_size(spec), int(schedule["block_r"]), int(schedule["splits"])
    blocks = cdiv(i * group, block_r)
    padded = flops * blocks * block_r / max(i * group, 1)
    moved += (blocks - 1) * b * j * per_key
    if splits > 1:
        moved += 2 * 4 * b * spec.heads * i * splits * (spec.d_v + 2)
    return Work(
        padded, float(moved), blocks * splits * b * (spec.heads // group), chip, 2 if splits > 1 else 1
    )


def _causal(spec: Attention) -> bool:
    return any("i" in str(e) for e in bounds(spec.mask, spec.extras).upper)


def refs_j(spec: Attention) -> bool:
    """Whether a library call has to materialise a mask."""
    return "j" in str(spec.mask)
