"""The three stages of a compilation, shared by Triton's own launcher and the direct one.

``metadata`` is Triton's dictionary, kept next to the cached object: ``name`` (symbol of the worker),
``letters`` of the arguments, ``engine`` that lowered the kernel (``engine_option``: the one asked for),
``engine_reason`` why the vector lowering declined, ``passes``, ``outlined`` operations (those called in their
reference form).
"""

from __future__ import annotations

import hashlib
import pathlib
import time
from functools import lru_cache
from typing import Any

from headrace.codegen.cpu import jit, target
from headrace.codegen.cpu.fork import exclusive
from headrace.codegen.cpu.lower import Engine, Lowered, lower
from headrace.codegen.cpu.parse import parse
from headrace.codegen.cpu.seal import sealed


@lru_cache
def _sources() -> str:
    root = pathlib.Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def fingerprint() -> str:
    """What compiled bytes depend on besides kernel and options."""
    return f"cpu-{_sources()}-{jit.llvm_version()}-{target.host().key}"


@exclusive
def make_ttir(module: Any, metadata: dict[str, Any]) -> Any:
    """Triton's target-independent passes; tensor descriptors become pointers."""
    from triton._C.libtriton import ir, passes

    manager = ir.pass_manager(module.context)
    manager.enable_debug()
    passes.common.add_inliner(manager)
    passes.ttir.add_rewrite_tensor_descriptor_to_pointer(manager)
    passes.common.add_canonicalizer(manager)
    passes.ttir.add_combine(manager)
    passes.ttir.add_reorder_broadcast(manager)
    passes.common.add_cse(manager)
    passes.ttir.add_triton_licm(manager)
    passes.common.add_symbol_dce(manager)
    passes.ttir.add_loop_unroll(manager)
    manager.run(module, "make_ttir")
    return module


@exclusive
def make_llir(module: Any, metadata: dict[str, Any], engine: Engine, fused: bool = True) -> str:
    """LLVM IR text of the kernel with its worker. ``fused``: see :func:`headrace.codegen.cpu.lower.lower`.

    Raises:
        UnsupportedTtir: no lowering covers the kernel.
    """
    return _lowered(module, metadata, engine, fused).ir


@exclusive
def make_llir_and_obj(
    module: Any, metadata: dict[str, Any], engine: Engine, fused: bool = True
) -> tuple[str, bytes]:
    """:func:`make_llir` and :func:`make_obj` at once: LLVM parses the text once for both.

    Raises:
        UnsupportedTtir: no lowering covers the kernel.
        CpuEngineError: LLVM rejects the text.
    """
    lowered = _lowered(module, metadata, engine, fused)
    return lowered.ir, _object(lowered.ir, metadata, lowered.checked)


def _lowered(module: Any, metadata: dict[str, Any], engine: Engine, fused: bool) -> Lowered:
    start = time.perf_counter()
    lowered = lower(parse(str(module)), target.host(), engine, fused)
    metadata["name"] = lowered.entry
    metadata["letters"] = lowered.letters
    metadata["engine"] = lowered.engine
    metadata["engine_option"] = engine
    metadata["engine_reason"] = lowered.reason
    metadata["passes"] = lowered.passes
    metadata["outlined"] = list(lowered.outlined)
    metadata["shared"] = 0
    metadata["lower_ms"] = (time.perf_counter() - start) * 1e3
    return lowered


@exclusive
def make_obj(ir: str, metadata: dict[str, Any]) -> bytes:
    """Object code of the kernel, sealed (:mod:`headrace.codegen.cpu.seal`).

    Raises:
        CpuEngineError: LLVM rejects the text.
    """
    return _object(ir, metadata, None)


def _object(ir: str, metadata: dict[str, Any], checked: jit.Checked | None) -> bytes:
    emitted = jit.emit(ir, target.host(), int(metadata["passes"]), checked)
    metadata["llvm_ms"] = emitted.compile_ms
    return sealed(emitted.obj)
