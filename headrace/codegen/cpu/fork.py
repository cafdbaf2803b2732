"""Telling a forked child from the process that loaded OpenMP.

libgomp's threads do not survive a fork, and a parallel region in the child waits for them for ever (torch's
own operators do). Triton imports the backend, and this with it, when it is itself imported: a child forked
later still holds its parent's number here.
"""

from __future__ import annotations

import os

_LOADED_BY = os.getpid()


def in_forked_child() -> bool:
    """True in a child forked after this module was loaded."""
    return os.getpid() != _LOADED_BY
