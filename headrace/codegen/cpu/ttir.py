"""Typed, immutable-by-convention form of the Triton tensor IR (TTIR) that the CPU engine compiles.

Everything the lowerings read is here: types, SSA values, operations with one block per region, and functions
with one or more blocks. The attribute names of each operation are those that
:mod:`headrace.codegen.cpu.parse` documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from headrace.errors import UnsupportedTtir

_FLOAT_BITS = {"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "tf32": 32}


@dataclass(frozen=True)
class ScalarType:
    """A scalar: ``i1 i8 i16 i32 i64 f16 bf16 f32 f64 f8e4m3fn f8e5m2 ... index``."""

    name: str

    @property
    def is_float(self) -> bool:
        """True for IEEE-like floats, including the 8-bit ones."""
        return self.name in _FLOAT_BITS or self.name.startswith("f8")

    @property
    def is_int(self) -> bool:
        return not self.is_float

    @property
    def bits(self) -> int:
        """Width of a value in bits (``index`` is 64)."""
        if self.name in _FLOAT_BITS:
            return _FLOAT_BITS[self.name]
        if self.name == "index":
            return 64
        if self.name.startswith("f8"):
            return 8
        return int(self.name[1:])

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PointerType:
    """Address of elements of ``pointee``; arithmetic on it counts elements, not bytes."""

    pointee: ScalarType | PointerType

    @property
    def bits(self) -> int:
        return 64

    def __str__(self) -> str:
        return f"ptr<{self.pointee}>"


@dataclass(frozen=True)
class TensorType:
    """Statically shaped tensor value."""

    shape: tuple[int, ...]
    element: ScalarType | PointerType

    @property
    def numel(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    def __str__(self) -> str:
        return "tensor<" + "x".join([*map(str, self.shape), str(self.element)]) + ">"


Element: TypeAlias = ScalarType | PointerType
Type: TypeAlias = ScalarType | PointerType | TensorType

I1 = ScalarType("i1")
I32 = ScalarType("i32")
I64 = ScalarType("i64")
F32 = ScalarType("f32")


def element_of(type_: Type) -> Element:
    """Element type of a tensor, or the scalar type itself."""
    return type_.element if isinstance(type_, TensorType) else type_


def shape_of(type_: Type) -> tuple[int, ...]:
    """Shape of a tensor, ``()`` of a scalar."""
    return type_.shape if isinstance(type_, TensorType) else ()


def with_element(type_: Type, element: Element) -> Type:
    """``type_`` with another element type and the same shape."""
    return TensorType(type_.shape, element) if isinstance(type_, TensorType) else element


@dataclass(frozen=True)
class Loc:
    """Where an operation came from. ``caller`` is the call site when the line is in an inlined function."""

    file: str
    line: int
    column: int
    caller: Loc | None = None

    @property
    def kernel(self) -> Loc:
        """The outermost call site: the line in the kernel's own body."""
        loc = self
        while loc.caller is not None:
            loc = loc.caller
        return loc

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(eq=False, slots=True)
class Value:
    """An SSA value; two values are the same only if they are the same object."""

    id: int
    type: Type

    def __repr__(self) -> str:
        return f"%{self.id}:{self.type}"


@dataclass(eq=False, slots=True)
class Block:
    """Straight-line operations; the last one is always a terminator."""

    args: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Successor:
    """Branch target of ``cf.br`` / ``cf.cond_br`` with the values for the target block's arguments."""

    block: Block
    operands: list[Value]


@dataclass(eq=False, slots=True)
class Op:
    """One operation. Each region is one block; ``successors`` is used by ``cf.*`` only."""

    name: str
    operands: list[Value] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    attrs: dict[str, object] = field(default_factory=dict)
    regions: list[Block] = field(default_factory=list)
    loc: Loc | None = None
    successors: list[Successor] = field(default_factory=list)

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    def int_attr(self, name: str) -> int:
        """Attribute ``name``, which must be an integer."""
        value = self.attrs[name]
        if not isinstance(value, int):
            raise TypeError(f"{self.name}: attribute {name} is {value!r}, not an integer")
        return value

    def str_attr(self, name: str, default: str = "") -> str:
        """Attribute ``name`` as text."""
        return str(self.attrs.get(name, default))

    def segment(self, index: int) -> Value | None:
        """Optional operand ``index`` of an operation with ``operandSegmentSizes`` of zeros and ones."""
        sizes = self.attrs["operandSegmentSizes"]
        assert isinstance(sizes, tuple)
        return self.operands[sum(sizes[:index])] if sizes[index] else None

    def __repr__(self) -> str:
        return f"<{self.name} {self.operands} -> {self.results}>"


@dataclass(eq=False, slots=True)
class Function:
    """A kernel (``public``) or a function that it calls (``private``)."""

    name: str
    args: list[Value]
    arg_attrs: list[dict[str, object]]
    blocks: list[Block]
    result_types: list[Type]
    public: bool = True
    loc: Loc | None = None

    @property
    def body(self) -> Block:
        """Entry block. The only one, unless the kernel returns early (``cf.cond_br``)."""
        return self.blocks[0]


@dataclass(eq=False, slots=True)
class Module:
    """What one ``triton.compile`` produces: one kernel and the functions it calls."""

    functions: list[Function]

    @property
    def kernel(self) -> Function:
        """The first public function."""
        return next((f for f in self.functions if f.public), self.functions[0])

    def function(self, name: str) -> Function:
        """Look up a callee; KeyError if it is not here."""
        for f in self.functions:
            if f.name == name:
                return f
        raise KeyError(name)


def walk(where: Module | Function | Block | Op) -> Iterator[Op]:
    """Every operation under ``where``, outer before inner, in program order."""
    if isinstance(where, Module):
        for f in where.functions:
            yield from walk(f)
    elif isinstance(where, Function):
        for b in where.blocks:
            yield from walk(b)
    elif isinstance(where, Block):
        for op in where.ops:
            yield op
            for region in op.regions:
                yield from walk(region)
    else:
        for region in where.regions:
            yield from walk(region)


def unsupported(op: Op | str, why: str, where: str | None = None) -> UnsupportedTtir:
    """The error for an operation that cannot be compiled, naming it and the kernel's source line."""
    name = op if isinstance(op, str) else op.name
    if where is None:
        loc = op.loc if isinstance(op, Op) else None
        where = (
            "unknown line"
            if loc is None
            else f"{loc.kernel}"
            if loc.caller is None
            else f"{loc.kernel} via {loc}"
        )
    return UnsupportedTtir(f"{name} at {where}: {why}")


def ids() -> Iterator[int]:
    """Fresh value numbers."""
    return itertools.count()
