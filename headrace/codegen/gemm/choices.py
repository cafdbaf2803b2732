"""Knobs, defaults and legality of the Gemm dataflows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen.gemm import cpu_blocks, gpu_blocks
from headrace.codegen.gemm.jobs import accumulators, widths
from headrace.codegen.knobs import (
    MAX_TILE,
    Choices,
    Sizes,
    crowded,
    gpu,
    launch_knobs,
    launch_ranges,
    limit,
    nearest,
    powers,
    threads,
    unknown,
)
from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.schedule import Knob, Schedule, Value
from headrace.ir.spec import Gemm, Spec


def _single(spec: Gemm) -> bool:
    return DType.F32 in {spec.x, *(w.dtype for w in spec.weights)}


@dataclass(frozen=True)
class GemvChoices:
    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Gemm)
        m = sizes[-1]
        block_m = Knob("block_m", nearest((1, 2, 4), next_power_of_two(m)), (1, 2, 4))
        widest = max(w.n for w in spec.weights)
        row_major = spec.weights[0].layout == "nk"
        if not gpu(device):
            # The CPU engine keeps sums per row in vector registers (a whole tile would live in memory)
            # and reads block_n rows as four streams: long ones from main memory, else enough programs.
            tiles = max(1, sum(w.n for w in spec.weights) // accumulators(spec))
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
        budget = 4096 // int(block_m.default) // accumulators(spec)
        block_n = nearest(values_n, max(1, min(budget // block_k, next_power_of_two(widest))))
        while block_n > 1 and cdiv(widest, block_n) < 2 * max(device.units, 1):
            block_n //= 2
        if not row_major:
            block_n, block_k = 64, max(16, budget // 64)
        return (
            block_m, Knob("block_n", block_n, values_n), Knob("block_k", block_k, values_k),
            Knob("reduce", "tile", ("row", "tile")), *launch_knobs(device, 4, None),
        )  # fmt: skip

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Gemm)
        ranges: dict[str, tuple[Value, ...]] = {
            "block_m": (1, 2, 4), "block_n": powers(1, 512), "block_k": powers(1, 4096),
            "reduce": ("row", "tile"),
        }  # fmt: skip
        reason = unknown(schedule, ranges | launch_ranges(device, False))
        if reason is not None:
            return reason
        tile = int(schedule["block_n"]) * int(schedule["block_k"])
        if tile > MAX_TILE:
            return f"a tile of {tile} elements is too large"
        if sizes is not None and sizes[-1] > 64:
            return (
                f"gemv reads all weights per {schedule['block_m']} rows; m = {sizes[-1]} is for flat or tiled"
            )
        if gpu(device):
            held = (
                tile * accumulators(spec) * (int(schedule["block_m"]) if schedule["reduce"] == "tile" else 1)
            )
            reason = limit("accumulators", held // threads(schedule, device), 128, "registers a thread")
            return reason or crowded(device, math.prod((sizes or (1,))[:-1]))
        return None


@dataclass(frozen=True)
class DotChoices:
    """`flat` and `tiled`."""

    split: bool

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Gemm)
        if not gpu(device):
            return self._on_cpu(spec, sizes[-1], device)
        return self._flat(spec, sizes[-1], device) if self.split else self._tiled(spec, sizes[-1], device)

    def _on_cpu(self, spec: Gemm, m: int, device: Device) -> tuple[Knob, ...]:
        pair = accumulators(spec)
        size = 4 if _single(spec) or {spec.x} != {w.dtype for w in spec.weights} else 2
        product = cpu_blocks.Product(
            m, sum(w.n for w in spec.weights) // pair, spec.k, pair, spec.weights[0].layout == "nk", size,
            max(device.units, 1),
        )  # fmt: skip
        block_m, block_n, block_k = (cpu_blocks.flat if self.split else cpu_blocks.tiled)(product)
        return (
            Knob("block_m", block_m, powers(1, 64) if self.split else powers(8, 256)),
            Knob("block_n", block_n, powers(16, 256)),
            Knob("block_k", block_k, powers(16, 1024)),
            # All strips of a few rows follow each other, so that weights are read once.
            Knob("split_k", 1, (1, 2, 4, 8))
            if self.split
            else Knob("group_m", 16 if block_m <= 16 else 8, (1, 4, 8, 16)),
        )

    def _flat(self, spec: Gemm, m: int, device: Device) -> tuple[Knob, ...]:
        pair, single = accumulators(spec), _single(spec)
        n = sum(w.n for w in spec.weights) // pair
        found = gpu_blocks.flat(m, n, spec.k, pair, single, device)
        return (
            Knob("block_m", found.block_m, powers(min(found.block_m, 16), 64)),
            Knob("block_n", found.block_n, powers(16, 256)),
            Knob("block_k", found.block_k, powers(16, 256)),
            Knob("swap", found.swap, (0, 1) if found.block_m >= 16 else (1,)),
            *launch_knobs(device, found.num_warps, found.num_stages),
            Knob("split_k", found.split_k, gpu_blocks.SPLITS),
        )

    def _tiled(self, spec: Gemm, m: int, device: Device) -> tuple[Knob, ...]:
        pair, single = accumulators(spec), _single(spec)
        block_m = min(64 if single else 128, max(16, next_power_of_two(m)))
        # In float32 a thread multiplies and adds: wide tiles of few rows hold too many operands.
        block_n = ((64 if block_m > 16 else 32) if single else 128) // min(pair, 2)
        block_k = gpu_blocks.depth(spec.k, single, device)
        stages = 2 if device.backend is Backend.ROCM or single else 3
        warps = 8 if block_m * block_n * pair >= 128 * 128 else 4
        return (
            Knob("block_m", block_m, powers(16, 256)), Knob("block_n", block_n, powers(16, 256)),
            Knob("block_k", block_k, powers(16, 256)), *launch_knobs(device, warps, stages),
            Knob("group_m", 8, (1, 4, 8, 16)),
        )  # fmt: skip

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Gemm)
        swapped = dict(schedule.knobs).get("swap")
        least = 16 if gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {
            "block_m": powers(min(least, 8) if swapped == 1 else least, 256), "block_n": powers(least, 256),
            "block_k": powers(least, 512 if gpu(device) else 1024),
        }  # fmt: skip
        ranges["split_k" if self.split else "group_m"] = tuple(range(1, 33))
        if self.split and (gpu(device) or swapped is not None):
            ranges["swap"] = (0, 1)
        reason = unknown(schedule, ranges | launch_ranges(device, True))
        if reason is not None:
            return reason
        if not gpu(device):
            return None
        block_m, block_n, block_k = (int(schedule[name]) for name in ("block_m", "block_n", "block_k"))
        pair = accumulators(spec)
        registers = block_m * block_n * pair // threads(schedule, device)
        size = 4 if {spec.x} != {w.dtype for w in spec.weights} else spec.x.itemsize
        # wgmma, tcgen05 and copies straight into LDS keep one more tile than there are stages ahead.
        ahead = int(schedule["num_stages"]) - (device.arch not in ("sm_90", "sm_100", "gfx950"))
        shared = (block_m + pair * block_n) * block_k * size * max(ahead, 1)
        reason = limit("accumulators", registers, 128, "registers a thread") or limit(
            "shared memory", shared, device.on_chip_bytes, "bytes"
        )
        return reason or (None if sizes is None else self._crowded(sizes, schedule, device))

    def _crowded(self, sizes: Sizes, schedule: Schedule, device: Device) -> str | None:
        """`tiled` has all its tiles in the grid's first dimension; a merge of `flat` has a program a row."""
        batch, split = math.prod(sizes[:-1]), int(dict(schedule.knobs).get("split_k", 1))
        rows = cdiv(sizes[-1], int(schedule["block_m"])) if split == 1 else sizes[-1]
        return crowded(device, batch * split, rows if self.split else 1)


@dataclass(frozen=True)
class StreamChoices:
    """`stream_k`: the blocks of `flat`; one worker per unit, or two."""

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        found = [k for k in FLAT.knobs(spec, sizes, device) if k.name != "split_k"]
        units = max(device.units, 1)
        return (*found, Knob("workers", units, (units, 2 * units, 3 * units, 4 * units)))

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        knobs = dict(schedule.knobs)
        workers = knobs.pop("workers", None)
        if not isinstance(workers, int) or not 0 < workers <= MOST_WORKERS:
            return f"workers={workers} is no number from 1 to {MOST_WORKERS}"
        reason = FLAT.legal(spec, None, Schedule("flat", tuple((knobs | {"split_k": 1}).items())), device)
        if reason is not None or sizes is None:
            return reason
        assert isinstance(spec, Gemm)
        tiles = sum(cdiv(n, int(knobs["block_n"])) for n in widths(spec)) * math.prod(sizes[:-1])
        steps = tiles * cdiv(sizes[-1], int(knobs["block_m"])) * cdiv(spec.k, int(knobs["block_k"]))
        # The kernel numbers the steps of all tiles in int32.
        return None if steps < 1 << 31 else f"{steps} steps along K are more than stream_k can number"


def worth_streaming(spec: Gemm, sizes: Sizes, device: Device) -> bool:
    """Whether `stream_k` may gain on `flat`: tiles that fill some units once more than others.

    With many tiles to a unit the last, incomplete wave of them hardly matters.
    """
    default = {knob.name: knob.default for knob in FLAT.knobs(spec, sizes, device)}
    columns = sum(w.n for w in spec.weights) // accumulators(spec)
    tiles = cdiv(columns, int(default["block_n"])) * cdiv(sizes[-1], int(default["block_m"]))
    tiles *= sizes[0] if spec.batched else 1
    units = max(device.units, 1)
    return tiles % units != 0 and tiles < 4 * units


MOST_WORKERS = 4096
FLAT = DotChoices(split=True)
STREAM_K = StreamChoices()
CHOICES: Mapping[str, Choices] = {
    "gemv": GemvChoices(),
    "flat": FLAT,
    "tiled": DotChoices(split=False),
    "stream_k": STREAM_K,
}
