"""The machines at hand as Devices: facts from the operating system and torch, and one quick measurement."""

from __future__ import annotations

import functools
import platform
import re
import time
from pathlib import Path

import torch

from headrace.ir.device import Backend, Device

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CPU_FEATURES = ("amx-bf16", "amx-int8", "avx2", "avx512bf16", "avx512bw", "avx512f", "avx512fp16", "avx512vnni", "neon")
_MEASURED_BYTES = 64 << 20


def device_of(tensor: torch.Tensor) -> Device:
    """The Device that a tensor lives on."""
    return _of(tensor.device.type, tensor.device.index or 0, torch.get_num_threads())


def host_device() -> Device:
    """The processor, with the threads that torch uses now."""
    return _of("cpu", 0, torch.get_num_threads())


@functools.lru_cache(maxsize=16)
def _of(kind: str, index: int, threads: int) -> Device:
    return _gpu(index) if kind == "cuda" else _cpu(threads)


def _cpu(threads: int) -> Device:
    import psutil

    features = _cpu_features()
    lanes = 16 if "avx512f" in features else 8 if "avx2" in features else 4
    hertz = _hertz()
    f32 = threads * hertz * lanes * 2 * 2
    return Device(
        name=_cpu_name(),
        backend=Backend.CPU,
        arch=platform.machine(),
        units=threads,
        features=features,
        on_chip_bytes=_cache_bytes(2),
        last_level_bytes=_cache_bytes(3),
        warp=1,
        bandwidth=_read_bandwidth(),
        flops_f32=f32,
        flops_16=2 * f32 if "avx512bf16" in features else f32,
        launch_seconds=5e-6,
        memory_bytes=psutil.virtual_memory().total,
    )


def _cpu_features() -> tuple[str, ...]:
    try:
        from headrace.codegen.cpu.target import host

        found = host()
    except Exception:
        return ()
    return tuple(name for name in _CPU_FEATURES if found.has(name))


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _hertz() -> float:
    """The processor's highest clock; its present one, or 2.5 GHz, where that is not told."""
    import psutil

    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        found = None
    return (found.max or found.current or 2500.0) * 1e6 if found else 2.5e9


def _cache_bytes(level: int) -> int:
    """Bytes of the data or unified cache of a level, 0 where the system does not tell."""
    for entry in sorted(_CACHES.glob("index*")):
        try:
            if (entry / "level").read_text().strip() != str(level):
                continue
            if (entry / "type").read_text().strip() == "Instruction":
                continue
            size = (entry / "size").read_text().strip()
        except OSError:
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if match:
            return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return 0


@functools.lru_cache(maxsize=1)
def _read_bandwidth() -> float:
    """Bytes/s of summing 64 MiB, the best of five. For ranking only; benchmarks measure their own floor."""
    values = torch.ones(_MEASURED_BYTES // 4)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - started)
    return _MEASURED_BYTES / best


def _gpu(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    rocm = torch.version.hip is not None
    arch = (
        getattr(properties, "gcnArchName", "").partition(":")[0]
        if rocm
        else f"sm_{properties.major}{properties.minor}"
    )
    units = properties.multi_processor_count
    hertz = getattr(properties, "clock_rate", 1_500_000) * 1e3
    memory_hertz = getattr(properties, "memory_clock_rate", 1_500_000) * 1e3
    bus = getattr(properties, "memory_bus_width", 4096)
    return Device(
        name=properties.name,
        backend=Backend.ROCM if rocm else Backend.CUDA,
        arch=arch,
        units=units,
        on_chip_bytes=int(getattr(properties, "shared_memory_per_block_optin", 0) or 64 << 10),
        last_level_bytes=int(getattr(properties, "L2_cache_size", 0)),
        registers=int(getattr(properties, "regs_per_multiprocessor", 65536)),
        warp=int(getattr(properties, "warp_size", 32)),
        bandwidth=2.0 * memory_hertz * bus / 8,
        flops_f32=units * hertz * 256,
        # Tensor cores: about 8 times the vector rate on every generation since sm_80 and gfx90a.
        flops_16=units * hertz * 2048,
        launch_seconds=5e-6,
        memory_bytes=int(properties.total_memory),
    )
