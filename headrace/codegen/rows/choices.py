"""Knobs, defaults and legality of the Rows dataflows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen.knobs import (
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
from headrace.codegen.plan import next_power_of_two
from headrace.ir.device import Device
from headrace.ir.schedule import Knob, Schedule, Value
from headrace.ir.spec import Rows, Spec


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
            block_n = nearest(values, min(1024 if gpu(device) else 256, width))
            while not gpu(device) and block_n > 64 and n % block_n:
                block_n //= 2
            found.append(Knob("block_n", block_n, values))
            width = block_n
        return (*found, *launch_knobs(device, nearest((1, 2, 4, 8), max(1, width // 256)), None))

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Rows)
        ranges: dict[str, tuple[Value, ...]] = {"block_r": powers(1, 64)}
        if self.looped:
            ranges["block_n"] = powers(16, 16384)
        reason = unknown(schedule, ranges | launch_ranges(device, False))
        if reason is not None or (sizes is None and not self.looped):
            return reason
        width = int(schedule["block_n"]) if self.looped else next_power_of_two(sizes[1] if sizes else 1)
        held = width * int(schedule["block_r"])
        if held > (1 << 16):
            return f"{held} elements do not fit on chip"
        if gpu(device):
            return limit("row", held // threads(schedule, device), 128, "registers a thread")
        return None


CHOICES: Mapping[str, Choices] = {
    "row": RowChoices(looped=False),
    "row_loop": RowChoices(looped=True),
}
