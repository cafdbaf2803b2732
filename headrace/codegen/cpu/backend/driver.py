"""``DriverBase`` of the CPU engine: when it is active, how a compiled kernel is loaded and launched.

It imports :mod:`headrace.codegen.cpu.fork` at once, which sees every later fork.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from triton.backends.driver import DriverBase

from headrace.codegen.cpu.fork import exclusive

_CPP = {
    "i1": "int8_t",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "u1": "uint8_t",
    "u8": "uint8_t",
    "u16": "uint16_t",
    "u32": "uint32_t",
    "u64": "uint64_t",
    "fp16": "double",
    "bf16": "double",
    "fp32": "double",
    "f32": "double",
    "fp64": "double",
}
_IMPORTED_LATE = (
    "triton.compiler.code_generator",
    "triton.experimental.gluon",
    "triton.tools.tensor_descriptor",
)
_OURS = "headrace.codegen.cpu.backend"


def _owners() -> list[str]:
    """Values of all entry points that register a Triton backend named ``cpu``."""
    from importlib.metadata import entry_points

    return sorted({ep.value for ep in entry_points(group="triton.backends", name="cpu")})


def why_inactive() -> str | None:
    """Why the CPU driver does not activate, or None if it may. Another backend's driver always goes first."""
    from importlib.util import find_spec

    from headrace import settings

    if not settings.cpu_engine_enabled():
        return "HEADRACE_CPU_ENGINE=off"
    others = [owner for owner in _owners() if owner != _OURS]
    if others:
        return (
            f"another package registers the Triton backend cpu: {', '.join(others)}; uninstall one of the two"
        )
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"the engine runs on Linux on x86-64 and AArch64, not {sys.platform} on {platform.machine()}"
    if find_spec("llvmlite") is None:
        return "llvmlite is not installed"
    from triton.backends import backends

    for name, backend in backends.items():
        if name != "cpu" and backend.driver.is_active():
            return f"a {name} device is present"
    return _why_unusable()


def _why_unusable() -> str | None:
    """What the engine's own hash would raise; Inductor asks for that hash while it compiles its own code."""
    from headrace.errors import CpuTargetError

    try:
        from headrace.codegen.cpu import target

        target.host()
    except CpuTargetError as error:
        return str(error)
    except (ImportError, OSError) as error:
        return f"llvmlite cannot be loaded: {error}"
    return None


class CpuDriver(DriverBase):  # type: ignore[misc]  # triton ships no types
    """Runs kernels on the host. There is one device and one stream, and a launch returns when the grid is
    done."""

    @exclusive
    def __init__(self) -> None:
        super().__init__()
        # Triton imports these at the first launch; were another thread in the middle of that at a fork, the
        # child's first launch would wait for the import for ever.
        for name in _IMPORTED_LATE:
            with suppress(ImportError):
                import_module(name)
        self.utils = CpuUtils()
        self.launcher_cls = CpuLauncher

    @classmethod
    @exclusive
    def is_active(cls) -> bool:
        return why_inactive() is None

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "void*" if ty.startswith("*") else _CPP[ty]

    @exclusive
    def get_current_target(self) -> Any:
        from headrace.codegen.cpu.direct import gpu_target

        return gpu_target()

    def get_current_device(self) -> str:
        """Not an index: Triton keys its kernel caches by this alone, and 0 would be cuda:0."""
        return "cpu"

    def set_current_device(self, device: object) -> None:
        """There is only one."""

    def get_current_stream(self, device: object = None) -> int:
        return 0

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        from headrace.codegen.cpu.backend import benchmark

        return benchmark.DeviceInterface

    def get_benchmarker(self) -> Callable[..., Any]:
        from headrace.codegen.cpu.backend import benchmark

        return benchmark.do_bench

    def get_empty_cache_for_benchmark(self) -> Any:
        import torch

        return torch.empty(64 * 1024 * 1024, dtype=torch.int32)

    def clear_cache(self, cache: Any) -> None:
        cache.zero_()

    def allocate_default_profile_scratch(self, size: int, alignment: int, stream: object) -> None:
        """CPU kernels have no profile scratch."""


@dataclass(frozen=True)
class Function:
    """A loaded worker and the code it lies in; both 0 and None where the cached object is damaged."""

    address: int
    code: object


class CpuUtils:
    """Loading, under the names that Triton calls."""

    @exclusive
    def load_binary(
        self, name: str, kernel: bytes, shared: int, device: object
    ) -> tuple[Any, Function, int, int, int]:
        """(module, address of the worker, registers, spills, most threads); the last three have no meaning
        here."""
        from headrace.codegen.cpu import jit, runtime, seal, target

        host = target.host()
        obj = seal.opened(kernel)
        if obj is None:
            return None, Function(0, None), 0, 0, 1 << 30
        loaded = jit.load(obj, (name,), runtime.get(host).known, host)
        return loaded, Function(loaded.addresses[name], loaded), 0, 0, 1 << 30

    def unload_module(self, module: object) -> None:
        """The code goes with its last reference."""

    def get_device_properties(self, device: object) -> dict[str, int]:
        import os

        cores = os.cpu_count() or 1
        return {
            "max_shared_mem": 1 << 30,
            "max_num_regs": 32,
            "multiprocessor_count": cores,
            "warpSize": 1,
            "sm_clock_rate": 0,
            "mem_clock_rate": 0,
            "mem_bus_width": 0,
        }


class CpuLauncher:
    """Called by Triton as ``launcher(gx, gy, gz, stream, function, packed, metadata, enter, exit,
    *args)``."""

    def __init__(self, src: Any, metadata: Any) -> None:
        self._src, self._metadata = src, metadata
        self._signature = tuple(src.signature.values())
        self._letters = iter_letters(self._signature, metadata.letters)
        self._flat = not any(isinstance(t, tuple) or _is_descriptor(t) for t in self._signature)
        self._kernel: Callable[..., None] | None = None

    def __call__(
        self,
        gx: int,
        gy: int,
        gz: int,
        stream: object,
        function: Any,
        packed: object,
        launch_metadata: Any,
        enter: Callable[..., None] | None,
        leave: Callable[..., None] | None,
        *args: Any,
    ) -> None:
        kernel = self._kernel
        if kernel is None:
            kernel = self._kernel = self._bound(function)
        if not self._flat:
            args = tuple(_flatten(self._signature, args))
        if enter is not None:
            enter(launch_metadata)
        kernel(gx, gy, gz, *args)
        if leave is not None:
            leave(launch_metadata)

    def _bound(self, function: Function) -> Callable[..., None]:
        from headrace.codegen.cpu import runtime, target

        if function.code is None:
            function = self._compiled_anew()
        bound: Callable[..., None] = runtime.get(target.host()).callable(
            function.address, self._letters, function
        )
        return bound

    def _compiled_anew(self) -> Function:
        """The kernel without the cache, which then holds it whole again."""
        import dataclasses
        import warnings

        import triton
        from triton.compiler import ASTSource

        from headrace.codegen.cpu.backend.options import CpuOptions
        from headrace.errors import CpuEngineError

        name = self._metadata.name
        if not isinstance(self._src, ASTSource):
            raise CpuEngineError(
                f"the cached object of {name} is damaged; remove {triton.knobs.cache.dir} and compile again"
            )
        warnings.warn(f"the cached object of {name} is damaged: compiling it again", stacklevel=4)
        options = {
            field.name: getattr(self._metadata, field.name) for field in dataclasses.fields(CpuOptions)
        }
        options["engine"] = self._metadata.engine_option  # `engine` names the lowering that was used
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.always_compile = True
            compiled = triton.compile(self._src, self._metadata.target, options)
            compiled._init_handles()
        function = compiled.function
        assert isinstance(function, Function)
        return function


def _is_descriptor(type_: object) -> bool:
    return isinstance(type_, str) and type_.startswith("tensordesc")


def iter_letters(signature: Sequence[Any], compiled: str) -> str:
    """Letters for all Python arguments: ``-`` for constexprs, the compiled kernel's own letters for the rest.

    Raises:
        CpuEngineError: signature and compiled kernel disagree about the number of arguments.
    """
    from headrace.errors import CpuEngineError

    letters, rest = [], iter(compiled)
    try:
        for kind in _leaves(signature):
            count = _descriptor_width(kind) if _is_descriptor(kind) else 1
            letters.append("-" if kind == "constexpr" else "".join(next(rest) for _ in range(count)))
        surplus = list(rest)
    except (StopIteration, RuntimeError):
        surplus = ["missing"]
    if surplus:
        raise CpuEngineError(f"signature {tuple(signature)} does not fit the compiled arguments {compiled!r}")
    return "".join(letters)


def _leaves(signature: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for kind in signature:
        found += _leaves(kind) if isinstance(kind, tuple) else [kind]
    return found


def _descriptor_width(kind: str) -> int:
    """Arguments of a decomposed descriptor: base, shape, strides, two flags, shape, strides."""
    rank = kind.split("[", 1)[1].split("]", 1)[0].count(",") + 1
    return 3 + 4 * rank


def _flatten(signature: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    from triton.backends.driver import decompose_descriptor

    flat: list[Any] = []
    for kind, arg in zip(signature, args, strict=True):
        if isinstance(kind, tuple):
            flat += _flatten(kind, arg)
        elif _is_descriptor(kind):
            flat += decompose_descriptor(arg)
        else:
            flat.append(arg)
    return flat
