"""Rows kernels: the Plans of `row` (whole rows held on chip) and `row_loop` (long rows, one pass per step).

A step is a set of reductions that do not read one another; `row_loop` goes over the row once per step and
once more for the outputs. A row's length is part of the code for the first length that a kernel meets, a
run-time size after.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen import expr_triton as et
from headrace.codegen.expr_triton import Code, Kind, Value
from headrace.codegen.plan import Buffer, Facts, Launch, Param, Plan, conversion, next_power_of_two, pointer
from headrace.errors import ScheduleError
from headrace.ir.device import Device
from headrace.ir.dtype import DType
from headrace.ir.expr import refs
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Extra, Reduction, Rows

IDENTITY = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")', "prod": "1.0"}
COMBINE = {"sum": "{0} + {1}", "prod": "{0} * {1}"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """An input's load: `<name>_val = <load>`; `varies` where it differs along the row."""

    name: str
    load: Code
    varies: bool


@dataclass(frozen=True, slots=True)
class ReductionArg:
    """A reduction: its value per element, the text that folds a new block into `<name>_acc`, how an axis is
    reduced."""

    name: str
    value: Code
    identity: Code
    fold: Code
    function: str


@dataclass(frozen=True, slots=True)
class Step:
    """Reductions of one pass over the row, and the inputs that they read."""

    reductions: tuple[ReductionArg, ...]
    loads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowOutput:
    pointer: str
    variable: str
    value: Code
    reduced: bool


def steps(spec: Rows) -> tuple[tuple[Reduction, ...], ...]:
    """Reductions in order, a new step wherever one reads a reduction of the step before it."""
    found: list[list[Reduction]] = []
    at: dict[str, int] = {}
    for reduction in spec.reductions:
        level = 1 + max((at[name] for name in refs(reduction.expr) if name in at), default=-1)
        at[reduction.name] = level
        while len(found) <= level:
            found.append([])
        found[level].append(reduction)
    return tuple(tuple(step) for step in found)


def supported(spec: Rows, device: Device) -> str | None:
    """Why no generated Rows kernel takes this Spec, or None."""
    if any(extra.dtype is DType.F64 for extra in spec.inputs) or DType.F64 in spec.output_dtypes:
        return "kernels compute in float32; an operand is float64"
    return None


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
    knobs = dict(schedule.knobs)
    block_r = int(knobs["block_r"])
    looped = schedule.dataflow == "row_loop"
    block_n = int(knobs["block_n"]) if looped else next_power_of_two(bound)
    even = static and bound % block_n == 0
    several = block_r > 1
    col, row = ("col[None, :]", "row[:, None]") if several else ("col", "row")
    guards = (["(row < R)[:, None]"] if several else []) + (
        [] if even else [f"(col < N){'[None, :]' if several else ''}"]
    )
    loads = tuple(_load(extra, col, row, guards, several, even) for extra in spec.inputs)
    env: dict[str, Value] = {e.name: et.name(f"{e.name}_val", Kind.of(e.dtype)) for e in spec.inputs}
    env |= {
        r.name: et.name(f"{r.name}_red", Kind.FLOAT, index="[:, None]" if several else "")
        for r in spec.reductions
    }
    env["count"] = et.literal(float(bound)) if static else et.name("count", Kind.FLOAT)
    shape = "[BLOCK_R, BLOCK_N]" if several else "[BLOCK_N]"
    column = Code("" if even else ("(col < N)[None, :]" if several else "col < N"))
    passes = []
    for step in steps(spec):
        args = tuple(_reduction(r, env, shape, column) for r in step)
        names = frozenset().union(*(refs(r.expr) for r in step))
        passes.append(Step(args, tuple(e.name for e in spec.inputs if e.name in names and "n" in e.dims)))
    outputs = []
    for at, output in enumerate(spec.outputs):
        reduced = at in spec.reduced
        # A value per row is stored from [BLOCK_R]: reductions without their column index.
        scope = (
            env | {r.name: et.name(f"{r.name}_red", Kind.FLOAT) for r in spec.reductions} if reduced else env
        )
        scope |= {
            e.name: et.name(f"{e.name}_row", Kind.of(e.dtype))
            for e in spec.inputs
            if reduced and e.dims == "r"
        }
        value = et.render(output.expr, scope)
        filled = et.filled(value, "[BLOCK_R]" if several else "[]") if reduced else et.filled(value, shape)
        outputs.append(RowOutput(f"Y{at}", f"y{at}", filled, reduced))
    read = frozenset().union(*(refs(o.expr) for o in spec.outputs))
    full = [o for at, o in enumerate(spec.outputs) if at not in spec.reduced]
    reading = frozenset().union(*(refs(o.expr) for o in full)) if full else frozenset()
    params = [pointer(f"{e.name}_ptr", e.dtype, f"{e.name}_t") for e in spec.inputs]
    params += [pointer(f"Y{at}", o.dtype, f"y{at}") for at, o in enumerate(spec.outputs)]
    params += [Param("R", "i32", "R")] + ([] if static else [Param("N", "i32", "N")])
    every = frozenset().union(read, *(refs(r.expr) for r in spec.reductions))
    context = {
        "looped": looped, "several": several, "block_r": block_r, "block_n": block_n, "static": static,
        "n": bound, "params": [p.declaration for p in params], "loads": {load.name: load for load in loads},
        "once": [e.name for e in spec.inputs if "n" not in e.dims and e.name in every], "passes": passes,
        "whole": [e.name for e in spec.inputs if "n" in e.dims and e.name in every],
        "final": [e.name for e in spec.inputs if "n" in e.dims and e.name in reading],
        "per_row": [e.name for e in spec.inputs if e.dims == "r" and spec.reduced and e.name in every],
        "outputs": [o for o in outputs if not o.reduced], "row_outputs": [o for o in outputs if o.reduced],
        "mask": et.conjunction(guards), "row_index": Code(row), "col_index": Code(col), "column": column,
        "needs_count": not static and ("count" in every), "axis": 1 if several else 0, "shape": Code(shape),
    }  # fmt: skip
    first = f"{spec.inputs[0].name}_t"
    sizes = [
        ("shape", f"{first}.shape"),
        ("N", "shape[-1]"),
        ("R", f"{first}.numel() // {bound if static else '(N or 1)'}"),
    ]
    warps = int(knobs.get("num_warps", 4))
    grid = (f"(R + {block_r - 1}) // {block_r}" if several else "R", "1", "1")
    return Plan(
        template=schedule.dataflow,
        context=context,
        operands=tuple(f"{e.name}_t" for e in spec.inputs),
        contiguous=tuple(f"{e.name}_t" for e in spec.inputs if e.dims),
        exact=(f"N == {bound}",) if static else ((f"N <= {bound}",) if not looped else ()),
        sizes=tuple(sizes),
        outputs=tuple(
            Buffer(f"y{at}", o.dtype, ("*shape[:-1]",) if at in spec.reduced else ("*shape",))
            for at, o in enumerate(spec.outputs)
        ),
        launches=(Launch(schedule.dataflow, tuple(params), grid, warps, int(knobs.get("num_stages", 2))),),
    )


def _load(extra: Extra, col: str, row: str, guards: list[str], several: bool, even: bool) -> Loaded:
    name = f"{extra.name}_ptr"
    convert = conversion(extra)
    if extra.dims == "":
        return Loaded(extra.name, Code(f"tl.load({name}){convert}"), False)
    if extra.dims == "r":
        mask = ", mask=(row < R)[:, None], other=0" if several else ""
        return Loaded(extra.name, Code(f"tl.load({name} + {row}{mask}){convert}"), False)
    if extra.dims == "n":
        mask = "" if even else f", mask={'(col < N)[None, :]' if several else 'col < N'}, other=0"
        return Loaded(extra.name, Code(f"tl.load({name} + {col}{mask}){convert}"), True)
    mask = f", mask={' & '.join(guards)}, other=0" if guards else ""
    return Loaded(extra.name, Code(f"tl.load({name} + {row} * N + {col}{mask}){convert}"), True)


def _reduction(reduction: Reduction, env: dict[str, Value], shape: str, column: Code) -> ReductionArg:
    value = et.as_float(et.render(reduction.expr, env))
    identity = IDENTITY[reduction.kind]
    text = str(et.filled(value, shape))
    if not refs(reduction.expr) & {name for name in env if env[name].text.endswith("_val")}:
        text = f"tl.zeros({shape}, dtype=tl.float32) + {value.text}"
    if column:
        text = f"tl.where({column}, {text}, {identity})"
    acc = f"{reduction.name}_acc"
    if reduction.kind in COMBINE:
        folded = COMBINE[reduction.kind].format(acc, f"({text})" if reduction.kind == "prod" else text)
    else:
        fn = {"max": "maximum", "min": "minimum"}[reduction.kind]
        folded = f"tl.{fn}({acc}, {text}, propagate_nan=tl.PropagateNan.ALL)"
    return ReductionArg(reduction.name, Code(text), Code(identity), Code(folded), f"reduce_{reduction.kind}")
