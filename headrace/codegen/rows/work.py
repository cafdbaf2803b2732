"""What a Rows schedule makes a device do."""

from __future__ import annotations

from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.codegen.rows import plans as rows
from headrace.codegen.work import Work
from headrace.ir.device import Backend, Device
from headrace.ir.expr import Call, walk
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Rows


def work(spec: Rows, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
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
    several = int(schedule["block_r"])
    programs = cdiv(r, several)
    if schedule.dataflow == "row":
        padded = next_power_of_two(n) if device.backend is not Backend.CPU else n
        return Work(1.0 * r * padded * operations, float(read + wrote), programs, several * padded * 4, 1)
    passes = len(rows.steps(spec)) + 1
    fits = several * n * spec.inputs[0].dtype.itemsize <= max(device.on_chip_bytes, 1)
    moved = float(read * (1 if fits else passes) + wrote)
    return Work(1.0 * r * n * operations, moved, programs, several * int(schedule["block_n"]) * 4, 1)
