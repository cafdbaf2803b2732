"""LLVM IR text to object bytes, and object bytes to callable addresses.

Emitting and loading are apart, so that bytes kept in Triton's cache are loaded without compiling. Every
symbol that an object leaves undefined is resolved here, by name, before linking: nothing is looked up in the
process by accident.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from headrace.codegen.cpu.fork import exclusive
from headrace.codegen.cpu.target import CpuTarget
from headrace.errors import CpuEngineError

# LLVM's JIT is one per process and refuses two libraries of one name; nothing else knows the names.
_NAMES = itertools.count()
ISLAND = "island."  # names of functions outlined from the vector lowering begin so


@dataclass(frozen=True)
class Emitted:
    """Object bytes of one module with the time that LLVM took, in milliseconds."""

    obj: bytes
    compile_ms: float


@dataclass(frozen=True)
class Checked:
    """IR text that LLVM has accepted, as LLVM's own module: compiling changes it, so it serves once."""

    module: Any


@dataclass(frozen=True)
class Loaded:
    """Addresses of a loaded object's functions; the code lives as long as ``owner`` does."""

    addresses: Mapping[str, int]
    owner: object


@lru_cache
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return llvm


def llvm_version() -> str:
    """Version of LLVM inside llvmlite, for example ``20.1.8``."""
    return ".".join(map(str, _llvm().llvm_version_info))


@lru_cache
def _machine(target: CpuTarget, level: int) -> Any:
    return (
        _llvm()
        .Target.from_triple(target.triple)
        .create_target_machine(
            cpu=target.cpu, features=target.llvm_features, opt=level, reloc="pic", codemodel="small"
        )
    )


def _parsed(ir: str) -> Any:
    try:
        module = _llvm().parse_assembly(ir)
        module.verify()
    except RuntimeError as error:
        raise CpuEngineError(f"LLVM rejects the engine's code: {str(error).strip()}") from error
    return module


def _prepared(module: Any, target: CpuTarget, passes: int) -> Any:
    llvm = _llvm()
    if passes:
        machine = _machine(target, 2)
        tuning = llvm.create_pipeline_tuning_options(speed_level=2)
        # llvmlite's LLVM 22 is built with assertions, and its loop vectoriser fails one of them on ordinary
        # loops with masked stores ("VPlan cost model and legacy cost model disagreed"), which would end the
        # process.
        tuning.loop_vectorization = tuning.slp_vectorization = False
        tuning.loop_unrolling = tuning.loop_interleaving = False
        builder = llvm.create_pass_builder(machine, tuning)
        manager = builder.getModulePassManager() if passes > 1 else _light(llvm)
        manager.run(module, builder)
    else:
        _tidy_islands(module, target)
    return module


def _tidy_islands(module: Any, target: CpuTarget) -> None:
    """The light passes on the functions that the vector lowering took from the reference."""
    islands = [f for f in module.functions if f.name.startswith(ISLAND) and not f.is_declaration]
    if not islands:
        return
    llvm = _llvm()
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = tuning.slp_vectorization = False
    builder = llvm.create_pass_builder(_machine(target, 2), tuning)
    for function in islands:
        manager = llvm.create_new_function_pass_manager()
        _fill_light(manager)
        manager.run(function, builder)


def _fill_light(manager: Any) -> None:
    manager.add_sroa_pass()
    manager.add_simplify_cfg_pass()
    manager.add_instruction_combine_pass()
    manager.add_dead_store_elimination_pass()
    manager.add_simplify_cfg_pass()


def _light(llvm: Any) -> Any:
    """Registers for stack slots and tidy arithmetic: a tenth of O1's time, and no slower code from the
    reference."""
    manager = llvm.create_new_module_pass_manager()
    _fill_light(manager)
    return manager


@exclusive
def check(ir: str) -> Checked:
    """Raise what :func:`emit` would raise about the text itself.

    Raises:
        CpuEngineError: LLVM does not accept the text.
    """
    return Checked(_parsed(ir))


@exclusive
def emit(ir: str, target: CpuTarget, passes: int = 0, checked: Checked | None = None) -> Emitted:
    """Compile IR text to an object file; with ``checked``, what :func:`check` made of it.

    ``passes``: 0 runs none of LLVM's IR passes, 1 a handful, 2 the O2 pipeline without vectorisers and
    unrolling. Code generation itself always runs at level 2.

    Raises:
        CpuEngineError: LLVM does not accept the text.
    """
    start = time.perf_counter()
    module = _parsed(ir) if checked is None else checked.module
    obj = _machine(target, 2).emit_object(_prepared(module, target, passes))
    return Emitted(bytes(obj), (time.perf_counter() - start) * 1e3)


@exclusive
def assembly(ir: str, target: CpuTarget, passes: int = 0) -> str:
    """The machine code of ``emit``, as text."""
    return str(_machine(target, 2).emit_assembly(_prepared(_parsed(ir), target, passes)))


def undefined_symbols(obj: bytes) -> tuple[str, ...]:
    """Names that a 64-bit ELF object imports.

    Raises:
        CpuEngineError: the bytes are no such object.
    """
    if obj[:5] != b"\x7fELF\x02":
        raise CpuEngineError("a cached kernel is not a 64-bit ELF object; clear Triton's cache directory")
    (offset,) = struct.unpack_from("<Q", obj, 40)
    entry, count = struct.unpack_from("<HH", obj, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", obj, offset + k * entry) for k in range(count)]
    names: list[str] = []
    for _, kind, _, _, start, size, link, _, _, stride in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        text = sections[link][4]
        for at in range(start + stride, start + size, stride):
            name, info, _, section = struct.unpack_from("<IBBH", obj, at)
            if section == 0 and info >> 4:  # undefined and not local
                begin = text + name
                names.append(obj[begin : obj.index(b"\0", begin)].decode())
    return tuple(names)


@lru_cache
def _libraries() -> tuple[ctypes.CDLL, ...]:
    found = [ctypes.CDLL(None)]
    for name in ("libm.so.6", "libgcc_s.so.1", "libc.so.6"):
        try:
            found.append(ctypes.CDLL(name))
        except OSError:
            continue
    return tuple(found)


@lru_cache
def _torch_library() -> ctypes.CDLL | None:
    try:
        import torch
    except ImportError:
        return None
    import pathlib

    path = pathlib.Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    return ctypes.CDLL(str(path)) if path.exists() else None


def address_of(name: str) -> int | None:
    """Address of a C symbol: SLEEF vector math from libtorch, the rest from the C runtime and this
    process."""
    libraries: tuple[ctypes.CDLL, ...] = _libraries()
    if name.startswith(("Sleef_", "_ZN2at")):
        torch = _torch_library()
        libraries = (torch,) if torch is not None else ()
    for library in libraries:
        try:
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        except AttributeError:
            continue
    return None


@lru_cache
def _lljit(target: CpuTarget) -> Any:
    llvm = _llvm()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.llvm_features, opt=2, reloc="pic", codemodel="small"
    )
    return llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)


@exclusive
def load(obj: bytes, exports: tuple[str, ...], known: Mapping[str, int], target: CpuTarget) -> Loaded:
    """Link an object into this process.

    ``known`` gives addresses by name and is asked before the libraries.

    Raises:
        CpuEngineError: a symbol cannot be resolved, or the object cannot be linked.
    """
    llvm = _llvm()
    builder = llvm.JITLibraryBuilder().add_object_img(obj)
    for name in undefined_symbols(obj):
        address = known.get(name) or address_of(name)
        if name == "_GLOBAL_OFFSET_TABLE_":
            continue
        if address is None:
            raise CpuEngineError(f"compiled kernel needs {name}, which no loaded library defines")
        builder.import_symbol(name, address)
    for name in exports:
        builder.export_symbol(name)
    jit = _lljit(target)
    try:
        tracker = builder.link(jit, f"headrace.{next(_NAMES)}")
    except RuntimeError as error:
        raise CpuEngineError(f"cannot link a compiled kernel: {str(error).strip()}") from error
    return Loaded({name: tracker[name] for name in exports}, (tracker, jit))
