"""Signed bytes as bf16, by table: w -> bf16(w) is exact, as |w| <= 128 has at most eight significant bits.

With i the low seven bits of |w|, both bytes of bf16(|w|) are one lookup among 128 (``vpermi2b``):

    low[i], high[i]    bytes of bf16(i), but high[0] is that of bf16(128): |-128| is 128, whose low bits are 0
    w = 0              its high byte is cleared by a mask
    sign               the top bit of w is the top bit of the high byte

Nine instructions turn 64 bytes into pairs and multiply them by pairs of bf16 with ``vdpbf16ps``; by way of
f32 it takes twelve, and a matrix in the last-level cache is bound by them.
"""

from __future__ import annotations

import struct

from headrace.codegen.cpu.vector.context import Context, const

STEP = 64  # elements at a time
_LANE = 16  # bytes; what `vpunpck` pairs up stays within a lane


def _table(byte: int) -> tuple[str, str]:
    """The 128 entries of `high` (0) or `low` (1), as two vectors."""
    codes = [struct.pack(">f", float(i or 128))[byte] for i in range(2 * STEP)]
    entries = [f"i8 {const('i8', code)}" for code in codes]
    first, second = (", ".join(entries[k : k + STEP]) for k in (0, STEP))
    return f"<{first}>", f"<{second}>"


def _with_sign(g: Context, high: str, w: str) -> str:
    """high | (w & 128) in one instruction. (LLVM moves the selection behind a plain `or` and needs four.)"""
    kind, words = f"<{STEP} x i8>", f"<{STEP // 4} x i32>"
    operands = [(words, g.bitcast(kind, v, words)) for v in (high, w)]
    mask = f"splat (i32 {0x80808080 - (1 << 32)})"
    table = ("i32", str(0b11111000))  # bit 4 a + 2 b + c is the result for bits a, b, c: a | (b & c)
    made = g.call("llvm.x86.avx512.pternlog.d.512", words, *operands, (words, mask), table)
    return g.bitcast(words, made, kind)


def as_bf16(g: Context, w: str) -> tuple[str, str]:
    """64 signed bytes as two vectors of 32 bf16: the first halves of all groups of 16, then the second."""
    kind = f"<{STEP} x i8>"
    size = g.call(f"llvm.abs.v{STEP}i8", kind, (kind, w), ("i1", "false"))

    def looked_up(byte: int) -> str:
        first, second = _table(byte)
        name = "llvm.x86.avx512.vpermi2var.qi.512"
        return g.call(name, kind, (kind, first), (kind, size), (kind, second))

    some = g.e.pure(f"icmp ne {kind} {w}, zeroinitializer", (w,))
    high = g.select(f"<{STEP} x i1>", some, kind, looked_up(0), "zeroinitializer")
    high = _with_sign(g, high, w)
    low = looked_up(1)
    starts = (0, _LANE // 2)
    made = []
    for start in starts:
        order = [
            at + STEP * byte
            for lane in range(0, STEP, _LANE)
            for at in range(lane + start, lane + start + _LANE // 2)
            for byte in (0, 1)
        ]
        made.append(g.bitcast(kind, g.shuffle("i8", STEP, low, high, order), f"<{STEP // 2} x bfloat>"))
    return made[0], made[1]


def alike(g: Context, x: str) -> tuple[str, str]:
    """64 bf16 (as i16) in the same order as `as_bf16` gives its."""
    made = []
    for start in (0, _LANE // 2):
        order = [n for n in range(STEP) if n % _LANE // (_LANE // 2) == start // (_LANE // 2)]
        made.append(g.bitcast("<32 x i16>", g.shuffle("i16", STEP, x, "poison", order), "<32 x bfloat>"))
    return made[0], made[1]
