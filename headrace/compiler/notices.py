"""One warning per cause, each saying how to see more."""

from __future__ import annotations

import logging
import threading
import warnings

log = logging.getLogger("headrace")
MORE = "see more with TORCH_LOGS='+headrace' or options={'strict': True}"


class HeadraceWarning(UserWarning):
    """Something in headrace did not work and was done without; the model's results are not affected."""


_seen: set[str] = set()
_lock = threading.Lock()


def warn_once(cause: str, message: str, error: BaseException | None = None) -> bool:
    """Warn, unless this cause was warned about in this process; returns whether it warned."""
    log.debug("%s", message, exc_info=error)
    with _lock:
        if cause in _seen:
            return False
        _seen.add(cause)
    warnings.warn(f"{message} ({MORE})", HeadraceWarning, stacklevel=2)
    return True


def forget_notices() -> None:
    """Warn again about causes that were warned about before (for tests and long-lived processes)."""
    with _lock:
        _seen.clear()
