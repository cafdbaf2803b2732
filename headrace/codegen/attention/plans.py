"""Attention kernels: the Plans of `prefill` (one pass over the keys) and `decode` (keys split over programs).

A guarded unified maximum adds a counter of recomputed rows, and to split keys a launch that recomputes rows
which the merge has flagged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from headrace.codegen.attention import context as shared
from headrace.codegen.plan import Buffer, Facts, Launch, Param, Plan, next_power_of_two, pointer
from headrace.errors import ScheduleError
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention

FLOATS = frozenset({DType.F32, DType.F16, DType.BF16})
# Rows that were recomputed: one number for a kernel, never reset by it.
FALLBACK = pointer("FALLBACK", DType.I64, "fallback")
# Rows [B, H, I] that a later launch has to recompute: 1, else 0.
BAD = pointer("BAD", DType.I32, "bad")


def plan(spec: Attention, schedule: Schedule, device: Device, facts: Facts | None = None) -> Plan:
    """The Plan of an Attention; `facts.sizes` = (1,) specialises decode to one query.

    Raises:
        ScheduleError: an extra varies along a dimension that Attention lacks.
    """
    for extra in spec.extras:
        if not set(extra.dims) <= set("bhij"):
            raise ScheduleError(f"extra {extra} of an Attention has dims out of bhij")
    if schedule.dataflow == "stream_decode":
        from headrace.codegen.attention import stream

        return stream.plan(spec, dict(schedule.knobs), facts or Facts(), device.backend is not Backend.CPU)
    build = _prefill if schedule.dataflow == "prefill" else _decode
    return build(spec, dict(schedule.knobs), facts or Facts(), device.backend is not Backend.CPU)


def plan_of(spec: Attention, template: str, context: Mapping[str, object], launches: tuple[Launch, ...],
            workspace: tuple[Buffer, ...] = (), exact: tuple[str, ...] = ()) -> Plan:  # fmt: skip
    """A Plan of operands and output as every Attention kernel has them."""
    extras = [e for e in spec.extras if e.dims]
    strided = ["q", "k", "v", *(f"{e.name}_t" for e in extras)]
    return Plan(
        template=template,
        context=context,
        operands=("q", "k", "v", *(f"{e.name}_t" for e in spec.extras)),
        contiguous=(),
        inner=("q", "k", "v", *(f"{e.name}_t" for e in extras if e.dims[-1] == "j")),
        exact=exact,
        sizes=(
            ("B, _, I, _", "q.shape"),
            ("J", "k.shape[2]"),
            *((f"{n}_strides", f"{n}.stride()") for n in strided),
        ),
        outputs=(Buffer("o", spec.out, ("B", str(spec.heads), "I", str(spec.d_v))),),
        workspace=workspace,
        launches=launches,
        counters=(FALLBACK.host,) if context["guarded"] else (),
    )


def _prefill(spec: Attention, knobs: Mapping[str, int | str], facts: Facts, gpu: bool) -> Plan:
    """On the CPU a tile recomputes its rows at once; on a GPU a second loop in the kernel would make the
    first one spill."""
    rows = shared.Rows("i", "scalar", "(i < I)")
    block_i, block_j = int(knobs["block_i"]), int(knobs["block_j"])
    pointers, strides = shared.inputs(spec)
    how = shared.stabilizer_of(spec, knobs)
    context = shared.context(spec, rows, block_j, how, gpu=gpu, whole=True)
    sizes = [Param("I", "i32", "I"), Param("J", "i32", "J")]
    out, out_strides = pointer("O", spec.out, "o"), shared.strides("o", "bhi", "o")
    guard = [] if not context["guarded"] else [BAD] if gpu else [FALLBACK]
    params = [*pointers, out, *guard, *sizes, *strides, *out_strides]
    context |= {"block_i": block_i, "params": [p.declaration for p in params]}
    warps, stages = int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))
    grid = (f"(I + {block_i - 1}) // {block_i}", f"B * {spec.heads}", "1")
    launches = [Launch("prefill", tuple(params), grid, warps, stages)]
    if BAD not in guard:
        return plan_of(spec, "prefill", context, tuple(launches))
    again = [*pointers, out, BAD, FALLBACK, *sizes, *strides, *out_strides]
    context["exact_params"] = [p.declaration for p in again]
    launches.append(Launch("exact_rows", tuple(again), grid, warps, stages))
    return plan_of(spec, "prefill", context, tuple(launches), (_flags(spec),))


def _flags(spec: Attention) -> Buffer:
    """Of the rows that have to be recomputed."""
    return Buffer(BAD.host, DType.I32, ("B", str(spec.heads), "I"))


def group_size(spec: Attention) -> int:
    """Query heads that share both a K head and a V head, packed into the rows of one decode program."""
    return math.gcd(spec.heads // spec.k_heads, spec.heads // spec.v_heads)


def exact_rows(
    spec: Attention, read: Sequence[Param], written: Sequence[Param], block_r: int, warps: int
) -> tuple[Launch, Buffer]:
    """The launch of `exact_rows` after a merge, and the flags of rows [B, H, I] by which it knows them.

    Args:
        read: pointers of operands, sizes and strides, as the kernel before it takes them.
        written: the output's pointer and strides.
    """
    group = group_size(spec)
    params = (*read, *written, BAD, FALLBACK)
    grid = (f"B * {spec.heads // group}", f"(I * {group} + {block_r - 1}) // {block_r}", "1")
    # Rare, so rather slow than short of registers: many warps, nothing loaded ahead.
    return Launch("exact_rows", params, grid, max(warps, 8), 1), _flags(spec)


def _decode(spec: Attention, knobs: Mapping[str, int | str], facts: Facts, gpu: bool) -> Plan:
    single = facts.sizes == (1,)
    group = group_size(spec)
    block_r, block_j, splits = int(knobs["block_r"]), int(knobs["block_j"]), int(knobs["splits"])
    rows = shared.Rows("0" if single else "i", "rows" if group > 1 else "scalar", "valid")
    pointers, strides = shared.inputs(spec)
    sizes = [Param("I", "i32", "I"), Param("J", "i32", "J")]
    written = [pointer("O", spec.out, "o"), *shared.strides("o", "bhi", "o")]
    partial = [pointer("ACC", DType.F32, "acc"), pointer("STATE", DType.F32, "state")]
    how = shared.stabilizer_of(spec, knobs)
    context = shared.context(spec, rows, block_j, how, gpu=gpu, whole=splits == 1) | {
        "block_r": block_r, "splits": splits, "group": group, "single": single,
        "groups": spec.heads // group, "block_s": next_power_of_two(splits),
    }  # fmt: skip
    packed = f"(I * {group} + {block_r - 1}) // {block_r}"
    grid = (str(splits), f"B * {spec.heads // group}", packed)
    warps, stages = int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))
    read = [*pointers, *sizes, *strides]
    exact = ("I == 1",) if single else ()
    if splits == 1:
        params = [*pointers, written[0], *sizes, *strides, *written[1:]]
        params += [FALLBACK] if context["guarded"] else []
        context["params"] = [p.declaration for p in params]
        launch = Launch("decode", tuple(params), grid, warps, stages)
        return plan_of(spec, "decode", context, (launch,), (), exact)
    params = [*pointers, *partial, *sizes, *strides]
    merge = [*partial, written[0], *([BAD] if context["guarded"] else []), sizes[0], *written[1:]]
    context["params"] = [p.declaration for p in params]
    context["merge_params"] = [p.declaration for p in merge]
    launches = [Launch("decode", tuple(params), grid, warps, stages),
                Launch("decode_merge", tuple(merge), ("I", f"B * {spec.heads}", "1"), 2, 1)]  # fmt: skip
    states = ("B", str(spec.heads), "I", str(splits))
    workspace = [
        Buffer("acc", DType.F32, (*states, str(spec.d_v))),
        Buffer("state", DType.F32, (*states, "2")),
    ]
    if context["guarded"]:
        again, flags = exact_rows(spec, read, written, block_r, warps)
        context["exact_params"] = [p.declaration for p in again.params]
        launches.append(again)
        workspace.append(flags)
    return plan_of(spec, "decode", context, tuple(launches), tuple(workspace), exact)


def supported(spec: Attention, device: Device) -> str | None:
    """Why no generated Attention kernel takes this Spec, or None."""
    if not {spec.q, spec.k, spec.v, spec.out} <= FLOATS:
        return "operands and output must be float32, float16 or bfloat16"
    if any(extra.dtype is DType.F64 for extra in spec.extras):
        return "kernels compute in float32; an extra is float64"
    if not spec.d_k or not spec.d_v or max(spec.d_k, spec.d_v) > 512:
        return "head dimensions beyond 512 do not fit a tile"
    return None
