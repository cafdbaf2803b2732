"""The samples of the operation table, run through both lowerings."""

from __future__ import annotations

from functools import cache

import torch
from campaign_core import Check, Verdict, difference
from campaign_numbers import any_floats, any_ints

from headrace.codegen.cpu import jit, runtime, target
from headrace.codegen.cpu.lower import lower
from headrace.codegen.cpu.opsamples import Sample, samples
from headrace.codegen.cpu.parse import parse
from headrace.errors import UnsupportedTtir

N = 1024
DTYPES = {
    "i1": torch.bool,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f64": torch.float64,
    "f8E4M3FN": torch.float8_e4m3fn,
    "f8E5M2": torch.float8_e5m2,
    "f8E4M3FNUZ": torch.float8_e4m3fnuz,
    "f8E5M2FNUZ": torch.float8_e5m2fnuz,
}
# Rounded differently by the two lowerings: sums in another order, the C library against vector polynomials.
_INEXACT = ("math.", "tt.reduce", "tt.scan", "tt.dot", "tt.extern", "tt.approx_divf")


@cache
def everything() -> tuple[Sample, ...]:
    return tuple(samples())


def one_each() -> list[int]:
    """The first supported sample of every operation."""
    first: dict[str, int] = {}
    for k, sample in enumerate(everything()):
        first.setdefault(sample.op, k)
    return list(first.values())


def _filled(kind: str, turn: int) -> torch.Tensor:
    dtype, g = DTYPES[kind], torch.Generator().manual_seed(turn)
    if dtype is torch.bool:
        return torch.randint(0, 2, (N,), generator=g).bool()
    if dtype.itemsize == 1 and dtype.is_floating_point:
        return (torch.arange(N) * (2 * turn + 1) % 256).to(torch.uint8).view(dtype)
    return any_floats(g, N, dtype) if dtype.is_floating_point else any_ints(g, N, dtype, turn)


def refused_by(sample: Sample) -> str:
    """The operation that a refusal names: where a descriptor is used, the one that makes it."""
    return "tt.make_tensor_descriptor" if sample.op.startswith("tt.descriptor_") else sample.op


def judge_sample(index: int) -> Verdict:
    """Whether the lowerings agree on every byte that a sample writes, or within a few units where they round
    differently."""
    sample = everything()[index]
    name, host, made = f"op:{sample.op}/{sample.element}", target.host(), []
    for engine in ("reference", "vector"):
        try:
            lowered = lower(parse(sample.text), host, engine)  # type: ignore[arg-type]  # one of ENGINES
        except UnsupportedTtir as error:
            if engine == "reference" and refused_by(sample) not in str(error):
                return Verdict(name, "mismatch", f"the refusal does not name the operation: {error}")
            return Verdict(name, "declined" if engine == "vector" else "refused", str(error))
        shared = runtime.get(host)
        obj = jit.emit(lowered.ir, host, lowered.passes).obj
        loaded = jit.load(obj, (lowered.entry,), shared.known, host)
        buffers = [_filled(kind, k) for k, kind in enumerate(sample.kinds)]
        shared.callable(loaded.addresses[lowered.entry], lowered.letters, loaded)(1, 1, 1, *buffers, 5)
        made.append(buffers[3])
    # The products' inputs span many binades, so their sums cancel.
    ulps = 256.0 if sample.op == "tt.dot" else 8.0 if sample.op.startswith(_INEXACT) else 0.0
    problem = difference(made[1], made[0], Check("", lambda a: a["o"], None, ulps))
    return Verdict(name, "mismatch" if problem else "ok", problem)
