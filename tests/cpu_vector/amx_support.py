"""AMX in software: the tile instructions as functions, after their definition in Intel's manual, so that code
for tiles runs on processors that have none. Everything around them is compiled and run as it is."""

from __future__ import annotations

import ctypes
import re
import struct
import threading
from functools import cache

import numpy as np
import torch
import triton  # noqa: F401  (the backend package must not be the first to be imported)
from triton._C.libtriton import ir
from triton.compiler import ASTSource
from vector_support import TYPES

from headrace.codegen.cpu import direct, jit, pipeline, runtime, target
from headrace.codegen.cpu.backend import compiler, options
from headrace.codegen.cpu.lower import lower
from headrace.codegen.cpu.parse import parse

FEATURES = frozenset({"amx-tile", "amx-bf16", "amx-int8"})
_INSTRUCTION = re.compile(
    r"@llvm\.x86\.(ldtilecfg|tilerelease|tilezero|tileloadd64|tilestored64|tdpbf16ps|tdpbssd)\b"
)


def amx_target() -> target.CpuTarget:
    """The host, with AMX."""
    host = target.host()
    return target.CpuTarget(host.triple, host.features | FEATURES, host.disabled - FEATURES)


class Undefined(Exception):
    """What the processor answers with an invalid-opcode exception (#UD) or a general-protection fault."""


class Tiles:
    """The tile registers of one thread."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.bytes: list[int] = []
        self.data: list[np.ndarray] = []

    def configure(self, pointer: int) -> None:
        raw = ctypes.string_at(pointer, 64)
        palette, start = raw[0], raw[1]
        if palette != 1 or start or any(raw[2:16]) or any(raw[32:48]) or any(raw[56:64]):
            raise Undefined(f"tile configuration {raw.hex()}")
        self.bytes, self.rows = list(struct.unpack_from("<8H", raw, 16)), list(raw[48:56])
        if max(self.bytes) > 64 or max(self.rows) > 16:
            raise Undefined(f"tile configuration {raw.hex()}")
        self.data = [np.zeros((16, 64), np.uint8) for _ in range(8)]

    def release(self) -> None:
        self.__init__()

    def zero(self, tile: int) -> None:
        self.data[tile][:] = 0

    def load(self, tile: int, pointer: int, stride: int) -> None:
        self.data[tile][:] = 0
        for row in range(self.rows[tile]):
            raw = ctypes.string_at(pointer + row * stride, self.bytes[tile])
            self.data[tile][row, : self.bytes[tile]] = np.frombuffer(raw, np.uint8)

    def store(self, tile: int, pointer: int, stride: int) -> None:
        for row in range(self.rows[tile]):
            raw = self.data[tile][row, : self.bytes[tile]].tobytes()
            ctypes.memmove(pointer + row * stride, raw, len(raw))

    def _check(self, total: int, left: int, right: int) -> tuple[int, int, int]:
        """Rows, words along k and columns of a product."""
        deep, width = self.bytes[left], self.bytes[total]
        fits = (
            self.rows[left] == self.rows[total]
            and self.bytes[right] == width
            and deep // 4 == self.rows[right]
        )
        if len({total, left, right}) < 3 or deep % 4 or width % 4 or not fits:
            raise Undefined(f"tiles {total}, {left}, {right} do not fit each other")
        return self.rows[total], self.bytes[left] // 4, self.bytes[total] // 4

    def bf16(self, total: int, left: int, right: int) -> None:
        """Even and odd products are summed apart, each step rounded once, then added to the total."""
        m, k, n = self._check(total, left, right)

        def wide(tile: int) -> np.ndarray:
            bits = self.data[tile].view(np.uint16).astype(np.uint32) << 16
            return bits.view(np.float32).astype(np.float64)

        sums = np.zeros((m, n, 2), np.float32)
        with np.errstate(all="ignore"):  # rows that nobody needs may hold anything, NaN too
            a, b = wide(left), wide(right)
            for step in range(k):
                for half in (0, 1):
                    product = a[:m, 2 * step + half, None] * b[None, step, half : 2 * n : 2]
                    sums[:, :, half] = (sums[:, :, half].astype(np.float64) + product).astype(np.float32)
            self.data[total].view(np.float32)[:m, :n] += sums[:, :, 0] + sums[:, :, 1]

    def int8(self, total: int, left: int, right: int) -> None:
        m, k, n = self._check(total, left, right)
        a = self.data[left].view(np.int8)[:m, : 4 * k].astype(np.int64)
        b = self.data[right].view(np.int8)[:k, : 4 * n].astype(np.int64).reshape(k, n, 4)
        product = np.einsum("mkq,knq->mn", a.reshape(m, k, 4), b)
        c = self.data[total].view(np.int32)[:m, :n]
        c[:] = (c.astype(np.int64) + product).astype(np.int32)


class Machine:
    """The functions that stand for the instructions; what went wrong, and how often each was called."""

    def __init__(self) -> None:
        # By number: a thread of another library has no thread-local state that outlives a call.
        self._tiles: dict[int, Tiles] = {}
        self.errors: list[str] = []
        self.calls: dict[str, int] = {}
        i8, pointer, i64 = ctypes.c_int8, ctypes.c_void_p, ctypes.c_int64
        self._functions = {
            "ldtilecfg": self._function(Tiles.configure, "ldtilecfg", pointer),
            "tilerelease": self._function(Tiles.release, "tilerelease"),
            "tilezero": self._function(Tiles.zero, "tilezero", i8),
            "tileloadd64": self._function(Tiles.load, "tileloadd64", i8, pointer, i64),
            "tilestored64": self._function(Tiles.store, "tilestored64", i8, pointer, i64),
            "tdpbf16ps": self._function(Tiles.bf16, "tdpbf16ps", i8, i8, i8),
            "tdpbssd": self._function(Tiles.int8, "tdpbssd", i8, i8, i8),
        }

    def _function(self, method, name: str, *kinds):
        def run(*args) -> None:
            tiles = self._tiles.setdefault(threading.get_ident(), Tiles())
            self.calls[name] = self.calls.get(name, 0) + 1
            try:
                if not tiles.data and name != "ldtilecfg":
                    raise Undefined(f"{name} without a tile configuration")
                method(tiles, *args)
            except Exception as error:
                self.errors.append(f"{name}{args}: {error!r}")

        return ctypes.CFUNCTYPE(None, *kinds)(run)

    @property
    def addresses(self) -> dict[str, int]:
        return {f"soft.{n}": ctypes.cast(f, ctypes.c_void_p).value for n, f in self._functions.items()}


MACHINE = Machine()


@cache
def llvm_ir(fn, signature, constants) -> tuple[str, str, str]:
    """IR for a processor with AMX, the entry's name, and the letters of its arguments."""
    full = {n: dict(signature).get(n, "constexpr") for n in fn.arg_names}
    source = ASTSource(fn, full, dict(constants), {})
    backend = compiler.CpuBackend(direct.gpu_target())
    parsed = options.parse({}, backend.arch)
    context = ir.context()
    ir.load_dialects(context)
    module = source.make_ir(
        backend.target, parsed, backend.get_codegen_implementation(parsed), backend.get_module_map(), context
    )
    pipeline.make_ttir(module, {})
    made = lower(parse(str(module)), amx_target(), "vector")
    assert not made.outlined
    return made.ir, made.entry, made.letters


def signature_of(fn, args, constants) -> tuple[tuple[str, str], ...]:
    names = [n for n in fn.arg_names if n not in constants]
    kinds = [
        TYPES[a.dtype] if isinstance(a, torch.Tensor) else "fp32" if isinstance(a, float) else "i32"
        for a in args
    ]
    return tuple(zip(names, kinds, strict=True))


def run_in_software(fn, grid, *args, **constants) -> dict[str, int]:
    """Launch a kernel that was compiled for AMX with the tile instructions as functions; how often each was
    called."""
    text, entry, letters = llvm_ir(fn, signature_of(fn, args, constants), tuple(constants.items()))
    host = target.host()
    obj = jit.emit(_INSTRUCTION.sub(r"@soft.\1", text), host).obj
    shared = runtime.get(host)
    loaded = jit.load(obj, (entry,), {**shared.known, **MACHINE.addresses}, host)
    MACHINE.calls, MACHINE.errors = {}, []
    shared.callable(loaded.addresses[entry], letters, loaded)(*(*grid, 1, 1)[:3], *args)
    assert not MACHINE.errors, MACHINE.errors[:3]
    return MACHINE.calls


def assembly(fn, *args, **constants) -> str:
    """Machine code for a processor with AMX."""
    text, _, _ = llvm_ir(fn, signature_of(fn, args, constants), tuple(constants.items()))
    return jit.assembly(text, amx_target())
