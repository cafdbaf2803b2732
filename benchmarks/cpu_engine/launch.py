"""What a launch costs: through `@triton.jit` and directly, on a grid too small to do any work."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import cpu_kernels
from benchmarks.common import Bar
from benchmarks.cpu_engine.cells import Found
from headrace.codegen.cpu.direct import compile_direct

THROUGH_TRITON, DIRECT = 20.0, 3.0  # microseconds
_CALLS, _BLOCK = 200, 64


def run(rounds: int, best: bool, found: Found) -> None:
    """Chunks of calls of both kinds in turn; two programs, so that two threads take part."""
    x, y, out = torch.randn(2 * _BLOCK), torch.randn(2 * _BLOCK), torch.empty(2 * _BLOCK)
    n = x.numel()
    kernel = compile_direct(
        cpu_kernels.add, {"X": "*fp32", "Y": "*fp32", "OUT": "*fp32", "n": "i32"}, {"BLOCK": _BLOCK}
    )
    launch, addresses = kernel.launch, (x.data_ptr(), y.data_ptr(), out.data_ptr(), n)

    def direct() -> None:
        launch(2, 1, 1, *addresses)

    def through_triton() -> None:
        cpu_kernels.add[(2,)](x, y, out, n, BLOCK=_BLOCK)

    def tensor_launch() -> None:
        launch(2, 1, 1, x, y, out, n)

    steps = {"through @triton.jit": through_triton, "direct": direct, "direct, from tensors": tensor_launch}
    bounds = {"through @triton.jit": THROUGH_TRITON, "direct": DIRECT}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        _chunk(step)
    for _ in range(rounds or 60):
        for name, step in steps.items():
            times[name].append(_chunk(step))
    threads = torch.get_num_threads()
    for name, each in times.items():
        middle = min if best else statistics.median
        value, half = middle(each), len(each) // 2
        shown = f"{value:.2f} µs"
        wanted, word = "-", "-"
        if name in bounds:
            halves = min(middle(each[:half]), middle(each[half:])) if half else value
            bar = Bar(
                f"launch {name}, {threads} threads (µs)", value, bounds[name], at_most=True, best=halves
            )
            found.bars.append(bar)
            wanted, word = f"<= {bounds[name]:.0f} µs", bar.word
        found.rows.append((f"launch {name}", shown, "-", "-", "-", wanted, word))


def _chunk(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(_CALLS):
        step()
    return (time.perf_counter() - start) / _CALLS * 1e6
