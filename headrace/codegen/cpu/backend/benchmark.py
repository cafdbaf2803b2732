"""Timing on the CPU for ``triton.autotune`` and ``triton.testing.do_bench``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def do_bench(
    fn: Callable[[], Any],
    warmup: float = 5,
    rep: float = 50,
    grad_to_none: Any = None,
    quantiles: Sequence[float] | None = None,
    return_mode: str = "mean",
    **_: Any,
) -> Any:
    """Wall time of ``fn()`` in milliseconds, with the arguments of ``triton.testing.do_bench``.

    Runs for ``warmup`` and then ``rep`` milliseconds, but at least once and five times; a slow one is not
    called again once it took four times ``rep`` and 20 ms. Data stays in the caches as the previous call left
    it. With ``quantiles`` the result is a list (a float for a single one).
    """
    clock = time.perf_counter_ns

    def once() -> float:
        for tensor in grad_to_none or ():
            tensor.grad = None
        start = clock()
        fn()
        return (clock() - start) / 1e6

    spent = once()
    while spent < warmup:
        spent += max(once(), 1e-4)
    times: list[float] = []
    total = 0.0
    while not times or total < rep or (len(times) < 5 and total < max(4 * rep, 20)):
        times.append(once())
        total += max(times[-1], 1e-4)
    times.sort()
    if quantiles is not None:
        picked = [_quantile(times, q) for q in quantiles]
        return picked if len(picked) != 1 else picked[0]
    if return_mode == "all":
        return times
    modes: dict[str, Callable[[list[float]], float]] = {
        "min": min,
        "max": max,
        "median": statistics.median,
        "mean": statistics.fmean,
    }
    return modes[return_mode](times)


def _quantile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation between the nearest ranks, as ``torch.quantile``."""
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


class Event:
    """A point in time, like ``torch.cuda.Event``; work on the CPU is done when a call returns."""

    def __init__(self, enable_timing: bool = True, **_: Any) -> None:
        self.at = 0

    def record(self, stream: object = None) -> None:
        self.at = time.perf_counter_ns()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds from this event to ``end``."""
        return (end.at - self.at) / 1e6


class DeviceInterface:
    """What ``triton.testing`` asks of a torch device module."""

    Event = Event

    @staticmethod
    def synchronize(device: object = None) -> None:
        """Nothing to wait for."""

    @staticmethod
    def current_stream(device: object = None) -> int:
        return 0

    @staticmethod
    def current_device() -> str:
        return "cpu"
