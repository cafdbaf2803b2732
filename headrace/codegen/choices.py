"""Knobs, defaults and legality of each dataflow, per backend.

Defaults are the first guess for a device that was never measured. On GPUs they keep accumulators within the
register file and tiles within shared memory, so that no default spills (held by the builds in `targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.codegen import attention, cpu_blocks, gemm
from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.schedule import Knob, Schedule, Value
from headrace.ir.spec import Attention, Gemm, Rows, Spec

Sizes = tuple[int, ...]
_MAX_TILE = 1 << 17  # elements of one tensor in a kernel; far below Triton's 2^20, which no cache holds


class Choices(Protocol):
    """What a dataflow asks and what it allows."""

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]: ...

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None: ...


def powers(low: int, high: int) -> tuple[int, ...]:
    """Powers of two from `low` to `high`, both included."""
    return tuple(1 << e for e in range(low.bit_length() - 1, high.bit_length()))


def nearest(values: Sequence[Value], wanted: int) -> int:
    """The largest value not above `wanted`, else the smallest."""
    below = [int(v) for v in values if int(v) <= wanted]
    return max(below) if below else min(int(v) for v in values)


def _gpu(device: Device) -> bool:
    return device.backend is not Backend.CPU


def _launch_knobs(device: Device, warps: int, stages: int | None) -> tuple[Knob, ...]:
    if not _gpu(device):
        return ()
    found = [Knob("num_warps", warps, (1, 2, 4, 8))]
    if stages is not None:
        found.append(Knob("num_stages", stages, (1, 2, 3, 4, 5)))
    return tuple(found)


def _unknown(schedule: Schedule, allowed: Mapping[str, tuple[Value, ...]]) -> str | None:
    """A knob that is missing, unknown, or has a value outside its range."""
    given = dict(schedule.knobs)
    if set(given) != set(allowed):
        return f"knobs {sorted(given)} given, {sorted(allowed)} expected"
    for name, values in allowed.items():
        if given[name] not in values:
            return f"{name}={given[name]} is none of {', '.join(map(str, values))}"
    return None


def _launch_ranges(device: Device, stages: bool) -> dict[str, tuple[Value, ...]]:
    if not _gpu(device):
        return {}
    found: dict[str, tuple[Value, ...]] = {"num_warps": (1, 2, 4, 8, 16)}
    if stages:
        found["num_stages"] = (1, 2, 3, 4, 5)
    return found


def _threads(schedule: Schedule, device: Device) -> int:
    return int(schedule["num_warps"]) * max(device.warp, 32)


def _limit(name: str, need: int, have: int, unit: str) -> str | None:
    return f"{name} needs {need} {unit}, the device has {have}" if 0 < have < need else None


@dataclass(frozen=True)
class GemvChoices:
    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Gemm)
        m = sizes[-1]
        block_m = Knob("block_m", nearest((1, 2, 4), next_power_of_two(m)), (1, 2, 4))
        widest = max(w.n for w in spec.weights)
        row_major = spec.weights[0].layout == "nk"
        if not _gpu(device):
            # The CPU engine keeps sums per row in vector registers (a whole tile would live in memory)
            # and reads block_n rows as four streams: long ones from main memory, else enough programs.
            tiles = max(1, sum(w.n for w in spec.weights) // gemm.accumulators(spec))
            block_n = 256 if widest >= 8192 else (64 if tiles >= 64 * 4 * max(device.units, 1) else 32)
            block_k = 64
            if not row_major:
                block_n, block_k = 64, 16
            while spec.k % block_k and block_k > 16:
                block_k //= 2
            return (
                block_m, Knob("block_n", block_n, powers(4, 256)), Knob("block_k", block_k, powers(16, 1024)),
                Knob("reduce", "row", ("row",)),
            )  # fmt: skip
        values_n, values_k = powers(1, 128), powers(16, 1024)
        block_k = nearest(values_k, max(16, min(512 // int(block_m.default), next_power_of_two(spec.k))))
        budget = 4096 // int(block_m.default) // gemm.accumulators(spec)
        block_n = nearest(values_n, max(1, min(budget // block_k, next_power_of_two(widest))))
        while block_n > 1 and cdiv(widest, block_n) < 2 * max(device.units, 1):
            block_n //= 2
        if not row_major:
            block_n, block_k = 64, max(16, budget // 64)
        return (
            block_m, Knob("block_n", block_n, values_n), Knob("block_k", block_k, values_k),
            Knob("reduce", "tile", ("row", "tile")), *_launch_knobs(device, 4, None),
        )  # fmt: skip

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Gemm)
        ranges: dict[str, tuple[Value, ...]] = {
            "block_m": (1, 2, 4), "block_n": powers(1, 512), "block_k": powers(1, 4096),
            "reduce": ("row", "tile"),
        }  # fmt: skip
        reason = _unknown(schedule, ranges | _launch_ranges(device, False))
        if reason is not None:
            return reason
        tile = int(schedule["block_n"]) * int(schedule["block_k"])
        if tile > _MAX_TILE:
            return f"a tile of {tile} elements is too large"
        if sizes is not None and sizes[-1] > 64:
            return (
                f"gemv reads all weights per {schedule['block_m']} rows; m = {sizes[-1]} is for flat or tiled"
            )
        if _gpu(device):
            held = (
                tile
                * gemm.accumulators(spec)
                * (int(schedule["block_m"]) if schedule["reduce"] == "tile" else 1)
            )
            return _limit("accumulators", held // _threads(schedule, device), 128, "registers a thread")
        return None


@dataclass(frozen=True)
class DotChoices:
    """`flat` and `tiled`."""

    split: bool

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Gemm)
        m = sizes[-1]
        n, k = sum(w.n for w in spec.weights) // gemm.accumulators(spec), spec.k
        single = DType.F32 in {spec.x, *(w.dtype for w in spec.weights)}
        pair = gemm.accumulators(spec)
        low = 16 if _gpu(device) else 1
        if self.split:
            values_m = powers(low, 64)
            block_m = nearest(values_m, max(low, next_power_of_two(m)))
        else:
            values_m = powers(max(low, 16), 256)
            block_m = 64 if single else 128
            block_m = nearest(values_m, max(16, min(block_m, next_power_of_two(m))))
        values_n, values_k = powers(16, 256), powers(16, 256 if _gpu(device) else 1024)
        if not _gpu(device):
            mixed = single or {spec.x} != {w.dtype for w in spec.weights}
            product = cpu_blocks.Product(
                m, n, k, pair, spec.weights[0].layout == "nk", 4 if mixed else 2, max(device.units, 1)
            )
            block_m, block_n, block_k = (cpu_blocks.flat if self.split else cpu_blocks.tiled)(product)
            found = [
                Knob("block_m", block_m, values_m),
                Knob("block_n", block_n, values_n),
                Knob("block_k", block_k, values_k),
            ]
            extra = [Knob("split_k", 1, (1, 2, 4, 8))] if self.split else [Knob("group_m", 8, (1, 4, 8, 16))]
            return (*found, *extra)
        block_n = (64 if single else 128) // min(pair, 2)
        if self.split:
            block_n = min(block_n, 64)
            while block_n > 32 and cdiv(n, block_n) < max(device.units, 1):
                block_n //= 2
        block_k = 32 if single else 64
        while block_k > 16 and block_k > next_power_of_two(k):
            block_k //= 2
        stages = 2 if device.backend is Backend.ROCM or single else (4 if self.split else 3)
        warps = 8 if block_m * block_n * pair >= 128 * 128 else 4
        found = [
            Knob("block_m", block_m, values_m), Knob("block_n", block_n, values_n),
            Knob("block_k", block_k, values_k),
            *_launch_knobs(device, warps, stages),
        ]  # fmt: skip
        if not self.split:
            return (*found, Knob("group_m", 8, (1, 4, 8, 16)))
        tiles = cdiv(n, block_n) * cdiv(m, block_m)
        fill = max(1, min(8, max(device.units, 1) // max(tiles, 1), cdiv(k, 4 * block_k)))
        return (*found, Knob("split_k", nearest((1, 2, 4, 8), fill), (1, 2, 4, 8)))

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Gemm)
        least = 16 if _gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {
            "block_m": powers(least, 256), "block_n": powers(least, 256),
            "block_k": powers(least, 512 if _gpu(device) else 1024),
        }  # fmt: skip
        ranges["split_k" if self.split else "group_m"] = tuple(range(1, 33))
        reason = _unknown(schedule, ranges | _launch_ranges(device, True))
        if reason is not None:
            return reason
        if not _gpu(device):
            return None
        block_m, block_n, block_k = (int(schedule[name]) for name in ("block_m", "block_n", "block_k"))
        pair = gemm.accumulators(spec)
        registers = block_m * block_n * pair // _threads(schedule, device)
        size = 4 if {spec.x} != {w.dtype for w in spec.weights} else spec.x.itemsize
        shared = (block_m + pair * block_n) * block_k * size * max(int(schedule["num_stages"]) - 1, 1)
        return _limit("accumulators", registers, 128, "registers a thread") or _limit(
            "shared memory", shared, device.on_chip_bytes, "bytes"
        )


@dataclass(frozen=True)
class PrefillChoices:
    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Attention)
        least = 16 if _gpu(device) else 1
        values_i, values_j = powers(least, 128), powers(16, 128)
        head = max(spec.d_k, spec.d_v)
        single = DType.F32 in (spec.q, spec.k, spec.v)
        if not _gpu(device):
            return (
                # Enough rows that reading a tile of keys costs little; causal masks waste half a tile.
                Knob("block_i", nearest(values_i, min(64, next_power_of_two(sizes[1]))), values_i),
                Knob("block_j", 64, values_j),
            )
        # Chosen by what the builds of `targets.py` need: the largest tiles whose registers do not spill.
        warps, stages = 4, 1 if single or device.backend is Backend.ROCM else 2
        if single:
            block_i, block_j, warps = (32, 32, 4) if head <= 64 else ((32 if head <= 128 else 16), 16, 8)
        elif head <= 64:
            block_i, block_j = 64, 32
        elif head <= 128:
            block_i, block_j, warps = (64, 32, 4) if device.backend is Backend.ROCM else (128, 32, 8)
        else:
            block_i, block_j = 32, 32
        fitting = nearest(values_i, max(16, min(block_i, next_power_of_two(sizes[1]))))
        warps = warps if fitting == block_i else 4
        return (Knob("block_i", fitting, values_i), Knob("block_j", block_j, values_j),
                *_launch_knobs(device, warps, stages))  # fmt: skip

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Attention)
        least = 16 if _gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {"block_i": powers(least, 256), "block_j": powers(16, 256)}
        reason = _unknown(schedule, ranges | _launch_ranges(device, True))
        return reason or _attention_limits(spec, int(dict(schedule.knobs)["block_i"]), schedule, device)


@dataclass(frozen=True)
class DecodeChoices:
    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Attention)
        b, i, j = sizes
        group = attention.group_size(spec)
        least = 16 if _gpu(device) else 1
        values_r = powers(least, 64)
        block_r = nearest(values_r, max(least, next_power_of_two(i * group)))
        programs = b * (spec.heads // group) * cdiv(i * group, block_r)
        splits = tuple(range(1, 9)) if not _gpu(device) else (1, 2, 4, 8, 16, 32, 64)
        fill = min(cdiv(max(device.units, 1), programs), max(1, j // (256 if _gpu(device) else 1024)))
        single = DType.F32 in (spec.q, spec.k, spec.v)
        head = max(spec.d_k, spec.d_v)
        block_j = 64 if head <= 128 and not (single and _gpu(device)) else 32
        if head > 128 and single and _gpu(device):
            block_j = 16
        return (Knob("block_r", block_r, values_r), Knob("block_j", block_j, powers(16, 256)),
                Knob("splits", nearest(splits, fill), splits),
                *_launch_knobs(device, 8 if single else 4, 1 if single or device.backend is Backend.ROCM
                else 2))  # fmt: skip

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Attention)
        least = 16 if _gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {
            "block_r": powers(least, 128), "block_j": powers(16, 512), "splits": tuple(range(1, 129)),
        }  # fmt: skip
        reason = _unknown(schedule, ranges | _launch_ranges(device, True))
        return reason or _attention_limits(spec, int(dict(schedule.knobs)["block_r"]), schedule, device)


def _attention_limits(spec: Attention, rows: int, schedule: Schedule, device: Device) -> str | None:
    block_j = int(schedule["block_j"])
    d_k, d_v = next_power_of_two(spec.d_k), next_power_of_two(spec.d_v)
    if max(rows, block_j) * max(d_k, d_v) > _MAX_TILE:
        return "a tile is too large"
    if not _gpu(device):
        return None
    registers = rows * (d_v + block_j) // _threads(schedule, device)
    size = max(spec.q.itemsize, spec.k.itemsize, spec.v.itemsize)
    shared = size * (rows * d_k + block_j * (d_k + d_v) * max(int(schedule["num_stages"]) - 1, 1))
    return _limit("accumulators", registers, 160, "registers a thread") or _limit(
        "shared memory", shared, device.on_chip_bytes, "bytes"
    )


@dataclass(frozen=True)
class RowChoices:
    """`row` and `row_loop`."""

    looped: bool

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        r, n = sizes
        width = next_power_of_two(n)
        block_r = 1 if n >= 128 or r == 1 else nearest((1, 2, 4, 8, 16), min(16, 256 // max(width, 16), r))
        found = [Knob("block_r", block_r, (1, 2, 4, 8, 16))]
        if self.looped:
            values = powers(16, 4096)
            block_n = nearest(values, min(1024 if _gpu(device) else 256, width))
            while not _gpu(device) and block_n > 64 and n % block_n:
                block_n //= 2
            found.append(Knob("block_n", block_n, values))
            width = block_n
        return (*found, *_launch_knobs(device, nearest((1, 2, 4, 8), max(1, width // 256)), None))

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Rows)
        ranges: dict[str, tuple[Value, ...]] = {"block_r": powers(1, 64)}
        if self.looped:
            ranges["block_n"] = powers(16, 16384)
        reason = _unknown(schedule, ranges | _launch_ranges(device, False))
        if reason is not None or (sizes is None and not self.looped):
            return reason
        width = int(schedule["block_n"]) if self.looped else next_power_of_two(sizes[1] if sizes else 1)
        held = width * int(schedule["block_r"])
        if held > (1 << 16):
            return f"{held} elements do not fit on chip"
        if _gpu(device):
            return _limit("row", held // _threads(schedule, device), 128, "registers a thread")
        return None


CHOICES: Mapping[str, Choices] = {
    "prefill": PrefillChoices(),
    "decode": DecodeChoices(),
    "gemv": GemvChoices(),
    "flat": DotChoices(split=True),
    "tiled": DotChoices(split=False),
    "row": RowChoices(looped=False),
    "row_loop": RowChoices(looped=True),
}
