"""Compile time of every template at its default schedules: processor time from Spec to callable."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator

import triton

from benchmarks.common import Bar
from benchmarks.cpu_engine import attention, products, rows
from benchmarks.cpu_engine.cells import Found
from headrace.codegen.dataflows import dataflows
from headrace.codegen.kernel import Kernel, instantiate
from headrace.compiler.devices import host_device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec, parse_spec

MEDIAN, WORST = 0.200, 0.500  # seconds
_GATED = (
    "Gemm{x=bf16; weights=[w0:bf16[11008,4096]nk, w1:bf16[11008,4096]nk]; extras=[]; "
    "outputs=[bf16 = mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1)]; batched=false}"
)
_BIASED = (
    "Gemm{x=bf16; weights=[w0:bf16[4096,4096]nk]; extras=[b:bf16[n], r:bf16[mn]]; "
    "outputs=[bf16 = add(add(acc_w0, b), r)]; batched=false}"
)
_CACHED = (
    "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[32, 8, 8]; dims=[128, 128]; "
    "score=mul(s, 0.08838834764831843); mask=le(j, add(i, p)); normalizer=exp/sum/online; safe=false; "
    "extras=[p:i64[]]}"
)


def cases() -> Iterator[tuple[str, Spec, tuple[int, ...]]]:
    """What the templates are compiled for: label, Spec, run-time sizes."""
    for m in (1, 8, 32, 512):
        for dtype, layout in (("bf16", "nk"), ("bf16", "kn"), ("f32", "nk"), ("f32", "kn")):
            yield f"product M={m} {dtype} {layout}", products.product(m, 4096, 4096, dtype, layout), (m,)
        yield f"gated M={m}", parse_spec(_GATED), (m,)
        yield f"bias and residual M={m}", parse_spec(_BIASED), (m,)
    for dtype in ("bf16", "f32"):
        for width in (64, 128):
            for causal in (False, True):
                label = f"attention {dtype} D={width}{' causal' if causal else ''}"
                yield label, attention.spec(dtype, 8, 8, width, causal=causal), (1, 1024, 1024)
            yield f"grouped {dtype} D={width}", attention.spec(dtype, 32, 8, width), (1, 1, 4096)
    yield "static cache", parse_spec(_CACHED), (1, 1, 4096)
    yield "static cache, 512 queries", parse_spec(_CACHED), (1, 512, 4096)
    yield "softmax", parse_spec(rows.SOFTMAX), (4096, 4096)
    for name, text in (("RMSNorm", rows.RMS_NORM), ("LayerNorm", rows.LAYER_NORM), ("SwiGLU", rows.SWIGLU)):
        yield name, parse_spec(text), (2048, 4096)


def run(rounds: int, found: Found) -> None:
    """Compile every case by every dataflow, the first one unmeasured."""
    device = host_device()
    todo = [
        (label, spec, sizes, flow.default(spec, sizes, device))
        for label, spec, sizes in cases()
        for flow in dataflows(spec, sizes, device)
        if flow.name != "library"
    ]
    _compile(*todo[0][1:])
    spent: dict[str, list[tuple[float, str]]] = {}
    slow: list[str] = []
    for label, spec, sizes, schedule in todo:
        times = []
        for _ in range(rounds or 3):
            seconds, kernel = _compile(spec, sizes, schedule)
            times.append(seconds)
        spent.setdefault(schedule.dataflow, []).append((statistics.median(times), label))
        engines = kernel.launch_info["engine"]
        if set(engines) != {"vector"}:
            slow.append(f"{label} by {schedule.dataflow}: lowered by {engines}")
    for name, each in spent.items():
        longest, label = max(each)
        middle = statistics.median(time for time, _ in each)
        found.rows.append(
            (
                f"compile {name}, {len(each)} configurations",
                f"median {middle * 1e3:.0f} ms",
                "-",
                "-",
                "-",
                "-",
                "-",
            )
        )
        found.rows.append(
            (f"compile {name}, worst: {label}", f"{longest * 1e3:.0f} ms", "-", "-", "-", "-", "-")
        )
    every = [time for each in spent.values() for time, _ in each]
    for name, value, bound in (("median", statistics.median(every), MEDIAN), ("worst", max(every), WORST)):
        bar = Bar(f"compile time, {name} (s)", value, bound, at_most=True)
        found.bars.append(bar)
        found.rows.append(
            (
                f"compile, {name} of {len(every)}",
                f"{value * 1e3:.0f} ms",
                "-",
                "-",
                "-",
                f"<= {bound * 1e3:.0f} ms",
                bar.word,
            )
        )
    found.notes += slow


def _compile(spec: Spec, sizes: tuple[int, ...], schedule: Schedule) -> tuple[float, Kernel]:
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        start = time.process_time()
        kernel = instantiate(spec, schedule, host_device())
        kernel.prepare(sizes)
        return time.process_time() - start, kernel
