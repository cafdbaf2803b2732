"""Stream-K decoding: the Plan of `stream_decode`, and the arithmetic of its schedule.

LeanAttention (arXiv 2405.10480): merging partial softmax results is associative, so the key tiles of all
sequences and heads may stand in one line that is cut anywhere. A *unit* is one sequence, one group of heads
that share keys, and `block_r` of its (query, head) rows; it has ceil(keys / block_j) tiles, at least one. Of
the T tiles of all units, worker w of G takes those from w T // G rounded so that pieces differ by at most
one; a worker may end one unit and begin the next. A unit that lies in one piece is written at once. One that
is cut leaves a partial state (m, l, acc) with each of its workers: only a worker's first and last segment can
be partial, so there are two slots a worker. The worker that holds the first part of a cut unit names it, and
a merge combines the parts in the order of the workers: the result depends on G, never on timing.

Key counts come from the bounds of the mask, per sequence and on the device: `stream_count` writes the tiles
of each unit, every worker finds its place in their running sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.codegen.attention import context as shared
from headrace.codegen.attention import plans as attention
from headrace.codegen.plan import Buffer, Facts, Launch, Param, Plan, cdiv, pointer
from headrace.ir.dtype import DType
from headrace.ir.spec import Attention

# Units whose counts a worker reads at a time, and partial states that a merge combines at a time.
_UNITS_READ, _PARTS_READ = 256, 16
# Rows of partial states that one thread of a CPU merges.
_MERGED_ALONE = 256


@dataclass(frozen=True, slots=True)
class Segment:
    """Tiles `first <= tile < last` of one unit (numbered within it), a piece of a worker's work.

    `whole` where they are all of the unit's tiles: the worker writes the result itself.
    """

    unit: int
    first: int
    last: int
    whole: bool

    @property
    def slot(self) -> int | None:
        """Where a partial state goes: 1 for the first part of a unit, 0 for a later one."""
        return None if self.whole else int(self.first == 0)


def tile_counts(keys: Sequence[int], units: int, block_j: int) -> tuple[int, ...]:
    """Tiles of every unit of a batch, whose sequences see so many keys and have `units` units each."""
    return tuple(max(cdiv(n, block_j), 1) for n in keys for _ in range(units))


def share(total: int, workers: int, worker: int) -> tuple[int, int]:
    """The tiles `begin <= tile < end` of a worker; the first `total % workers` have one more."""
    each, more = divmod(total, workers)
    begin = worker * each + min(worker, more)
    return begin, begin + each + (worker < more)


def schedule(counts: Sequence[int], workers: int) -> tuple[tuple[Segment, ...], ...]:
    """The segments of every worker in the order in which it takes them, as the kernel finds them."""
    found = []
    for worker in range(workers):
        begin, end = share(sum(counts), workers, worker)
        segments, base = [], 0
        for unit, tiles in enumerate(counts):
            first, last = max(begin - base, 0), min(end - base, tiles)
            if first < last:
                segments.append(Segment(unit, first, last, (first, last) == (0, tiles)))
            base += tiles
        found.append(tuple(segments))
    return tuple(found)


def plan(spec: Attention, knobs: Mapping[str, int | str], facts: Facts, gpu: bool) -> Plan:
    """The Plan of `stream_decode`; `facts.sizes` = (1,) specialises it to one query."""
    single = facts.sizes == (1,)
    group = attention.group_size(spec)
    block_r, block_j, workers = int(knobs["block_r"]), int(knobs["block_j"]), int(knobs["workers"])
    rows = shared.Rows("0" if single else "i", "rows" if group > 1 else "scalar", "valid")
    groups = spec.heads // group
    context = shared.context(spec, rows, block_j, shared.stabilizer_of(spec, knobs), gpu=gpu) | {
        "block_r": block_r, "group": group, "single": single, "groups": groups,
        "block_u": _UNITS_READ, "block_s": _PARTS_READ,
    }  # fmt: skip
    pointers, strides = shared.inputs(spec)
    sizes = [Param("I", "i32", "I"), Param("J", "i32", "J")]
    packed = f"B * {groups} * ((I * {group} + {block_r - 1}) // {block_r})"
    units = Param("U", "i32", packed)
    written = [pointer("O", spec.out, "o"), *shared.strides("o", "bhi", "o")]
    count, cut = pointer("COUNT", DType.I32, "count"), pointer("CUT", DType.I32, "cut")
    partial = [pointer("ACC", DType.F32, "acc"), pointer("STATE", DType.F32, "state")]
    flags = [attention.BAD] if context["guarded"] else []
    extras = {f"{extra.name}_t" for extra in spec.extras}
    counting = [p for p in pointers if p.host in extras] + [count, *sizes, units]
    counting += [p for p in strides if p.host.partition("_strides")[0] in extras]
    params = [*pointers, *partial, count, cut, *flags, *sizes, units, *strides, *written]
    merge = [*partial, cut, *flags, Param("WORKERS", "i32", str(workers)), sizes[0], *written]
    context |= {
        "params": [p.declaration for p in params],
        "count_params": [p.declaration for p in counting],
        "merge_params": [p.declaration for p in merge],
    }
    warps, stages = int(knobs.get("num_warps", 4)), int(knobs.get("num_stages", 2))
    # What takes microseconds is not worth waking threads for: one program on a CPU.
    alone = not gpu and workers * block_r <= _MERGED_ALONE
    merging = ("1", "1") if alone else (str(workers), str(block_r))
    launches = [
        Launch("stream_count", tuple(counting), (packed if gpu else "1", "1", "1"), 1, 1),
        Launch("stream_decode", tuple(params), (str(workers), "1", "1"), warps, stages),
        Launch("stream_merge", tuple(merge), (*merging, "1"), 4, 1),
    ]
    workspace = [
        Buffer("acc", DType.F32, (str(workers), "2", str(block_r), str(spec.d_v))),
        Buffer("state", DType.F32, (str(workers), "2", str(block_r), "2")),
        Buffer("count", DType.I32, (packed,)),
        Buffer("cut", DType.I32, (str(workers), "2")),
    ]
    if flags:
        again, bad = attention.exact_rows(spec, [*pointers, *sizes, *strides], written, block_r, warps)
        context["exact_params"] = [p.declaration for p in again.params]
        launches.append(again)
        workspace.append(bad)
    exact = ("I == 1",) if single else ()
    return attention.plan_of(spec, "stream_decode", context, tuple(launches), tuple(workspace), exact)
