"""Count the bytes of memory that are read, by the processor's own accessed bits (Linux only)."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import torch

PAGE = mmap.PAGESIZE


class Watched:
    """A tensor whose memory can be asked which pages were touched since `forget`."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        count = torch.Size(shape).numel()
        size = -(-count * dtype.itemsize // PAGE) * PAGE
        self._memory = mmap.mmap(-1, size)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self._hold = (ctypes.c_char * size).from_buffer(self._memory)
        self._base = ctypes.addressof(self._hold)
        self.tensor = torch.frombuffer(self._memory, dtype=dtype, count=count).view(shape)
        self.tensor.zero_()

    @staticmethod
    def supported() -> bool:
        try:
            Watched.forget()
        except OSError:
            return False
        return True

    @staticmethod
    def forget() -> None:
        Path("/proc/self/clear_refs").write_text("1")

    def touched(self) -> int:
        """Bytes of the pages that were read or written since `forget`."""
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                inside = int(match[1], 16) <= self._base < int(match[2], 16)
            elif inside and line.startswith("Referenced:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the tensor's memory is not in the map of this process")
