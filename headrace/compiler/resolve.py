"""Where Schedules come from: settings open the database, passes rank, codegen builds."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from headrace import upstream
from headrace.compiler.database import open_store
from headrace.compiler.decisions import Choice, Resolver
from headrace.compiler.devices import device_of
from headrace.compiler.notices import warn_once
from headrace.compiler.options import Options
from headrace.compiler.restride import Kernel
from headrace.configuration import current
from headrace.ir.device import Backend, Device
from headrace.ir.evidence import Evidence, NoEvidence, Rung, bucket
from headrace.ir.regime import Regime, RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, Spec

if TYPE_CHECKING:
    from headrace.autotune.db.store import Store
    from headrace.passes.pipeline import Pipeline
    from headrace.passes.unify import Licences


def default_options() -> Options:
    """Options as the settings say; a call's own options go on top.

    Raises:
        SettingsError: a setting has an impossible value.
    """
    found = current().settings
    return Options(
        strict=found.strict,
        tuning=found.tuning,
        budget=found.budget,
        database=None if found.database is None else str(found.database),
        claim=found.claim,
        target=found.target,
        dump=None if found.dump is None else str(found.dump),
        calibration=found.calibration,
    )


def default_pipeline(options: Options, licences: Licences | None = None) -> Pipeline:
    """The passes of the package, with the claims and the calibration that the options allow.

    Raises:
        UnknownOption: the database has no calibration of that name.
    """
    from headrace.compiler.licences import load
    from headrace.passes.claim import Policy
    from headrace.passes.pipeline import Pipeline

    permitted = load(options) if licences is None else licences
    return Pipeline.default(Policy.of(options.claim, engine_backend()), permitted)


def engine_backend() -> Backend:
    """The engine that kernels of this process run on: the GPU's where torch sees one, else the CPU's."""
    if not torch.cuda.is_available():
        return Backend.CPU
    return Backend.CUDA if torch.version.hip is None else Backend.ROCM


def why_delegate(options: Options, example_inputs: Sequence[Any]) -> str | None:
    """Why a graph goes to Inductor untouched, or None. A missing part of headrace is warned about once."""
    if options.claim == "none":
        return "option claim=none"
    complaint = upstream.window_complaint(torch.__version__)
    if complaint is not None and upstream.version_of(torch.__version__) < upstream.OLDEST_TORCH:
        warn_once("torch-window", f"{complaint}: plain Inductor compiles")
        return complaint
    kinds = {value.device.type for value in example_inputs if isinstance(value, torch.Tensor)}
    if kinds - {"cpu", "cuda"}:
        return f"no kernels for device {', '.join(sorted(kinds - {'cpu', 'cuda'}))}"
    if options.target == "library":
        return None
    gpu = "cuda" if torch.version.hip is None else "hip"
    engines = {"cpu" if kind == "cpu" else gpu for kind in kinds}
    if options.target != "auto" and engines and options.target not in engines:
        return f"option target={options.target}, and the tensors are on {', '.join(sorted(engines))}"
    return _engine_missing() if "cuda" not in kinds else None


@functools.lru_cache(maxsize=1)
def _engine_missing() -> str | None:
    """Why no Triton kernel can run on the CPU here, or None."""
    from headrace.codegen.cpu.backend.driver import why_inactive

    reason = why_inactive()
    if reason is None or reason.endswith("device is present"):
        return None
    if reason == "HEADRACE_CPU_ENGINE=off":
        return reason
    warn_once("cpu-engine", f"headrace's CPU engine is inactive ({reason}): plain Inductor compiles")
    return f"the CPU engine is inactive: {reason}"


def make_resolver(options: Options) -> Resolver:
    """A resolver over the database that the options name.

    Raises:
        HeadraceError: a database that was named explicitly cannot be used.
    """
    chooser = Chooser(options)
    return Resolver(
        chooser,
        build,
        functools.partial(device_of, database=options.database),
        strict=options.strict,
        regimes=chooser.regimes,
        others=chooser.others,
        renew=chooser.renew,
    )


def build(spec: Spec, schedule: Schedule, device: Device) -> Kernel:
    """The kernel of a Spec under a Schedule."""
    from headrace.codegen.kernel import instantiate

    return instantiate(spec, schedule, device)


class Chooser:
    """Picks a Schedule: the database's answer where there is one, else the cost model's first choice."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._spent = 0.0
        self._store: Store | None = None if options.tuning == "off" else open_store(options.database)
        self._evidence: Evidence = NoEvidence() if self._store is None else _evidence(self._store)
        self._generation = None if self._store is None else self._store.generation()

    def __call__(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Choice:
        if self._options.target == "library":
            return Choice(LIBRARY, Rung.DEFAULT, "option target=library")
        answer = self._evidence.best(spec, sizes, device)
        wanting = answer is None or answer.rung > Rung.EXACT
        if (self._options.tuning == "tune" and wanting) or (
            self._options.tuning == "verify" and answer is not None
        ):
            self._measure(spec, sizes, device)
            answer = self._evidence.best(spec, sizes, device)
        if answer is not None and answer.rung < Rung.MODEL:
            reason = f"database, {answer.rung.name.lower().replace('_', ' ')}"
            return Choice(answer.schedule, answer.rung, reason, answer.seconds, answer.rows)
        from headrace.passes.choose import rank

        best = rank(spec, sizes, device, NoEvidence())[0]
        return Choice(best.schedule, best.rung, best.reason, best.seconds)

    def regimes(self, spec: Gemm, device: Device) -> RegimeTable | None:
        """The regimes of an unbatched Gemm: as measured; the cost model's where nothing was ever measured."""
        if self._options.target == "library":
            return None
        table = self._evidence.regimes(spec, device)
        if table is not None or self._options.tuning in ("tune", "verify"):
            return table
        if self._store is not None and self._store.observations(str(spec)):
            return None  # what is known of single sizes is worth more than the model
        return modelled(spec, device)

    def others(
        self, spec: Spec, sizes: tuple[int, ...], device: Device, table: RegimeTable | None
    ) -> Iterator[Choice]:
        """What else can serve sizes, best first: as measured around M, else by the cost model."""
        from headrace.codegen.dataflows import get
        from headrace.passes.choose import rank

        if self._options.target == "library":
            return
        measured = () if table is None or table.voice is Voice.MODEL else table.curves
        timed = [(_time_at(curve.points, sizes[0]), curve.schedule) for curve in measured]
        for _, schedule in sorted(timed, key=lambda pair: (pair[0], str(pair[1]))):
            if schedule == LIBRARY or get(schedule.dataflow).legal(spec, sizes, schedule, device) is None:
                yield Choice(schedule, Rung.EXACT, "database, next best")
        if not timed:
            for each in rank(spec, sizes, device, NoEvidence()):
                yield Choice(each.schedule, each.rung, f"next best, {each.reason}", each.seconds)

    def renew(self) -> bool:
        """Whether the database has changed since this was asked last; answers are then looked up again."""
        generation = None if self._store is None else self._store.generation()
        changed, self._generation = generation != self._generation, generation
        if changed and self._store is not None:
            self._evidence = _evidence(self._store)
        return changed

    def _measure(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> None:
        """Tune or verify within what is left of the budget; the evidence knows more afterwards."""
        left = self._options.budget - self._spent
        if left <= 0 or self._store is None:
            return
        from headrace.autotune.report import Task
        from headrace.autotune.tuner import tune

        started = time.perf_counter()
        try:
            report = tune(
                [Task(spec, sizes)], device, self._store, left, mode=self._options.tuning, default=untuned
            )
        except Exception as error:
            warn_once(
                f"{self._options.tuning}:{error}",
                f"headrace could not {self._options.tuning} ({type(error).__name__}: {error})",
                error,
            )
        else:
            if report.interrupted:
                raise KeyboardInterrupt
        self._spent += time.perf_counter() - started


def _time_at(points: tuple[tuple[int, float], ...], m: int) -> float:
    """The time measured at the M nearest to `m` (by ratio), in proportion where it lies far off."""
    at, took = min(points, key=lambda point: abs(math.log(point[0] / m)))
    return took * max(1.0, m / at)


def modelled(spec: Gemm, device: Device) -> RegimeTable:
    """The cost model's regimes of an unbatched Gemm.

    On the CPU a regime is cut where the default of its dataflow changes, at powers of two: these defaults are
    measured ones, and its model sees too little of a tile to stretch one over many M's.
    """
    from headrace.codegen.dataflows import get
    from headrace.passes.choose import MANY_ROWS, regimes

    found: list[Regime] = []
    for regime in regimes(spec, device):
        low = 1 + (found[-1].rows or 0) if found else 1
        while device.backend is Backend.CPU and low <= (regime.rows or MANY_ROWS):
            high = min(bucket((low,))[0], regime.rows or MANY_ROWS)
            schedule = regime.schedule
            if schedule != LIBRARY:
                schedule = get(schedule.dataflow).default(spec, (high,), device)
            if found and found[-1].schedule == schedule:
                found.pop()
            found.append(Regime(high, schedule))
            low = high + 1
        if device.backend is not Backend.CPU:
            found.append(regime)
    found[-1] = Regime(None, found[-1].schedule)
    return RegimeTable(str(spec), device.soft_key, tuple(found), Voice.MODEL)


def untuned(spec: Spec, sizes: tuple[int, ...], device: Device) -> Schedule:
    """The Schedule that the cost model gives without any measurement: what a tuned one has to beat."""
    from headrace.passes.choose import rank

    return rank(spec, sizes, device, NoEvidence())[0].schedule


def _evidence(store: Store) -> Evidence:
    from headrace.autotune.evidence import DatabaseEvidence

    return DatabaseEvidence(store)
