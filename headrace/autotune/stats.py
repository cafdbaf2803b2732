"""Robust statistics of timings: medians, quantiles and distribution-free intervals of a median."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(samples: Sequence[float], fraction: float) -> float:
    """The linearly interpolated quantile of unordered samples."""
    ordered = sorted(samples)
    at = fraction * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def median(samples: Sequence[float]) -> float:
    return quantile(samples, 0.5)


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Order statistics that enclose the true median with at least this confidence (binomial, no distribution
    assumed).

    Fewer than six samples cannot give 95 %: their interval is everything, (-inf, inf).
    """
    ordered, count = sorted(samples), len(samples)
    cumulative, drop = 0.0, 0
    while drop < count // 2:
        cumulative += math.comb(count, drop) / 2**count
        if 2 * cumulative > 1 - confidence:
            break
        drop += 1
    if drop == 0:
        return (-math.inf, math.inf)
    return (ordered[drop - 1], ordered[count - drop])
