"""The processor as a Device: what the system tells, and two figures measured once and remembered.

Bandwidth is that of reading 512 MiB with several streams per thread, better of small and huge pages; peaks
are those of `torch.mm`, which is what arithmetic reaches here rather than what a data sheet promises.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from headrace.autotune.db.store import Store
from headrace.ir.device import Backend, Device

READ_BYTES = 512 << 20
REPEATS = 5
# Instruction sets that change which kernels can be built, as LLVM names them.
FEATURES = (
    "amx-bf16", "amx-int8", "avx2", "avx512bf16", "avx512bw", "avx512f", "avx512fp16", "avx512vnni", "neon",
)  # fmt: skip
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LAUNCH_SECONDS = 5e-6  # a Python call into a compiled kernel; measured on several machines, of little weight


def discover_cpu(
    threads: int | None = None, store: Store | None = None, *, read_bytes: int = READ_BYTES
) -> Device:
    """This machine's processor, used by `threads` threads (torch's number when None).

    Measured figures are remembered in `store` under the machine's name and the number of threads; without a
    store they are measured at each call, which takes about three seconds.
    """
    threads = threads or torch.get_num_threads()
    plain = Device(
        name=processor_name(),
        backend=Backend.CPU,
        arch=platform.machine(),
        units=threads,
        features=_features(),
        on_chip_bytes=_cache_bytes(2),
        last_level_bytes=_cache_bytes(3),
        launch_seconds=_LAUNCH_SECONDS,
        memory_bytes=_memory_bytes(),
    )
    key = f"figures/{plain.hard_key}/{plain.soft_key}/read={read_bytes}"
    figures = _recalled(store, key)
    if figures is None:
        figures = {
            "bandwidth": read_bandwidth(threads, read_bytes),
            "flops_f32": matmul_peak(threads, torch.float32),
            "flops_16": matmul_peak(threads, torch.bfloat16),
        }
        if store is not None:
            store.remember(key, json.dumps(figures, sort_keys=True))
    return replace(
        plain,
        bandwidth=figures["bandwidth"],
        flops_f32=figures["flops_f32"],
        flops_16=max(figures["flops_16"], figures["flops_f32"]),
    )


def remeasured(device: Device) -> Device:
    """A processor with its measured figures taken again, where they came out higher; a GPU as it is."""
    if device.backend is not Backend.CPU:
        return device
    return replace(
        device,
        bandwidth=max(device.bandwidth, read_bandwidth(device.units)),
        flops_f32=max(device.flops_f32, matmul_peak(device.units, torch.float32)),
        flops_16=max(device.flops_16, matmul_peak(device.units, torch.bfloat16)),
    )


def read_bandwidth(threads: int, nbytes: int = READ_BYTES) -> float:
    """Bytes/s of reading `nbytes` of main memory: the best of a sum and a matrix-vector product, 4 KiB and
    huge pages.
    """
    with _threads(threads):
        return max(_read(values) for values in (_small_pages(nbytes), _huge_pages(nbytes)))


def matmul_peak(threads: int, dtype: torch.dtype, size: int = 1024) -> float:
    """Operations/s of a square matrix product in a dtype, the best of some runs."""
    with _threads(threads):
        left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
        return 2.0 * size**3 / _best(lambda: left @ right)


class _threads:
    """Torch's number of threads, for a while."""

    def __init__(self, count: int) -> None:
        self._count, self._before = count, torch.get_num_threads()

    def __enter__(self) -> None:
        torch.set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


def _small_pages(nbytes: int) -> torch.Tensor:
    return torch.ones(nbytes // 4)


def _huge_pages(nbytes: int) -> torch.Tensor:
    area = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            area.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            return _small_pages(nbytes)
    return torch.frombuffer(area, dtype=torch.float32).fill_(1.0)


def _read(values: torch.Tensor) -> float:
    # A matrix-vector product reads several rows at a time: several streams per thread, as a good kernel does.
    width = 4096
    matrix = values[: values.numel() // width * width].view(-1, width)
    vector = torch.ones(width)
    seconds = min(_best(values.sum), _best(lambda: matrix @ vector))
    return values.numel() * 4 / seconds


def _best(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def _recalled(store: Store | None, key: str) -> dict[str, float] | None:
    text = store.recall(key) if store is not None else None
    if text is None:
        return None
    try:
        found = json.loads(text)
        figures = {name: float(found[name]) for name in ("bandwidth", "flops_f32", "flops_16")}
    except (ValueError, TypeError, KeyError):
        return None
    return figures if all(0 < value < 1e18 for value in figures.values()) else None


def _features() -> tuple[str, ...]:
    from headrace.codegen.cpu.target import host

    found = host()
    return tuple(name for name in FEATURES if found.has(name))


def processor_name() -> str:
    """The maker's name of the processor, e.g. `AMD EPYC`; the architecture where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _memory_bytes() -> int:
    """Bytes of main memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _cache_bytes(level: int) -> int:
    """Bytes of the data or unified cache of a level; 0 where the system does not tell."""
    for entry in sorted(_CACHES.glob("index*")):
        try:
            facts = {name: (entry / name).read_text().strip() for name in ("level", "type", "size")}
        except OSError:
            continue
        size = re.fullmatch(r"(\d+)([KMG]?)", facts["size"])
        if facts["level"] == str(level) and facts["type"] != "Instruction" and size is not None:
            return int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
    return 0
