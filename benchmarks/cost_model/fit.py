"""Fitting the constants: Nelder and Mead's simplex on their logarithms (no further package is needed)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from benchmarks.cost_model.recorded import Columns
from benchmarks.cost_model.scores import decode_seconds, library_seconds, triton_seconds
from headrace.ir.device import Device
from headrace.passes.cost.constants import Constants

# Seconds that `triton.testing.do_bench` adds to a kernel's own time in the recorded Triton data; no property
# of the device, so it is fitted beside the constants and used for these two tables alone.
RECORDER = 4.5e-6


def fitted(
    start: Constants, recorder: float, tables: Mapping[str, Columns], device: Device, *, rows: int = 6000,
    iterations: int = 260, seed: int = 0, free: tuple[str, ...] | None = None,
) -> tuple[Constants, float]:  # fmt: skip
    """Constants with the smallest sum of errors on the given halves: `mixed`, `plain`, `library`, `decode`.

    Orders count through squared logarithmic errors weighted towards the fast configurations, times of
    libraries through absolute ones: their outliers are choices that no model of the machine explains.
    """
    names = free if free is not None else tuple(Constants.__dataclass_fields__)
    some = {
        name: table.some(rows if name != "library" else rows // 3, seed) for name, table in tables.items()
    }
    weights = {name: _towards_fast(table) for name, table in some.items()}

    def constants(point: np.ndarray) -> tuple[Constants, float]:
        values = np.exp(point)
        return replace(start, **dict(zip(names, values[:-1], strict=True))), float(values[-1])

    def loss(point: np.ndarray) -> float:
        at, extra = constants(point)
        total = 1e-3 * float(np.sum((point - origin) ** 2))
        for name, table in some.items():
            truth = table["seconds"]
            if name in ("mixed", "plain"):
                off = np.log((triton_seconds(table, device, at) + extra) / truth)
                total += 2 * float(np.sum(weights[name] * np.minimum(off * off, 0.3)) / np.sum(weights[name]))
                continue
            modelled = library_seconds if name == "library" else decode_seconds
            off = np.log(modelled(table, device, at) / truth)
            total += float(np.mean(np.minimum(np.abs(off), 0.5))) * (1.0 if name == "library" else 0.5)
        return total

    origin = np.log(np.array([*(getattr(start, name) for name in names), recorder]))
    return constants(simplex(loss, origin, iterations))


def _towards_fast(table: Columns) -> np.ndarray:
    best = np.full(int(table.shape.max()) + 1, np.inf)
    np.minimum.at(best, table.shape, table["seconds"])
    weights: np.ndarray = (best[table.shape] / table["seconds"]) ** 2
    return weights


def simplex(
    loss: Callable[[np.ndarray], float], start: np.ndarray, iterations: int, step: float = 0.2
) -> np.ndarray:
    """The point with the smallest loss that the downhill simplex finds (Nelder and Mead, Computer Journal 7,
    1965)."""
    points = [start, *(start + step * axis for axis in np.eye(len(start)))]
    losses = [loss(point) for point in points]
    for _ in range(iterations):
        order = np.argsort(losses, kind="stable")
        points, losses = [points[i] for i in order], [losses[i] for i in order]
        centre = np.mean(points[:-1], axis=0)
        reflected = 2 * centre - points[-1]
        value = loss(reflected)
        if value < losses[0]:
            expanded = 3 * centre - 2 * points[-1]
            beyond = loss(expanded)
            points[-1], losses[-1] = (expanded, beyond) if beyond < value else (reflected, value)
        elif value < losses[-2]:
            points[-1], losses[-1] = reflected, value
        else:
            base = reflected if value < losses[-1] else points[-1]
            contracted = (centre + base) / 2
            inside = loss(contracted)
            if inside < min(value, losses[-1]):
                points[-1], losses[-1] = contracted, inside
            else:
                points = [points[0], *((points[0] + point) / 2 for point in points[1:])]
                losses = [losses[0], *(loss(point) for point in points[1:])]
    return points[int(np.argmin(losses))]
