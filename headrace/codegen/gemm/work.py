"""What a Gemm schedule makes a device do."""

from __future__ import annotations

from headrace.codegen.gemm import plans as gemm
from headrace.codegen.plan import cdiv
from headrace.codegen.work import Work
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
