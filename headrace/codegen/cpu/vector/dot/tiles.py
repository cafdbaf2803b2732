"""The AMX instructions on the eight tile registers, 16 rows of 64 bytes each, named by their numbers.

Everything that the vector engine writes for AMX goes through the functions here, and through the
configuration in :mod:`headrace.codegen.cpu.amx`.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Context


def zero(g: Context, tile: int) -> None:
    """All bytes of a tile to zero."""
    _call(g, "tilezero", f"i8 {tile}", "i8")


def load(g: Context, tile: int, pointer: str, stride: str) -> None:
    """16 rows from memory, ``stride`` bytes apart."""
    _call(g, "tileloadd64", f"i8 {tile}, ptr {pointer}, i64 {stride}", "i8, ptr, i64")


def store(g: Context, tile: int, pointer: str, stride: str) -> None:
    """16 rows to memory, ``stride`` bytes apart."""
    _call(g, "tilestored64", f"i8 {tile}, ptr {pointer}, i64 {stride}", "i8, ptr, i64")


def multiply_bf16(g: Context, total: int, left: int, right: int) -> None:
    """total[m, n] += sum over k' of left[m, 2 k'] right[k', 2 n] + left[m, 2 k' + 1] right[k', 2 n + 1]."""
    _call(g, "tdpbf16ps", f"i8 {total}, i8 {left}, i8 {right}", "i8, i8, i8")


def multiply_int8(g: Context, total: int, left: int, right: int) -> None:
    """The same with four signed bytes to a word, in 32-bit integers."""
    _call(g, "tdpbssd", f"i8 {total}, i8 {left}, i8 {right}", "i8, i8, i8")


def _call(g: Context, name: str, arguments: str, types: str) -> None:
    full = f"llvm.x86.{name}"
    g.e.declare(full, f"declare void @{full}({types})")
    g.e.effect(f"call void @{full}({arguments})")
