"""Knobs, defaults and legality of the Attention dataflows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen import stabilizers
from headrace.codegen.attention import plans as attention
from headrace.codegen.attention.bounds import bounds
from headrace.codegen.knobs import (
    MAX_TILE,
    Choices,
    Sizes,
    crowded,
    gpu,
    launch_knobs,
    launch_ranges,
    limit,
    narrow,
    nearest,
    powers,
    threads,
    unknown,
)
from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.expr import refs
from headrace.ir.schedule import Knob, Schedule, Value
from headrace.ir.spec import Attention, Spec, Stabilizer


@dataclass(frozen=True)
class PrefillChoices:
    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Attention)
        least = 16 if gpu(device) else 1
        values_i, values_j = powers(least, 128), powers(16, 128)
        head = max(spec.d_k, spec.d_v)
        single = DType.F32 in (spec.q, spec.k, spec.v)
        if not gpu(device):
            return (
                # Enough rows that reading a tile of keys costs little; causal masks waste half a tile.
                Knob("block_i", nearest(values_i, min(64, next_power_of_two(sizes[1]))), values_i),
                Knob("block_j", 64, values_j),
                *_stabilizers(spec, sizes, device),
            )
        # Chosen by what the builds of `targets.py` need: the largest tiles whose registers do not spill.
        warps, stages = 4, 1 if single or device.backend is Backend.ROCM else 2
        if narrow(single, device):
            block_i, block_j, warps = 16, 16, 16
        elif single:
            block_i, block_j = 32 if head <= 128 else 16, 32 if head <= 64 else 16
            warps = 16 if device.backend is Backend.CUDA and head > 64 else 8
        elif head <= 64:
            block_i, block_j = 64, 32
        elif head <= 128:
            block_i, block_j, warps = (64, 32, 4) if device.backend is Backend.ROCM else (128, 32, 8)
        elif device.backend is Backend.ROCM:
            block_i, block_j = 32, 32
        else:
            block_i, block_j, warps = 64, 32, 8
        fitting = nearest(values_i, max(16, min(block_i, next_power_of_two(sizes[1]))))
        warps = warps if fitting == block_i else 4
        return (Knob("block_i", fitting, values_i), Knob("block_j", block_j, values_j),
                *_stabilizers(spec, sizes, device), *launch_knobs(device, warps, stages))  # fmt: skip

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Attention)
        least = 16 if gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {"block_i": powers(least, 256), "block_j": powers(16, 256)}
        return _illegal(spec, sizes, schedule, device, "block_i", ranges)


MOST_SPLITS = 64  # whose states a merge holds in registers


def split_count(blocks: int, device: Device, key_blocks: int) -> int:
    """Ways to split the keys of `blocks` programs on a GPU: the heuristic of flash-attention's repository.

    No split where the programs fill 80 % of the units, or for up to four blocks of keys. Else with waves(s) =
    blocks s / units and efficiency e(s) = waves / ceil(waves), the least s with e(s) >= 0.85 max e. A unit of
    NVIDIA's Ampere and Ada counts twice, as it holds two programs.
    """
    units = max(device.units, 1) * (2 if device.arch.startswith("sm_8") else 1)
    if blocks >= 0.8 * units or key_blocks <= 4:
        return 1
    shares = {}
    for splits in range(1, min(MOST_SPLITS, units, key_blocks) + 1):
        waves = blocks * splits / units
        shares[splits] = waves / math.ceil(waves)
    return next(splits for splits, share in shares.items() if share >= 0.85 * max(shares.values()))


def _cpu_keys(rows: int, head: int, single: bool) -> int:
    """Keys to a tile on a CPU, measured.

    Few rows are bound by memory: small tiles of keys and values arrive by turns, and the first one of a
    program, which nobody asked for ahead of time, holds up little. Four rows of wide heads like larger ones.
    """
    if rows < 8:
        return 64 if rows > 1 and head > 64 and not single else 32
    return 64 if single else 128


@dataclass(frozen=True)
class DecodeChoices:
    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Attention)
        b, i, j = sizes
        group = attention.group_size(spec)
        least = 16 if gpu(device) else 1
        values_r = powers(least, 64)
        block_r = nearest(values_r, max(least, next_power_of_two(i * group)))
        programs = b * (spec.heads // group) * cdiv(i * group, block_r)
        single = DType.F32 in (spec.q, spec.k, spec.v)
        head = max(spec.d_k, spec.d_v)
        block_j = 64 if head <= 128 and not (single and gpu(device)) else 32
        warps = 4 if not single or (head > 128 and device.backend is Backend.ROCM) else 8
        warps = 16 if narrow(single, device) else warps
        if (head > 128 and single and gpu(device)) or narrow(single, device):
            block_j = 16
        if gpu(device):
            fill = split_count(programs, device, cdiv(j, block_j))
            splits = tuple(sorted({*powers(1, MOST_SPLITS), fill}))
        else:
            if head <= 128 and j >= 512:
                block_j = _cpu_keys(block_r, head, single)
            splits = tuple(range(1, 9))
            fill = nearest(splits, min(cdiv(max(device.units, 1), programs), max(1, j // 1024)))
        return (Knob("block_r", block_r, values_r), Knob("block_j", block_j, powers(16, 256)),
                Knob("splits", fill, splits),
                *_stabilizers(spec, sizes, device),
                *launch_knobs(device, warps, 1 if single or device.backend is Backend.ROCM
                else 2))  # fmt: skip

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Attention)
        least = 16 if gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {
            "block_r": powers(least, 128), "block_j": powers(16, 512), "splits": tuple(range(1, 129)),
        }  # fmt: skip
        return _illegal(spec, sizes, schedule, device, "block_r", ranges)


@dataclass(frozen=True)
class StreamChoices:
    """`workers` take equal pieces of all tiles; more than there are units even out what a unit is given."""

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Attention)
        block_r, block_j, _, *others = DecodeChoices().knobs(spec, sizes, device)
        if device.backend is Backend.ROCM:  # more would spill scalar registers
            block_j = Knob(block_j.name, 16, block_j.values)
        units = max(device.units, 1)
        # A GPU's unit holds two workers; a CPU's threads are evened out by taking pieces in turn.
        workers = (2 if gpu(device) else 4) * units
        return (block_r, block_j, Knob("workers", workers, tuple(n * units for n in (1, 2, 4, 8))), *others)

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Attention)
        least = 16 if gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {
            "block_r": powers(least, 128), "block_j": powers(16, 512), "workers": tuple(range(1, 8193)),
        }  # fmt: skip
        return _illegal(spec, sizes, schedule, device, "block_r", ranges)


MOST_QUERIES = 16  # of a decoding step, speculation included; more are prefill's


def ragged(spec: Attention) -> bool:
    """True where the mask bounds the keys by a value of each sequence, e.g. `lt(j, n)` with n:i64[b]."""
    found = bounds(spec.mask, spec.extras)
    names = frozenset().union(*(refs(e) for e in (*found.lower, *found.upper)))
    return any("b" in extra.dims for extra in spec.extras if extra.name in names)


def worth_streaming(spec: Attention, sizes: Sizes, device: Device) -> bool:
    """True for few queries whose sequences differ in length, or whose heads do not fill the device."""
    b, i, _ = sizes
    group = attention.group_size(spec)
    return i <= MOST_QUERIES and (
        (b > 1 and ragged(spec)) or b * (spec.heads // group) * i * group < max(device.units, 1)
    )


def _stabilizers(spec: Attention, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
    """The stabilizers to choose from, on a GPU only those that the type of the values allows.

    The default is measured: on a CPU a permitted unified maximum takes 0.92 to 0.99 of the online time with
    heads of 64 and some hundred keys, and is inside the noise with wider heads or fewer keys.
    """
    lost = gpu(device) and spec.v is DType.F16
    wins = not gpu(device) and max(spec.d_k, spec.d_v) <= 64 and sizes[2] >= 512
    return stabilizers.knobs(spec.normalizer, without=[Stabilizer.UNIFIED] if lost else [], unified=wins)


def _refused(spec: Attention, schedule: Schedule, device: Device) -> str | None:
    """Why the schedule's stabilizer may not be taken."""
    taken = dict(schedule.knobs).get(stabilizers.KNOB, str(Stabilizer.ONLINE))
    return stabilizers.refusal(spec.normalizer, taken, spec.v, gpu=gpu(device))


def _illegal(
    spec: Attention,
    sizes: Sizes | None,
    schedule: Schedule,
    device: Device,
    rows: str,
    ranges: dict[str, tuple[Value, ...]],
) -> str | None:
    """Why a schedule with these knobs, and those that all dataflows of attention have, cannot be built.

    `rows` is the knob of a tile's rows of queries.
    """
    ranges |= stabilizers.ranges(spec.normalizer) | launch_ranges(device, True)
    reason = unknown(schedule, ranges) or _refused(spec, schedule, device)
    return reason or _attention_limits(spec, int(schedule[rows]), sizes, schedule, device)


def _attention_limits(
    spec: Attention, rows: int, sizes: Sizes | None, schedule: Schedule, device: Device
) -> str | None:
    block_j = int(schedule["block_j"])
    d_k, d_v = next_power_of_two(spec.d_k), next_power_of_two(spec.d_v)
    if max(rows, block_j) * max(d_k, d_v) > MAX_TILE:
        return "a tile is too large"
    if not gpu(device):
        return None
    if narrow(DType.F32 in (spec.q, spec.k, spec.v), device) and max(d_k, d_v) > 128:
        return "float32 heads beyond 128 do not fit RDNA's registers"
    registers = rows * (d_v + block_j) // threads(schedule, device)
    size = max(spec.q.itemsize, spec.k.itemsize, spec.v.itemsize)
    shared = size * (rows * d_k + block_j * (d_k + d_v) * max(int(schedule["num_stages"]) - 1, 1))
    reason = limit("accumulators", registers, 160, "registers a thread") or limit(
        "shared memory", shared, device.on_chip_bytes, "bytes"
    )
    if reason is not None or sizes is None or schedule.dataflow == "stream_decode":
        return reason
    b, i, _ = sizes
    packed = cdiv(i * attention.group_size(spec), rows) if schedule.dataflow == "decode" else 1
    return crowded(device, b * spec.heads, packed)


CHOICES: Mapping[str, Choices] = {
    "prefill": PrefillChoices(),
    "decode": DecodeChoices(),
    "stream_decode": StreamChoices(),
}
