"""Compile a ``@triton.jit`` function once and call it with plain numbers: no dispatch, no specialisation."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.codegen.cpu import jit, pipeline, runtime, target
from headrace.codegen.cpu.backend import compiler
from headrace.codegen.cpu.backend import options as cpu_options
from headrace.errors import CpuEngineError


@dataclass(frozen=True)
class DirectKernel:
    """A compiled kernel.

    ``launch(gx, gy, gz, *args)`` is the bare builtin, calling the object itself the same with one Python
    frame more. Arguments stand in the order of the function's parameters, constants left out: pointers as
    integers (or tensors), integers, floats. ``compile_ms`` is the time from source to object code; 0 when it
    came from the cache.
    """

    name: str
    launch: Callable[..., None]
    engine: str
    engine_reason: str
    compile_ms: float
    llvm_ir: str
    metadata: Mapping[str, Any] = field(repr=False)
    code: jit.Loaded = field(repr=False)

    def __call__(self, gx: int, gy: int, gz: int, *args: int | float) -> None:
        """Run the grid; returns when every program has finished.

        Raises:
            TypeError: too few or too many arguments, or one of the wrong kind.
            RuntimeError: a ``tl.device_assert`` failed.
        """
        self.launch(gx, gy, gz, *args)

    @property
    def asm(self) -> str:
        """Machine code as text; compiled anew at each call."""
        return jit.assembly(self.llvm_ir, target.host(), int(self.metadata["passes"]))


def compile_direct(
    fn: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, object],
    *,
    divisible: frozenset[str] = frozenset(),
    options: Mapping[str, object] | None = None,
) -> DirectKernel:
    """Compile for the host.

    Args:
        fn: the ``@triton.jit`` function. signature: Triton type by parameter name, for every parameter that
        is passed at a launch: ``*fp32``, ``i32``. constants: value by name for all other parameters.
        divisible: parameters known to be multiples of 16 (addresses in bytes). options: see
        :class:`headrace.codegen.cpu.backend.options.CpuOptions`; ``engine`` picks a lowering.

    Raises:
        UnsupportedTtir: an operation that the engine does not lower.
        CpuEngineError: a parameter is missing, or LLVM rejects the code.
    """
    from triton.compiler import ASTSource
    from triton.runtime.cache import get_cache_manager

    missing = [n for n in fn.arg_names if n not in signature and n not in constants]
    if missing:
        raise CpuEngineError(
            f"compile_direct({fn.__name__}): neither signature nor constants name {', '.join(missing)}"
        )
    full = {n: signature.get(n, "constexpr") for n in fn.arg_names}
    attrs = {
        (k,): [["tt.divisibility", 16]]
        for k, n in enumerate(fn.arg_names)
        if n in divisible and n in signature
    }
    source = ASTSource(fn, full, dict(constants), attrs)
    host = target.host()
    backend = compiler.CpuBackend(gpu_target())
    parsed = cpu_options.parse(dict(options or {}), backend.arch)
    key = f"direct-{source.hash()}-{backend.hash()}-{parsed.hash()}"
    cache = get_cache_manager(hashlib.sha256(key.encode()).hexdigest())
    group = cache.get_group("kernel.json") or {}
    start = time.perf_counter()
    if set(group) >= {"kernel.json", "kernel.obj", "kernel.llir"}:
        with open(group["kernel.json"]) as f:
            metadata = json.load(f)
        with open(group["kernel.obj"], "rb") as f:
            obj = f.read()
        with open(group["kernel.llir"]) as f:
            text = f.read()
        elapsed = 0.0
    else:
        metadata, text, obj = _compile(source, backend, parsed)
        elapsed = (time.perf_counter() - start) * 1e3
        files = {
            "kernel.llir": cache.put(text, "kernel.llir", binary=False),
            "kernel.obj": cache.put(obj, "kernel.obj"),
            "kernel.json": cache.put(json.dumps(metadata), "kernel.json", binary=False),
        }
        cache.put_group("kernel.json", files)
    shared = runtime.get(host)
    loaded = jit.load(obj, (metadata["name"],), shared.known, host)
    launch = shared.callable(loaded.addresses[metadata["name"]], metadata["letters"], loaded)
    return DirectKernel(
        fn.__name__, launch, metadata["engine"], metadata["engine_reason"], elapsed, text, metadata, loaded
    )


def _compile(
    source: Any, backend: compiler.CpuBackend, options: cpu_options.CpuOptions
) -> tuple[dict[str, Any], str, bytes]:
    from triton._C.libtriton import ir

    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    module = source.make_ir(
        backend.target,
        options,
        backend.get_codegen_implementation(options),
        backend.get_module_map(),
        context,
    )
    metadata: dict[str, Any] = {}
    pipeline.make_ttir(module, metadata)
    # Options were checked when they were parsed.
    text = pipeline.make_llir(module, metadata, options.engine)  # type: ignore[arg-type]
    return metadata, text, pipeline.make_obj(text, metadata)


def gpu_target() -> Any:
    """Triton's name for this host. (Triton calls every target a GPUTarget.)"""
    from triton.backends.compiler import GPUTarget

    host = target.host()
    return GPUTarget("cpu", f"{host.triple.split('-')[0]}-{host.vector_bits}", 1)
