"""What a Rows schedule makes a device do."""

from __future__ import annotations

from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.codegen.rows.parts import steps
from headrace.codegen.rows.plans import THREE_PASS, stabilizer_of
from headrace.codegen.rows.softmax import pair_of
from headrace.codegen.work import Work
from headrace.ir.device import Backend, Device
from headrace.ir.expr import Call, walk
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Rows


def passes(spec: Rows, schedule: Schedule) -> int:
    """How often a schedule reads a row that no cache keeps: once per step of reductions, once for outputs as
    long as the row. A softmax's two steps are one under every stabilizer but `three_pass`."""
    if schedule.dataflow == "row":
        return 1
    pair = pair_of(spec) if stabilizer_of(schedule) != THREE_PASS else None
    return len(steps(spec, pair)) + (len(spec.outputs) > len(spec.reduced))


def work(spec: Rows, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
    """Totals of one call. A row that fits on chip (a core's L2 cache) is read from memory once.

    bytes = inputs x passes + outputs. A softmax out of cache thus reads three rows and writes one under
    `three_pass`, reads two and writes one under the others (Two-Pass Softmax, 2001.04438).
    """
    r, n = sizes
    inputs = {"rn": r * n, "n": n, "r": r, "": 1}
    read = sum(inputs[e.dims] * e.dtype.itemsize for e in spec.inputs)
    wrote = sum((r if at in spec.reduced else r * n) * o.dtype.itemsize for at, o in enumerate(spec.outputs))
    expressions = [x.expr for x in spec.reductions] + [o.expr for o in spec.outputs]
    operations = sum(isinstance(node, Call) for e in expressions for node in walk(e)) + len(spec.reductions)
    if schedule.dataflow == "library":
        return Work(
            1.0 * r * n * operations,
            float(read + wrote) + 8.0 * r * n * operations,
            device.units,
            0,
            operations,
        )
    if schedule.dataflow == "row":
        several = int(schedule["block_r"])
        padded = next_power_of_two(n) if device.backend is not Backend.CPU else n
        return Work(
            1.0 * r * padded * operations, float(read + wrote), cdiv(r, several), several * padded * 4, 1
        )
    block_n = int(schedule["block_n"])
    turns = passes(spec, schedule)
    if schedule.dataflow == "row_split":
        # A pass goes over every row before the next begins: what all rows hold must fit the last cache.
        fits = read <= device.last_level_bytes
        programs = r * int(schedule["splits"])
        launches = len(steps(spec, pair_of(spec) if stabilizer_of(schedule) != THREE_PASS else None)) + 1
        moved = float(read * (1 if fits else turns) + wrote)
        return Work(1.0 * r * n * operations, moved, programs, block_n * 4, launches)
    several = int(schedule["block_r"])
    fits = several * n * spec.inputs[0].dtype.itemsize <= max(device.on_chip_bytes, 1)
    moved = float(read * (1 if fits else turns) + wrote)
    return Work(1.0 * r * n * operations, moved, cdiv(r, several), several * block_n * 4, 1)
