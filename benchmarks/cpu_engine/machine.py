"""What the machine can do at most, measured beside the kernels: reading, copying, multiplying in registers.

Each probe is a few lines of LLVM IR, compiled and spread over threads by the engine's own runtime, so it pays
the same price for a launch as the kernels do, and reads the very tensors that they read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from headrace.codegen.cpu import jit, runtime, target
from headrace.codegen.cpu.ttir import Function, PointerType, ScalarType, Type, Value
from headrace.codegen.cpu.worker import symbol_of, worker_ir

_STREAMS = 8
_OPERANDS = "ptr %data, ptr %sink, i64 %count"
_PROGRAM = "i32 %x, i32 %y, i32 %z, i32 %gx, i32 %gy, i32 %gz"
_KINDS: dict[str, Type] = {"p": PointerType(ScalarType("i8")), "i": ScalarType("i64")}
_ARCH_PRCTL, _ASK_PERMISSION, _TILE_DATA = 158, 0x1023, 18

Launch = Callable[..., None]


def _launcher(name: str, letters: str, text: str) -> Launch:
    """`f(gx, gy, gz, *args)` of `define void @name(args, program ids)` in LLVM IR."""
    host = target.host()
    arguments = [Value(at, _KINDS[letter]) for at, letter in enumerate(letters)]
    kernel = Function(name, arguments, [{}] * len(letters), [], [])
    ir = f'target triple = "{host.triple}"\n{text}\n{worker_ir(kernel, name, "!nontemporal" in text)}'
    entry = f"{name}.worker"
    shared = runtime.get(host)
    loaded = jit.load(jit.emit(ir, host).obj, (entry,), shared.known, host)
    return shared.callable(loaded.addresses[entry], letters, loaded)


def _function(name: str, arguments: str, body: str) -> str:
    return f'define void @"{symbol_of(name)}"({arguments}, {_PROGRAM}) {{\nentry:\n{body}\n}}'


def _loop(
    body: Sequence[str], phis: Sequence[str], step: str, setup: Sequence[str], end: Sequence[str]
) -> str:
    return "\n".join(
        [
            *setup,
            "  br label %loop",
            "loop:",
            "  %at = phi i64 [ 0, %entry ], [ %next, %loop ]",
            *phis,
            *body,
            f"  %next = add i64 %at, {step}",
            "  %more = icmp slt i64 %next, %count",
            "  br i1 %more, label %loop, label %done",
            "done:",
            *end,
            "  ret void",
        ]
    )


@lru_cache
def _read() -> Launch:
    names = range(_STREAMS)
    vector = "<16 x i32>"
    setup = [
        "  %x64 = zext i32 %x to i64",
        "  %part = mul i64 %bytes, %x64",
        "  %first = getelementptr i8, ptr %base, i64 %part",
        f"  %count = udiv i64 %bytes, {_STREAMS}",
    ]
    for s in names:
        setup += [f"  %o{s} = mul i64 %count, {s}", f"  %b{s} = getelementptr i8, ptr %first, i64 %o{s}"]
    phis = [f"  %a{s} = phi {vector} [ zeroinitializer, %entry ], [ %n{s}, %loop ]" for s in names]
    body = []
    for s in names:
        body += [
            f"  %p{s} = getelementptr i8, ptr %b{s}, i64 %at",
            f"  %v{s} = load {vector}, ptr %p{s}, align 1",
            f"  %n{s} = xor {vector} %a{s}, %v{s}",
        ]
    end, last = [], "%n0"
    for s in names[1:]:
        end.append(f"  %f{s} = xor {vector} {last}, %n{s}")
        last = f"%f{s}"
    end += [
        "  %slot = mul i64 %x64, 64",
        "  %out = getelementptr i8, ptr %sink, i64 %slot",
        f"  store {vector} {last}, ptr %out, align 1",
    ]
    text = _function("read", "ptr %base, i64 %bytes, ptr %sink", _loop(body, phis, "64", setup, end))
    return _launcher("read", "pip", text)


def reader(tensors: Sequence[torch.Tensor]) -> Callable[[], None]:
    """A step that reads every byte of contiguous tensors, each split over torch's threads."""
    launch, threads = _read(), torch.get_num_threads()
    grain = _STREAMS * 64
    sink = torch.empty(64 * threads, dtype=torch.uint8)
    parts = [
        (t.data_ptr(), t.nbytes // threads // grain * grain) for t in tensors if t.nbytes >= grain * threads
    ]

    def step() -> None:
        for base, part in parts:
            launch(threads, 1, 1, base, part, sink.data_ptr())

    keep = (tensors, sink)
    step.keep = keep  # type: ignore[attr-defined]  # the addresses above stay valid as long as the step
    return step


@lru_cache
def _copy(sources: int, streaming: bool) -> Launch:
    vector = "<16 x i32>"
    names = range(sources)
    setup = [
        "  %x64 = zext i32 %x to i64",
        "  %part = mul i64 %count, %x64",
        "  %to = getelementptr i8, ptr %dst, i64 %part",
    ]
    setup += [f"  %b{s} = getelementptr i8, ptr %src{s}, i64 %part" for s in names]
    body = []
    for s in names:
        body += [
            f"  %p{s} = getelementptr i8, ptr %b{s}, i64 %at",
            f"  %v{s} = load {vector}, ptr %p{s}, align 1",
        ]
    last = "%v0"
    for s in names[1:]:
        body.append(f"  %f{s} = xor {vector} {last}, %v{s}")
        last = f"%f{s}"
    hint = ", align 64, !nontemporal !0" if streaming else ", align 1"
    body += ["  %q = getelementptr i8, ptr %to, i64 %at", f"  store {vector} {last}, ptr %q{hint}"]
    arguments = "".join(f"ptr %src{s}, " for s in names)
    name = f"copy{sources}{'s' if streaming else ''}"
    text = _function(name, f"ptr %dst, {arguments}i64 %count", _loop(body, [], "64", setup, []))
    return _launcher(name, "p" + "p" * sources + "i", text + "\n!0 = !{i32 1}")


def copiers(sources: Sequence[torch.Tensor], result: torch.Tensor) -> dict[str, Callable[[], None]]:
    """Steps that read all sources and write as many bytes as `result` has, through the caches and past them.

    They write into a buffer of their own; the sources are as large as the result.
    """
    threads = torch.get_num_threads()
    part = result.nbytes // threads // 64 * 64
    buffer = torch.zeros(result.nbytes + 64, dtype=torch.uint8)
    to = -(-buffer.data_ptr() // 64) * 64
    addresses = [t.data_ptr() for t in sources]

    def made(streaming: bool) -> Callable[[], None]:
        launch = _copy(len(sources), streaming)

        def step() -> None:
            launch(threads, 1, 1, to, *addresses, part)

        step.keep = (sources, buffer)  # type: ignore[attr-defined]  # as in `reader`
        return step

    return {"copy": made(False), "copy, streaming": made(True)}


@dataclass(frozen=True)
class Peak:
    """A step that only multiplies in registers: by which instruction, how many operations a call."""

    instruction: str
    operations: float
    step: Callable[[], None]


def peak(dtype: torch.dtype) -> Peak:
    """The fastest multiply-add that the processor has for float32, or for bfloat16 with float32 sums."""
    host = target.host()
    if dtype is torch.bfloat16 and host.has("amx-tile", "amx-bf16"):
        return _timed("AMX tiles", _tiles(), 16.0 * 16 * 32 * 2 * 8)
    lanes = host.vector_bits // 32
    many = 24 if host.vector_bits == 512 else 12
    if dtype is torch.bfloat16 and host.has("avx512bf16"):
        return _timed("vdpbf16ps", _vectors(lanes, many, True), 4.0 * lanes * many)
    return _timed(f"f32 FMA, {host.vector_bits} bits", _vectors(lanes, many, False), 2.0 * lanes * many)


def _timed(instruction: str, launch: Launch, operations: float, turns: int = 200_000) -> Peak:
    threads = torch.get_num_threads()
    data = torch.full((4096,), 0.5).bfloat16()
    sink = torch.empty(16384 * threads)

    def step() -> None:
        launch(threads, 1, 1, data.data_ptr(), sink.data_ptr(), turns)

    return Peak(instruction, operations * turns * threads, step)


@lru_cache
def _vectors(lanes: int, many: int, pairs: bool) -> Launch:
    """Independent chains of multiply-adds, as many as hide the latency and fit the registers."""
    vector = f"<{lanes} x float>"
    operand = f"<{2 * lanes} x bfloat>" if pairs else vector
    function = "@llvm.x86.avx512bf16.dpbf16ps.512" if pairs else f"@llvm.fma.v{lanes}f32"
    order = (lambda s: f"{vector} %a{s}, {operand} %l, {operand} %r") if pairs else (
        lambda s: f"{vector} %l, {vector} %r, {vector} %a{s}")  # fmt: skip
    setup = [f"  %l = load {operand}, ptr %data, align 1", "  %second = getelementptr i8, ptr %data, i64 64",
             f"  %r = load {operand}, ptr %second, align 1", "  %x64 = zext i32 %x to i64"]  # fmt: skip
    phis = [f"  %a{s} = phi {vector} [ zeroinitializer, %entry ], [ %n{s}, %loop ]" for s in range(many)]
    body = [f"  %n{s} = call {vector} {function}({order(s)})" for s in range(many)]
    end = ["  %skip = mul i64 %x64, 65536", "  %out = getelementptr i8, ptr %sink, i64 %skip"]
    for s in range(many):
        end += [
            f"  %q{s} = getelementptr i8, ptr %out, i64 {64 * s}",
            f"  store {vector} %n{s}, ptr %q{s}, align 1",
        ]
    declared = f"{vector}, {operand}, {operand}"
    text = _function("peak", _OPERANDS, _loop(body, phis, "1", setup, end))
    return _launcher("peak", "ppi", f"declare {vector} {function}({declared})\n{text}")


@lru_cache
def _tiles() -> Launch:
    """Two by two tiles of sums from two and two tiles of operands, twice a turn, nothing loaded between."""
    if ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK_PERMISSION, _TILE_DATA):
        raise OSError("the kernel does not grant the AMX tile state (arch_prctl)")
    config = [1, 0] + [0] * 14 + [64, 0] * 8 + [0] * 16 + [16] * 8 + [0] * 8
    data = ", ".join(f"i8 {v}" for v in config)
    setup = ["  call void @llvm.x86.ldtilecfg(ptr @tiles)"]
    setup += [f"  call void @llvm.x86.tilezero(i8 {t})" for t in range(4)]
    setup += [f"  call void @llvm.x86.tileloadd64(i8 {t}, ptr %data, i64 64)" for t in range(4, 8)]
    body = [f"  call void @llvm.x86.tdpbf16ps(i8 {2 * i + j}, i8 {4 + i}, i8 {6 + j})"
            for _ in range(2) for i in range(2) for j in range(2)]  # fmt: skip
    end = [
        "  %x64 = zext i32 %x to i64",
        "  %skip = mul i64 %x64, 65536",
        "  %out = getelementptr i8, ptr %sink, i64 %skip",
        "  call void @llvm.x86.tilestored64(i8 0, ptr %out, i64 64)",
        "  call void @llvm.x86.tilerelease()",
    ]
    text = f"""@tiles = internal constant [{len(config)} x i8] [{data}], align 64
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilezero(i8)
declare void @llvm.x86.tileloadd64(i8, ptr, i64)
declare void @llvm.x86.tilestored64(i8, ptr, i64)
declare void @llvm.x86.tdpbf16ps(i8, i8, i8)
declare void @llvm.x86.tilerelease()
{_function("peak", _OPERANDS, _loop(body, [], "1", setup, end))}"""
    return _launcher("peak", "ppi", text)
