"""Element types, named as PyTorch and Triton name them, and the arithmetic facts about each.

This module knows no framework: `torch_dtype` imports torch only when asked.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class DType(enum.StrEnum):
    """An element type; the value is its short text form (as in `bf16[4, 576]`)."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "b8"

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return _ITEMSIZE[self]

    @property
    def is_floating(self) -> bool:
        return self in _FLOATING

    @property
    def triton(self) -> str:
        """The name inside `triton.language` (`tl.<name>`)."""
        return _TRITON[self]

    def to_torch(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, _TORCH[self])
        return dtype

    @classmethod
    def from_torch(cls, dtype: torch.dtype) -> DType:
        """The DType of a torch dtype.

        Raises:
            KeyError: the dtype is one headrace does not model (complex, fp8, quantized).
        """
        return _FROM_TORCH[str(dtype).removeprefix("torch.")]


_FLOATING = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})
_ITEMSIZE = {
    DType.F64: 8, DType.F32: 4, DType.F16: 2, DType.BF16: 2,
    DType.I64: 8, DType.I32: 4, DType.I16: 2, DType.I8: 1, DType.U8: 1, DType.BOOL: 1,
}  # fmt: skip
_TORCH = {
    DType.F64: "float64", DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16",
    DType.I64: "int64", DType.I32: "int32", DType.I16: "int16", DType.I8: "int8", DType.U8: "uint8",
    DType.BOOL: "bool",
}  # fmt: skip
_TRITON = {
    DType.F64: "float64", DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16",
    DType.I64: "int64", DType.I32: "int32", DType.I16: "int16", DType.I8: "int8", DType.U8: "uint8",
    DType.BOOL: "int1",
}  # fmt: skip
_FROM_TORCH = {name: dtype for dtype, name in _TORCH.items()}
