"""The processor as a Device: what the system tells, and two figures measured once and remembered.

Bandwidth is that of reading 512 MiB with several streams per thread, better of small and huge pages; peaks
are those of `torch.mm`, which is what arithmetic reaches here rather than what a data sheet promises.

A busy machine measures too little. So figures are remembered with the time they were taken at, whoever has a
few seconds to spare (`headrace tune run`) measures again what is a day old, and the higher figure is kept.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from headrace.autotune.db.store import Store
from headrace.ir.device import Backend, Device

READ_BYTES = 512 << 20
REPEATS = 5
DAY = 86400.0
# Instruction sets that change which kernels can be built, as LLVM names them.
FEATURES = (
    "amx-bf16", "amx-int8", "avx2", "avx512bf16", "avx512bw", "avx512f", "avx512fp16", "avx512vnni", "neon",
)  # fmt: skip
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LAUNCH_SECONDS = 5e-6  # a Python call into a compiled kernel; measured on several machines, of little weight


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: bytes/s, operations/s in f32 and bf16, and when (seconds since 1970, 0: unknown)."""

    bandwidth: float
    flops_f32: float
    flops_16: float
    measured: float = 0.0


def discover_cpu(
    threads: int | None = None,
    store: Store | None = None,
    *,
    read_bytes: int = READ_BYTES,
    older_than: float | None = None,
) -> Device:
    """This machine's processor, used by `threads` threads (torch's number when None).

    Measured figures are remembered in `store` under the machine's name and the number of threads; without a
    store they are measured at each call, which takes about three seconds. Remembered ones that were taken
    longer ago than `older_than` seconds are taken again, and the higher ones kept.
    """
    plain = _plain(threads or torch.get_num_threads())
    key = _key(plain, read_bytes)
    known = _recalled(store, key)
    found = known
    if known is None or (older_than is not None and not 0 <= time.time() - known.measured <= older_than):
        found = _measured(plain.units, read_bytes)
        if known is not None:
            found = Figures(
                max(found.bandwidth, known.bandwidth),
                max(found.flops_f32, known.flops_f32),
                max(found.flops_16, known.flops_16),
                found.measured,
            )
        if store is not None:
            store.remember(key, json.dumps(asdict(found), sort_keys=True))
    assert found is not None
    return replace(
        plain,
        bandwidth=found.bandwidth,
        flops_f32=found.flops_f32,
        flops_16=max(found.flops_16, found.flops_f32),
    )


def remembered(threads: int, store: Store) -> Figures | None:
    """The figures of this machine with `threads` threads that a database holds."""
    return _recalled(store, _key(_plain(threads), READ_BYTES))


def _measured(threads: int, read_bytes: int) -> Figures:
    return Figures(
        read_bandwidth(threads, read_bytes),
        matmul_peak(threads, torch.float32),
        matmul_peak(threads, torch.bfloat16),
        time.time(),
    )


def _key(device: Device, read_bytes: int) -> str:
    return f"figures/{device.hard_key}/{device.soft_key}/read={read_bytes}"


def _plain(threads: int) -> Device:
    """The processor without measured figures."""
    return Device(
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


def _recalled(store: Store | None, key: str) -> Figures | None:
    text = store.recall(key) if store is not None else None
    if text is None:
        return None
    try:
        held = {"measured": 0.0, **json.loads(text)}
        found = Figures(**{field.name: float(held[field.name]) for field in fields(Figures)})
    except (ValueError, TypeError, KeyError):
        return None
    values = (found.bandwidth, found.flops_f32, found.flops_16)
    return found if all(0 < value < 1e18 for value in values) else None


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
