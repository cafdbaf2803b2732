"""What a case of the differential tests is: a kernel, its grid, and seeded arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float64: "*fp64",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.bool: "*i1",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e5m2: "*fp8e5",
}


@dataclass(frozen=True)
class Case:
    """One launch: ``make(g)`` gives the arguments by name, ``meta`` the constexprs, ``tol`` the relative
    error.

    ``expect`` computes the tensors from the arguments where Triton's interpreter is no oracle: it truncates
    to bfloat16 instead of rounding, and multiplies the bit patterns of bfloat16 matrices.
    """

    name: str
    kernel: Any
    grid: tuple[int, int, int]
    make: Callable[[torch.Generator], dict[str, Any]]
    meta: dict[str, Any]
    tol: float = 0.0
    expect: Callable[[dict[str, Any]], dict[str, torch.Tensor]] | None = None

    def arguments(self) -> dict[str, Any]:
        """Fresh arguments, the same at every call."""
        return self.make(torch.Generator().manual_seed(20 + len(self.name)))

    def signature(self) -> dict[str, str]:
        return {n: type_of(v) for n, v in self.arguments().items()}


def type_of(value: object) -> str:
    """Triton's type for an argument."""
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def tensors(arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors among the arguments: whatever a kernel may have written."""
    return {n: v for n, v in arguments.items() if isinstance(v, torch.Tensor)}
