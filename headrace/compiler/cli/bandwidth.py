"""Read bandwidth of the main memory: the floor under every kernel that reads its weights once.

A small kernel, compiled by llvmlite for this processor, reads a buffer in several streams per thread and
folds it into one word; nothing is written. Both 4 KiB and huge pages are tried and the better is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

STREAMS = 8
_CHUNK = 64  # bytes a vector load takes; a multiple of STREAMS * _CHUNK is read, the rest is left out

_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)
_SMALL = getattr(mmap, "MADV_NOHUGEPAGE", None)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes read a second, with what it was measured over."""

    bytes_per_second: float
    bytes: int
    threads: int
    pages: str
    streams: int = STREAMS

    def __str__(self) -> str:
        return (
            f"{self.bytes_per_second / 1e9:.1f} GB/s ({self.bytes / 2**20:.0f} MiB, {self.threads} threads, "
            f"{self.streams} streams each, {self.pages} pages)"
        )


def read_bandwidth(size: int = 512 << 20, threads: int = 2, repeats: int = 5) -> Bandwidth:
    """The best of `repeats` passes over `size` bytes (at least 1 MiB), for each kind of page."""
    size = max(size, 1 << 20)
    return max(
        (_measure(size, threads, repeats, pages) for pages in ("4 KiB", "huge")),
        key=lambda found: found.bytes_per_second,
    )


class Reader:
    """A resident buffer to be read again and again, in turn with a step that reads as much."""

    def __init__(self, size: int, threads: int, pages: str = "huge") -> None:
        self.size, self.threads, self.pages = size, threads, pages
        self._memory = mmap.mmap(-1, size)
        advice = _HUGE if pages == "huge" else _SMALL
        if advice is not None:
            with contextlib.suppress(OSError):  # without transparent huge pages small ones have to do
                self._memory.madvise(advice)
        self._hold = (ctypes.c_char * size).from_buffer(self._memory)
        self._base = ctypes.addressof(self._hold)
        ctypes.memset(self._base, 1, size)
        self._kernel = _kernel()

    def read(self) -> float:
        """Seconds for one pass over the buffer by all threads together."""
        part = self.size // self.threads // (STREAMS * _CHUNK) * (STREAMS * _CHUNK)
        gate = threading.Barrier(self.threads + 1)

        def work(at: int) -> None:
            gate.wait()
            self._kernel(self._base + at * part, part // STREAMS)

        workers = [threading.Thread(target=work, args=(at,)) for at in range(self.threads)]
        for worker in workers:
            worker.start()
        gate.wait()
        start = time.perf_counter()
        for worker in workers:
            worker.join()
        return time.perf_counter() - start

    def close(self) -> None:
        """Give the memory back."""
        del self._hold
        self._memory.close()


def _measure(size: int, threads: int, repeats: int, pages: str) -> Bandwidth:
    reader = Reader(size, threads, pages)
    try:
        seconds = min(reader.read() for _ in range(repeats))
    finally:
        reader.close()
    return Bandwidth(size / seconds, size, threads, pages)


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """`uint64 read(base, stride)`: xor of the words in STREAMS adjacent runs of `stride` bytes."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )
    module = binding.parse_assembly(_source())
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    signature = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int64)
    function = signature(engine.get_function_address("read"))
    function.engine = engine  # type: ignore[attr-defined]  # keeps the code alive
    return function


def _source() -> str:
    names = range(STREAMS)
    phis = "\n".join(f"  %a{s} = phi <16 x i32> [zeroinitializer, %entry], [%n{s}, %loop]" for s in names)
    body = "\n".join(
        f"  %o{s} = add i64 %at, {'0' if s == 0 else f'%s{s}'}\n"
        f"  %p{s} = getelementptr i8, ptr %base, i64 %o{s}\n"
        f"  %v{s} = load <16 x i32>, ptr %p{s}, align 64\n"
        f"  %n{s} = xor <16 x i32> %a{s}, %v{s}"
        for s in names
    )
    strides = "\n".join(f"  %s{s} = mul i64 %stride, {s}" for s in names if s)
    folds, last = [], "%n0"
    for s in range(1, STREAMS):
        folds.append(f"  %f{s} = xor <16 x i32> {last}, %n{s}")
        last = f"%f{s}"
    return f"""
define i64 @read(ptr %base, i64 %stride) {{
entry:
{strides}
  br label %loop
loop:
  %at = phi i64 [0, %entry], [%next, %loop]
{phis}
{body}
  %next = add i64 %at, {_CHUNK}
  %more = icmp ult i64 %next, %stride
  br i1 %more, label %loop, label %done
done:
{chr(10).join(folds)}
  %wide = bitcast <16 x i32> {last} to <8 x i64>
  %word = call i64 @llvm.vector.reduce.xor.v8i64(<8 x i64> %wide)
  ret i64 %word
}}
declare i64 @llvm.vector.reduce.xor.v8i64(<8 x i64>)
"""
