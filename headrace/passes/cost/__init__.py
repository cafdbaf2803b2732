"""The cost model: what one call of a schedule takes on a device, before anything is measured.

`seconds` answers for a Spec and a Schedule; `product`, `ranked`, `library_product` and `decode_attention`
ask the same formula about any size and tile, without a Spec. GPUs are modelled by `formula`, processors by
`processor`. It ranks: measurements replace it wherever there are any.

    >>> from headrace.ir.devices import named
    >>> from headrace.passes import cost
    >>> tile = cost.Tile(block_m=16, block_n=64, block_k=128, stages=5, warps=4)
    >>> cost.product(8, 4096, 4096, "bf16", "bf16", tile, named("NVIDIA L40S")).bound
    'dram'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from headrace.codegen.families import work_of
from headrace.codegen.work import Work
from headrace.errors import DeviceError
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.expr import Call
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Attention, Gemm, Spec
from headrace.passes.cost import attention, constants, gpu, library, processor, tile
from headrace.passes.cost.constants import Constants
from headrace.passes.cost.formula import PARTS, SECONDS, evaluator, scalar
from headrace.passes.cost.formula import parts as _parts
from headrace.passes.cost.tile import Tile

__all__ = [
    "SECONDS",
    "Constants",
    "Estimate",
    "Tile",
    "decode_attention",
    "estimate",
    "library_product",
    "product",
    "ranked",
    "seconds",
]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of a call, and what each resource alone would take (the parts overlap: they do not add up)."""

    seconds: float
    parts: Mapping[str, float]

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def seconds(spec: Spec, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> float:
    """The model's time of one call.

    Raises:
        DeviceError: the device lacks a figure that the model needs; the message names it.
    """
    if device.backend is Backend.CPU:
        return processor.seconds(spec, sizes, schedule, device)
    if schedule == LIBRARY and isinstance(spec, (Gemm, Attention)):
        return _library(spec, sizes, device)
    return scalar()(*gpu.inputs(work_of(spec, sizes, schedule, device), device, constants.of(device)))


def estimate(work: Work, device: Device) -> Estimate:
    """The time of a Work on a GPU with its parts."""
    return _estimate(gpu.inputs(work, device, constants.of(device)))


def product(
    m: int, n: int, k: int, x: DType | str, w: DType | str, shape: Tile, device: Device,
    fitted: Constants | None = None,
) -> Estimate:  # fmt: skip
    """One tiled product x[M, K] times w[K, N] on a GPU.

    Args:
        m, n, k: sizes.
        x, w: element types, e.g. `bf16` and `i8`; a narrower weight is converted in the kernel.
        shape: the tile.
        device: a record of `headrace.ir.devices`, or one like it.
        fitted: other constants than the architecture's.

    Raises:
        DeviceError: the device is a processor, or lacks a figure.
    """
    bytes_x, bytes_w = DType(x).itemsize, DType(w).itemsize
    fitted = fitted or constants.of(_gpu(device))
    peak = tile.matrix_peak(device, max(bytes_x, bytes_w))
    return _estimate(tile.product(m, n, k, bytes_x, bytes_w, shape, device, fitted, peak=peak))


def ranked(
    m: int, n: int, k: int, x: DType | str, w: DType | str, shapes: Iterable[Tile], device: Device,
    fitted: Constants | None = None,
) -> list[tuple[Tile, float]]:  # fmt: skip
    """Tiles with the model's seconds, fastest first."""
    found = [(shape, product(m, n, k, x, w, shape, device, fitted).seconds) for shape in shapes]
    return sorted(found, key=lambda each: each[1])


def library_product(
    m: int, n: int, k: int, dtype: DType | str, device: Device, fitted: Constants | None = None, *,
    hot: bool = False,
) -> float:  # fmt: skip
    """Seconds of the vendor library's product; `hot`: called in a loop over the same weights."""
    fitted = fitted or constants.of(_gpu(device))
    return float(library.gemm(m, n, k, DType(dtype).itemsize, device, fitted, hot=hot))


def decode_attention(
    batch: int, heads: int, kv_heads: int, dim: int, length: int, device: Device,
    dtype: DType | str = DType.BF16, fitted: Constants | None = None, *, hot: bool = False,
) -> float:  # fmt: skip
    """Seconds of a library's decode attention: one query a sequence, `length` keys each of type `dtype`."""
    fitted = fitted or constants.of(_gpu(device))
    size = DType(dtype).itemsize
    return float(
        attention.decode(batch, heads, kv_heads, dim, length, device, fitted, bytes_kv=size, hot=hot)
    )


def _gpu(device: Device) -> Device:
    if device.backend is Backend.CPU:
        raise DeviceError(f"{device.name!r} is a processor; tiles and libraries are modelled for GPUs")
    return device


def _estimate(inputs: tuple[float, ...]) -> Estimate:
    values = (float(value) for value in _parts()(*inputs))
    return Estimate(float(evaluator()(*inputs)), dict(zip(PARTS, values, strict=True)))


def _library(spec: Gemm | Attention, sizes: tuple[int, ...], device: Device) -> float:
    """PyTorch's operators: a product per weight and a pass per epilogue, or its attention."""
    fitted = constants.of(device)
    share, launch = fitted.dram * device.figure("bandwidth"), fitted.launch / device.figure("clock")
    if isinstance(spec, Gemm):
        batch, m = (sizes[0], sizes[1]) if spec.batched else (1, sizes[0])
        size = max(spec.x.itemsize, *(w.dtype.itemsize for w in spec.weights))
        total = 0.0
        for weight in spec.weights:
            total += float(library.gemm(m, weight.n, weight.k, size, device, fitted, batch=batch))
            if weight.dtype.itemsize < spec.x.itemsize:  # a copy of the weight in x's type comes first
                total += launch + batch * weight.n * weight.k * (size + weight.dtype.itemsize) / share
        for output in spec.outputs:
            if isinstance(output.expr, Call):
                columns = spec.columns(output)
                total += 2 * launch + 4 * batch * m * columns * size / share
        return total
    b, i, j = sizes
    if i == 1:
        return float(
            attention.decode(b, spec.heads, spec.k_heads, (spec.d_k + spec.d_v) / 2, j, device, fitted,
                             bytes_kv=spec.k.itemsize)
        )  # fmt: skip
    work = work_of(spec, sizes, LIBRARY, device)
    inner = attention.prefill(spec.heads, spec.d_k, spec.d_v, b, i, j, spec.q.itemsize)
    whole = replace(work, programs=inner[0], inner=inner[1])
    return scalar()(*gpu.inputs(whole, device, fitted)) + fitted.call / device.figure("clock") * work.launches
