"""Operands for a Spec at given sizes: fresh content from a seed, with masks and positions that make sense."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headrace.errors import TuningError
from headrace.ir.dtype import DType
from headrace.ir.evidence import bucket
from headrace.ir.expr import refs
from headrace.ir.spec import Attention, Extra, Gemm, Rows, Spec

# Half of the room: a cache that fills up is on average half full, which is what timing should see.
HALF = 0.5


def make_inputs(
    spec: Spec,
    sizes: tuple[int, ...],
    seed: int,
    *,
    scale: float = 1.0,
    fill: float | None = None,
    nan: bool = False,
    device: str = "cpu",
) -> list[torch.Tensor]:
    """Operands in the Spec's order: standard normal, weights divided by sqrt(k), masks mostly true.

    Args:
        sizes: the Spec's run-time sizes, (m,) or (b, m) of a Gemm, (b, i, j) of an Attention, (r, n) of Rows.
        seed: the same seed gives the same operands on every machine.
        scale: factor of the first operand.
        fill: how full an attention cache is, 0 to 1: integer operands are that share of j - i; random when
        None. nan: plant one NaN in the first operand.

    Raises:
        TuningError: the number of sizes does not fit the Spec.
    """
    maker = _Maker(seed, fill)
    match spec:
        case Gemm():
            inputs = _gemm(spec, sizes, maker)
        case Attention():
            inputs = _attention(spec, sizes, maker)
        case Rows():
            inputs = _rows(spec, sizes, maker)
    first = inputs[0]
    if first.is_floating_point():
        inputs[0] = first = first * scale
        if nan and first.numel():
            first.view(-1)[seed % first.numel()] = torch.nan
    return [operand.to(device) for operand in inputs]


def weight_slots(spec: Spec) -> tuple[int, ...]:
    """The operands that a model reads from main memory at every step: weights, key and value cache."""
    match spec:
        case Gemm():
            return tuple(range(1, 1 + len(spec.weights)))
        case Attention():
            return (1, 2)
        case Rows():
            return ()


def companion(sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The smallest sizes of the same bucket, at which a kernel of these sizes must also be right; None if
    equal.
    """
    small = tuple(size if size <= 4 else size // 2 + 1 for size in bucket(sizes))
    return small if small != sizes else None


class _Maker:
    def __init__(self, seed: int, fill: float | None) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._fill = fill

    def tensor(self, dtype: DType, shape: Sequence[int], factor: float = 1.0, high: int = 2) -> torch.Tensor:
        """Normal, or uniform integers below `high`, or booleans that are true four times out of five."""
        if dtype.is_floating:
            values = torch.randn(tuple(shape), generator=self._generator, dtype=torch.float32) * factor
            return values.to(dtype.to_torch())
        uniform = torch.rand(tuple(shape), generator=self._generator)
        if dtype is DType.BOOL:
            return uniform < 0.8
        return (uniform * high).floor().to(dtype.to_torch())

    def position(self, dtype: DType, shape: Sequence[int], room: int) -> torch.Tensor:
        """Integers between 0 and `room`."""
        if self._fill is None:
            return self.tensor(dtype, shape, high=room + 1)
        return torch.full(tuple(shape), int(self._fill * room), dtype=dtype.to_torch())


def _need(spec: Spec, sizes: tuple[int, ...], names: str) -> dict[str, int]:
    if len(sizes) != len(names):
        raise TuningError(f"{spec.kind} takes sizes ({', '.join(names)}), got {sizes}")
    return dict(zip(names, sizes, strict=True))


def _shape(extra: Extra, extents: dict[str, int]) -> list[int]:
    return [extents[letter] for letter in extra.dims]


def _gemm(spec: Gemm, sizes: tuple[int, ...], maker: _Maker) -> list[torch.Tensor]:
    extents = _need(spec, sizes, "bm" if spec.batched else "m")
    lead = [extents["b"]] if spec.batched else []
    inputs = [maker.tensor(spec.x, [*sizes, spec.k])]
    for weight in spec.weights:
        shape = [weight.n, weight.k] if weight.layout == "nk" else [weight.k, weight.n]
        inputs.append(maker.tensor(weight.dtype, lead + shape, max(spec.k, 1) ** -0.5))
    for extra in spec.extras:
        columns = [spec.columns(output) for output in spec.outputs if extra.name in refs(output.expr)]
        extents["n"] = columns[0] if columns else spec.columns(spec.outputs[0])
        inputs.append(maker.tensor(extra.dtype, _shape(extra, extents)))
    return inputs


def _attention(spec: Attention, sizes: tuple[int, ...], maker: _Maker) -> list[torch.Tensor]:
    extents = _need(spec, sizes, "bij")
    b, i, j = sizes
    extents["h"] = spec.heads
    inputs = [
        maker.tensor(spec.q, [b, spec.heads, i, spec.d_k]),
        maker.tensor(spec.k, [b, spec.k_heads, j, spec.d_k]),
        maker.tensor(spec.v, [b, spec.v_heads, j, spec.d_v]),
    ]
    for extra in spec.extras:
        shape = _shape(extra, extents)
        if extra.dtype.is_floating or extra.dtype is DType.BOOL or "j" in extra.dims:
            inputs.append(maker.tensor(extra.dtype, shape))
        else:
            # A scalar or per-row integer in a mask is a position or a length: keep it inside the keys.
            inputs.append(maker.position(extra.dtype, shape, max(j - i, 0)))
    return inputs


def _rows(spec: Rows, sizes: tuple[int, ...], maker: _Maker) -> list[torch.Tensor]:
    extents = _need(spec, sizes, "rn")
    return [maker.tensor(extra.dtype, _shape(extra, extents)) for extra in spec.inputs]
