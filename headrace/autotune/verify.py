"""Right before fast: a kernel is held against the float64 reference before its time counts.

Outputs are poisoned with two patterns, inputs are fresh per seed and hashed before and after, launches are
repeated and must agree bitwise, NaN must lie where the reference has it, and the error is bounded by a
multiple of eager's own error (`ir.tolerance`). The smallest sizes of the bucket are tried as well as the
asked ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.autotune.db.rows import Check, Verdict
from headrace.autotune.inputs import companion, make_inputs
from headrace.autotune.registry import Kernel
from headrace.ir.device import Device
from headrace.ir.dtype import DType
from headrace.ir.evaluate import evaluate_spec
from headrace.ir.spec import Attention, Gemm, Rows, Spec
from headrace.ir.tolerance import bound

REFERENCE = "headrace.ir.evaluate float64"
SEEDS = 3
REPEATS = 10
# A time below this share of what memory and arithmetic allow is a broken timer or skipped work.
PLAUSIBLE = 0.9


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict (`ok`, `wrong` or `crashed`), its cause, and the evidence where the check ran to its end."""

    verdict: Verdict
    cause: str = ""
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """Operands with their float64 results and what eager makes of them in the operands' own dtype."""

    inputs: list[torch.Tensor]
    reference: tuple[torch.Tensor, ...]
    eager: tuple[torch.Tensor, ...]

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in (*self.inputs, *self.reference, *self.eager))


def make_case(
    spec: Spec,
    sizes: tuple[int, ...],
    seed: int,
    scale: float,
    nan: bool,
    device: str,
    fill: float | None = None,
) -> Case:
    inputs = make_inputs(spec, sizes, seed, scale=scale, nan=nan, fill=fill)
    case = (evaluate_spec(spec, inputs), evaluate_spec(spec, inputs, exact=False))
    return Case([operand.to(device) for operand in inputs], *case)


def verify(
    kernel: Kernel,
    spec: Spec,
    sizes: tuple[int, ...],
    seeds: Sequence[int],
    *,
    repeats: int = REPEATS,
    bitwise: bool = True,
    device: str = "cpu",
    cases: Callable[..., Case] = make_case,
) -> Judgement:
    """Judge a kernel.

    Args:
        seeds: at least one; the first is tried at the bucket's smallest sizes too, the last also with a NaN.
        repeats: launches on the same operands that must agree.
        bitwise: whether they must agree to the bit; PyTorch's own operators need not.
        cases: makes (or remembers) a case.
    """
    runs = [(sizes, seed, (1.0, 0.25, 4.0)[at % 3], False) for at, seed in enumerate(seeds)]
    runs.append((sizes, seeds[-1], 1.0, True))
    small = companion(sizes)
    if small is not None:
        runs.append((small, seeds[0], 1.0, False))
    worst, limit = 0.0, 0.0
    for at, (extents, seed, scale, nan) in enumerate(runs):
        # The second seed fills an attention cache to the last key; the others leave it to chance.
        case = cases(spec, extents, seed, scale, nan, device, 1.0 if at == 1 else None)
        where = f"sizes {extents} seed {seed}" + (" with NaN" if nan else "")
        try:
            cause, error, allowed = _judge(kernel, spec, case, repeats if at == 0 else 2, bitwise)
        except Exception as problem:
            return Judgement(Verdict.CRASHED, scrub(f"{type(problem).__name__}: {problem}"))
        if cause:
            return Judgement(Verdict.WRONG, f"{cause} at {where}")
        if error >= worst:
            worst, limit = error, allowed
    return Judgement(Verdict.OK, "", Check(tuple(seeds), REFERENCE, repeats, worst, limit))


def _judge(kernel: Kernel, spec: Spec, case: Case, repeats: int, bitwise: bool) -> tuple[str, float, float]:
    before = fingerprint(case.inputs)
    first: tuple[torch.Tensor, ...] | None = None
    repeats = max(repeats, 2)
    for turn in range(repeats):
        with _Poison(turn % 2):
            results = kernel(case.inputs)
        outputs = tuple(results) if isinstance(results, (tuple, list)) else (results,)
        outputs = tuple(output.cpu() for output in outputs)
        if turn in (0, repeats - 1) and fingerprint(case.inputs) != before:
            return "changes its inputs", 0.0, 0.0
        if first is None:
            first = tuple(output.clone() for output in outputs)
        elif bitwise and not all(map(_same_bits, first, outputs)):
            return f"launch {turn + 1} differs from launch 1", 0.0, 0.0
    assert first is not None
    if len(first) != len(case.reference):
        return f"{len(first)} results instead of {len(case.reference)}", 0.0, 0.0
    worst, limit = 0.0, 0.0
    for dtype, output, reference, eager in zip(
        spec.output_dtypes, first, case.reference, case.eager, strict=True
    ):
        cause, error, allowed = compare(dtype, output, reference, eager)
        if cause:
            return cause, error, allowed
        if error >= worst:
            worst, limit = error, allowed
    return "", worst, limit


def compare(
    dtype: DType, output: torch.Tensor, reference: torch.Tensor, eager: torch.Tensor
) -> tuple[str, float, float]:
    """The cause of a refusal ("" when right), the max-abs error and its bound.

    Infinities and NaN must lie where the reference has them; where eager overflows its dtype, so may the
    kernel.
    """
    if output.dtype != dtype.to_torch() or output.shape != reference.shape:
        wanted = f"{dtype.value}{list(reference.shape)}"
        return f"result is {output.dtype} {list(output.shape)} instead of {wanted}", 0.0, 0.0
    if not dtype.is_floating:
        return ("" if torch.equal(output, reference.to(output.dtype)) else "integer results differ"), 0.0, 0.0
    if output.numel() == 0:
        return "", 0.0, 0.0
    value, own = output.double(), eager.double()
    if not torch.equal(value.isnan(), reference.isnan()):
        return "NaN where the reference has none, or none where it has", 0.0, 0.0
    odd = (reference.isinf() | value.isinf()) & ~reference.isnan()
    if bool((odd & (value != reference) & (value != own)).any()):
        return "infinity where the reference has none, or none where it has", 0.0, 0.0
    finite = reference.isfinite() & value.isfinite()
    error = _largest(value - reference, finite)
    scale = _largest(reference, finite)
    allowed = bound(dtype, _largest(own - reference, finite & own.isfinite()), scale)
    return ("" if error <= allowed else f"max error {error:.3g} > {allowed:.3g}"), error, allowed


def _largest(values: torch.Tensor, where: torch.Tensor) -> float:
    return float(values[where].abs().max()) if bool(where.any()) else 0.0


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def fingerprint(tensors: Sequence[torch.Tensor]) -> str:
    """SHA-256 of the contents."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def floor_seconds(spec: Spec, sizes: tuple[int, ...], device: Device, *, cold: bool) -> float:
    """The time that no right kernel beats: bytes over bandwidth, operations over peak; 0.0 where unknown.

    Bytes count only where operands come from main memory (`cold`), and for an Attention only what no mask can
    spare; a cache's own bandwidth is not known.
    """
    nbytes, flops = 0, 0.0
    wide = False
    match spec:
        case Gemm():
            rows = 1
            for size in sizes:
                rows *= size
            batch = sizes[0] if spec.batched else 1
            nbytes = batch * sum(w.n * w.k * w.dtype.itemsize for w in spec.weights)
            flops = 2.0 * rows * sum(w.n * w.k for w in spec.weights)
            wide = spec.x in (DType.F32, DType.F64)
        case Attention():
            return 0.0
        case Rows():
            return 0.0
    peak = device.flops_f32 if wide else max(device.flops_16, device.flops_f32)
    slowest = flops / peak if peak else 0.0
    if cold and device.bandwidth:
        slowest = max(slowest, nbytes / device.bandwidth)
    return slowest


def scrub(text: str) -> str:
    """The first line of a message, at most 200 characters, without paths."""
    import re

    line = text.strip().splitlines()[0] if text.strip() else ""
    return re.sub(r"(?:~|[A-Za-z]:)?[/\\][^\s'\",:)]+", "<path>", line)[:200]


class _Poison(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Fills new memory with one of two patterns, so that an element nobody writes shows."""

    def __init__(self, pattern: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's class is untyped
        self._pattern = pattern

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in _UNINITIALISED and isinstance(result, torch.Tensor):
            if result.dtype.is_floating_point:
                result.fill_(torch.nan if self._pattern == 0 else 12345.0)
            elif result.dtype is torch.bool:
                result.fill_(self._pattern == 0)
            else:
                result.fill_(85 if self._pattern == 0 else 42)
        return result


_UNINITIALISED = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
