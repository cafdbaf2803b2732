"""Integer products that are summed within 32-bit lanes: pairs of 16-bit numbers, quads of bytes."""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Context


def multiply_pairs(g: Context, acc: str, x: str, y: str, width: int) -> str:
    """``acc`` (i32 lanes) plus the products of neighbouring 16-bit numbers; x and y are vectors of i32."""
    it, ht = f"<{width} x i32>", f"<{2 * width} x i16>"
    x, y = g.bitcast(it, x, ht), g.bitcast(it, y, ht)
    if g.machine.vnni:
        return g.call(f"llvm.x86.avx512.vpdpwssd.{32 * width}", it, (it, acc), (ht, x), (ht, y))
    name = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}[width]
    return g.op("add", it, acc, g.call(f"llvm.x86.{name}", it, (ht, x), (ht, y)))


def multiply_quads(g: Context, acc: str, unsigned: str, signed: str, width: int) -> str:
    """``acc`` (i32 lanes) plus products of four unsigned with four signed bytes, both as vectors of i32."""
    it, bt = f"<{width} x i32>", f"<{4 * width} x i8>"
    u, v = g.bitcast(it, unsigned, bt), g.bitcast(it, signed, bt)
    return g.call(f"llvm.x86.avx512.vpdpbusd.{32 * width}", it, (it, acc), (bt, u), (bt, v))
