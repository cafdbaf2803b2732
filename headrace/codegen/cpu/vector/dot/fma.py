"""f32 multiply-add, AVX2 and AVX-512: for f32, and for 16-bit floats that the processor cannot multiply
(they are widened while they are packed)."""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Context

per = 1
word = "float"
total = "float"
flip = "0"


def operand(g: Context, vector: str, width: int) -> str:
    """Words are what the instruction takes."""
    return vector


def update(g: Context, acc: str, left: str, right: str, width: int) -> str:
    """acc + left * right with one rounding."""
    return g.fma("float", width, left, right, acc)
