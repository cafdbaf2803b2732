"""What an Attention schedule makes a device do."""

from __future__ import annotations

from headrace.codegen.attention import plans as attention
from headrace.codegen.attention.bounds import bounds
from headrace.codegen.plan import cdiv
from headrace.codegen.work import Inner, Work
from headrace.ir.device import Backend, Device
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
        steps = max(1, round(cdiv(j, block_j) * seen))
        return Work(
            padded, float(moved), tiles * b * spec.heads, chip + block_i * spec.d_k * spec.q.itemsize,
            1 + (_again(schedule) if device.backend is not Backend.CPU else 0),
            _inner(spec, schedule, device, block_i, block_j, steps),
        )  # fmt: skip
    group, block_r = attention.group_size(spec), int(schedule["block_r"])
    blocks = cdiv(i * group, block_r)
    padded = flops * blocks * block_r / max(i * group, 1)
    moved += (blocks - 1) * b * j * per_key
    if schedule.dataflow == "stream_decode":
        workers = min(int(schedule["workers"]), blocks * b * (spec.heads // group) * cdiv(j, block_j))
        partials = 4 * workers * block_r * (spec.d_v + 2)
        steps = cdiv(blocks * b * (spec.heads // group) * cdiv(j, block_j), workers)
        inner = _inner(spec, schedule, device, block_r, block_j, steps, partials, 2)
        return Work(padded, float(moved + 2 * partials), workers, chip, 3 + _again(schedule), inner)
    splits = int(schedule["splits"])
    partials = 4 * b * spec.heads * i * splits * (spec.d_v + 2) if splits > 1 else 0
    inner = _inner(
        spec, schedule, device, block_r, block_j, cdiv(cdiv(j, block_j), splits), partials, int(splits > 1)
    )
    return Work(
        padded, float(moved + 2 * partials), blocks * splits * b * (spec.heads // group), chip,
        (2 + _again(schedule)) if splits > 1 else 1, inner,
    )  # fmt: skip


def _again(schedule: Schedule) -> int:
    """The launch that recomputes rows for which a unified maximum did not do."""
    return int(dict(schedule.knobs).get("stabilizer") == "unified")


def _inner(
    spec: Attention, schedule: Schedule, device: Device, rows: int, keys: int, steps: int, merged: int = 0,
    merges: int = 0,
) -> Inner | None:  # fmt: skip
    """Blocks of keys: queries times keys, exponentials, weights times values."""
    if device.backend is Backend.CPU:
        return None
    knobs = dict(schedule.knobs)
    return Inner(
        rows=rows,
        columns=keys,
        reduced=(spec.d_k + spec.d_v) // 2,
        iterations=max(steps, 1),
        stages=int(knobs.get("num_stages", 1)),
        warps=int(knobs.get("num_warps", 4)),
        bytes_rows=spec.q.itemsize,
        bytes_columns=spec.k.itemsize,
        products=2,
        elements=rows * keys,
        # Positions and queries, then keys, then values, before the first iteration is done.
        depth=3.0,
        merged=float(merged),
        merges=merges,
    )


def _causal(spec: Attention) -> bool:
    return any("i" in str(e) for e in bounds(spec.mask, spec.extras).upper)


def refs_j(spec: Attention) -> bool:
    """Whether a library call has to materialise a mask."""
    return "j" in str(spec.mask)
