"""Forks: telling a forked child from the process that loaded OpenMP, and no lock of a compiler left behind.

libgomp's threads do not survive a fork, and a parallel region in the child waits for them for ever (torch's
own operators do). Triton imports the backend, and this with it, when it is itself imported: a child forked
later still holds its parent's number here.

A lock that another thread holds at the moment of a fork stays locked in the child for ever. So a fork waits
until no thread is inside an ``exclusive`` function: Triton's passes, LLVM, and the imports that they begin
with.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

_LOADED_BY = os.getpid()
COMPILING = threading.RLock()  # held inside `exclusive` functions, and while the process forks

_P = ParamSpec("_P")
_R = TypeVar("_R")


def exclusive(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run by one thread at a time, and by none while the process forks.

    For whatever enters Triton's passes or LLVM, or imports a module at first use (imports have locks, too).
    """

    @functools.wraps(function)
    def locked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with COMPILING:
            return function(*args, **kwargs)

    return locked


def in_forked_child() -> bool:
    """True in a child forked after this module was loaded."""
    return os.getpid() != _LOADED_BY


def _llvmlite_lock() -> Any:
    """llvmlite's own lock (objects that are collected take it without ours), or None if it is not loaded."""
    ffi = sys.modules.get("llvmlite.binding.ffi")
    return getattr(getattr(ffi, "lib", None), "_lock", None)


# llvmlite's lock from the hook before a fork to the one after it, only touched while COMPILING is held. Hooks
# take no arguments, and asking again afterwards could find a lock that was not there before.
_held: list[Any] = []


def _before() -> None:
    COMPILING.acquire()
    lock = _llvmlite_lock()
    if lock is not None:
        lock.__enter__()
        _held.append(lock)


def _after() -> None:
    if _held:
        _held.pop().__exit__(None, None, None)
    COMPILING.release()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
