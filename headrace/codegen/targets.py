"""Targets that kernels are built for without the hardware, and the table of what the builds need.

Figures come from the makers' data sheets and programming guides (NVIDIA A100, H100 SXM and B200; AMD
Instinct MI300X): shared memory is what one block may use, registers are per multiprocessor or compute unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from headrace.errors import BuildError
from headrace.ir.device import Backend, Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec, parse_spec

GPU_TARGETS: Mapping[str, Device] = {
    "cuda:80": Device("NVIDIA A100-SXM4-80GB", Backend.CUDA, "sm_80", 108, on_chip_bytes=163 << 10,
                      last_level_bytes=40 << 20, registers=65536, warp=32, bandwidth=2.039e12,
                      flops_f32=19.5e12, flops_16=312e12, launch_seconds=4e-6, memory_bytes=80 << 30),
    "cuda:90": Device("NVIDIA H100 80GB HBM3", Backend.CUDA, "sm_90", 132, on_chip_bytes=227 << 10,
                      last_level_bytes=50 << 20, registers=65536, warp=32, bandwidth=3.35e12,
                      flops_f32=67e12, flops_16=989e12, launch_seconds=4e-6, memory_bytes=80 << 30),
    "cuda:100": Device("NVIDIA B200", Backend.CUDA, "sm_100", 148, on_chip_bytes=227 << 10,
                       last_level_bytes=126 << 20, registers=65536, warp=32, bandwidth=8e12,
                       flops_f32=80e12, flops_16=2.25e15, launch_seconds=4e-6, memory_bytes=180 << 30),
    "hip:gfx942": Device("AMD Instinct MI300X", Backend.ROCM, "gfx942", 304, on_chip_bytes=64 << 10,
                         last_level_bytes=256 << 20, registers=131072, warp=64, bandwidth=5.3e12,
                         flops_f32=163.4e12, flops_16=1.307e15, launch_seconds=6e-6, memory_bytes=192 << 30),
}  # fmt: skip


def device_of(target: str) -> Device:
    """The Device that a target's builds assume.

    Raises:
        BuildError: the target is not one of GPU_TARGETS.
    """
    if target not in GPU_TARGETS:
        raise BuildError(f"target {target!r} is unknown; known: {', '.join(GPU_TARGETS)}, cpu")
    return GPU_TARGETS[target]


@dataclass(frozen=True, slots=True)
class Example:
    """A Spec with sizes at which one dataflow is the natural choice."""

    title: str
    dataflow: str
    spec: str
    sizes: tuple[int, ...]


_QKV = (
    "Gemm{{x={0}; weights=[w0:{0}[4096,4096]nk, w1:{0}[1024,4096]nk, w2:{0}[1024,4096]nk]; extras=[]; "
    "outputs=[{0} = acc_w0, {0} = acc_w1, {0} = acc_w2]; batched=false}}"
)
_GATE = (
    "Gemm{{x={0}; weights=[w0:{0}[14336,4096]nk, w1:{0}[14336,4096]nk]; extras=[]; "
    "outputs=[{0} = mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1)]; batched=false}}"
)
_ATTENTION = (
    "Attention{{q={0}; k={0}; v={0}; out={0}; heads=[32, 8, 8]; dims=[128, 128]; "
    "score=mul(s, 0.08838834764831845); mask=le(j, add(i, p)); normalizer=exp/sum/online; "
    "safe=false; extras=[p:i64[]]}}"
)
_NORM = (
    "Rows{{inputs=[x:{0}[rn], w:{0}[n]]; reductions=[s = sum(mul(x, x))]; "
    "outputs=[{0} = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}}"
)
_SOFTMAX = (
    "Rows{{inputs=[x:{0}[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[{0} = div(exp(sub(x, m)), s)]; reduced=[]}}"
)


def examples(dtype: str = "bf16") -> tuple[Example, ...]:
    """One Spec per dataflow at the shapes of an 8-billion-parameter decoder."""
    rows = (
        ("QKV projections, M = 1", "gemv", _QKV, (1,)),
        ("QKV projections, M = 4", "gemv", _QKV, (4,)),
        ("gate and up with SwiGLU, M = 1", "gemv", _GATE, (1,)),
        ("QKV projections, M = 8", "flat", _QKV, (8,)),
        ("gate and up with SwiGLU, M = 16", "flat", _GATE, (16,)),
        ("QKV projections, M = 2048", "tiled", _QKV, (2048,)),
        ("gate and up with SwiGLU, M = 2048", "tiled", _GATE, (2048,)),
        ("attention, 2048 queries", "prefill", _ATTENTION, (1, 2048, 2048)),
        ("attention, 1 query, 8192 keys", "decode", _ATTENTION, (1, 1, 8192)),
        ("attention, 4 queries, 8192 keys", "decode", _ATTENTION, (1, 4, 8192)),
        ("RMSNorm, 4096 columns", "row", _NORM, (2048, 4096)),
        ("softmax, 128256 columns", "row_loop", _SOFTMAX, (16, 128256)),
    )
    return tuple(Example(title, flow, text.format(dtype), sizes) for title, flow, text, sizes in rows)


@dataclass(frozen=True, slots=True)
class Line:
    """One kernel of one build in the table."""

    target: str
    title: str
    schedule: Schedule
    kernel: str
    registers: int
    spills: int
    shared_bytes: int
    matrix: str


def table(
    targets: Sequence[str] = tuple(GPU_TARGETS), chosen: Iterable[Example] | None = None
) -> tuple[Line, ...]:
    """Build every example with its default schedule for every target and read the artefacts.

    Raises:
        BuildError: a kernel does not build.
    """
    from headrace.codegen import dataflows
    from headrace.codegen.build import build

    found = []
    for target in targets:
        device = device_of(target)
        for example in chosen if chosen is not None else examples():
            spec: Spec = parse_spec(example.spec)
            schedule = dataflows.get(example.dataflow).default(spec, example.sizes, device)
            for kernel in build(spec, schedule, target, example.sizes).kernels:
                r = kernel.resources
                found.append(Line(target, example.title, schedule, kernel.name, r.registers, r.spills,
                                  r.shared_bytes, r.matrix_text))  # fmt: skip
    return tuple(found)


def markdown(lines: Iterable[Line]) -> str:
    """The table as Markdown."""
    rows = ["| target | kernel | schedule | registers | spilled bytes | shared bytes | matrix instructions |",
            "|---|---|---|---:|---:|---:|---|"]  # fmt: skip
    for line in lines:
        rows.append(
            f"| {line.target} | {line.title} (`{line.kernel}`) | `{line.schedule}` | {line.registers} "
            f"| {line.spills} | {line.shared_bytes} | {line.matrix} |"
        )
    return "\n".join(rows) + "\n"
