"""Environment keys: what a row says about the place it was measured in. Names and versions, no paths, hosts
or users.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from headrace.autotune.db.rows import Environment
from headrace.ir.device import Backend, Device

# What generates and runs the code; llvmlite does so on the CPU alone.
_EVERYWHERE = ("torch", "triton", "headrace")
_CPU = ("llvmlite",)


@lru_cache(maxsize=8)
def versions(backend: Backend) -> str:
    """`torch=2.13.0 triton=3.9.0 ...` of the software that builds and runs kernels for a backend."""
    names = _EVERYWHERE + (_CPU if backend is Backend.CPU else ())
    return " ".join(f"{name}={_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def environment(device: Device) -> Environment:
    """The environment of this process on a device."""
    return Environment(device.hard_key, device.soft_key, versions(device.backend))


def numerics(device: Device) -> str:
    """The arithmetic contract of a row: accumulation, reduced precision, and the tolerance table it was held
    to.
    """
    reduced = "none" if device.backend is Backend.CPU else _matmul_precision()
    return f"accumulate=f32 reduced={reduced} tolerance=1"


def _matmul_precision() -> str:
    import torch

    return torch.get_float32_matmul_precision()
