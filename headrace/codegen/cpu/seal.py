"""Object code with a checksum behind it, so that a damaged file of the cache is never run."""

from __future__ import annotations

import hashlib

_MARK = b"headrace object\0"
_LENGTH = len(_MARK) + 32


def sealed(obj: bytes) -> bytes:
    """The bytes with a mark and their SHA-256 behind them; what reads ELF does not mind."""
    return obj + _MARK + hashlib.sha256(obj).digest()


def opened(data: bytes) -> bytes | None:
    """The bytes that were sealed, or None if these are not the ones."""
    obj, mark, digest = data[:-_LENGTH], data[-_LENGTH:-32], data[-32:]
    return obj if mark == _MARK and hashlib.sha256(obj).digest() == digest else None
