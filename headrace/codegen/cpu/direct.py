"""Compile a ``@triton.jit`` function once and call it with plain numbers: no dispatch, no specialisation."""

from __future__ import annotations

import hashlib
import json
import logging
import pathlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.codegen.cpu import jit, pipeline, runtime, seal, target
from headrace.codegen.cpu.backend import compiler
from headrace.codegen.cpu.backend import options as cpu_options
from headrace.codegen.cpu.fork import exclusive
from headrace.errors import CpuEngineError

log = logging.getLogger(__name__)


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


@exclusive
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
    start = time.perf_counter()
    try:
        cache = get_cache_manager(hashlib.sha256(key.encode()).hexdigest())
    except OSError as error:  # a read-only or full place
        log.debug("%s is not kept: %s", fn.__name__, error)
        cache = None
    found = None if cache is None else _cached(cache)
    elapsed = 0.0
    if found is None:
        metadata, text, sealed = _compile(source, backend, parsed)
        elapsed = (time.perf_counter() - start) * 1e3
        if cache is not None:
            _keep(cache, metadata, text, sealed)
        found = metadata, text, seal.opened(sealed) or b""
    metadata, text, obj = found
    shared = runtime.get(host)
    loaded = jit.load(obj, (metadata["name"],), shared.known, host)
    launch = shared.callable(loaded.addresses[metadata["name"]], metadata["letters"], loaded)
    return DirectKernel(
        fn.__name__, launch, metadata["engine"], metadata["engine_reason"], elapsed, text, metadata, loaded
    )


def _keep(cache: Any, metadata: dict[str, Any], text: str, sealed: bytes) -> None:
    """Put an entry into the cache; where that cannot be written the next process compiles again."""
    try:
        files = {
            "kernel.llir": cache.put(text, "kernel.llir", binary=False),
            "kernel.obj": cache.put(sealed, "kernel.obj"),
            "kernel.json": cache.put(json.dumps(metadata), "kernel.json", binary=False),
        }
        cache.put_group("kernel.json", files)
    except OSError as error:
        log.debug("%s is not kept: %s", metadata["name"], error)


def _cached(cache: Any) -> tuple[dict[str, Any], str, bytes] | None:
    """Metadata, LLVM IR and object of an entry that is there and whole."""
    try:
        group = cache.get_group("kernel.json") or {}
        if not set(group) >= {"kernel.json", "kernel.obj", "kernel.llir"}:
            return None
        metadata = json.loads(pathlib.Path(group["kernel.json"]).read_text())
        obj = seal.opened(pathlib.Path(group["kernel.obj"]).read_bytes())
        text = pathlib.Path(group["kernel.llir"]).read_text()
    except (OSError, ValueError):  # another process may be clearing the folder
        return None
    return None if obj is None else (metadata, text, obj)


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
    engine: Any = options.engine
    text, sealed = pipeline.make_llir_and_obj(module, metadata, engine, options.enable_fp_fusion)
    return metadata, text, sealed


def gpu_target() -> Any:
    """Triton's name for this host. (Triton calls every target a GPUTarget.)"""
    from triton.backends.compiler import GPUTarget

    host = target.host()
    return GPUTarget("cpu", f"{host.triple.split('-')[0]}-{host.vector_bits}", 1)
