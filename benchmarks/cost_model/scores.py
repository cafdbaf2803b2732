"""How good a model's order and times are: the first choice, the best of three, rank correlation, errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.cost_model.recorded import Columns
from headrace.ir.device import Device
from headrace.passes.cost import attention, library
from headrace.passes.cost.constants import Constants
from headrace.passes.cost.formula import INPUTS, UNIQUE, evaluator
from headrace.passes.cost.tile import Tile, matrix_peak, product


@dataclass(frozen=True, slots=True)
class Ranking:
    """Shares of the recorded optimum: geometric means of the first choice and of the best of three; the first
    choice's 10th percentile; the mean rank correlation; the median error of the times."""

    first: float
    three: float
    tenth: float
    spearman: float
    error: float
    shapes: int


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of times: median and 90th percentile of the absolute ones, median with sign."""

    median: float
    ninetieth: float
    bias: float
    rows: int


def triton_seconds(table: Columns, device: Device, constants: Constants) -> np.ndarray:
    """Seconds of Inductor's template as `triton.testing.do_bench` sees them, without its constant part.

    Before each run it fills the last-level cache with zeros. What the kernel reads pushes them out to memory
    first: as many bytes as the cache holds once (half its size, each partition keeps its own).
    """
    tile = Tile(table["block_m"], table["block_n"], table["block_k"], table["stages"], table["warps"], 1,
                table["copy_x"], table["copy_w"], table["by_columns"])  # fmt: skip
    inputs = list(product(table["m"], table["n"], table["k"], 2.0, table["bytes_w"], tile, device, constants,
                          peak=matrix_peak(device, 2)))  # fmt: skip
    at = INPUTS.index(UNIQUE)
    inputs[at] = inputs[at] + np.minimum(inputs[at], device.figure("last_level_bytes")) / 2
    return np.asarray(evaluator()(*inputs))


def library_seconds(
    table: Columns, device: Device, constants: Constants, hot: bool = True, size: int = 2
) -> np.ndarray:
    """Seconds of library products of operands of `size` bytes."""
    return np.asarray(library.gemm(table["m"], table["n"], table["k"], size, device, constants, hot=hot))


def decode_seconds(table: Columns, device: Device, constants: Constants, bytes_kv: float = 2.0) -> np.ndarray:
    return np.asarray(
        attention.decode(table["batch"], table["heads"], table["kv_heads"], table["dim"], table["length"],
                         device, constants, bytes_kv=bytes_kv, hot=True)
    )  # fmt: skip


def ranking(seconds: np.ndarray, table: Columns) -> Ranking:
    """Scores of an order within each shape."""
    truth = table["seconds"]
    starts = np.flatnonzero(np.r_[True, table.shape[1:] != table.shape[:-1]])
    first, three, correlation = [], [], []
    for begin, end in zip(starts, np.r_[starts[1:], len(table)], strict=True):
        if end - begin < 4:
            continue
        guess, real = seconds[begin:end], truth[begin:end]
        order = np.argsort(guess, kind="stable")
        first.append(real.min() / real[order[0]])
        three.append(real.min() / real[order[:3]].min())
        correlation.append(np.corrcoef(_ranks(guess), _ranks(real))[0, 1])
    return Ranking(
        float(np.exp(np.mean(np.log(first)))),
        float(np.exp(np.mean(np.log(three)))),
        float(np.quantile(first, 0.1)),
        float(np.mean(correlation)),
        float(np.median(np.abs(seconds / truth - 1))),
        len(first),
    )


def errors(seconds: np.ndarray, truth: np.ndarray) -> Errors:
    relative = seconds / truth - 1
    return Errors(float(np.median(np.abs(relative))), float(np.quantile(np.abs(relative), 0.9)),
                  float(np.median(relative)), len(truth))  # fmt: skip


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def beyond_cache(table: Columns, device: Device) -> Columns:
    """Products whose weights do not fit in the last-level cache: a loop over one buffer measures memory
    there."""
    return table.where(table["n"] * table["k"] * 2 > device.figure("last_level_bytes"))
