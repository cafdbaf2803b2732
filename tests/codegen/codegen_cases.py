"""Operands for a Spec, and the comparison of a kernel with the float64 oracle."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from headrace.codegen import dataflows, kernel
from headrace.codegen.operands import operands
from headrace.ir.device import Backend, Device
from headrace.ir.evaluate import evaluate_spec
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention, Gemm, Spec, parse_spec
from headrace.ir.tolerance import bound

CPU = Device("test machine", Backend.CPU, "x86_64", units=2, on_chip_bytes=1 << 20)


def first_shapes(spec: Spec, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    if isinstance(spec, Gemm):
        return [(*sizes, spec.k)]
    if isinstance(spec, Attention):
        b, i, j = sizes
        return [(b, spec.heads, i, spec.d_k), (b, spec.k_heads, j, spec.d_k), (b, spec.v_heads, j, spec.d_v)]
    return [sizes] * len(spec.inputs)


def make(spec: Spec, sizes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    """Operands: normal floats, small non-negative integers, random booleans."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    shapes = first_shapes(spec, sizes)
    for at, (_, dtype, shape) in enumerate(operands(spec, shapes)):
        shape = shape if shape is not None else ()
        if not isinstance(spec, (Gemm, Attention)) and spec.inputs[at].dims == "":
            shape = ()
        if dtype.is_floating:
            found.append(torch.randn(shape, generator=generator).to(dtype.to_torch()))
        else:
            found.append(torch.randint(0, 2, shape, generator=generator).to(dtype.to_torch()))
    return found


def schedule_for(spec: Spec, flow: str, sizes: tuple[int, ...], **knobs: int | str) -> Schedule:
    """The default schedule with some knobs changed."""
    default = dataflows.get(flow).default(spec, sizes, CPU)
    return Schedule(flow, tuple((dict(default.knobs) | knobs).items()))


def instantiate(text: str, flow: str, sizes: tuple[int, ...], **knobs: int | str) -> kernel.Kernel:
    spec = parse_spec(text)
    return kernel.instantiate(spec, schedule_for(spec, flow, sizes, **knobs), CPU)


def assert_close(spec: Spec, result: object, inputs: Sequence[torch.Tensor]) -> None:
    """Within the tolerance table of the float64 reference; NaN and infinities at the same places."""
    results = result if isinstance(result, tuple) else (result,)
    reference = evaluate_spec(spec, inputs)
    eager = evaluate_spec(spec, inputs, exact=False)
    for out, ref, own, dtype in zip(results, reference, eager, spec.output_dtypes, strict=True):
        assert out.shape == ref.shape
        assert out.dtype == dtype.to_torch()
        if not dtype.is_floating:
            assert torch.equal(out, ref)
            continue
        ref, own, out = ref.double(), own.double(), out.double()
        assert torch.equal(out.isnan(), ref.isnan())
        finite = ref.isfinite() & own.isfinite()
        assert torch.equal(out[ref.isinf()], ref[ref.isinf()])
        if finite.any():
            error = (out - ref)[finite].abs().max().item()
            limit = bound(dtype, (own - ref)[finite].abs().max().item(), ref[finite].abs().max().item())
            assert error <= limit, f"error {error:.3g} > {limit:.3g}"


def run(
    text: str, flow: str, sizes: tuple[int, ...], inputs: list[torch.Tensor] | None = None, **knobs: int | str
):
    """Make operands, run the dataflow, hold the result against the oracle."""
    spec = parse_spec(text)
    made = inputs if inputs is not None else make(spec, sizes)
    built = instantiate(text, flow, sizes, **knobs)
    result = built(made)
    assert_close(spec, result, made)
    return built, result
