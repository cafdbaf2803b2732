"""Rows kernels: the Plans of `row` (whole rows held on chip) and `row_loop` (long rows, one pass per step).

A step is a set of reductions that do not read one another; `row_loop` goes over the row once per step and
once more for the outputs. A softmax's two steps are one pass under every stabilizer but `three_pass`. A row's
length is part of the code for the first length that a kernel meets, a run-time size after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headrace.codegen import stabilizers
from headrace.codegen.expr_triton import Code
from headrace.codegen.knobs import gpu, threads
from headrace.codegen.plan import Buffer, Facts, Launch, Param, Plan, next_power_of_two, pointer
from headrace.codegen.rows.parts import Scope, steps
from headrace.codegen.rows.softmax import LOG2_E, pair_of
from headrace.errors import ScheduleError
from headrace.ir.device import Device
from headrace.ir.dtype import DType
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Rows

__all__ = ["THREE_PASS", "plan", "stabilizer_of", "steps", "supported"]

THREE_PASS = "three_pass"
FALLBACK = pointer("FALLBACK", DType.I64, "fallback")
# Stabilizers that need a look at the finished sum: rows out of range are recomputed.
GUARDED = ("pair", "unified")


def supported(spec: Rows, device: Device) -> str | None:
    """Why no generated Rows kernel takes this Spec, or None."""
    if any(extra.dtype is DType.F64 for extra in spec.inputs) or DType.F64 in spec.output_dtypes:
        return "kernels compute in float32; an operand is float64"
    return None


def stabilizer_of(schedule: Schedule) -> str:
    return str(dict(schedule.knobs).get(stabilizers.KNOB, THREE_PASS))


def plan(spec: Rows, schedule: Schedule, device: Device, facts: Facts | None = None) -> Plan:
    """The Plan of a Rows; `facts.sizes` = (n,) is the row length of this variant, (-n,) an upper bound of it.

    Raises:
        ScheduleError: an input varies along a dimension that Rows lacks, or no row length is given.
    """
    for extra in spec.inputs:
        if extra.dims not in ("rn", "n", "r", ""):
            raise ScheduleError(f"input {extra} of Rows has dims other than rn, n, r or none")
    length = facts.sizes[0] if facts is not None and facts.sizes else None
    if length is None or length == 0:
        raise ScheduleError("a Rows kernel is built for a row length; facts.sizes must hold it")
    static, bound = length > 0, abs(length)
    block_n = next_power_of_two(bound) if schedule.dataflow == "row" else int(schedule["block_n"])
    several = schedule.dataflow != "row_split" and int(schedule["block_r"]) > 1
    scope = Scope(spec, several, static and bound % block_n == 0, static, bound, pair_of(spec))
    if schedule.dataflow == "row":
        return _row(scope, schedule, block_n)
    if schedule.dataflow == "row_loop":
        return _row_loop(scope, schedule, device, block_n)
    return _row_split(scope, schedule, device, block_n)


def _row(scope: Scope, schedule: Schedule, block_n: int) -> Plan:
    shape = "[BLOCK_R, BLOCK_N]" if scope.several else "[BLOCK_N]"
    context: dict[str, object] = {
        "passes": [scope.step(step, shape) for step in steps(scope.spec)],
        "guarded": False,
    }
    return _whole(scope, schedule, block_n, shape, context, None if scope.static else f"N <= {scope.length}")


def _row_loop(scope: Scope, schedule: Schedule, device: Device, block_n: int) -> Plan:
    shape = "[BLOCK_R, BLOCK_N]" if scope.several else "[BLOCK_N]"
    how = stabilizer_of(schedule)
    context: dict[str, object]
    if how == THREE_PASS:
        context = {"passes": [scope.step(step, shape) for step in steps(scope.spec)], "guarded": False}
        context["merged"] = ()
    else:
        first, *rest = steps(scope.spec, scope.pair)
        context = {"passes": [scope.step(step, shape) for step in rest]}
        context |= {"merged": (scope.lane_step(first, pair=True),)}
        context |= _lanes(scope, schedule, device, block_n) | _softmax(scope, how)
    return _whole(scope, schedule, block_n, shape, context, None)


def _whole(
    scope: Scope,
    schedule: Schedule,
    block_n: int,
    shape: str,
    more: dict[str, object],
    exact: str | None,
) -> Plan:
    """One launch of a program per BLOCK_R rows."""
    block_r = int(schedule["block_r"])
    inputs, outputs, sizes = scope.params()
    guarded = bool(more["guarded"])
    params = [*inputs, *outputs, *([FALLBACK] if guarded else []), *sizes]
    context = scope.context() | {
        "block_r": block_r, "block_n": block_n,
        "params": [p.declaration for p in params], "shape": Code(shape),
        "outputs": [o for o in scope.outputs(shape) if not o.reduced],
        "row_outputs": [o for o in scope.outputs(shape) if o.reduced],
    } | more  # fmt: skip
    grid = (f"(R + {block_r - 1}) // {block_r}" if scope.several else "R", "1", "1")
    return _plan(scope, schedule, context, [(schedule.dataflow, params, grid)], guarded, exact)


def _row_split(scope: Scope, schedule: Schedule, device: Device, block_n: int) -> Plan:
    """A launch per pass, of a program per chunk of a row, which leaves its partial values in PART; the
    programs of later launches each merge the partial values of their row, in one order."""
    splits = int(schedule["splits"])
    how = stabilizer_of(schedule)
    pair = scope.pair if how != THREE_PASS else None
    passes = [
        scope.lane_step(step, pair=pair is not None and not at)
        for at, step in enumerate(steps(scope.spec, pair))
    ]
    context = _lanes(scope, schedule, device, block_n)
    context |= _softmax(scope, how) if pair is not None else {"guarded": False, "how": ""}
    guarded = bool(context["guarded"])
    inputs, outputs, sizes = scope.params()
    part = pointer("PART", DType.F32, "part")
    width = max(sum(step.values for step in passes), 1)
    launches: list[tuple[str, Sequence[Param], tuple[str, str, str]]] = []
    for at in range(len(passes)):
        launches.append((f"row_split_pass_{at}", (*inputs, part, *sizes), (f"R * {splits}", "1", "1")))
    full = len(scope.spec.outputs) > len(scope.spec.reduced)
    last = (*inputs, *outputs, part, *([FALLBACK] if guarded else []), *sizes)
    launches.append(("row_split", last, (f"R * {splits}" if full else "R", "1", "1")))
    context |= scope.context() | {
        "merged": tuple(passes), "splits": splits, "block_s": next_power_of_two(splits), "block_n": block_n,
        "pass_params": [p.declaration for p in launches[0][1]], "params": [p.declaration for p in last],
        "slots": tuple(sum(step.values for step in passes[:at]) for at in range(len(passes))), "width": width,
        "outputs": [o for o in scope.outputs("[BLOCK_N]") if not o.reduced],
        "row_outputs": [o for o in scope.outputs("[BLOCK_N]") if o.reduced],
    }  # fmt: skip
    made = _plan(scope, schedule, context, launches, guarded, None)
    return replace(made, workspace=(Buffer("part", DType.F32, ("R", str(splits), str(width))),))


def _lanes(scope: Scope, schedule: Schedule, device: Device, block_n: int) -> dict[str, object]:
    """Blocks as [BLOCK_N / LANES, LANES]: on a CPU four vectors of running values, on a GPU one to four
    values a thread, so that a block is reduced within registers."""
    if gpu(device):
        lanes = min(max(block_n // 4, threads(schedule, device)), 4 * threads(schedule, device), block_n)
    else:
        lanes = min(64, block_n)
    whole, partial = replace(scope, even=True), replace(scope, even=False)
    return {
        "lanes": next_power_of_two(lanes), "even": scope.even,
        "whole_loads": {load.name: load for load in whole.loads()},
        "tail_loads": {load.name: load for load in partial.loads()},
    }  # fmt: skip


def _softmax(scope: Scope, how: str) -> dict[str, object]:
    assert scope.pair is not None
    phi = scope.spec.phi or 0
    return {
        "how": how, "guarded": how in GUARDED, "safe": scope.pair.safe, "log2e": Code(repr(LOG2_E)),
        "lowest": stabilizers.LOWEST, "highest": stabilizers.HIGHEST,
        "phi": Code(f"{phi}.0" if phi >= 0 else f"({phi}.0)"),
        "slack": Code(repr(stabilizers.SLACK / LOG2_E)), "score_reads": scope.read(scope.pair.score),
    }  # fmt: skip


def _plan(
    scope: Scope,
    schedule: Schedule,
    context: dict[str, object],
    launches: Sequence[tuple[str, Sequence[Param], tuple[str, str, str]]],
    guarded: bool,
    exact: str | None,
) -> Plan:
    knobs = dict(schedule.knobs)
    warps, stages = int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))
    spec = scope.spec
    return Plan(
        template=schedule.dataflow,
        context=context,
        operands=tuple(f"{e.name}_t" for e in spec.inputs),
        contiguous=tuple(f"{e.name}_t" for e in spec.inputs if e.dims),
        exact=(f"N == {scope.length}",) if scope.static else ((exact,) if exact else ()),
        sizes=scope.host_sizes(),
        outputs=scope.buffers(),
        launches=tuple(Launch(name, tuple(params), grid, warps, stages) for name, params, grid in launches),
        counters=(FALLBACK.host,) if guarded else (),
    )
