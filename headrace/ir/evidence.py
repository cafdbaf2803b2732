"""The question that choosing asks of measurements, as a protocol: passes ask, autotune answers."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from headrace.ir.device import Device
from headrace.ir.regime import RegimeTable
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec


class Rung(enum.IntEnum):
    """How close the evidence is, best first; every answer carries its rung."""

    EXACT = 0
    SAME_DEVICE = 1
    SAME_ARCHITECTURE = 2
    NEIGHBOUR_SIZES = 3
    MODEL = 4
    DEFAULT = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """A schedule, why we believe in it, its median seconds where measured, and the rows that say so."""

    schedule: Schedule
    rung: Rung
    seconds: float | None = None
    rows: tuple[str, ...] = ()


class Evidence(Protocol):
    """Measured knowledge about schedules."""

    def best(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Answer | None:
        """The best known schedule for a Spec at run-time sizes on a device, or None when nothing is known.

        Never raises: a broken source of evidence knows nothing.
        """
        ...

    def regimes(self, spec: Spec, device: Device) -> RegimeTable | None:
        """The measured regimes of an unbatched Gemm on this very setup, or None where there are none.

        Never raises.
        """
        ...


class NoEvidence:
    """Knows nothing."""

    def best(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Answer | None:
        return None

    def regimes(self, spec: Spec, device: Device) -> RegimeTable | None:
        return None


def bucket(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The size bucket that evidence is kept under: each size up to 4 alone, then the next power of two."""
    return tuple(size if size <= 4 else 1 << (size - 1).bit_length() for size in sizes)
