"""AVX512-BF16: ``vdpbf16ps`` multiplies two bf16 that are neighbours along k with two others and adds both
products to one f32 lane."""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Context

per = 2
word = "i32"
total = "float"
flip = "0"
_NAMES = {
    16: "llvm.x86.avx512bf16.dpbf16ps.512",
    8: "llvm.x86.avx512bf16.dpbf16ps.256",
    4: "llvm.x86.avx512bf16.dpbf16ps.128",
}


def operand(g: Context, vector: str, width: int) -> str:
    """Words as pairs of bf16."""
    return g.bitcast(f"<{width} x i32>", vector, f"<{2 * width} x bfloat>")


def update(g: Context, acc: str, left: str, right: str, width: int) -> str:
    """acc + left.even * right.even + left.odd * right.odd."""
    pairs, vt = f"<{2 * width} x bfloat>", f"<{width} x float>"
    return g.call(_NAMES[width], vt, (vt, acc), (pairs, left), (pairs, right))
