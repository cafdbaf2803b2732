"""Tensor types with symbolic sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy

from headrace.errors import GraphSyntaxError
from headrace.ir import size as sizes
from headrace.ir.dtype import DType
from headrace.ir.spec.operand import split


@dataclass(frozen=True, slots=True)
class TensorType:
    """An element type and a shape of sympy expressions. Text: `bf16[1, s0, 576]`.

    Sizes come from torch's own symbolic shapes, so `s0` is the same symbol that Dynamo guards on. Nothing
    here turns a size into an int; `static` says whether that would be allowed.
    """

    dtype: DType
    shape: tuple[sympy.Expr, ...]

    @classmethod
    def of(cls, dtype: DType, *shape: int | sympy.Expr) -> TensorType:
        return cls(dtype, tuple(sympy.sympify(size) for size in shape))

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def static(self) -> tuple[int, ...] | None:
        """The shape as ints where every size is a number, else None."""
        if all(size.is_Integer for size in self.shape):
            return tuple(int(size) for size in self.shape)
        return None

    def __str__(self) -> str:
        return f"{self.dtype.value}[{', '.join(map(sizes.text, self.shape))}]"

    @classmethod
    def parse(cls, text: str) -> TensorType:
        """Read what `str` writes.

        Raises:
            GraphSyntaxError: the text is no tensor type.
        """
        dtype, bracket, rest = text.strip().partition("[")
        if not bracket or not rest.endswith("]") or dtype not in DType._value2member_map_:
            raise GraphSyntaxError(f"{text!r} is no tensor type; expected dtype[size, ...]")
        return cls(DType(dtype), tuple(map(sizes.parse, split(rest[:-1], ","))))


@lru_cache(maxsize=256)
def dim(at: int) -> sympy.Symbol:
    """The index symbol of result dimension `at`, as index maps and `map` expressions name it: `d0`, ..."""
    return sympy.Symbol(f"d{at}", integer=True, nonnegative=True)
