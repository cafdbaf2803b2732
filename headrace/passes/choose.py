"""Which Schedule: the database's voice first, then the cost model's.

A failed look-up is no reason for anything: evidence that knows nothing, or names a schedule that is not legal
here, leaves the choice to the heuristic. PyTorch's own operators are a candidate every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from headrace.codegen.dataflows import dataflows, get
from headrace.errors import ScheduleError
from headrace.ir.device import Device
from headrace.ir.evidence import Evidence, Rung
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, Spec
from headrace.passes.cost import seconds

MANY_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Ranked:
    """A schedule, the seconds that its voice gives it, and why it stands where it stands.

    `voice` is `database` (the seconds were measured, on `rung`) or `heuristic` (they are the cost model's).
    """

    schedule: Schedule
    seconds: float | None
    voice: str
    reason: str
    rung: Rung = Rung.DEFAULT


def rank(spec: Spec, sizes: tuple[int, ...], device: Device, evidence: Evidence) -> tuple[Ranked, ...]:
    """The legal schedules for a Spec at run-time sizes, best first; `library` is always among them.

    The database's answer leads, whatever the model thinks. The rest are the default schedules of every
    dataflow that can compute the Spec, by the model's time.
    """
    modelled = sorted(
        (
            Ranked(
                schedule,
                seconds(spec, sizes, schedule, device),
                "heuristic",
                f"cost model: {schedule.dataflow}",
            )
            for schedule in _defaults(spec, sizes, device)
        ),
        key=lambda each: each.seconds or 0.0,
    )
    known = _database(spec, sizes, device, evidence)
    if known is None:
        return tuple(modelled)
    return (known, *(each for each in modelled if each.schedule != known.schedule))


def _defaults(spec: Spec, sizes: tuple[int, ...], device: Device) -> list[Schedule]:
    return [flow.default(spec, sizes, device) for flow in dataflows(spec, sizes, device)]


def _database(spec: Spec, sizes: tuple[int, ...], device: Device, evidence: Evidence) -> Ranked | None:
    answer = evidence.best(spec, sizes, device)
    if answer is None:
        return None
    try:
        flow = get(answer.schedule.dataflow)
    except ScheduleError:
        return None
    if flow.legal(spec, sizes, answer.schedule, device) is not None:
        return None
    where = answer.rung.name.lower().replace("_", " ")
    return Ranked(answer.schedule, answer.seconds, "database", f"database, {where}", answer.rung)


@dataclass(frozen=True, slots=True)
class Regime:
    """A range of M, up to and including `rows` (None: without end), and the schedule for it."""

    rows: int | None
    schedule: Schedule


@lru_cache(maxsize=1024)
def regimes(spec: Gemm, device: Device) -> tuple[Regime, ...]:
    """The dataflow of a Gemm by its number of rows: the inflection points of FlashDecoding++, solved for.

    The model's winner is found at powers of two; between two that differ, bisection finds the first M at
    which the winner changes. Each regime carries the default schedule at its upper end. A batched Gemm is
    judged per matrix.
    """
    found: list[tuple[int | None, str]] = []
    low = 1
    name = _winner(spec, low, device)
    while low < MANY_ROWS:
        high = low * 2
        while _winner(spec, high, device) != name and high > low:
            bound = _last(spec, device, name, low, high)
            found.append((bound, name))
            low = bound + 1
            name = _winner(spec, low, device)
        low = high
    found.append((None, name))
    return tuple(Regime(rows, _schedule(spec, rows or MANY_ROWS, device, flow)) for rows, flow in found)


def _last(spec: Gemm, device: Device, name: str, low: int, high: int) -> int:
    """The largest M of [low, high) at which `name` still wins, where it wins at low and loses at high."""
    while high - low > 1:
        middle = (low + high) // 2
        if _winner(spec, middle, device) == name:
            low = middle
        else:
            high = middle
    return low


def _sizes(spec: Gemm, rows: int) -> tuple[int, ...]:
    return (1, rows) if spec.batched else (rows,)


def _winner(spec: Gemm, rows: int, device: Device) -> str:
    sizes = _sizes(spec, rows)
    return min(_defaults(spec, sizes, device), key=lambda each: seconds(spec, sizes, each, device)).dataflow


def _schedule(spec: Gemm, rows: int, device: Device, name: str) -> Schedule:
    return LIBRARY if name == LIBRARY.dataflow else get(name).default(spec, _sizes(spec, rows), device)
