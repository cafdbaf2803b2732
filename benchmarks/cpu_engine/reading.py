"""The limit of what is bound by memory: reading the same bytes."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence

import torch

from benchmarks.common import cycling
from benchmarks.cpu_engine.cells import Limit, Step
from benchmarks.cpu_engine.machine import reader

Operands = tuple[torch.Tensor, ...]


def read_limit(
    operands: Sequence[Operands],
    read: Callable[[Operands], list[torch.Tensor]],
    made: Callable[[Callable[[Operands], object]], Step],
) -> Limit:
    """Reading what `read` gives of operands: the same tensors in turn with the kernels, and huge pages."""
    readers = {id(each): reader(read(each)) for each in operands}
    steps: dict[str, Step] = {"in turn": made(lambda each: readers[id(each)]())}
    if len(operands) > 1:
        size = sum(t.nbytes for t in read(operands[0]))
        huge = [(part,) for part in _huge(size * len(operands)).split(size)]
        others = {id(each): reader(each) for each in huge}
        steps["huge pages"] = cycling(huge)(lambda each: others[id(each)]())
    return Limit("read floor", steps)


def _huge(size: int) -> torch.Tensor:
    memory = mmap.mmap(-1, size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    return tensor.fill_(1)
