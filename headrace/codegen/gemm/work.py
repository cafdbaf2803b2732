"""What a Gemm schedule makes a device do."""

from __future__ import annotations

from headrace.codegen.gemm.jobs import accumulators, widths
from headrace.codegen.plan import cdiv
from headrace.codegen.work import Inner, Work
from headrace.ir.device import Backend, Device
from headrace.ir.expr import Call
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Gemm


def work(spec: Gemm, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> Work:
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
    knobs, steps, pair = dict(schedule.knobs), cdiv(spec.k, block_k), accumulators(spec)
    split = min(int(knobs.get("split_k", 1)), steps)
    tiles = sum(cdiv(columns, block_n) for columns in widths(spec)) * cdiv(m, block_m) * batch
    programs = tiles * split
    partials = 0.0  # bytes of partial sums, written once and read once
    if schedule.dataflow == "gemv":
        moved += (cdiv(m, block_m) - 1) * batch * sum(w.n * w.k * w.dtype.itemsize for w in spec.weights)
    if schedule.dataflow == "stream_k":
        programs = min(int(knobs["workers"]), tiles * steps)
        # Each worker but the first enters a tile, in its midst unless runs are whole tiles.
        shared = 0 if tiles % programs == 0 else min(2 * (programs - 1), tiles * steps)
        partials = 4.0 * shared * pair * block_m * block_n
    elif split > 1:
        partials = 4.0 * batch * split * m * n
    moved += 2 * int(partials)
    stages = 1 if device.backend is Backend.CPU else int(knobs.get("num_stages", 1))
    chip = (
        stages
        * block_k
        * (block_m * spec.x.itemsize + pair * block_n * max(w.dtype.itemsize for w in spec.weights))
    )
    # A GPU computes whole tiles. On a CPU masks end the loops, but for the tiles that are deep along K.
    whole = device.backend is not Backend.CPU or (schedule.dataflow == "flat" and block_k > 128)
    rows = cdiv(m, block_m) * block_m if whole else m
    launches = 2 if split > 1 or schedule.dataflow == "stream_k" else 1
    inner = None
    if device.backend is not Backend.CPU:
        wide, narrow = spec.x.itemsize, max(w.dtype.itemsize for w in spec.weights)
        swap = knobs.get("swap", 0) == 1
        inner = Inner(
            rows=block_n if swap else block_m,
            columns=block_m if swap else block_n,
            reduced=block_k,
            iterations=cdiv(tiles * steps, programs)
            if schedule.dataflow == "stream_k"
            else cdiv(steps, split),
            stages=stages,
            warps=int(knobs.get("num_warps", 4)),
            bytes_rows=narrow if swap else wide,
            bytes_columns=wide if swap else narrow,
            matrix=schedule.dataflow != "gemv",
            products=pair,
            merged=partials,
            merges=launches - 1,
        )
    return Work(2.0 * batch * rows * n * spec.k, float(moved), programs, chip, launches, inner)
