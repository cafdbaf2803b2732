"""Plan: what a dataflow hands to rendering and to launching, all of it values.

A family (`gemm`, `attention`, `rows`) turns a Spec, a Schedule and the Facts of a call into a Plan: the
template's context, the kernel parameters in order, and how the host computes grid and arguments. `host.py`
writes the launcher, `kernel.py` binds it, `build.py` builds the same kernels for another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.codegen.expr_triton import Code
from headrace.ir.dtype import DType
from headrace.ir.spec import Extra


@dataclass(frozen=True, slots=True)
class Param:
    """One run-time kernel parameter.

    Attributes:
        name: as the template spells it.
        type: `*bf16`-like pointer, `i32` or `i64`, in the spelling of Triton signatures.
        host: the Python expression of its value in the launcher (a tensor's name for pointers).
    """

    name: str
    type: str
    host: str

    @property
    def declaration(self) -> Code:
        """Its text in the kernel's signature."""
        return Code(f"{self.name}: tl.int64" if self.type == "i64" else self.name)


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel of a rendered module: its function, parameters, grid (Python expressions) and GPU
    options."""

    function: str
    params: tuple[Param, ...]
    grid: tuple[str, str, str]
    num_warps: int = 4
    num_stages: int = 2


@dataclass(frozen=True, slots=True)
class Buffer:
    """A tensor that the launcher allocates: name, dtype and shape as Python expressions over the sizes."""

    name: str
    dtype: DType
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What one variant of a kernel may assume of its operands; operands that differ get another variant.

    Attributes:
        strides: of every operand whose strides are part of the code (weights), by operand position.
        sizes: run-time sizes that are part of the code (a row's length), None where they stay dynamic.
    """

    strides: tuple[tuple[int, int], ...] = ()
    sizes: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that rendering and launching of one variant need.

    Attributes:
        template: file name without `.py.j2`.
        context: values for it.
        operands: names of the operands in the order that the Spec states, as the launcher spells them.
        contiguous: operands that must be contiguous.
        inner: operands whose last dimension must have stride 1.
        exact: Python expressions that must hold for this variant, over operands and sizes.
        sizes: (name, Python expression over operands) in the order of assignment.
        outputs, workspace: what the launcher allocates.
        launches: in order.
        counters: int64 tensors of one element that a kernel keeps from call to call, zero at first.
    """

    template: str
    context: Mapping[str, Any]
    operands: tuple[str, ...]
    contiguous: tuple[str, ...]
    sizes: tuple[tuple[str, str], ...]
    outputs: tuple[Buffer, ...]
    launches: tuple[Launch, ...]
    inner: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    workspace: tuple[Buffer, ...] = ()
    counters: tuple[str, ...] = ()


_POINTER = {
    DType.F64: "*fp64", DType.F32: "*fp32", DType.F16: "*fp16", DType.BF16: "*bf16", DType.I64: "*i64",
    DType.I32: "*i32", DType.I16: "*i16", DType.I8: "*i8", DType.U8: "*u8", DType.BOOL: "*u8",
}  # fmt: skip


def pointer(name: str, dtype: DType, host: str) -> Param:
    """A pointer parameter; booleans are read as bytes."""
    return Param(name, _POINTER[dtype], host)


def cdiv(amount: int, by: int) -> int:
    return -(-amount // by)


def next_power_of_two(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()


@dataclass(frozen=True, slots=True)
class Read:
    """How a template loads an operand: pointer, address offset, mask (empty: none), kind conversion."""

    name: str
    offset: Code
    mask: Code
    convert: Code

    @property
    def load(self) -> Code:
        """The whole `tl.load(...)`."""
        where = f"{self.name}_ptr + {self.offset}" if self.offset else f"{self.name}_ptr"
        mask = f", mask={self.mask}, other=0" if self.mask else ""
        return Code(f"tl.load({where}{mask}){self.convert}")


def conversion(extra: Extra) -> Code:
    """What follows a load so that the value has its kind: float32, an integer, or a boolean."""
    if extra.dtype is DType.BOOL:
        return Code(" != 0")
    return Code(".to(tl.float32)") if extra.dtype.is_floating else Code("")
