"""Work: what a schedule makes a device do, in the units of the cost model."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen import attention, gemm, rows
from headrace.codegen.plan import cdiv, next_power_of_two
from headrace.ir.device import Backend, Device
from headrace.ir.expr import Call, walk
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention, Gemm, Rows, Spec


@dataclass(frozen=True, slots=True)
class Work:
    """Totals of one call.

    Attributes:
        flops: operations executed, padding included.
        bytes: moved to and from main memory, assuming that tiles reread by other programs hit a cache.
        programs: of the largest launch; the parallelism there is.
        on_chip_bytes: one program's tiles (shared memory on a GPU, cache on a CPU).
        launches: kernels.
    """

    flops: float
    bytes: float
    programs: int
    on_chip_bytes: int
    launches: int


def work_of(spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
    """The Work of a schedule; `library` counts what the mathematics needs, in one program per unit."""
    if isinstance(spec, Gemm):
        return _gemm(spec, sizes, schedule, device)
    if isinstance(spec, Attention):
        return _attention(spec, sizes, schedule, device)
    return _rows(spec, sizes, schedule, device)


def _gemm(spec: Gemm, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
    batch, m = (sizes[0], sizes[1]) if spec.batched else (1, sizes[0])
    n = sum(w.n for w in spec.weights)
    moved = (
        batch * sum(w.n * w.k * w.dtype.itemsize for w in spec.weights) + batch * m * spec.k * spec.x.itemsize
    )
    moved += batch * m * sum(spec.columns(o) * o.dtype.itemsize for o in spec.outputs)
    for extra in spec.extras:
        moved += (
            extra.dtype.itemsize
            * (m if "m" in extra.dims else 1)
            * (max(w.n for w in spec.weights) if "n" in extra.dims else 1)
        )
    if schedule.dataflow == "library":
        # One product per weight, one more pass per output that is not a plain product.
        epilogues = sum(1 for o in spec.outputs if isinstance(o.expr, Call))
        moved += 2 * 4 * batch * m * n * bool(epilogues)
        return Work(
            2.0 * batch * m * n * spec.k, float(moved), device.units, 0, len(spec.weights) + 2 * epilogues
        )
    block_m, block_n, block_k = (int(schedule[name]) for name in ("block_m", "block_n", "block_k"))
    split = int(dict(schedule.knobs).get("split_k", 1))
    tiles = sum(cdiv(spec.weights[at].n, block_n) for at in range(len(spec.weights))) // gemm.accumulators(
        spec
    )
    rows_padded = cdiv(m, block_m) * block_m
    if schedule.dataflow == "gemv":
        moved += (cdiv(m, block_m) - 1) * batch * sum(w.n * w.k * w.dtype.itemsize for w in spec.weights)
    if split > 1:
        moved += 2 * 4 * batch * split * m * n
    programs = max(tiles, 1) * cdiv(m, block_m) * batch * split
    stages = 1 if device.backend is Backend.CPU else int(dict(schedule.knobs).get("num_stages", 1))
    chip = (
        stages
        * block_k
        * (block_m * spec.x.itemsize + gemm.accumulators(spec) * block_n * spec.weights[0].dtype.itemsize)
    )
    return Work(2.0 * batch * rows_padded * n * spec.k, float(moved), programs, chip, 2 if split > 1 else 1)


def _attention(spec: Attention, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
    b, i, j = sizes
    per_key = spec.k_heads * spec.d_k * spec.k.itemsize + spec.v_heads * spec.d_v * spec.v.itemsize
    moved = b * j * per_key + b * i * spec.heads * (spec.d_k * spec.q.itemsize + spec.d_v * spec.out.itemsize)
    seen = 0.5 if _causal(spec) and i > 1 and i >= j else 1.0
    flops = 2.0 * b * spec.heads * i * j * (spec.d_k + spec.d_v) * seen
    if schedule.dataflow == "library":
        masked = b * i * j * 2 if spec.extras or refs_j(spec) else 0
        return Work(flops / seen, float(moved + masked), device.units, 0, 2 if masked else 1)
    block_j = int(schedule["block_j"])
    chip = block_j * (spec.d_k * spec.k.itemsize + spec.d_v * spec.v.itemsize)
    if schedule.dataflow == "prefill":
        block_i = int(schedule["block_i"])
        tiles = cdiv(i, block_i)
        padded = flops * tiles * block_i / max(i, 1)
        return Work(
            padded, float(moved), tiles * b * spec.heads, chip + block_i * spec.d_k * spec.q.itemsize, 1
        )
    group, block_r, splits = attention.group_size(spec), int(schedule["block_r"]), int(schedule["splits"])
    blocks = cdiv(i * group, block_r)
    padded = flops * blocks * block_r / max(i * group, 1)
    moved += (blocks - 1) * b * j * per_key
    if splits > 1:
        moved += 2 * 4 * b * spec.heads * i * splits * (spec.d_v + 2)
    return Work(
        padded, float(moved), blocks * splits * b * (spec.heads // group), chip, 2 if splits > 1 else 1
    )


def _causal(spec: Attention) -> bool:
    return any("i" in str(e) for e in attention.bounds(spec.mask, spec.extras).upper)


def refs_j(spec: Attention) -> bool:
    """Whether a library call has to materialise a mask."""
    return "j" in str(spec.mask)


def _rows(spec: Rows, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
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
