"""Knobs, defaults and legality of the Rows dataflows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen import stabilizers
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
from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.codegen.rows.plans import THREE_PASS, stabilizer_of
from headrace.codegen.rows.softmax import pair_of
from headrace.ir.device import Device
from headrace.ir.schedule import Knob, Schedule, Value
from headrace.ir.spec import Rows, Spec

STABILIZERS = (THREE_PASS, "online", "lazy", "pair", "unified")
# Rows of one block are on chip anyway.
ONE_BLOCK = 1024
# Below it a row is not worth a second launch.
LONG = 1 << 16
SPLITS = (2, 4, 8, 16, 32, 64, 128, 256)


def permitted(spec: Rows, flow: str) -> tuple[str, ...]:
    """The stabilizers that a Schedule of a dataflow may take; nothing where there is no choice.

    `row` has the whole row on chip: its passes read registers or the first cache, the maximum is known before
    the first exponential, and outputs take the exponentials that the sum took. Any other stabilizer would
    compute them twice (measured on a CPU: 1.5 times the time with `unified`).
    """
    if flow == "row" or pair_of(spec) is None:
        return ()
    return STABILIZERS if spec.phi is not None else STABILIZERS[:-1]


def _usual(n: int, block_r: int, device: Device) -> str:
    """The stabilizer of the default schedule: docs/dataflows.md has the measurements."""
    if block_r > 1 or n <= ONE_BLOCK:
        return THREE_PASS
    return "online" if gpu(device) else "pair"


@dataclass(frozen=True)
class RowChoices:
    """`row`, `row_loop` and `row_split`."""

    flow: str

    def knobs(self, spec: Spec, sizes: Sizes, device: Device) -> tuple[Knob, ...]:
        assert isinstance(spec, Rows)
        r, n = sizes
        width = next_power_of_two(n)
        offered = permitted(spec, self.flow)
        block_r = 1 if n >= 128 or r == 1 else nearest((1, 2, 4, 8, 16), min(16, 256 // max(width, 16), r))
        found = []
        if self.flow != "row_split":
            found.append(Knob("block_r", block_r, (1, 2, 4, 8, 16)))
        usual = _usual(n, block_r, device)
        if self.flow != "row":
            values = powers(16, 4096)
            lanes = self.flow == "row_split" or (bool(offered) and usual != THREE_PASS)
            block_n = nearest(values, min(1024 if gpu(device) or lanes else 256, width))
            while not gpu(device) and block_n > 64 and n % block_n and not lanes:
                block_n //= 2
            found.append(Knob("block_n", block_n, values))
            width = block_n
        if self.flow == "row_split":
            found.append(Knob("splits", _splits(r, n, width, device), SPLITS))
        if offered:
            found.append(Knob(stabilizers.KNOB, usual, offered))
        return (*found, *launch_knobs(device, nearest((1, 2, 4, 8), max(1, width // 256)), None))

    def legal(self, spec: Spec, sizes: Sizes | None, schedule: Schedule, device: Device) -> str | None:
        assert isinstance(spec, Rows)
        ranges: dict[str, tuple[Value, ...]] = {}
        if self.flow != "row_split":
            ranges["block_r"] = powers(1, 64)
        if self.flow != "row":
            ranges["block_n"] = powers(16, 16384)
        if self.flow == "row_split":
            ranges["splits"] = SPLITS
        given = dict(schedule.knobs).get(stabilizers.KNOB)
        if given == "unified" and pair_of(spec) is not None and spec.phi is None:
            return "the Spec names no phi: its scores must be calibrated or provably bounded"
        offered = permitted(spec, self.flow)
        if offered:
            ranges[stabilizers.KNOB] = offered
        reason = unknown(schedule, ranges | launch_ranges(device, False))
        if reason is not None:
            return reason
        rows = 1 if self.flow == "row_split" else int(schedule["block_r"])
        if stabilizer_of(schedule) != THREE_PASS and rows > 1:
            return f"stabilizer {stabilizer_of(schedule)} takes one row per program, not {rows}"
        if sizes is None and self.flow == "row":
            return None
        width = (
            next_power_of_two(sizes[1] if sizes else 1) if self.flow == "row" else int(schedule["block_n"])
        )
        held = width * rows
        if held > (1 << 16):
            return f"{held} elements do not fit on chip"
        if gpu(device):
            return limit("row", held // threads(schedule, device), 128, "registers a thread")
        return None


def _splits(r: int, n: int, block_n: int, device: Device) -> int:
    """Chunks of a row: as many as fill the device, of eight blocks or more."""
    wanted = cdiv(device.units * (4 if gpu(device) else 1), r)
    return nearest(SPLITS, max(2, min(next_power_of_two(wanted), n // (8 * block_n))))


def worth_splitting(sizes: Sizes, device: Device) -> bool:
    """Long rows, too few to give every unit one."""
    r, n = sizes
    return n >= LONG and r < device.units


CHOICES: Mapping[str, Choices] = {flow: RowChoices(flow) for flow in ("row", "row_loop", "row_split")}
