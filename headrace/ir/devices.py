"""The catalogue of GPUs: one Device per card, and where each of its figures is printed.

Peaks are dense (without structured sparsity), matrix products accumulate in float32, shared memory is what
one block may use. A figure that no public source gives is 0, and `Device.figure` refuses it by name. The
launch cost is on no data sheet: it is the same for all cards of a maker, and the cost model has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import DeviceError
from headrace.ir.device import Backend, Device

_CUDA = "CUDA C++ programming guide, technical specifications per compute capability"
_ROCM = "ROCm documentation, AMD GPU hardware specifications"
_LAUNCH = "no data sheet: the order of a launch through the maker's driver"


@dataclass(frozen=True, slots=True)
class Record:
    """A card: its Device, the source of each figure, and what is particular about it.

    `sources` names, per figure of the Device, the document that prints it; a figure without a source is
    unknown (zero).
    """

    device: Device
    sources: Mapping[str, str]
    note: str = ""


def _nvidia(
    name: str, arch: str, units: int, sheet: str, white: str, *, bandwidth: float, f32: float, f16: float,
    f8: float, clock: float, l2: int, memory: int, per_clock: int = 0, l2_source: str = "", note: str = "",
) -> Record:  # fmt: skip
    """An NVIDIA card; rates in units of 1e12, clock in MHz, L2 in MiB, `per_clock` bytes of L2 a cycle."""
    block, threads = _PER_BLOCK[arch], 1536 if arch in ("sm_86", "sm_89", "sm_120") else 2048
    device = Device(
        name, Backend.CUDA, arch, units, on_chip_bytes=block << 10, last_level_bytes=l2 << 20,
        registers=65536, warp=32, bandwidth=bandwidth * 1e12, flops_f32=f32 * 1e12, flops_16=f16 * 1e12,
        launch_seconds=4e-6, memory_bytes=memory << 30, flops_8=f8 * 1e12, clock=clock * 1e6,
        threads=threads, unit_on_chip_bytes=(block + 1) << 10,
        last_level_bandwidth=float(per_clock) * clock * 1e6,
    )  # fmt: skip
    sources = dict.fromkeys(("bandwidth", "flops_f32", "flops_16", "flops_8", "memory_bytes"), sheet)
    sources |= dict.fromkeys(("units", "clock"), white) | {"last_level_bytes": l2_source or white}
    sources |= dict.fromkeys(("on_chip_bytes", "unit_on_chip_bytes", "registers", "threads", "warp"), _CUDA)
    sources["launch_seconds"] = _LAUNCH
    if per_clock:
        sources["last_level_bandwidth"] = f"{white}: {per_clock} bytes a cycle at the boost clock"
    return Record(device, sources, note)


# Shared memory that one block may use, KiB.
_PER_BLOCK = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}


def _amd(
    name: str, arch: str, units: int, sheet: str, *, bandwidth: float, f32: float, f16: float, f8: float,
    clock: float, last_level: int, memory: int, cache: float = 0.0, cache_source: str = "", note: str = "",
) -> Record:  # fmt: skip
    """An AMD card; rates in units of 1e12, clock in MHz, the last cache before memory in MiB."""
    rdna = arch.startswith(("gfx11", "gfx12"))
    lds = {"gfx950": 160}.get(arch, 64)
    device = Device(
        name, Backend.ROCM, arch, units, on_chip_bytes=lds << 10, last_level_bytes=last_level << 20,
        registers=98304 if rdna else 131072, warp=32 if rdna else 64, bandwidth=bandwidth * 1e12,
        flops_f32=f32 * 1e12, flops_16=f16 * 1e12, launch_seconds=6e-6, memory_bytes=memory << 30,
        flops_8=f8 * 1e12, clock=clock * 1e6, threads=1024 if rdna else 2048,
        unit_on_chip_bytes=lds << 10, last_level_bandwidth=cache * 1e12,
    )  # fmt: skip
    sources = dict.fromkeys(("units", "on_chip_bytes", "unit_on_chip_bytes", "last_level_bytes", "registers",
                             "warp", "threads"), _ROCM)  # fmt: skip
    known = {"bandwidth": bandwidth, "flops_f32": f32, "flops_16": f16, "flops_8": f8, "clock": clock,
             "memory_bytes": memory}  # fmt: skip
    sources |= {figure: sheet for figure, value in known.items() if value}
    sources["launch_seconds"] = _LAUNCH
    if cache:
        sources["last_level_bandwidth"] = cache_source
    return Record(device, sources, note)


_AMPERE, _HOPPER = "NVIDIA A100 architecture white paper", "NVIDIA H100 architecture white paper"
_GA102, _ADA = "NVIDIA GA102 architecture white paper", "NVIDIA Ada GPU architecture white paper"
_RTX = "NVIDIA RTX Blackwell GPU architecture white paper"
_CDNA3 = "AMD CDNA 3 white paper: peak bandwidth of the Infinity Cache"

RECORDS: Mapping[str, Record] = {
    record.device.name: record
    for record in (
        _nvidia("NVIDIA A100-SXM4-40GB", "sm_80", 108, "NVIDIA A100 data sheet", _AMPERE, bandwidth=1.555,
                f32=19.5, f16=312, f8=624, clock=1410, l2=40, memory=40, per_clock=5120),
        _nvidia("NVIDIA A100-SXM4-80GB", "sm_80", 108, "NVIDIA A100 data sheet", _AMPERE, bandwidth=2.039,
                f32=19.5, f16=312, f8=624, clock=1410, l2=40, memory=80, per_clock=5120),
        _nvidia("NVIDIA H100 PCIe", "sm_90", 114, "NVIDIA H100 data sheet", _HOPPER, bandwidth=2.0,
                f32=51, f16=756, f8=1513, clock=1755, l2=50, memory=80),
        _nvidia("NVIDIA H100 80GB HBM3", "sm_90", 132, "NVIDIA H100 data sheet", _HOPPER, bandwidth=3.35,
                f32=67, f16=989, f8=1979, clock=1830, l2=50, memory=80, note="The SXM module."),
        _nvidia("NVIDIA H200", "sm_90", 132, "NVIDIA H200 data sheet", _HOPPER, bandwidth=4.8,
                f32=67, f16=989, f8=1979, clock=1830, l2=50, memory=141),
        _nvidia("NVIDIA B200", "sm_100", 148, "NVIDIA Blackwell data sheet (HGX B200, 1000 W)",
                "device properties that the CUDA driver reports", bandwidth=8.0, f32=80, f16=2250, f8=4500,
                clock=1965, l2=126, memory=180),
        _nvidia("NVIDIA L40S", "sm_89", 142, "NVIDIA L40S data sheet", _ADA, bandwidth=0.864,
                f32=91.6, f16=362.05, f8=733, clock=2520, l2=96, memory=48),
        _nvidia("NVIDIA A10", "sm_86", 72, "NVIDIA A10 data sheet", _GA102, bandwidth=0.6,
                f32=31.2, f16=125, f8=250, clock=1695, l2=6, memory=24),
        _nvidia("NVIDIA A40", "sm_86", 84, "NVIDIA A40 data sheet", _GA102, bandwidth=0.696,
                f32=37.4, f16=149.7, f8=299.3, clock=1740, l2=6, memory=48),
        _nvidia("NVIDIA GeForce RTX 3090", "sm_86", 82, _GA102, _GA102, bandwidth=0.936,
                f32=35.6, f16=71, f8=284, clock=1695, l2=6, memory=24,
                note="GeForce cards accumulate 16-bit products in float32 at half the rate."),
        _nvidia("NVIDIA GeForce RTX 4090", "sm_89", 128, _ADA, _ADA, bandwidth=1.008,
                f32=82.6, f16=165.2, f8=660.6, clock=2520, l2=72, memory=24,
                note="GeForce cards accumulate 16-bit products in float32 at half the rate."),
        _nvidia("NVIDIA GeForce RTX 5090", "sm_120", 170, _RTX, _RTX, bandwidth=1.792,
                f32=104.8, f16=209.5, f8=838, clock=2407, l2=96, memory=32,
                note="GeForce cards accumulate 16-bit products in float32 at half the rate."),
        _amd("AMD Instinct MI210", "gfx90a", 104, "AMD Instinct MI210 data sheet", bandwidth=1.638,
             f32=22.6, f16=181.0, f8=181.0, clock=1700, last_level=8, memory=64),
        _amd("AMD Instinct MI250X (one die)", "gfx90a", 110, "AMD Instinct MI250X data sheet, halved",
             bandwidth=1.638, f32=23.95, f16=191.5, f8=191.5, clock=1700, last_level=8, memory=64,
             note="Per graphics die (GCD): the card is two devices to every program."),
        _amd("AMD Instinct MI300X", "gfx942", 304, "AMD Instinct MI300X data sheet", bandwidth=5.3,
             f32=163.4, f16=1307.4, f8=2614.9, clock=2100, last_level=256, memory=192, cache=17.2,
             cache_source=_CDNA3,
             note="The last level is the Infinity Cache; each of eight dies has 4 MiB of L2 besides."),
        _amd("AMD Instinct MI308X", "gfx942", 80, "", bandwidth=0, f32=0, f16=0, f8=0, clock=0,
             last_level=256, memory=0,
             note="80 compute units (ROCm tuning tables); the maker publishes no bandwidth and no peaks."),
        _amd("AMD Instinct MI350X", "gfx950", 256, "AMD Instinct MI350X data sheet", bandwidth=8.0,
             f32=144.2, f16=2300, f8=4600, clock=2200, last_level=256, memory=288),
        _amd("AMD Instinct MI355X", "gfx950", 256, "AMD Instinct MI355X data sheet", bandwidth=8.0,
             f32=157.3, f16=2500, f8=5000, clock=2400, last_level=256, memory=288),
        _amd("AMD Radeon RX 7900 XTX", "gfx1100", 96, "AMD Radeon RX 7900 XTX product page", bandwidth=0.96,
             f32=61.4, f16=122.8, f8=122.8, clock=2500, last_level=96, memory=24, cache=3.5,
             cache_source="AMD Radeon RX 7900 XTX product page: effective memory bandwidth"),
        _amd("AMD Radeon RX 9070 XT", "gfx1201", 64, "AMD Radeon RX 9070 XT product page", bandwidth=0.64,
             f32=48.7, f16=195, f8=389, clock=2970, last_level=64, memory=16),
    )
}  # fmt: skip


def named(name: str) -> Device:
    """The Device of a card by the maker's name, e.g. `NVIDIA L40S`.

    Raises:
        DeviceError: the catalogue has no such card.
    """
    if name not in RECORDS:
        raise DeviceError(f"the catalogue has no {name!r}; it has: {', '.join(RECORDS)}")
    return RECORDS[name].device


# The card that stands for each architecture that kernels are built for.
TARGETS: Mapping[str, Device] = {
    f"cuda:{arch[3:]}" if arch.startswith("sm_") else f"hip:{arch}": named(name)
    for arch, name in (
        ("sm_80", "NVIDIA A100-SXM4-80GB"),
        ("sm_89", "NVIDIA L40S"),
        ("sm_90", "NVIDIA H100 80GB HBM3"),
        ("sm_100", "NVIDIA B200"),
        ("sm_120", "NVIDIA GeForce RTX 5090"),
        ("gfx90a", "AMD Instinct MI250X (one die)"),
        ("gfx942", "AMD Instinct MI300X"),
        ("gfx950", "AMD Instinct MI350X"),
        ("gfx1201", "AMD Radeon RX 9070 XT"),
    )
}
