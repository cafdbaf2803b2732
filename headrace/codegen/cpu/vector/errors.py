"""The one way in which this code generator says no."""

from __future__ import annotations

from headrace.errors import HeadraceError


class VectorDeclined(HeadraceError):
    """The vectorising code generator does not handle this kernel; the message says which construct and
    why."""
