"""Writing LLVM IR in which every TTIR value, scalar or tensor, has a place in memory.

Scalars live in stack slots (LLVM turns them into registers), tensors in row-major buffers cut from one frame
of scratch memory. An ``i1`` takes a byte; an 8-bit float is kept as its code in an ``i8``, a bf16 in an
``i16`` (where the processor lacks bf16, LLVM would call a library that is not there).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Element, PointerType, TensorType, Type, Value

_REGISTER = {"f16": "half", "bf16": "i16", "f32": "float", "f64": "double", "index": "i64"}


def register_type(element: Element) -> str:
    """LLVM type of an element in a register."""
    if isinstance(element, PointerType):
        return "ptr"
    return _REGISTER.get(element.name, f"i{element.bits}")


def memory_type(element: Element) -> str:
    """LLVM type of an element in memory: as in a register, but a whole byte for ``i1``."""
    return "i8" if element == ttir.I1 else register_type(element)


def byte_size(element: Element) -> int:
    """Bytes of an element in memory."""
    return max(1, element.bits // 8)


def strides_of(shape: Sequence[int]) -> list[int]:
    """Row-major strides in elements."""
    strides = [1] * len(shape)
    for k in range(len(shape) - 2, -1, -1):
        strides[k] = strides[k + 1] * shape[k + 1]
    return strides


class Emitter:
    """Text of one LLVM function under construction."""

    def __init__(self, globals_: dict[str, str]) -> None:
        self.entry: list[str] = []
        self.body: list[str] = []
        self.frame = 0  # bytes of scratch used so far
        self.globals = globals_  # declarations, constants and helper functions by name, shared by the module
        self._count = 0
        self._places: dict[Value, str] = {}

    # ---- text ----------------------------------------------------------------------------------------------
    def name(self, prefix: str = "t") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def line(self, text: str) -> None:
        self.body.append(f"  {text}")

    def let(self, expression: str) -> str:
        """Bind a new register."""
        register = "%" + self.name()
        self.line(f"{register} = {expression}")
        return register

    def label(self, name: str) -> None:
        self.body.append(f"{name}:")

    def jump(self, name: str) -> None:
        self.line(f"br label %{name}")

    def branch(self, condition: str, yes: str, no: str) -> None:
        self.line(f"br i1 {condition}, label %{yes}, label %{no}")

    def declare(self, result: str, name: str, *args: str) -> str:
        """Declare an external function once; returns ``@name``."""
        self.globals.setdefault(name, f"declare {result} @{name}({', '.join(args)})")
        return f"@{name}"

    def call(self, result: str, name: str, *args: tuple[str, str]) -> str:
        """Call an external function on (type, register) pairs."""
        function = self.declare(result, name, *(kind for kind, _ in args))
        return self.let(f"call {result} {function}({', '.join(f'{kind} {reg}' for kind, reg in args)})")

    # ---- places --------------------------------------------------------------------------------------------
    def place(self, value: Value) -> str:
        """Address of the value's storage, created at first use."""
        found = self._places.get(value)
        if found is None:
            found = self._places[value] = self.new_place(value.type)
        return found

    def bind(self, value: Value, address: str) -> None:
        """Let a value live at an existing address."""
        self._places[value] = address

    def new_place(self, type_: Type) -> str:
        """Fresh storage for a value of this type, valid in the whole function."""
        register = "%" + self.name("p")
        if isinstance(type_, TensorType):
            size = type_.numel * byte_size(type_.element)
            self.entry.append(f"  {register} = getelementptr i8, ptr %frame, i64 {self.frame}")
            self.frame += (size + 63) // 64 * 64
        else:
            self.entry.append(f"  {register} = alloca {memory_type(type_)}, align 8")
        return register

    def load(self, element: Element, address: str) -> str:
        """Load one element; an ``i1`` comes back as such."""
        register = self.let(f"load {memory_type(element)}, ptr {address}, align 1")
        return self.let(f"trunc i8 {register} to i1") if element == ttir.I1 else register

    def store(self, element: Element, register: str, address: str) -> None:
        if element == ttir.I1:
            register = self.let(f"zext i1 {register} to i8")
        self.line(f"store {memory_type(element)} {register}, ptr {address}, align 1")

    def at(self, address: str, element: Element, index: str) -> str:
        """Address of an element of a buffer."""
        return self.let(f"getelementptr {memory_type(element)}, ptr {address}, i64 {index}")

    def read(self, value: Value, index: str | None = None) -> str:
        """A scalar, or element ``index`` of a tensor."""
        element, address = ttir.element_of(value.type), self.place(value)
        if isinstance(value.type, TensorType):
            address = self.at(address, element, index or "0")
        return self.load(element, address)

    def write(self, value: Value, register: str, index: str | None = None) -> None:
        element, address = ttir.element_of(value.type), self.place(value)
        if isinstance(value.type, TensorType):
            address = self.at(address, element, index or "0")
        self.store(element, register, address)

    def copy(self, type_: Type, source: str, target: str) -> None:
        """Copy a whole value between places."""
        element = ttir.element_of(type_)
        if isinstance(type_, TensorType):
            size = type_.numel * byte_size(element)
            self.declare("void", "llvm.memcpy.p0.p0.i64", "ptr", "ptr", "i64", "i1")
            self.line(f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {size}, i1 false)")
        else:
            self.store(element, self.load(element, source), target)

    # ---- loops ---------------------------------------------------------------------------------------------
    @contextmanager
    def loop(self, count: int) -> Iterator[str]:
        """``for i in range(count)``; yields the i64 register."""
        pre, head, latch, done = (self.name(p) for p in ("pre", "loop", "latch", "done"))
        index, following = "%" + self.name("i"), "%" + self.name("i")
        self.jump(pre)
        self.label(pre)
        self.jump(head)
        self.label(head)
        self.line(f"{index} = phi i64 [ 0, %{pre} ], [ {following}, %{latch} ]")
        yield index
        self.jump(latch)
        self.label(latch)
        self.line(f"{following} = add nuw nsw i64 {index}, 1")
        again = self.let(f"icmp ult i64 {following}, {count}")
        self.branch(again, head, done)
        self.label(done)

    @contextmanager
    def nest(self, shape: Sequence[int]) -> Iterator[list[str]]:
        """Nested loops over an index space, last dimension innermost."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.loop(d)) for d in shape]

    def linear(self, indices: Sequence[str], shape: Sequence[int]) -> str:
        """Row-major position of a multi-index."""
        total = "0"
        for index, stride in zip(indices, strides_of(shape), strict=True):
            part = self.let(f"mul i64 {index}, {stride}") if stride != 1 else index
            total = part if total == "0" else self.let(f"add i64 {total}, {part}")
        return total

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Run the body only if the i1 register is true."""
        yes, end = self.name("then"), self.name("end")
        self.branch(condition, yes, end)
        self.label(yes)
        yield
        self.jump(end)
        self.label(end)
