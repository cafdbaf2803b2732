"""Gemm kernels: which weights a program reads, and the Plans of `gemv`, `flat` and `tiled`.

Outputs that read a common weight form a Job: one pass over K feeds them all. Jobs share one launch; a
program finds its job from its tile number. Weights, N and K are part of the code, M (and the batch) are
run-time sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from headrace.codegen import expr_triton as et
from headrace.codegen.expr_triton import Code, Kind, Value
from headrace.codegen.plan import (
    Buffer,
    Facts,
    Launch,
    Param,
    Plan,
    Read,
    cdiv,
    conversion,
    next_power_of_two,
    pointer,
)
from headrace.errors import ScheduleError
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.expr import refs
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Extra, Gemm, Output


@dataclass(frozen=True, slots=True)
class WeightArg:
    """One weight as a template sees it; `row` and `batch` are strides, `column` its place in a split-K
    partial row."""

    name: str
    transposed: bool  # stored [k, n]
    row: int
    batch: int
    column: int
    convert: Code


@dataclass(frozen=True, slots=True)
class OutputArg:
    pointer: str
    value: Code
    variable: str
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """Weights that are read together, the outputs made of them, and the tiles along N that cover them."""

    n: int
    first: int
    last: int
    block_n: int
    weights: tuple[WeightArg, ...]
    outputs: tuple[OutputArg, ...]
    reads: tuple[Read, ...]
    bound: Code  # n as text, or the variable that holds it
    even: bool

    @property
    def tiles(self) -> int:
        return self.last - self.first


def groups(spec: Gemm) -> tuple[tuple[int, ...], ...]:
    """Positions of outputs, grouped so that no weight is read by two groups, in order of first output."""
    found: list[tuple[set[int], set[str]]] = []
    for at, output in enumerate(spec.outputs):
        names = {f"acc_{w.name}" for w in spec.weights} & refs(output.expr)
        touching = [group for group in found if group[1] & names]
        merged = ({at}.union(*(g[0] for g in touching)), names.union(*(g[1] for g in touching)))
        found = [group for group in found if group not in touching] + [merged]
    return tuple(sorted(tuple(sorted(group[0])) for group in found))


def default_facts(spec: Gemm) -> Facts:
    """Weights as their layout says: contiguous."""
    return Facts(strides=tuple((w.n * w.k, w.k if w.layout == "nk" else w.n) for w in spec.weights))


def accumulators(spec: Gemm) -> int:
    """The largest number of weights that one program reads."""
    return max(len(_weights(spec, group)) for group in groups(spec))


def _weights(spec: Gemm, group: tuple[int, ...]) -> list[int]:
    names = frozenset().union(*(refs(spec.outputs[at].expr) for at in group))
    return [at for at, w in enumerate(spec.weights) if f"acc_{w.name}" in names]


def common_dtype(one: DType, other: DType) -> DType:
    """The operand type of tl.dot: the operands' own where equal, else float32."""
    return one if one is other else DType.F32


def _jobs(spec: Gemm, facts: Facts, block_n: int, *, tile: bool) -> tuple[Job, ...]:
    """Jobs with their tile ranges; `tile` says that m and n index a 2-D tile, else a row of one m."""
    found: list[Job] = []
    columns = [sum(w.n for w in spec.weights[:at]) for at in range(len(spec.weights))]
    first = 0
    for group in groups(spec):
        members = _weights(spec, group)
        n = spec.weights[members[0]].n
        last = first + cdiv(n, block_n)
        even = n % block_n == 0
        env: dict[str, Value] = {f"acc_{w.name}": et.name(f"acc_{w.name}", Kind.FLOAT) for w in spec.weights}
        env |= {extra.name: et.name(f"{extra.name}_val", Kind.of(extra.dtype)) for extra in spec.extras}
        outputs = tuple(
            OutputArg(
                f"Y{at}",
                et.render(spec.outputs[at].expr, env).code,
                f"y{at}",
                tuple(e.name for e in spec.extras if e.name in refs(spec.outputs[at].expr)),
            )
            for at in group
        )
        used = {name for output in outputs for name in output.reads}
        weights = tuple(
            WeightArg(
                w.name, w.layout == "kn", facts.strides[at][1], facts.strides[at][0], columns[at],
                Code("" if not tile or common_dtype(spec.x, w.dtype) is w.dtype else ".to(tl.float32)"),
            )
            for at in members
            for w in [spec.weights[at]]
        )  # fmt: skip
        reads = tuple(_read(e, n, even, tile) for e in spec.extras if e.name in used)
        found.append(Job(n, first, last, block_n, weights, outputs, reads, Code(str(n)), even))
        first = last
    return tuple(found)


def shared_loop(spec: Gemm, jobs: tuple[Job, ...]) -> Job | None:
    """One Job whose weights are variables, chosen per program, where all jobs can share one loop over K.

    Shared memory is allotted for every loop in a kernel, so on GPUs one loop for Q, K and V needs a third.
    """
    kinds = {
        tuple((spec.weights[at].dtype, spec.weights[at].layout) for at in _weights(spec, g))
        for g in groups(spec)
    }
    strides = {tuple((w.row, w.transposed, w.convert) for w in job.weights) for job in jobs}
    if len(jobs) < 2 or len(kinds) > 1 or len(strides) > 1:
        return None
    first = jobs[0]
    weights = tuple(replace(w, name=f"w_at_{at}", column=0) for at, w in enumerate(first.weights))
    even = all(job.even for job in jobs)
    return replace(first, last=jobs[-1].last, weights=weights, bound=Code("columns"), even=even)


def _read(extra: Extra, n: int, even: bool, tile: bool) -> Read:
    """The load of a contiguous extra in an epilogue."""
    text = {
        "b": "b",
        "m": "m.to(tl.int64)[:, None]" if tile else "m.to(tl.int64)",
        "n": "n[None, :]" if tile else "n",
    }
    size = {"b": "", "m": "M", "n": str(n)}
    terms = []
    for at, dim in enumerate(extra.dims):
        rest = [size[later] for later in extra.dims[at + 1 :]]
        terms.append(" * ".join([text[dim], *rest]))
    masks = []
    if "m" in extra.dims and tile:
        masks.append("(m < M)[:, None]")
    if "n" in extra.dims and not even:
        masks.append(f"(n < {n})[None, :]" if tile else f"(n < {n})")
    return Read(extra.name, et.total(terms), et.conjunction(masks), conversion(extra))


def _check(spec: Gemm) -> None:
    for extra in spec.extras:
        if not set(extra.dims) <= set("bmn") or ("b" in extra.dims and not spec.batched):
            raise ScheduleError(f"extra {extra} of a Gemm has dims out of {'bmn' if spec.batched else 'mn'}")


def _params(spec: Gemm) -> list[Param]:
    inputs = [pointer("X", spec.x, "x")]
    inputs += [pointer(f"{w.name}_ptr", w.dtype, f"{w.name}_t") for w in spec.weights]
    inputs += [pointer(f"{e.name}_ptr", e.dtype, f"{e.name}_t") for e in spec.extras]
    return inputs


def plan(spec: Gemm, schedule: Schedule, device: Device, facts: Facts | None = None) -> Plan:
    """The Plan of a Gemm.

    Raises:
        ScheduleError: an extra varies along a dimension that a Gemm lacks.
    """
    _check(spec)
    facts = facts or default_facts(spec)
    knobs = dict(schedule.knobs)
    block_n, block_k = int(knobs["block_n"]), int(knobs["block_k"])
    block_m = int(knobs["block_m"])
    split = int(knobs.get("split_k", 1))
    dot = schedule.dataflow != "gemv"
    jobs = _jobs(spec, facts, block_n, tile=dot)
    steps = cdiv(spec.k, block_k)
    split = min(split, steps)
    merge_n = min(256, next_power_of_two(max(w.n for w in spec.weights)))
    common = {common_dtype(spec.x, w.dtype) for w in spec.weights}
    context: dict[str, Any] = {
        "name": schedule.dataflow, "batched": spec.batched, "k": spec.k, "jobs": jobs,
        "block_m": block_m, "block_n": block_n, "block_k": block_k, "even_k": spec.k % (block_k * split) == 0,
        "split": split, "chunk": cdiv(steps, split) * block_k, "columns": sum(w.n for w in spec.weights),
        "reduce_tile": knobs.get("reduce") == "tile", "group_m": int(knobs.get("group_m", 8)),
        "x_convert": Code("" if not dot or common == {spec.x} else ".to(tl.float32)"),
        "shared": shared_loop(spec, jobs) if dot else None, "merge_n": merge_n,
    }  # fmt: skip
    inputs = _params(spec)
    outputs = [pointer(f"Y{at}", output.dtype, f"y{at}") for at, output in enumerate(spec.outputs)]
    size = [Param("M", "i32", "M")]
    context["params"] = [p.declaration for p in [*inputs, *outputs, *size]]
    tiles = jobs[-1].last
    rows = f"(M + {block_m - 1}) // {block_m}" if block_m > 1 else "M"
    batch = "B" if spec.batched else "1"
    if schedule.dataflow == "tiled":
        grid = (f"{tiles} * ({rows})", batch, "1")
    else:
        grid = (str(tiles), rows, f"{batch} * {split}" if split > 1 else batch)
    warps, stages = int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))
    launches = [Launch(schedule.dataflow, (*inputs, *outputs, *size), grid, warps, stages)]
    workspace: tuple[Buffer, ...] = ()
    if split > 1:
        partial = pointer("PARTIAL", DType.F32, "partial")
        extras = inputs[1 + len(spec.weights) :]
        merge = _jobs(spec, facts, merge_n, tile=False)
        context["merge_jobs"] = merge
        first = (*inputs[: 1 + len(spec.weights)], partial, *size)
        second = (partial, *extras, *outputs, *size)
        context["params"] = [p.declaration for p in first]
        context["merge_params"] = [p.declaration for p in second]
        launches = [
            Launch(schedule.dataflow, first, grid, warps, stages),
            Launch(f"{schedule.dataflow}_merge", second, (str(merge[-1].last), "M", batch), 4, 1),
        ]
        workspace = (Buffer("partial", DType.F32, (batch, str(split), "M", str(context["columns"]))),)
    return Plan(
        template=schedule.dataflow,
        context=context,
        operands=("x", *(f"{w.name}_t" for w in spec.weights), *(f"{e.name}_t" for e in spec.extras)),
        contiguous=("x", *(f"{w.name}_t" for w in spec.weights), *(f"{e.name}_t" for e in spec.extras)),
        sizes=(("B, M", "x.shape[:2]"),) if spec.batched else (("M", "x.shape[0]"),),
        outputs=tuple(_output(spec, at, output) for at, output in enumerate(spec.outputs)),
        workspace=workspace,
        launches=tuple(launches),
    )


def _output(spec: Gemm, at: int, output: Output) -> Buffer:
    return Buffer(f"y{at}", output.dtype, (*(("B",) if spec.batched else ()), "M", str(spec.columns(output))))


def with_weight_strides(plan: Plan, spec: Gemm, facts: Facts) -> Plan:
    """The plan as a variant for weights with other row strides: they are checked instead of contiguity."""
    names = {f"{w.name}_t" for w in spec.weights}
    exact = []
    for w, (batch, row) in zip(spec.weights, facts.strides, strict=True):
        strides = (batch, row, 1) if spec.batched else (row, 1)
        exact.append(f"{w.name}_t.stride() == {strides}")
    return replace(plan, contiguous=tuple(n for n in plan.contiguous if n not in names), exact=tuple(exact))


def supported(spec: Gemm, device: Device) -> str | None:
    """Why no generated Gemm kernel takes this Spec, or None."""
    operands = {spec.x, *(w.dtype for w in spec.weights), *spec.output_dtypes}
    if not operands <= {DType.F32, DType.F16, DType.BF16}:
        return "operands and outputs must be float32, float16 or bfloat16"
    if any(extra.dtype is DType.F64 for extra in spec.extras):
        return "kernels compute in float32; an extra is float64"
    if not all(w.n and w.k for w in spec.weights):
        return "a weight is empty"
    if device.backend is Backend.CPU and spec.k > 1 << 30:
        return "k is too long"
    return None
