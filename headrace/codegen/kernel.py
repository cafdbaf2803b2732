"""Kernel: a Spec, a Schedule and a Device become something that can be called with tensors.

`instantiate` renders the dataflow's template, writes the text to the kernel directory (Triton and
tracebacks read source from files), compiles it, and binds a launcher to it. Operands in another layout than
the text assumes get another variant of the same kernel or a contiguous copy; empty operands go to the
library. A result is never wrong for the sake of speed: what no variant takes, the library computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from headrace.codegen import families, host, library
from headrace.codegen.gemm import plans as gemm
from headrace.codegen.gemm.choices import STREAM_K
from headrace.codegen.modules import constants_of, interpreted, module_of, unspecialised
from headrace.codegen.operands import operands
from headrace.codegen.plan import Facts, Plan, next_power_of_two
from headrace.codegen.render import render
from headrace.errors import OperandError, ScheduleError
from headrace.ir.device import Backend, Device
from headrace.ir.dtype import DType
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention, Gemm, Rows, Spec

if TYPE_CHECKING:
    from torch import Tensor

_MAX_VARIANTS = 8


@dataclass(frozen=True)
class Variant:
    """One rendered and compiled form of a kernel."""

    facts: Facts
    plan: Plan
    source: str
    path: str
    functions: tuple[Any, ...]
    call: host.Call
    into: host.Into


class Kernel:
    """A callable kernel: `kernel(inputs)` returns one tensor, or a tuple where the Spec has several outputs.

    Gemm and Rows outputs are contiguous; Attention's `[B, H, I, d_v]` is a transposed `[B, I, H, d_v]`, as
    SDPA gives. `into(inputs, outputs)` writes into the caller's tensors instead. Both are plain functions
    bound at the first call.
    """

    __slots__ = (
        "_call",
        "_counters",
        "_device",
        "_direct",
        "_into",
        "_library",
        "_variants",
        "schedule",
        "spec",
    )

    def __init__(self, spec: Spec, schedule: Schedule, device: Device) -> None:
        self.spec = spec
        self.schedule = schedule
        self._device = device
        self._direct = device.backend is Backend.CPU and not interpreted()
        self._library = library.function(spec)
        self._variants: dict[Facts, Variant] = {}
        self._counters: dict[Any, Tensor] = {}
        self._call: host.Call = self._general_call
        self._into: host.Into = self._general

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        result: Tensor | tuple[Tensor, ...] = self._call(inputs)
        return result

    @property
    def fast(self) -> host.Call:
        """The function behind `kernel(inputs)` as it is bound now, for a dispatcher that saves one Python
        call."""
        return self._call

    def into(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Compute into tensors of the Spec's output shapes and dtypes, any strides; they may not overlap
        the inputs."""
        self._into(inputs, outputs)

    @property
    def source(self) -> str:
        """The rendered Triton text of the newest variant, empty for `library`; before the first call, of
        the usual one."""
        if self.schedule.dataflow == "library":
            return ""
        if self._variants:
            return next(reversed(self._variants.values())).source
        plan = families.plan(
            self.spec, self.schedule, self._device, families.facts(self.spec, self.schedule, (1, 1024, 1024))
        )
        return render(plan.template, plan.context)

    @property
    def fallback_rows(self) -> int:
        """Rows that a guarded unified maximum has recomputed, in all calls so far; 0 for other stabilizers.

        A row is one (b, h, i) of an Attention with a visible key, or one row of a Rows. Every call counts,
        warm-up and timing included: take differences. Kernels count on the device: reading waits for it.
        """
        return sum(int(counter.item()) for counter in self._counters.values())

    def _counter(self, device: Any) -> Tensor:
        """The count of recomputed rows on a device, which kernels add to."""
        if device not in self._counters:
            self._counters[device] = _zero_that_stays(device)
        return self._counters[device]

    @property
    def launch_info(self) -> Mapping[str, Any]:
        """For reports: dataflow, file, launches with their grids, and the CPU engine's report where it
        compiled."""
        newest = next(reversed(self._variants.values())) if self._variants else None
        found: dict[str, Any] = {"dataflow": self.schedule.dataflow, "variants": len(self._variants)}
        if newest is not None:
            found["path"] = newest.path
            found["launches"] = tuple((launch.function, launch.grid) for launch in newest.plan.launches)
            if self._direct:
                found["engine"] = tuple(f.engine for f in newest.functions)
                found["engine_reason"] = tuple(f.engine_reason for f in newest.functions)
                found["compile_ms"] = sum(f.compile_ms for f in newest.functions)
        return MappingProxyType(found)

    def prepare(self, sizes: tuple[int, ...]) -> None:
        """Compile for the usual layout at these run-time sizes, so that the first call does not."""
        if self.schedule.dataflow == "library" or 0 in sizes:
            return
        facts = families.facts(self.spec, self.schedule, sizes)
        if facts not in self._variants:
            self._install(self._build(facts))

    def _install(self, variant: Variant) -> None:
        self._call, self._into = variant.call, variant.into

    def _build(self, facts: Facts) -> Variant:
        plan = families.plan(self.spec, self.schedule, self._device, facts)
        if isinstance(self.spec, Gemm) and facts != gemm.default_facts(self.spec):
            plan = gemm.with_weight_strides(plan, self.spec, facts)
        text = render(plan.template, plan.context)
        path, module = module_of(plan.template, text)
        functions = tuple(self._compiled(module, plan, at) for at in range(len(plan.launches)))
        launchers = [f.launch for f in functions] if self._direct else functions
        call, into = host.bind(
            plan, self.spec, launchers, self._general, self._counter, self._device, direct=self._direct
        )
        variant = Variant(facts, plan, text, path, functions, call, into)
        self._variants[facts] = variant
        return variant

    def _compiled(self, module: Mapping[str, Any], plan: Plan, at: int) -> Any:
        launch = plan.launches[at]
        function = module[launch.function]
        if not self._direct:
            return function if interpreted() else unspecialised(function, launch)
        from headrace.codegen.cpu.direct import compile_direct

        return compile_direct(function, {p.name: p.type for p in launch.params}, constants_of(function))

    def _general_call(self, inputs: Sequence[Tensor]) -> Any:
        return self._general(inputs, None)

    def _general(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor] | None) -> Any:
        """Any operands: check, make them fit a variant, compute. The fast path is set to the first variant
        that fits."""
        shapes = check(self.spec, inputs)
        if self._device.backend is not Backend.CPU:
            inputs = [t if t.dim() else t.to(inputs[0].device) for t in inputs]
        empty = any(0 in shape for shape in shapes) or any(0 in s for s in self.spec.output_shapes(shapes))
        if self.schedule.dataflow == "library" or empty or self._too_many(shapes):
            return self._from_library(inputs, outputs)
        fitted, facts = self._fit(inputs, shapes)
        variant = self._variants.get(facts)
        if variant is None:
            variant = self._build(facts)
            if all(a is b for a, b in zip(fitted, inputs, strict=True)):
                self._install(variant)
        if not host.in_grid(variant.plan, self._device, _sizes(self.spec, shapes)):
            return self._from_library(inputs, outputs)
        results = _allocate(self.spec, shapes, inputs[0]) if outputs is None else tuple(outputs)
        rows_only = isinstance(self.spec, Attention)
        usable = [r if (r.stride(-1) == 1 if rows_only else r.is_contiguous()) else _like(r) for r in results]
        variant.into(fitted, usable)
        for result, written in zip(results, usable, strict=True):
            if result is not written:
                result.copy_(written)
        if outputs is None:
            return results if len(results) > 1 else results[0]
        return None

    def _too_many(self, shapes: Sequence[Sequence[int]]) -> bool:
        """Whether a call has more steps than its kernel can number: schedules are made for sizes, and called
        with any."""
        if self.schedule.dataflow != "stream_k":
            return False
        sizes = self.spec.sizes(shapes)
        return STREAM_K.legal(self.spec, sizes, self.schedule, self._device) is not None

    def _from_library(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor] | None) -> Any:
        if outputs is None and self.schedule.dataflow == "library":
            self._call = self._library
        results = self._library(inputs)
        if outputs is None:
            return results
        for output, result in zip(
            outputs, results if isinstance(results, tuple) else (results,), strict=True
        ):
            output.copy_(result)
        return None

    def _fit(self, inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> tuple[list[Tensor], Facts]:
        """Operands that some variant takes, and the Facts of that variant."""
        if isinstance(self.spec, Gemm):
            return self._fit_gemm(inputs)
        if isinstance(self.spec, Rows):
            return self._fit_rows(inputs, self.spec, shapes)
        reading = [extra.dims for extra in self.spec.extras]
        fitted = [_inner(t) for t in inputs[:3]]
        fitted += [
            _inner(t) if dims.endswith("j") else t for t, dims in zip(inputs[3:], reading, strict=True)
        ]
        return fitted, families.facts(self.spec, self.schedule, self.spec.sizes(shapes))

    def _fit_gemm(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], Facts]:
        spec = self.spec
        assert isinstance(spec, Gemm)
        weights = inputs[1 : 1 + len(spec.weights)]
        usual = gemm.default_facts(spec)
        plain = [t.contiguous() for t in inputs]
        if all(w.is_contiguous() for w in weights) or any(w.stride(-1) != 1 for w in weights):
            return plain, usual
        strides = tuple(
            (w.stride(0) if spec.batched else w.shape[0] * w.stride(-2), w.stride(-2)) for w in weights
        )
        facts = Facts(strides=strides)
        if facts not in self._variants and len(self._variants) >= _MAX_VARIANTS:
            return plain, usual
        return [plain[0], *weights, *plain[1 + len(weights) :]], facts

    def _fit_rows(
        self, inputs: Sequence[Tensor], spec: Rows, shapes: Sequence[Sequence[int]]
    ) -> tuple[list[Tensor], Facts]:
        n = spec.sizes(shapes)[1]
        fitted = [t.contiguous() if extra.dims else t for t, extra in zip(inputs, spec.inputs, strict=True)]
        if not self._variants or Facts(sizes=(n,)) in self._variants:
            return fitted, Facts(sizes=(n,))
        return fitted, Facts(sizes=(-next_power_of_two(n) if self.schedule.dataflow == "row" else -1,))


def _sizes(spec: Spec, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """The run-time sizes by the names that launchers give them."""
    names = {
        "Attention": "BIJ",
        "Gemm": "BM" if isinstance(spec, Gemm) and spec.batched else "M",
        "Rows": "RN",
    }
    return dict(zip(names[spec.kind], map(int, spec.sizes(shapes)), strict=True))


def _inner(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else _forced_contiguous(tensor)


def _zero_that_stays(device: Any) -> Tensor:
    """One int64 of 0, in memory of its own also while the caller records a CUDA graph: a graph's memory is
    written again by its next replay, and what was asked for on another thread is not part of it."""
    import torch

    def make() -> Tensor:
        made = torch.zeros(1, dtype=torch.int64, device=device)
        if made.is_cuda:
            torch.cuda.current_stream(device).synchronize()
        return made

    if torch.device(device).type == "cpu":
        return make()
    with ThreadPoolExecutor(1) as other:
        return other.submit(make).result()


def _like(tensor: Tensor) -> Tensor:
    """New memory, contiguous with a last stride of 1, also where the last dimension has one element."""
    import torch

    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _forced_contiguous(tensor: Tensor) -> Tensor:
    return _like(tensor).copy_(tensor)


def _allocate(spec: Spec, shapes: Sequence[Sequence[int]], like: Tensor) -> tuple[Tensor, ...]:
    import torch

    found = []
    for shape, dtype in zip(spec.output_shapes(shapes), spec.output_dtypes, strict=True):
        if isinstance(spec, Attention):
            b, h, i, d = shape
            found.append(
                torch.empty((b, i, h, d), dtype=dtype.to_torch(), device=like.device).transpose(1, 2)
            )
        else:
            found.append(torch.empty(tuple(shape), dtype=dtype.to_torch(), device=like.device))
    return tuple(found)


def check(spec: Spec, inputs: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the operands, after holding them against the Spec.

    Raises:
        OperandError: number, dtype or shape of an operand differs from what the Spec states.
    """
    shapes = tuple(tuple(t.shape) for t in inputs)
    expected = operands(spec, shapes)
    if len(expected) != len(inputs):
        raise OperandError(f"{spec.kind} takes {len(expected)} operands, not {len(inputs)}")
    for tensor, shape, (name, dtype, want) in zip(inputs, shapes, expected, strict=True):
        if DType.from_torch(tensor.dtype) is not dtype:
            raise OperandError(f"operand {name} is {tensor.dtype}, the Spec says {dtype.value}")
        if want is not None and shape != want:
            raise OperandError(f"operand {name} has shape {list(shape)}, expected {list(want)}")
    return shapes


def instantiate(
    spec: Spec, schedule: Schedule, device: Device, sizes: tuple[int, ...] | None = None
) -> Kernel:
    """A kernel for a Spec on a device. With `sizes` (as `spec.sizes` gives them) it is compiled at once.

    Raises:
        ScheduleError: the schedule is not legal for the Spec on the device.
        UnsupportedTtir, CpuEngineError: the CPU engine does not take the kernel.
    """
    if schedule.dataflow != "library":
        from headrace.codegen import dataflows

        reason = dataflows.get(schedule.dataflow).legal(spec, sizes, schedule, device)
        if reason is not None:
            raise ScheduleError(f"{schedule} does not fit {spec.kind}: {reason}")
    kernel = Kernel(spec, schedule, device)
    if sizes is not None:
        kernel.prepare(sizes)
    return kernel
