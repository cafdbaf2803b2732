"""Which Schedule: the database's voice first, then the cost model's.

A failed look-up is no reason for anything: evidence that knows nothing, or names a schedule that is not legal
here, leaves the choice to the heuristic. PyTorch's own operators are a candidate every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from headrace.codegen.dataflows import Dataflow, dataflows, get
from headrace.codegen.plan import next_power_of_two
from headrace.errors import DeviceError, ScheduleError
from headrace.ir.device import Backend, Device
from headrace.ir.evidence import Evidence, Rung
from headrace.ir.regime import Regime
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, Rows, Spec
from headrace.passes.cost import seconds

MANY_ROWS = 8192
KEEP = 1.03  # a regime keeps its schedule while it is at most this much slower than the best
# On GPUs a library's time is known to about this factor, and with M it changes its kernels and so its
# roundings: inside that band a kernel of ours is the deterministic choice.
TIE = 1.05
# What one multiprocessor alone draws from memory is known to a factor of two: where tiles of 64 columns fill
# less than half of them, a product that does not split a long K has to win by more than that doubt.
FEW = 1.25
_SWEEPS, _GAIN = 2, 0.99  # sweeps over the knobs, and the gain that is worth leaving a default for
_FLAT_ROWS = 256  # above, defaults are good and the library is better


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
    modelled = _modelled(spec, sizes, device)
    known = _database(spec, sizes, device, evidence)
    if known is None:
        return modelled
    return (known, *(each for each in modelled if each.schedule != known.schedule))


def _modelled(spec: Spec, sizes: tuple[int, ...], device: Device) -> tuple[Ranked, ...]:
    """Default schedules by the model's time; the library first where the device lacks a figure for it."""
    schedules = _defaults(spec, sizes, device)
    try:
        timed = [(seconds(spec, sizes, each, device), each) for each in schedules]
    except DeviceError as error:
        plain = sorted(schedules, key=lambda each: each != LIBRARY)
        return tuple(Ranked(each, None, "heuristic", f"no cost model: {error}") for each in plain)
    timed.sort(key=lambda each: weighed(spec, sizes, each[1], each[0], device))
    return tuple(Ranked(each, took, "heuristic", f"cost model: {each.dataflow}") for took, each in timed)


def weighed(spec: Spec, sizes: tuple[int, ...], schedule: Schedule, took: float, device: Device) -> float:
    """What candidates are ordered by: their time, on GPUs the library's times `TIE`, few programs' `FEW`."""
    if device.backend is Backend.CPU:
        return took
    if schedule == LIBRARY:
        return took * TIE
    return took * FEW if isinstance(spec, Gemm) and _few(spec, sizes, schedule, device) else took


def _few(spec: Gemm, sizes: tuple[int, ...], schedule: Schedule, device: Device) -> bool:
    """Whether a tiled product has K >= 8 N, tiles for less than half of the units, and does not split K."""
    if schedule.dataflow not in ("flat", "tiled") or dict(schedule.knobs).get("split_k", 1) != 1:
        return False
    columns = sum(weight.n for weight in spec.weights)
    tiles = -(-columns // 64) * -(-sizes[-1] // 64) * (sizes[0] if spec.batched else 1)
    return 2 * tiles < device.units and spec.weights[0].k >= 8 * columns


def _defaults(spec: Spec, sizes: tuple[int, ...], device: Device) -> list[Schedule]:
    """One schedule per dataflow: its default, on GPUs with the knobs that the model likes better."""
    return [_refined(flow, spec, sizes, device) for flow in dataflows(spec, sizes, device)]


def _refined(flow: Dataflow, spec: Spec, sizes: tuple[int, ...], device: Device) -> Schedule:
    """Knob by knob to the neighbouring value that the model gives a shorter time; the default where none is.

    The CPU's defaults are measured ones, and its model sees too little of a tile to improve on them.
    """
    found = flow.default(spec, sizes, device)
    large = isinstance(spec, Gemm) and sizes[-1] > _FLAT_ROWS
    if device.backend is Backend.CPU or not found.knobs or isinstance(spec, Rows) or large:
        return found
    try:
        best = weighed(spec, sizes, found, seconds(spec, sizes, found, device), device)
    except DeviceError:
        return found
    knobs = [knob for knob in flow.knobs(spec, sizes, device) if len(knob.values) > 1]
    for _ in range(_SWEEPS):
        before = found
        for knob in knobs:
            for value in knob.neighbours(found[knob.name]):
                other = Schedule(flow.name, tuple({**dict(found.knobs), knob.name: value}.items()))
                if flow.legal(spec, sizes, other, device) is not None:
                    continue
                took = weighed(spec, sizes, other, seconds(spec, sizes, other, device), device)
                if took < _GAIN * best:
                    found, best = other, took
        if found == before:
            break
    return found


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


@lru_cache(maxsize=1024)
def regimes(spec: Gemm, device: Device) -> tuple[Regime, ...]:
    """The schedule of a Gemm by its number of rows: the inflection points of FlashDecoding++, solved for.

    At every M the model's best of the default schedules for that M is known. A regime keeps the schedule that
    was best where it begins as long as it stays legal and within `KEEP` of the best: fewer kernels, and none
    that a neighbour would beat. On a CPU, whose model does not see a tile's rows, it also has to be the
    default of its dataflow for the power of two that M rounds up to. Its end is found by bisection. A batched
    Gemm is judged per matrix. Where the device lacks a figure, the library serves every M.
    """
    try:
        return _regimes(spec, device)
    except DeviceError:
        return (Regime(None, LIBRARY),)


def _regimes(spec: Gemm, device: Device) -> tuple[Regime, ...]:
    found: list[Regime] = []
    low = 1
    while True:
        schedule = _best(spec, low, device)[0]
        good, step = low, 1
        while good < MANY_ROWS and _serves(spec, good + step, schedule, device):
            good, step = good + step, max(1, (good + step) // 4)
        if good >= MANY_ROWS:
            return (*found, Regime(None, schedule))
        bad = good + step
        while bad - good > 1:
            middle = (good + bad) // 2
            if _serves(spec, middle, schedule, device):
                good = middle
            else:
                bad = middle
        found.append(Regime(good, schedule))
        low = bad


def _serves(spec: Gemm, rows: int, schedule: Schedule, device: Device) -> bool:
    """Whether a schedule is legal for M rows and nearly the best there."""
    sizes = _sizes(spec, rows)
    if device.backend is Backend.CPU and schedule not in _candidates(spec, rows, device):
        return False
    if get(schedule.dataflow).legal(spec, sizes, schedule, device) is not None:
        return False
    took = weighed(spec, sizes, schedule, seconds(spec, sizes, schedule, device), device)
    return took <= KEEP * _best(spec, rows, device)[1]


@lru_cache(maxsize=4096)
def _best(spec: Gemm, rows: int, device: Device) -> tuple[Schedule, float]:
    sizes = _sizes(spec, rows)
    timed = [
        (each, weighed(spec, sizes, each, seconds(spec, sizes, each, device), device))
        for each in _candidates(spec, rows, device)
    ]
    return min(timed, key=lambda each: each[1])


@lru_cache(maxsize=4096)
def _candidates(spec: Gemm, rows: int, device: Device) -> tuple[Schedule, ...]:
    if device.backend is not Backend.CPU:
        return tuple(_defaults(spec, _sizes(spec, rows), device))
    offered = {flow.name for flow in dataflows(spec, _sizes(spec, rows), device)}
    rounded = _defaults(spec, _sizes(spec, next_power_of_two(rows)), device)
    return tuple(each for each in rounded if each.dataflow in offered)


def _sizes(spec: Gemm, rows: int) -> tuple[int, ...]:
    return (1, rows) if spec.batched else (rows,)
