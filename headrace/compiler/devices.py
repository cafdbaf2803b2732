"""The machines at hand as Devices: facts from the operating system and torch, measured figures where they are
cheap.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from headrace.compiler.database import open_store
from headrace.ir.device import Backend, Device
from headrace.ir.devices import RECORDS

if TYPE_CHECKING:
    from headrace.autotune.db.store import Store

# Read to measure bandwidth where no database can remember the figure: 0.1 s instead of 2.
_UNREMEMBERED_BYTES = 64 << 20
# A cache: what a machine is does not depend on the database that remembers it.
_KNOWN: dict[tuple[str, int, int], Device] = {}
_OF_TODAY: set[int] = set()  # numbers of threads whose figures were looked at in this process
_LOCK = threading.Lock()


def device_of(tensor: torch.Tensor, database: str | None = None) -> Device:
    """The Device that a tensor lives on."""
    return _of(tensor.device.type, tensor.device.index or 0, database)


def host_device(database: str | None = None) -> Device:
    """The processor, with the threads that torch uses now.

    Its measured figures are remembered in the database at that path, or in the one that the settings name.
    """
    return _of("cpu", 0, database)


def host_device_of_today(store: Store) -> Device:
    """The processor; figures of `store` that are older than a day are taken again, once per process, and the
    higher ones kept.
    """
    from headrace.autotune.discover import DAY, discover_cpu

    threads = torch.get_num_threads()
    with _LOCK:
        if threads not in _OF_TODAY:
            _KNOWN["cpu", 0, threads] = discover_cpu(threads, store, older_than=DAY)
            _OF_TODAY.add(threads)
    return host_device()


def _of(kind: str, index: int, database: str | None) -> Device:
    threads = torch.get_num_threads()
    found = _KNOWN.get((kind, index, threads))
    if found is None:
        with _LOCK:  # measuring in two threads at once would find half of the bandwidth
            found = _KNOWN.get((kind, index, threads))
            if found is None:
                found = _KNOWN[kind, index, threads] = (
                    _gpu(index) if kind == "cuda" else _cpu(threads, database)
                )
    return found


def _cpu(threads: int, database: str | None) -> Device:
    from headrace.autotune.discover import discover_cpu

    store = open_store(database)
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
        on_chip_bytes=_shared_bytes(properties),
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


def _shared_bytes(properties: Any) -> int:
    """Shared memory that one block may use; HIP has no larger figure that a kernel has to ask for."""
    names = ("shared_memory_per_block_optin", "shared_memory_per_block")
    return int(next((size for name in names if (size := getattr(properties, name, 0))), 64 << 10))
