"""AMX as a process and a thread see it: permission to use the tiles, and their configuration.

Linux gives the tile registers only to processes that ask (``arch_prctl``); where it refuses, AMX is off. One
configuration serves all kernels, all eight tiles at full size: a thread's worker loads it before the first
program and releases the tiles after the last.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from functools import lru_cache

ROWS = 16
BYTES = 64  # of a row
WORDS = 16  # 32-bit ones, of a row

_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_TILE_DATA = 18

_PALETTE = struct.pack("<BB14x8H16x8B8x", 1, 0, *[BYTES] * 8, *[ROWS] * 8)

DECLARATIONS = f"""
@headrace.tiles = internal constant [64 x i8] [{", ".join(f"i8 {b}" for b in _PALETTE)}], align 64
declare void @llvm.x86.ldtilecfg(ptr)
declare void @llvm.x86.tilerelease()
"""
PROLOGUE = "call void @llvm.x86.ldtilecfg(ptr @headrace.tiles)"
EPILOGUE = "call void @llvm.x86.tilerelease()"


def used_in(ir: str) -> bool:
    """Whether a kernel's IR needs the configuration."""
    return "@llvm.x86.tilestored64" in ir


@lru_cache
def permitted() -> bool:
    """Ask for the tile registers, once per process; False where the system does not grant them."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    try:
        syscall = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return False
    syscall.restype = ctypes.c_long
    request = (ctypes.c_long(n) for n in (_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA))
    return int(syscall(*request)) == 0
