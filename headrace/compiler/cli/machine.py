"""Facts about this machine and its software that decide what headrace can do; finding them never raises."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version

PACKAGES = ("headrace", "torch", "triton", "llvmlite", "optuna", "sqlalchemy")
OWN_BACKEND = "headrace.codegen.cpu.backend"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `advice` is empty where nothing needs doing; `ok` is False where something does."""

    name: str
    value: str
    ok: bool = True
    advice: str = ""


def packages() -> list[Finding]:
    """Versions of what generates and runs kernels."""
    found = []
    for name in PACKAGES:
        installed = _version(name)
        advice = "" if installed else f"pip install {name}"
        found.append(Finding(name, installed or "not installed", installed is not None, advice))
    return found


def python() -> Finding:
    return Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def torch_window() -> Finding:
    """Whether this torch is one that headrace knows."""

    def look() -> Finding:
        from headrace import upstream

        complaint = upstream.window_complaint(_version("torch") or "0")
        return Finding("torch version", complaint or "supported", complaint is None)

    return _guarded("torch version", look)


def backend_registered() -> Finding:
    """Whether `torch.compile(backend="headrace")` finds us."""
    values = [entry.value for entry in entry_points(group="torch_dynamo_backends", name="headrace")]
    if values:
        return Finding("torch.compile backend", "registered")
    return Finding(
        "torch.compile backend", "not registered", False, "install the package: pip install headrace"
    )


def cpu_engine() -> Finding:
    """Whether Triton kernels run natively on this processor, or why not."""

    def look() -> Finding:
        from headrace.codegen.cpu.backend.driver import why_inactive

        reason = why_inactive()
        if reason is None:
            return Finding("CPU engine", "active")
        return Finding("CPU engine", f"inactive: {reason}", reason.endswith("device is present"))

    return _guarded("CPU engine", look)


def cpu_owner() -> Finding:
    """Which packages register the Triton backend `cpu`."""
    owners = sorted({entry.value for entry in entry_points(group="triton.backends", name="cpu")})
    if owners == [OWN_BACKEND]:
        return Finding("triton.backends cpu", "headrace")
    if not owners:
        return Finding(
            "triton.backends cpu",
            "nobody",
            False,
            "install the package, not only its folder: pip install headrace",
        )
    return Finding(
        "triton.backends cpu",
        ", ".join(owners),
        False,
        "uninstall all but one: the last one wins without a word",
    )


def cpu_features() -> Finding:
    """Instruction sets that the engine may use."""

    def look() -> Finding:
        from headrace.codegen.cpu import target

        host = target.host()
        told = [name for name in _TOLD if host.has(name)]
        lowered = "" if host.level == "native" else f", lowered by HEADRACE_CPU_FEATURES={host.level}"
        return Finding(
            "CPU features", f"{' '.join(told) or 'baseline'} ({host.vector_bits}-bit vectors{lowered})"
        )

    return _guarded("CPU features", look)


def cpu_compiler() -> Finding:
    """The LLVM that kernels are compiled with; it is tried out on the engine's own runtime."""

    def look() -> Finding:
        from headrace.codegen.cpu import jit, runtime, target

        runtime.get(target.host())
        return Finding("LLVM", f"{jit.llvm_version()} in llvmlite {_version('llvmlite')}")

    return _guarded("LLVM", look, "reinstall llvmlite; executable memory must be permitted")


def cpu_threads() -> Finding:
    """How many threads a kernel runs on, and whose they are."""

    def look() -> Finding:
        from headrace.codegen.cpu import runtime, target

        library = runtime.get(target.host()).openmp
        if library is None:
            return Finding("threads", "1: no OpenMP runtime is loaded", False, "reinstall torch")
        return Finding("threads", f"{threads()}, of {library} (torch.set_num_threads, OMP_NUM_THREADS)")

    return _guarded("threads", look)


def kernel_cache() -> Finding:
    """Where Triton keeps compiled kernels, and what lies there."""

    def look() -> Finding:
        import os
        from pathlib import Path

        import triton

        folder = Path(triton.knobs.cache.dir)
        if not folder.is_dir():
            return Finding("kernel cache", f"{folder} (not created yet)")
        entries = sum(1 for _ in folder.iterdir())
        writable = os.access(folder, os.W_OK)
        return Finding(
            "kernel cache",
            f"{folder}: {entries} entries{'' if writable else ', not writable'}",
            writable,
            "make it writable, or set TRITON_CACHE_DIR",
        )

    return _guarded("kernel cache", look)


_TOLD = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16", "avx512fp16",
    "amx-tile", "amx-bf16", "amx-int8", "neon", "sve",
)  # fmt: skip


def bandwidth(threads: int) -> Finding:
    """Measured read bandwidth over 512 MiB."""

    def look() -> Finding:
        from headrace.compiler.cli.bandwidth import read_bandwidth

        return Finding("read bandwidth", str(read_bandwidth(512 << 20, threads)))

    return _guarded("read bandwidth", look)


def threads() -> int:
    """Threads that torch uses inside an operation."""
    import torch

    return torch.get_num_threads()


def accelerators() -> Finding:
    """GPUs that torch sees."""

    def look() -> Finding:
        import torch

        if not torch.cuda.is_available():
            return Finding("GPU", "none; kernels for CUDA and ROCm can still be built and inspected")
        names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
        return Finding("GPU", ", ".join(names))

    return _guarded("GPU", look)


def cpp_compiler() -> Finding:
    """The C++ compiler that Inductor needs for what headrace leaves to it."""

    def look() -> Finding:
        from headrace import upstream

        found = upstream.fetch("torch._inductor.cpp_builder", "get_cpp_compiler")()
        return Finding("C++ compiler", str(found))

    return _guarded("C++ compiler", look, "Inductor needs one on the CPU: install g++ or clang, or set CXX")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        found = importlib.util.find_spec(name)
        return "unpackaged" if found is not None else None


def _guarded(name: str, look: Callable[[], Finding], advice: str = "") -> Finding:
    """A doctor reports what is broken; it does not fall ill itself."""
    try:
        return look()
    except Exception as error:
        return Finding(
            name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", False, advice
        )
