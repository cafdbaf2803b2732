"""What every part of the generator shares while one function is written: machine, emitter, small IR
helpers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.codegen.cpu.float8 import FLOAT8
from headrace.codegen.cpu.ttir import Element, PointerType, Value, element_of
from headrace.codegen.cpu.vector.emit import Emitter
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.memory.prefetch import Prefetches

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.analysis.ranges import Known

_ELEMENTS = {"f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double", "index": "i64"}
SIZES = {
    "i1": 1,
    "i8": 1,
    "i16": 2,
    "i32": 4,
    "i64": 8,
    "half": 2,
    "bfloat": 2,
    "float": 4,
    "double": 8,
    "ptr": 8,
    **dict.fromkeys(FLOAT8, 1),
}
FLOATS = frozenset({"half", "bfloat", "float", "double"})
Fact = tuple[str, int]
# Bytes of tiles on the stack; the rest lies in the thread's scratch memory. Threads may be given little.
STACK_LIMIT = 128 * 1024


@dataclass(frozen=True)
class Machine:
    """What the generator needs to know about the host."""

    lanes: int
    avx512: bool
    bf16_dot: bool
    vnni: bool = False
    amx_bf16: bool = False
    amx_int8: bool = False
    bytes_to_bf16: bool = False  # by table, see lanes/byte_table.py


@dataclass(frozen=True, slots=True)
class Ix:
    """Index along one dimension: an optional run-time part plus a constant; ``tag`` names the loop it
    came from."""

    base: str | None
    off: int
    tag: int = 0

    def plus(self, n: int) -> Ix:
        return Ix(self.base, self.off + n, self.tag)


ZERO = Ix(None, 0, 0)
Index = tuple[Ix, ...]


def element_type(element: Element) -> str:
    """Name of a TTIR element: its LLVM type, or that of an 8-bit float, which is kept as its code."""
    if isinstance(element, PointerType):
        return "ptr"
    if element.name in _ELEMENTS:
        return _ELEMENTS[element.name]
    if element.name not in SIZES:
        raise VectorDeclined(f"element type {element.name} is not vectorised")
    return element.name


def text(element: str) -> str:
    """How an element is spelled in LLVM IR. bf16 is held as i16: without the hardware LLVM would convert
    at each move."""
    if element == "bfloat":
        return "i16"
    return "i8" if element.startswith("f8") else element


def pointee_of(value: Value) -> str:
    """LLVM type of what a pointer (tensor) points at."""
    element = element_of(value.type)
    assert isinstance(element, PointerType)
    return "i8" if str(element.pointee) == "i1" else element_type(element.pointee)


def stored(element: str) -> str:
    """Element type of a tile in memory: a condition takes a byte."""
    return "i8" if element == "i1" else element


def vector_type(element: str, width: int) -> str:
    """LLVM type of ``width`` lanes, or of a scalar when ``width`` is 0."""
    return f"<{width} x {text(element)}>" if width else text(element)


def const(element: str, value: float | int | bool) -> str:
    """LLVM spelling of a constant."""
    if element == "i1":
        return "true" if value else "false"
    if element in FLOATS:
        x = float(value)
        if element == "double":
            return "0x" + struct.pack(">d", x).hex().upper()
        try:
            single = struct.unpack(">f", struct.pack(">f", x))[0]
        except OverflowError:
            single = float("inf") if x > 0 else float("-inf")
        if element == "float":
            return "0x" + struct.pack(">d", single).hex().upper()
        if element == "half":
            try:
                return "0xH" + struct.pack(">e", x).hex().upper()
            except OverflowError:
                return "0xH7C00" if x > 0 else "0xHFC00"
        (bits,) = struct.unpack(">I", struct.pack(">f", single))
        if x != x:
            return str(0x7FC0)
        short = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF
        return str(short - 0x10000 if short >> 15 else short)
    if element == "ptr":
        return "null"
    if element in FLOAT8:
        code = FLOAT8[element].code(float(value))
        return str(code - 0x100 if code >> 7 else code)
    bits = SIZES[element] * 8
    n = int(value) & ((1 << bits) - 1)
    return str(n - (1 << bits) if n >> (bits - 1) else n)


def is_const_int(text: str) -> bool:
    return text.lstrip("-").isdigit()


class Context:
    """One function under construction."""

    def __init__(self, machine: Machine) -> None:
        self.e = Emitter()
        self.machine = machine
        self.facts: frozenset[Fact] = frozenset()
        self.prefetches = Prefetches()
        self.uniform: dict[str, str] = {}  # scalar by the name of the vector that repeats it
        self.known: dict[str | int, Known] = {}  # integers by SSA name, or by `Expr.uid`; see `ranges`
        self.tees = 0  # tiles that the loops being written store on their way, or more: see `Tee`
        self._tags = 0
        self._dummy = ""
        self._sums: set[str] = set()  # addresses that were computed

    def tag(self) -> int:
        """A number that marks the indices of one loop."""
        self._tags += 1
        return self._tags

    @contextmanager
    def knowing(self, facts: Sequence[Fact]) -> Iterator[None]:
        """Within the block, every index tagged ``t`` is below ``limit`` for each ``(limit, t)``."""
        saved = self.facts
        self.facts = saved | frozenset(facts)
        try:
            yield
        finally:
            self.facts = saved

    # 64-bit index arithmetic

    def add(self, a: str, b: str, type_: str = "i64") -> str:
        if b == "0":
            return a
        if a == "0":
            return b
        if is_const_int(a) and is_const_int(b):
            return const(type_, int(a) + int(b))
        return self.e.pure(f"add {type_} {a}, {b}", (a, b))

    def sub(self, a: str, b: str) -> str:
        if b == "0":
            return a
        if is_const_int(a) and is_const_int(b):
            return str(int(a) - int(b))
        return self.e.pure(f"sub i64 {a}, {b}", (a, b))

    def mul(self, a: str, b: str, type_: str = "i64") -> str:
        if a == "1":
            return b
        if b == "1":
            return a
        if a == "0" or b == "0":
            return "0"
        if is_const_int(a) and is_const_int(b):
            return const(type_, int(a) * int(b))
        return self.e.pure(f"mul {type_} {a}, {b}", (a, b))

    def smin(self, a: str, b: str) -> str:
        if a == b:
            return a
        if is_const_int(a) and is_const_int(b):
            return str(min(int(a), int(b)))
        return self.call("llvm.smin.i64", "i64", ("i64", a), ("i64", b))

    def smax(self, a: str, b: str) -> str:
        if is_const_int(a) and is_const_int(b):
            return str(max(int(a), int(b)))
        return self.call("llvm.smax.i64", "i64", ("i64", a), ("i64", b))

    def floor_to(self, a: str, step: int) -> str:
        """Largest multiple of the power of two ``step`` that is not above ``a``."""
        assert step & (step - 1) == 0
        if step == 1:
            return a
        if is_const_int(a):
            return str(int(a) // step * step)
        return self.e.pure(f"and i64 {a}, {-step}", (a,))

    def index(self, ix: Ix) -> str:
        """The index as an i64."""
        if ix.base is None:
            return str(ix.off)
        return self.add(ix.base, str(ix.off))

    def cmp(self, predicate: str, a: str, b: str, type_: str = "i64") -> str:
        if is_const_int(a) and is_const_int(b):
            x, y = int(a), int(b)
            return "true" if {"slt": x < y, "sle": x <= y, "eq": x == y, "sgt": x > y}[predicate] else "false"
        return self.e.pure(f"icmp {predicate} {type_} {a}, {b}", (a, b))

    # vectors

    def splat(self, element: str, value: str, width: int) -> str:
        """Vector whose lanes are all ``value``."""
        if width == 0:
            return value
        if not value.startswith("%"):
            return f"splat ({text(element)} {value})"
        vt = vector_type(element, width)
        one = self.e.pure(f"insertelement {vt} poison, {text(element)} {value}, i64 0", (value,))
        every = f"shufflevector {vt} {one}, {vt} poison, <{width} x i32> zeroinitializer"
        name = self.e.pure(every, (one,))
        self.uniform[name] = value
        return name

    def lanes_below(self, count: str, width: int) -> str:
        """Which lanes of a vector are among the first ``count``, an i64 that fits 32 bits: ``width`` x i1."""
        small = count if is_const_int(count) else self.cast("trunc", "i64", count, "i32")
        it, splat = vector_type("i32", width), self.splat("i32", small, width)
        return self.e.pure(f"icmp sgt {it} {splat}, {self.iota('i32', width)}", (splat,))

    def shuffle(self, element: str, width: int, a: str, b: str, lanes: Sequence[int]) -> str:
        vt = vector_type(element, width)
        mask = ", ".join(f"i32 {n}" if n >= 0 else "i32 poison" for n in lanes)
        return self.e.pure(f"shufflevector {vt} {a}, {vt} {b}, <{len(lanes)} x i32> <{mask}>", (a, b))

    def iota(self, element: str, width: int, start: int = 0) -> str:
        return "<" + ", ".join(f"{element} {start + n}" for n in range(width)) + ">"

    def call(
        self, name: str, result: str, *args: tuple[str, str], read: bool = False, within: Sequence[str] = ()
    ) -> str:
        """Call an intrinsic or external function with (type, value) arguments. What it reads is read where
        the names in ``within`` exist."""
        self.e.declare(name, f"declare {result} @{name}({', '.join(t for t, _ in args)})")
        text = f"call {result} @{name}({', '.join(f'{t} {v}' for t, v in args)})"
        values = [v for _, v in args]
        return self.e.read(text, [*values, *within]) if read else self.e.pure(text, values)

    def op(self, name: str, type_: str, *args: str) -> str:
        """``name type a, b``: an arithmetic instruction."""
        return self.e.pure(f"{name} {type_} {', '.join(args)}", args)

    def cast(self, name: str, from_: str, value: str, to: str) -> str:
        return self.e.pure(f"{name} {from_} {value} to {to}", (value,))

    def bitcast(self, from_: str, value: str, to: str) -> str:
        return value if from_ == to else self.cast("bitcast", from_, value, to)

    def select(self, cond_type: str, cond: str, type_: str, a: str, b: str) -> str:
        if a == b or cond == "true":
            return a
        if cond == "false":
            return b
        return self.e.pure(f"select {cond_type} {cond}, {type_} {a}, {type_} {b}", (cond, a, b))

    def gep(self, element: str, pointer: str, offset: str) -> str:
        """The address ``offset`` elements on. In a loop, a base that was computed outside is one value."""
        if offset == "0":
            return pointer
        moves = not is_const_int(offset)
        if moves and pointer in self._sums and self.e.depth(pointer) < self.e.depth(offset):
            pointer = self.hidden(pointer)
        made = self.e.pure(f"getelementptr {text(element)}, ptr {pointer}, i64 {offset}", (pointer, offset))
        if moves or pointer in self._sums:
            self._sums.add(made)
        return made

    def hidden(self, pointer: str) -> str:
        """The same address; how it was computed is hidden from LLVM's analyses.

        Loop strength reduction weighs ways to combine the parts of every address in an innermost loop, and
        the parts of a tile's place in its tensor are many: a quarter of all of code generation was that.
        """
        return self.e.pure(f"freeze ptr {pointer}", (pointer,))

    def fma(self, element: str, width: int, a: str, b: str, c: str) -> str:
        vt = vector_type(element, width)
        suffix = {"float": "f32", "double": "f64"}[element]
        name = f"llvm.fma.v{width}{suffix}" if width else f"llvm.fma.{suffix}"
        return self.call(name, vt, (vt, a), (vt, b), (vt, c))

    # memory

    def alloca(self, element: str, count: int) -> str:
        if self.e.alloca_bytes + count * SIZES[element] > STACK_LIMIT:
            return self.e.scratch(count * SIZES[element])
        return self.e.alloca(text(element), count, SIZES[element])

    def zeros(self) -> str:
        """256 readable zero bytes: where loads go whose row is masked off."""
        if not self._dummy:
            self._dummy = self.e.alloca("i8", 256, 256)
            vt = "<32 x i64>"
            self.e.allocas.append(f"  store {vt} zeroinitializer, ptr {self._dummy}, align 64")
        return self._dummy

    def load(self, element: str, width: int, pointer: str, within: Sequence[str] = ()) -> str:
        """Read a vector, where the names in ``within`` exist."""
        vt = vector_type(element, width)
        return self.e.read(f"load {vt}, ptr {pointer}, align {SIZES[element]}", (pointer, *within))

    def store(self, element: str, width: int, value: str, pointer: str) -> None:
        self.e.effect(f"store {vector_type(element, width)} {value}, ptr {pointer}, align {SIZES[element]}")
