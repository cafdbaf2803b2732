"""The Plans of `gemv`, `flat`, `tiled` and `stream_k`.

Weights, N and K are part of the code, M (and the batch) are run-time sizes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.codegen.expr_triton import Code
from headrace.codegen.gemm.jobs import Job, accumulators, jobs_of, shared_loop, unlike
from headrace.codegen.plan import Buffer, Facts, Launch, Param, Plan, cdiv, next_power_of_two, pointer
from headrace.errors import ScheduleError
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Gemm, Output


def default_facts(spec: Gemm) -> Facts:
    """Weights as their layout says: contiguous."""
    return Facts(strides=tuple((w.n * w.k, w.k if w.layout == "nk" else w.n) for w in spec.weights))


def _unread(spec: Gemm) -> str | None:
    """Why kernels cannot read an operand, or None."""
    weights = [w.name for w in spec.weights]
    names = [*weights, *(extra.name for extra in spec.extras)]
    if len(set(names)) < len(names) or "x" in weights:
        return f"two operands of a Gemm have one name: x, {', '.join(names)}"
    for extra in spec.extras:
        if not set(extra.dims) <= set("bmn") or ("b" in extra.dims and not spec.batched):
            return f"extra {extra} of a Gemm has dims out of {'bmn' if spec.batched else 'mn'}"
        if "b" in extra.dims[1:]:
            return f"extra {extra} of a Gemm has its batch not in front; permute it"
    return None


def _params(spec: Gemm) -> list[Param]:
    inputs = [pointer("X", spec.x, "x")]
    inputs += [pointer(f"{w.name}_ptr", w.dtype, f"{w.name}_t") for w in spec.weights]
    inputs += [pointer(f"{e.name}_ptr", e.dtype, f"{e.name}_t") for e in spec.extras]
    return inputs


def _results(spec: Gemm) -> list[Param]:
    return [pointer(f"Y{at}", output.dtype, f"y{at}") for at, output in enumerate(spec.outputs)]


def plan(spec: Gemm, schedule: Schedule, device: Device, facts: Facts | None = None) -> Plan:
    """The Plan of a Gemm.

    Raises:
        ScheduleError: an extra varies along a dimension that a Gemm lacks, or its batch is not in front; two
        operands have one name.
    """
    if (reason := _unread(spec)) is not None:
        raise ScheduleError(reason)
    facts = facts or default_facts(spec)
    knobs = dict(schedule.knobs)
    block_n, block_k = int(knobs["block_n"]), int(knobs["block_k"])
    block_m = int(knobs["block_m"])
    split = int(knobs.get("split_k", 1))
    dot = schedule.dataflow != "gemv"
    jobs = jobs_of(spec, facts, block_n, tile=dot)
    steps = cdiv(spec.k, block_k)
    split = min(split, steps)
    merge_n = min(256, next_power_of_two(max(w.n for w in spec.weights)))
    context: dict[str, Any] = {
        "name": schedule.dataflow, "batched": spec.batched, "k": spec.k, "jobs": jobs,
        "block_m": block_m, "block_n": block_n, "block_k": block_k, "even_k": spec.k % (block_k * split) == 0,
        "split": split, "chunk": cdiv(steps, split) * block_k, "columns": sum(w.n for w in spec.weights),
        "reduce_tile": knobs.get("reduce") == "tile", "group_m": int(knobs.get("group_m", 8)),
        "x_convert": Code(".to(tl.float32)" if dot and unlike(spec) and spec.x is not DType.F32 else ""),
        "shared": shared_loop(spec, jobs) if dot else None, "merge_n": merge_n,
        "swap": bool(int(knobs.get("swap", 0))), "open_loop": device.backend is Backend.CUDA,
    }  # fmt: skip
    if schedule.dataflow == "stream_k":
        return _stream_k(spec, schedule, context)
    inputs, outputs = _params(spec), _results(spec)
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
        merge = jobs_of(spec, facts, merge_n, tile=False)
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
    return _plan(spec, schedule.dataflow, context, tuple(launches), workspace)


def _stream_k(spec: Gemm, schedule: Schedule, context: dict[str, Any]) -> Plan:
    """Stream-K: the programs are workers, which share the steps along K of all tiles evenly.

    A worker has at most two incomplete tiles, the first and the last of its run: PARTIAL is [workers, 2,
    weights, block_m, block_n], and the merge reads it in the order of the workers.
    """
    knobs = dict(schedule.knobs)
    jobs: tuple[Job, ...] = context["jobs"]
    workers, weights = int(knobs["workers"]), accumulators(spec)
    context |= {"workers": workers, "weights": weights, "steps": cdiv(spec.k, context["block_k"]),
                "tiles_n": jobs[-1].last, "even_k": spec.k % context["block_k"] == 0}  # fmt: skip
    inputs, outputs, partial = _params(spec), _results(spec), pointer("PARTIAL", DType.F32, "partial")
    sizes = [Param("M", "i32", "M"), *([Param("B", "i32", "B")] if spec.batched else [])]
    first = (*inputs, *outputs, partial, *sizes)
    second = (partial, *inputs[1 + len(spec.weights) :], *outputs, *sizes)
    context["params"] = [p.declaration for p in first]
    context["names"] = [p.name for p in first]
    context["merge_params"] = [p.declaration for p in second]
    grid = (str(workers), "1", "1")
    launches = (
        Launch("stream_k", first, grid, int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))),
        Launch("stream_k_merge", second, grid, 4, 1),
    )
    shape = (str(workers), str(2 * weights), str(context["block_m"]), str(context["block_n"]))
    # The kernel numbers the steps of all tiles in int32; a call may have more rows than a schedule is for.
    block_m, steps = context["block_m"], jobs[-1].last * context["steps"]
    most = f"{'B * ' if spec.batched else ''}{steps} * ((M + {block_m - 1}) // {block_m}) < {1 << 31}"
    return _plan(spec, "stream_k", context, launches, (Buffer("partial", DType.F32, shape),), (most,))


def _plan(
    spec: Gemm, template: str, context: dict[str, Any], launches: tuple[Launch, ...],
    workspace: tuple[Buffer, ...], exact: tuple[str, ...] = (),
) -> Plan:  # fmt: skip
    names = ("x", *(f"{w.name}_t" for w in spec.weights), *(f"{e.name}_t" for e in spec.extras))
    return Plan(
        template=template,
        context=context,
        operands=names,
        contiguous=names,
        sizes=(("B, M", "x.shape[:2]"),) if spec.batched else (("M", "x.shape[0]"),),
        outputs=tuple(_output(spec, at, output) for at, output in enumerate(spec.outputs)),
        workspace=workspace,
        launches=launches,
        exact=exact,
    )


def _output(spec: Gemm, at: int, output: Output) -> Buffer:
    return Buffer(f"y{at}", output.dtype, (*(("B",) if spec.batched else ()), "M", str(spec.columns(output))))


def with_weight_strides(plan: Plan, spec: Gemm, facts: Facts) -> Plan:
    """The plan as a variant for weights with other row strides: they are checked instead of contiguity."""
    names = {f"{w.name}_t" for w in spec.weights}
    exact = list(plan.exact)
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
    return _unread(spec)
