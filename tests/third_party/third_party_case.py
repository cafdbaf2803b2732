"""What a third-party case is, and how one is judged.

A case runs an operator of a package on CPU tensors as its author wrote it, and the package's (or torch's)
own reference on the same numbers: once in float64, which is the truth, once in the operator's dtype, which is
what eager PyTorch would have lost. Outputs and gradients must lie within the project's tolerance table. A
case whose forward or backward launches no Triton kernel fails: an operator that quietly computes with PyTorch
proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from triton import knobs

from headrace.ir.dtype import DType
from headrace.ir.tolerance import EPSILON, bound

DTYPES = {
    torch.float64: DType.F64,
    torch.float32: DType.F32,
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
}
# What eager PyTorch may lose against float64, relative to the largest value; more means the two references
# do not compute the same thing, and would excuse anything.
_USUAL = {torch.float64: 1e-10, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
Inputs = dict[str, Any]
Outputs = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One operator at one shape and dtype.

    ``inputs`` makes the arguments by name, after the generator was seeded; floating-point tensors that
    require a gradient get one compared. ``ours`` and ``reference`` take the same arguments and give tensors;
    None is skipped. ``factor`` widens the table's bound where the operator's own algorithm loses more than
    the reference's, for the reason in ``why``; ``ratio`` replaces it by the package's own criterion, the root
    mean square of the error over that of the reference. ``kernels_backward`` is false where the author's
    backward pass is PyTorch alone.
    """

    package: str
    op: str
    variant: str
    inputs: Callable[[], Inputs]
    ours: Callable[..., Any]
    reference: Callable[..., Any]
    backward: bool = True
    factor: float = 1.0
    ratio: float | None = None
    why: str = ""
    kernels_backward: bool = True
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.package}-{self.op}-{self.variant}"


@dataclass
class Verdict:
    """What came out: per direction empty text for passed, else what was wrong."""

    forward: str = ""
    backward: str | None = ""
    worst: dict[str, float] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    compile_ms: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class InFloat64(TorchDispatchMode):
    """Computes in float64 whatever the code inside asks to be computed in a narrower float."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        narrow = (torch.float32, torch.float16, torch.bfloat16)
        wide = {k: torch.float64 if v in narrow else v for k, v in (kwargs or {}).items()}
        args = tuple(torch.float64 if isinstance(a, torch.dtype) and a in narrow else a for a in args)
        result = func(*args, **wide)
        return tree_map_only(torch.Tensor, lambda t: t.double() if t.dtype in narrow else t, result)


@dataclass
class Watch:
    """Kernels launched and compiled while it watches, through Triton's own hooks."""

    launched: set[str] = field(default_factory=set)
    engines: dict[str, str] = field(default_factory=dict)
    compile_ms: dict[str, float] = field(default_factory=dict)

    def enter(self, metadata: Any) -> None:
        self.launched.add(metadata.get()["name"].removesuffix(".worker"))

    def compiled(
        self, *, src: Any, metadata: Mapping[str, Any], times: Any, cache_hit: bool, **_: Any
    ) -> None:
        name = metadata["name"].removesuffix(".worker")
        # The worst engine of the kernel's specialisations is the one worth knowing.
        if self.engines.get(name, "vector") == "vector":
            reason = metadata["engine_reason"]
            self.engines[name] = f"{metadata['engine']}{': ' + reason if reason else ''}"
        if not cache_hit:
            self.compile_ms[name] = max(self.compile_ms.get(name, 0.0), times.total / 1e3)


@contextmanager
def watching() -> Iterator[Watch]:
    """Observe launches and compilations."""
    watch = Watch()
    before = knobs.compilation.listener
    knobs.compilation.listener = watch.compiled
    knobs.runtime.launch_enter_hook.add(watch.enter)
    try:
        yield watch
    finally:
        knobs.runtime.launch_enter_hook.remove(watch.enter)
        knobs.compilation.listener = before


def judge(case: Case, seed: int = 0) -> Verdict:
    """Run the case and compare. Errors that the operator raises become the verdict of the direction."""
    torch.manual_seed(seed)
    given = case.inputs()
    verdict = Verdict(backward="" if case.backward else None)
    begin = time.perf_counter()
    with watching() as watch:
        try:
            arguments = _copy(given, None)
            outputs = _tensors(case.ours(**arguments))
            if not watch.launched:
                verdict.forward = "launched no kernel"
        except Exception as error:
            verdict.forward = _describe(error)
            verdict.backward = "no forward" if case.backward else None
            return _finish(verdict, watch, begin)
        forward_kernels = set(watch.launched)
        watch.launched.clear()
        gradients: dict[str, torch.Tensor] = {}
        if case.backward:
            try:
                gradients = _gradients(case, arguments, outputs)
                if case.kernels_backward and not watch.launched:
                    verdict.backward = "launched no kernel"
            except Exception as error:
                verdict.backward = _describe(error)
        watch.launched |= forward_kernels
    _finish(verdict, watch, begin)
    # Losses of half-precision inputs may come in float32; they are no better for it.
    floats = [v.dtype for v in given.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    narrowest = max(floats, key=lambda d: EPSILON[DTYPES[d]], default=torch.float32)
    exact, exact_gradients = _reference(case, given, torch.float64)
    eager, eager_gradients = _reference(case, given, None)
    found = _compare(
        case,
        verdict,
        [f"out{i}" for i in range(len(outputs))],
        outputs,
        exact,
        eager,
        backward=False,
        inputs=narrowest,
    )
    verdict.forward = verdict.forward or found
    if case.backward and not verdict.backward:
        names = [n for n in exact_gradients if n in gradients]
        lost = [n for n in exact_gradients if n not in gradients]
        if lost:
            verdict.backward = f"no gradient for {', '.join(lost)}"
            return verdict
        verdict.backward = _compare(
            case,
            verdict,
            [f"d{n}" for n in names],
            [gradients[n] for n in names],
            [exact_gradients[n] for n in names],
            [eager_gradients[n] for n in names],
            backward=True,
            inputs=narrowest,
        )
    return verdict


def _finish(verdict: Verdict, watch: Watch, begin: float) -> Verdict:
    verdict.seconds = time.perf_counter() - begin
    verdict.kernels = {n: watch.engines.get(n, "") for n in sorted(watch.launched | set(watch.engines))}
    verdict.compile_ms = watch.compile_ms
    return verdict


def _describe(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {cause}"


def _copy(given: Inputs, dtype: torch.dtype | None) -> Inputs:
    """Fresh leaves, so that in-place operators and gradients of one run do not reach the next."""

    def one(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        wanted = dtype if dtype is not None and value.is_floating_point() else value.dtype
        return value.detach().clone().to(wanted).requires_grad_(value.requires_grad)

    return {name: one(value) for name, value in given.items()}


def _tensors(result: Any) -> list[torch.Tensor]:
    found = result if isinstance(result, Iterable) and not isinstance(result, torch.Tensor) else [result]
    return [t for t in found if isinstance(t, torch.Tensor)]


def _gradients(case: Case, arguments: Inputs, outputs: Outputs) -> dict[str, torch.Tensor]:
    """Gradients of a fixed random combination of the outputs."""
    names = [n for n, v in arguments.items() if isinstance(v, torch.Tensor) and v.requires_grad]
    generator = torch.Generator().manual_seed(1234)
    directions, live = [], []
    for output in outputs:
        # Eighths are exact in every dtype, so all runs get the same direction.
        direction = torch.randint(-8, 9, output.shape, generator=generator).to(output.dtype) / 8
        if output.requires_grad:
            live.append(output)
            directions.append(direction)
    found = torch.autograd.grad(live, [arguments[n] for n in names], directions, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def _reference(
    case: Case, given: Inputs, dtype: torch.dtype | None
) -> tuple[Outputs, dict[str, torch.Tensor]]:
    arguments = _copy(given, dtype)

    def run() -> tuple[Outputs, dict[str, torch.Tensor]]:
        outputs = _tensors(case.reference(**arguments))
        return outputs, _gradients(case, arguments, outputs) if case.backward else {}

    if dtype is None:
        return run()
    with InFloat64():
        return run()


def _compare(
    case: Case,
    verdict: Verdict,
    names: Sequence[str],
    ours: Outputs,
    exact: Outputs,
    eager: Outputs,
    *,
    backward: bool,
    inputs: torch.dtype,
) -> str:
    if len(ours) != len(exact):
        return f"{len(ours)} results where the reference gives {len(exact)}"
    for name, mine, true, usual in zip(names, ours, exact, eager, strict=True):
        if mine.shape != true.shape:
            return f"{name} has shape {tuple(mine.shape)}, not {tuple(true.shape)}"
        if not mine.is_floating_point():
            if not torch.equal(mine, true.to(mine.dtype)):
                return f"{name} differs"
            continue
        a, b, c = (t.detach().double() for t in (mine, true, usual))
        if not (torch.equal(a.isnan(), b.isnan()) and torch.equal(a.isinf(), b.isinf())):
            return f"{name}: NaN or infinity in other places than the reference's"
        keep = b.isfinite()
        if not keep.any():
            continue
        a, b, c = a[keep], b[keep], c[keep]
        dtype = max(mine.dtype, inputs, key=lambda d: EPSILON[DTYPES[d]])
        if case.ratio is not None:
            share = float((a - b).square().mean().sqrt() / (b.square().mean().sqrt() + 1e-8)) / case.ratio
        else:
            limit = bound(DTYPES[dtype], float((c - b).abs().max()), float(b.abs().max()), backward=backward)
            share = float((a - b).abs().max()) / max(limit * case.factor, 1e-300)
        if float((c - b).abs().max()) > _USUAL[dtype] * float(b.abs().max()) + 1e-6:
            return f"{name}: the reference in {dtype} is too far from itself in float64 to judge by"
        verdict.worst[name] = share
        if share > 1:
            return f"{name}: error is {share:.3g} times the bound"
    return ""


def autotuners(*packages: str) -> list[Any]:
    """All autotuned kernels in the loaded modules of the packages."""
    import sys

    found: dict[int, Any] = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] not in packages:
            continue
        for value in list(vars(module).values()):
            while type(value).__module__.split(".")[0] in ("triton", *packages) and hasattr(value, "fn"):
                if isinstance(value, triton.runtime.Autotuner):
                    found[id(value)] = value
                value = value.fn
    return list(found.values())


@contextmanager
def configuration(index: int, tuners: Sequence[Any]) -> Iterator[None]:
    """Every autotuned kernel takes the ``index``-th (cyclically) of its configurations that differ in more
    than warps, stages and the like, after its author's own pruning. Nothing is timed."""

    def pick(tuner: Any, prune: Callable[[Any], list[Any]]) -> Callable[[Any], list[Any]]:
        def pruned(kwargs: Any) -> list[Any]:
            distinct: dict[str, Any] = {}
            for config in prune(kwargs):
                distinct.setdefault(str(sorted(config.kwargs.items())), config)
            return [list(distinct.values())[index % len(distinct)]]

        return pruned

    for tuner in tuners:
        tuner.cache.clear()
        tuner.prune_configs = pick(tuner, type(tuner).prune_configs.__get__(tuner))
    try:
        yield
    finally:
        for tuner in tuners:
            del tuner.prune_configs
            tuner.cache.clear()
