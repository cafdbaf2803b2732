"""RegimeTable: which Schedule serves which range of M, for one Gemm on one device.

The heuristic dataflow of FlashDecoding++ (arXiv 2311.01282, section 5): a product [M, K] x [K, N] of given N
and K has inflection points M1 and M2; below M1 a GEMV is fastest, from M1 on a flat GEMM, from M2 on the
general product. Here a table may have any number of regimes, and M1 and M2 are read off it.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from headrace.errors import SpecSyntaxError
from headrace.ir.schedule import LIBRARY, Schedule

# Dataflows by their place in the paper: implementation A, implementation B; any other is C.
VECTOR = frozenset({"gemv"})
FLAT = frozenset({"flat", "stream_k"})


class Voice(enum.StrEnum):
    """Who says so: timings of this very setup, or the cost model."""

    MEASURED = "measured"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Regime:
    """A range of M up to and including `rows` (None: without end), and the Schedule for it.

    `interval`: the 95 % confidence interval of `rows`, both ends included; None where no end was measured.
    """

    rows: int | None
    schedule: Schedule
    interval: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of one Schedule by M, in increasing M."""

    schedule: Schedule
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Inflection:
    """The first M of a kind of implementation, and the interval that it lies in with 95 % confidence."""

    rows: int
    interval: tuple[int, int] | None = None

    def __str__(self) -> str:
        within = "" if self.interval is None else f" [{self.interval[0]}, {self.interval[1]}]"
        return f"{self.rows}{within}"


@dataclass(frozen=True)
class RegimeTable:
    """Regimes of a Gemm in increasing M, gapless from M = `first` on.

    Attributes:
        spec: the Gemm's canonical text: N, K, types, layout and epilogue are in it.
        device: the device's soft key.
        regimes: at least one; only the last may be without end.
        voice: measured or model.
        first: the smallest M that the table speaks for.
        grid: the M's behind it, measured or modelled.
        evidence: ids of the database rows behind it.
        curves: times per M of every Schedule that was compared, for plots.
    """

    spec: str
    device: str
    regimes: tuple[Regime, ...]
    voice: Voice
    first: int = 1
    grid: tuple[int, ...] = ()
    evidence: tuple[str, ...] = ()
    curves: tuple[Curve, ...] = ()

    def __post_init__(self) -> None:
        ends = [regime.rows for regime in self.regimes]
        last = self.first - 1
        for end in ends[:-1]:
            if end is None or end <= last:
                raise SpecSyntaxError(f"regimes end at {ends}: ends must grow, and only the last may be open")
            last = end
        if not ends or (ends[-1] is not None and ends[-1] <= last):
            raise SpecSyntaxError(f"regimes end at {ends}: ends must grow beyond {last}")

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The thresholds: M is compared with these and nothing else."""
        return tuple(regime.rows for regime in self.regimes if regime.rows is not None)

    def find(self, m: int) -> int | None:
        """The position of the regime that M falls into, None where the table does not speak."""
        at = bisect_left(self.bounds, m)
        return at if m >= self.first and at < len(self.regimes) else None

    def of(self, m: int) -> Schedule | None:
        """The Schedule for M, None where the table does not speak."""
        at = self.find(m)
        return None if at is None else self.regimes[at].schedule

    def start(self, at: int) -> int:
        """The first M of a regime."""
        return self.first if at == 0 else self.bounds[at - 1] + 1

    def span(self, at: int) -> str:
        """The M's of a regime: `5..64`, `256..`."""
        end = self.regimes[at].rows
        return f"{self.start(at)}..{'' if end is None else end}"

    def name(self, at: int) -> str:
        """A regime in a line of `explain`: `regime 5..64 of 3 (measured)`."""
        return f"regime {self.span(at)} of {len(self.regimes)} ({self.voice})"

    @property
    def m1(self) -> Inflection | None:
        """M1: the first M from which no GEMV is used any more; None where a GEMV serves to the end."""
        return self._after(VECTOR)

    @property
    def m2(self) -> Inflection | None:
        """M2: the first M from which only the general product or the library is used; None where none is."""
        return self._after(VECTOR | FLAT)

    def _after(self, kinds: Collection[str]) -> Inflection | None:
        used = [at for at, regime in enumerate(self.regimes) if regime.schedule.dataflow in kinds]
        if not used:
            return Inflection(self.first)
        last = self.regimes[used[-1]]
        if last.rows is None or used[-1] == len(self.regimes) - 1:
            return None
        ends = None if last.interval is None else (last.interval[0] + 1, last.interval[1] + 1)
        return Inflection(last.rows + 1, ends)

    def __str__(self) -> str:
        """One line a regime, the inflection points below."""
        lines = [f"{self.spec} on {self.device} ({self.voice}, {len(self.evidence)} rows)"]
        for at, regime in enumerate(self.regimes):
            ends = "" if regime.interval is None else f"  end in [{regime.interval[0]}, {regime.interval[1]}]"
            lines.append(f"  M {self.span(at):<9} {regime.schedule}{ends}")
        lines.append(f"  M1 = {self.m1 or 'beyond'}, M2 = {self.m2 or 'beyond'}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """Plain values with stable keys."""

        def point(found: Inflection | None) -> dict[str, object] | None:
            return None if found is None else {"rows": found.rows, "interval": found.interval}

        return {
            "spec": self.spec,
            "device": self.device,
            "voice": self.voice.value,
            "first": self.first,
            "regimes": [
                {"rows": each.rows, "schedule": str(each.schedule), "interval": each.interval}
                for each in self.regimes
            ],
            "m1": point(self.m1),
            "m2": point(self.m2),
            "grid": list(self.grid),
            "evidence": list(self.evidence),
            "curves": {
                str(curve.schedule): [[m, seconds] for m, seconds in curve.points] for curve in self.curves
            },
        }


def is_library(schedule: Schedule) -> bool:
    """Whether PyTorch's own operators run, whose order of summation nobody pins."""
    return schedule.dataflow == LIBRARY.dataflow
