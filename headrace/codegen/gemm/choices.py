"""Knobs, defaults and legality of the Gemm dataflows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen.gemm import cpu_blocks
from headrace.codegen.gemm import plans as gemm
from headrace.codegen.knobs import (
    MAX_TILE,
    Choices,
    Sizes,
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
                tile
                * gemm.accumulators(spec)
                * (int(schedule["block_m"]) if schedule["reduce"] == "tile" else 1)
            )
            return limit("accumulators", held // threads(schedule, device), 128, "registers a thread")
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
        low = 16 if gpu(device) else 1
        if self.split:
            values_m = powers(low, 64)
            block_m = nearest(values_m, max(low, next_power_of_two(m)))
        else:
            values_m = powers(max(low, 16), 256)
            block_m = 64 if single else 128
            block_m = nearest(values_m, max(16, min(block_m, next_power_of_two(m))))
        values_n, values_k = powers(16, 256), powers(16, 256 if gpu(device) else 1024)
        if not gpu(device):
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
            *launch_knobs(device, warps, stages),
        ]  # fmt: skip
        if not self.split:
            return (*found, Knob("group_m", 8, (1, 4, 8, 16)))
        tiles = cdiv(n, block_n) * cdiv(m, block_m)
        fill = max(1, min(8, max(device.units, 1) // max(tiles, 1), cdiv(k, 4 * block_k)))
        return (*found, Knob("split_k", nearest((1, 2, 4, 8), fill), (1, 2, 4, 8)))

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Gemm)
        least = 16 if gpu(device) else 1
        ranges: dict[str, tuple[Value, ...]] = {
            "block_m": powers(least, 256), "block_n": powers(least, 256),
            "block_k": powers(least, 512 if gpu(device) else 1024),
        }  # fmt: skip
        ranges["split_k" if self.split else "group_m"] = tuple(range(1, 33))
        reason = unknown(schedule, ranges | launch_ranges(device, True))
        if reason is not None:
            return reason
        if not gpu(device):
            return None
        block_m, block_n, block_k = (int(schedule[name]) for name in ("block_m", "block_n", "block_k"))
        pair = gemm.accumulators(spec)
        registers = block_m * block_n * pair // threads(schedule, device)
        size = 4 if {spec.x} != {w.dtype for w in spec.weights} else spec.x.itemsize
        shared = (block_m + pair * block_n) * block_k * size * max(int(schedule["num_stages"]) - 1, 1)
        return limit("accumulators", registers, 128, "registers a thread") or limit(
            "shared memory", shared, device.on_chip_bytes, "bytes"
        )


CHOICES: Mapping[str, Choices] = {
    "gemv": GemvChoices(),
    "flat": DotChoices(split=True),
    "tiled": DotChoices(split=False),
}
