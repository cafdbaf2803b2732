"""The process-wide part of the engine: spreading a grid over OpenMP threads, scratch memory, and the call
from Python.

It is one small LLVM module, compiled once per process. A kernel's own module only exports a *worker*
``void worker(ptr context, i64 first)`` that takes chunks of programs from ``first`` on, round to the one
before it, until none are left.

Each thread begins with its own share of the grid and helps the others with theirs afterwards. What one thread
reads again at the next launch is then in its own caches and translation buffers: a GEMV whose weights fit the
third cache takes two thirds as long as where threads take the next chunk of all. Where programs wait for
ones before them in the grid, these are under way either way, as a thread takes its share in order; such
kernels are dealt out in the order of the grid all the same (:mod:`headrace.codegen.cpu.worker`).

``hr_call`` is a METH_FASTCALL function: called as ``f(gx, gy, gz, *args)``, it unpacks Python objects into
8-byte slots by the letters of a descriptor, releases the GIL, runs the worker on all threads and returns
None. Letters:

=====  ===================================================================================
``p``  pointer: an int, None (null), or any object with ``data_ptr()`` that does not deny ``is_cpu``
``i``  integer or bool, kept to 64 bits; the worker truncates
``w``  integer that must fit 32 bits, signed or not; ``s`` 16 bits, ``c`` 8 bits
``f``  float32; ``d`` float64; ``h`` float16; ``b`` bfloat16 (rounded to nearest even)
``-``  an argument that the compiled kernel does not take (constexpr)
=====  ===================================================================================

Threads: those of the libgomp that torch loaded, as many as ``torch.get_num_threads()`` says at the call. A
grid of one program, a call inside a parallel region and a forked child run serially.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from headrace.codegen.cpu import fork, jit, runtime_ir
from headrace.codegen.cpu.call_ir import MAX_ARGS
from headrace.codegen.cpu.target import CpuTarget
from headrace.errors import CpuEngineError


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_METH_FASTCALL = 0x0080
_OPENMP = (
    "GOMP_parallel", "omp_in_parallel", "omp_get_max_threads", "omp_get_thread_num", "omp_get_num_threads",
)  # fmt: skip
_FOR_KERNELS = ("headrace_scratch", "headrace_enter", "headrace_fail")


class _Descriptor(bytes):
    """The ``self`` of a builtin: what ``hr_call`` reads, and the code that must live as long."""

    owner: object = None


@dataclass(frozen=True)
class Runtime:
    """The loaded runtime module.

    ``known`` are the addresses that kernels may import: ``headrace_scratch`` and, for kernels with
    ``tl.device_assert``, ``headrace_enter`` and ``headrace_fail``.
    ``openmp`` is the library whose threads run the programs, or None.
    """

    known: dict[str, int]
    openmp: str | None
    owner: object
    method: _MethodDef

    def callable(self, worker: int, letters: str, owner: object) -> Callable[..., None]:
        """A builtin ``f(gx, gy, gz, *args)`` for the worker at this address; it keeps ``owner`` alive.

        Raises:
            CpuEngineError: more arguments than the call's buffer holds.
        """
        if len(letters) > MAX_ARGS:
            raise CpuEngineError(f"a kernel with {len(letters)} arguments; at most {MAX_ARGS} are supported")
        descriptor = _Descriptor(struct.pack("<QQ", worker, len(letters)) + letters.encode())
        descriptor.owner = (owner, self)
        make = ctypes.pythonapi.PyCFunction_NewEx
        make.restype = ctypes.py_object
        make.argtypes = (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
        function: Callable[..., None] = make(ctypes.addressof(self.method), descriptor, None)
        return function


def _openmp_path() -> str | None:
    """The OpenMP library that torch has loaded, or None. Intel's and LLVM's export GNU's names as well."""
    try:
        import torch  # noqa: F401  # for its effect: it loads libgomp
    except ImportError:
        return None
    try:
        with open("/proc/self/maps") as maps:
            mapped = {line.split(None, 5)[5].strip() for line in maps if line.count(" ") >= 5 and "/" in line}
    except OSError:
        return None
    found = [p for p in mapped if re.search(r"/lib(?:gomp|iomp5|omp)\b[^/]*\.so[^/]*$", p)]
    # Other packages may bring an OpenMP of their own; torch's is the one that obeys torch.set_num_threads.
    return min(found, key=lambda p: ("/torch" not in p, p), default=None)


@fork.exclusive
def get(target: CpuTarget) -> Runtime:
    """The runtime of this process; compiled at the first call.

    Raises:
        CpuEngineError: the runtime cannot be compiled or linked.
    """
    return _build(target)


@lru_cache
def _build(target: CpuTarget) -> Runtime:
    known: dict[str, int] = {}
    path = _openmp_path()
    if path is not None:
        library = ctypes.CDLL(path)
        for name in _OPENMP:
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            assert address is not None
            known[name] = address
        # at::get_num_threads also applies torch.set_num_threads to a Python thread that never ran an
        # operator.
        known["_ZN2at15get_num_threadsEv"] = (
            jit.address_of("_ZN2at15get_num_threadsEv") or known["omp_get_max_threads"]
        )
    ir = runtime_ir.text(parallel=path is not None)
    exports = ("hr_init", "hr_call", "hr_forked", *_FOR_KERNELS)
    loaded = jit.load(jit.emit(ir, target).obj, exports, known, target)
    if ctypes.PYFUNCTYPE(ctypes.c_int)(loaded.addresses["hr_init"])():
        raise CpuEngineError("no thread-specific key is left (pthread_key_create)")
    forked = ctypes.c_int.from_address(loaded.addresses["hr_forked"])

    forked.value = int(fork.in_forked_child())

    def in_child() -> None:
        forked.value = 1

    os.register_at_fork(after_in_child=in_child)
    method = _MethodDef(b"kernel", loaded.addresses["hr_call"], _METH_FASTCALL, None)
    kernel_symbols = {n: loaded.addresses[n] for n in _FOR_KERNELS}
    owner: Any = (loaded.owner, forked)
    return Runtime(kernel_symbols, path, owner, method)
