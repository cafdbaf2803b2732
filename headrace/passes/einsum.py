"""What the letters of a two-operand einsum are to a matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sympy


@dataclass(frozen=True, slots=True)
class Einsum:
    """`left,right->out`: letters in all three are batch, in left and out rows, in right and out columns."""

    left: str
    right: str
    out: str

    @classmethod
    def parse(cls, equation: str) -> Einsum:
        operands, _, out = equation.replace(" ", "").partition("->")
        left, _, right = operands.partition(",")
        return cls(left, right, out)

    @property
    def batch(self) -> str:
        return "".join(c for c in self.out if c in self.left and c in self.right)

    @property
    def rows(self) -> str:
        return "".join(c for c in self.out if c in self.left and c not in self.right)

    @property
    def columns(self) -> str:
        return "".join(c for c in self.out if c in self.right and c not in self.left)

    @property
    def inner(self) -> str:
        """Letters that are summed over products."""
        return "".join(c for c in self.left if c in self.right and c not in self.out)

    @property
    def summed(self) -> str:
        """Letters of one operand that the result does not have: not a product but a sum before it."""
        return "".join(
            c for c in self.left + self.right if (c in self.left) != (c in self.right) and c not in self.out
        )

    def swapped(self) -> Einsum:
        return Einsum(self.right, self.left, self.out)

    def sizes(self, left: Sequence[sympy.Expr], right: Sequence[sympy.Expr]) -> dict[str, sympy.Expr]:
        return dict(zip(self.left, left, strict=True)) | dict(zip(self.right, right, strict=True))
