"""The machines at hand as Devices: facts from the operating system and torch, measured figures where they are
cheap.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch

from headrace.ir.device import Backend, Device
from headrace.ir.devices import RECORDS

# Read to measure bandwidth where no database can remember the figure: 0.1 s instead of 2.
_UNREMEMBERED_BYTES = 64 << 20


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
    from headrace.autotune.discover import discover_cpu
    from headrace.compiler.resolve import in_use, open_store

    store = open_store(in_use().database)
    if store is None:
        return discover_cpu(threads, read_bytes=_UNREMEMBERED_BYTES)
    with store:
        return discover_cpu(threads, store)


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
    listed = RECORDS.get(properties.name)
    if listed is not None and listed.device.units == units:
        return replace(listed.device, memory_bytes=int(properties.total_memory))
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
        flops_8=units * hertz * 4096,
        clock=hertz,
        threads=int(getattr(properties, "max_threads_per_multi_processor", 0)),
        unit_on_chip_bytes=int(getattr(properties, "shared_memory_per_multiprocessor", 0)),
    )
