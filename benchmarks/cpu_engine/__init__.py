"""The CPU engine against PyTorch and against the machine: one command, sections to choose from.

`python -m benchmarks cpu_engine --only gemv,decode --threads 1`
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping

import torch

from benchmarks.common import Result
from benchmarks.cpu_engine import attention, compilation, inductor, launch, products, rows
from benchmarks.cpu_engine.cells import COLUMNS, Cell, Found, Measure, measure

CELLS: Mapping[str, Callable[[], Iterator[Callable[[], Cell]]]] = {
    "gemv": products.gemv,
    "flat": products.flat,
    "softmax": rows.softmax,
    "norms": rows.norms,
    "prefill": attention.prefill,
    "decode": attention.decode,
    "gemm": products.gemm,
}
SECTIONS = (*CELLS, "compile", "launch", "inductor")


def run(rounds: int = 0, only: tuple[str, ...] = (), best: bool = False, cpu: bool = False) -> Result:
    """Measure the sections named, or all of them.

    Raises:
        SystemExit: there is no section of that name, or processor time is asked for with several threads.
    """
    if cpu and torch.get_num_threads() > 1:
        raise SystemExit("processor time says nothing about several threads; add --threads 1")
    unknown = set(only) - set(SECTIONS)
    if unknown:
        raise SystemExit(f"no section {', '.join(sorted(unknown))}; known: {', '.join(SECTIONS)}")
    found = Found()
    how = Measure(rounds, best, cpu)
    for section in SECTIONS:
        if only and section not in only:
            continue
        if section == "compile":
            compilation.run(rounds, found)
        elif section == "launch":
            launch.run(rounds, best, found)
        elif section == "inductor":
            inductor.run(how, found)
        else:
            for make in CELLS[section]():
                cell = make()
                print(f"{section}: {cell.label}", file=sys.stderr, flush=True)
                measure(cell, how, found)
                del cell
                gc.collect()
    counted = sum(bar.held for bar in found.bars)
    found.notes.append(f"{counted} of {len(found.bars)} bars held")
    threads = torch.get_num_threads()
    return Result(f"CPU engine, {threads} threads", COLUMNS, found.rows, found.notes, found.bars)
