"""Which Schedule serves a Spec, and why: the questions that a Dispatcher asks.

A Resolver puts together where answers come from: a chooser (the database, then the cost model) and a builder.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.compiler.notices import warn_once
from headrace.compiler.restride import Kernel
from headrace.ir.device import Device
from headrace.ir.evidence import Rung, bucket
from headrace.ir.regime import RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Gemm, Spec

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """Which Schedule serves a Spec in a size bucket, and why.

    Attributes:
        spec: the Spec's canonical text.
        sizes: the run-time sizes that were seen first in this bucket.
        bucket: the bucket they fall into.
        schedule: text of the Schedule; `library{}` means PyTorch's operators.
        rung: how close the evidence is, `Rung`'s name in lower case.
        seconds: the recorded median, where there is one.
        reason: one line in words.
        rows: ids of the database rows behind it.
        regime: the range of M that it serves, `regime 5..64 of 3 (measured)`; empty where buckets decide.
    """

    spec: str
    sizes: tuple[int, ...]
    bucket: tuple[int, ...]
    schedule: str
    rung: str
    seconds: float | None
    reason: str
    rows: tuple[str, ...] = ()
    regime: str = ""

    @property
    def dataflow(self) -> str:
        return self.schedule.partition("{")[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """A Schedule with the reason for it."""

    schedule: Schedule
    rung: Rung
    reason: str
    seconds: float | None = None
    rows: tuple[str, ...] = ()


BY_LIBRARY = Choice(LIBRARY, Rung.DEFAULT, "PyTorch's operators")
Regime = tuple[RegimeTable, int]


class Resolver:
    """Finds the Schedule and the kernel of a Spec at sizes.

    Args:
        choose: (spec, sizes, device) -> the Choice where no regime decides.
        build: (spec, schedule, device) -> kernel.
        device_of: tensor -> Device.
        strict: failures of kernels are raised, nothing takes their place.
        regimes: (spec, device) -> the RegimeTable of an unbatched Gemm, or None: then buckets decide.
        others: (spec, sizes, device, table or None) -> what else could serve these sizes, best first.
        renew: asked now and then; True says that answers may be others than before.
    """

    def __init__(
        self,
        choose: Callable[[Spec, tuple[int, ...], Device], Choice],
        build: Callable[[Spec, Schedule, Device], Kernel],
        device_of: Callable[[torch.Tensor], Device],
        *,
        strict: bool = False,
        regimes: Callable[[Gemm, Device], RegimeTable | None] | None = None,
        others: Callable[[Spec, tuple[int, ...], Device, RegimeTable | None], Iterable[Choice]] | None = None,
        renew: Callable[[], bool] | None = None,
    ) -> None:
        self._choose = choose
        self._build = build
        self._device_of = device_of
        self._regimes = regimes
        self._others = others
        self._renew = renew
        self.strict = strict

    def renew(self) -> bool:
        """Look for new evidence; whether there may be some."""
        return self._renew is not None and self._renew()

    def regimes(self, spec: Spec, example: torch.Tensor) -> RegimeTable | None:
        """The regimes of an unbatched Gemm; None for any other Spec, and where nobody knows any."""
        if self._regimes is None or not isinstance(spec, Gemm) or spec.batched:
            return None
        try:
            table = self._regimes(spec, self._device_of(example))
        except Exception as error:
            if self.strict:
                raise
            log.debug("the regimes of %s are lost: %s", spec, error)
            return None
        if table is not None:
            log.info("%s", table)
        return table

    def decide(
        self,
        spec: Spec,
        text: str,
        sizes: tuple[int, ...],
        example: torch.Tensor,
        regime: Regime | None = None,
    ) -> tuple[Decision, Schedule]:
        """The Schedule for sizes, or for a regime (given as its table and its position there)."""
        choice = (
            self._choose(spec, sizes, self._device_of(example))
            if regime is None
            else _of_regime(*regime, sizes[0])
        )
        decision = Decision(
            text, sizes, bucket(sizes), str(choice.schedule), choice.rung.name.lower(), choice.seconds,
            choice.reason, choice.rows, "" if regime is None else regime[0].name(regime[1]),
        )  # fmt: skip
        log.debug("%s at %s: %s (%s)", text, sizes, choice.schedule, choice.reason)
        return decision, choice.schedule

    def others(
        self, spec: Spec, sizes: tuple[int, ...], example: torch.Tensor, table: RegimeTable | None
    ) -> Iterator[Choice]:
        """What can serve sizes in place of a kernel that failed, best first; the library is the last."""
        try:
            for choice in self._others(spec, sizes, self._device_of(example), table) if self._others else ():
                if choice.schedule == LIBRARY:
                    break
                yield choice
        except Exception as error:
            log.debug("nobody knows what else could serve %s: %s", spec, error)
        yield BY_LIBRARY

    def build(self, spec: Spec, schedule: Schedule, example: torch.Tensor) -> Kernel:
        return self._build(spec, schedule, self._device_of(example))


def instead(decision: Decision, error: Exception, choice: Choice) -> Decision:
    """The decision for what is to take the place of a kernel that failed."""
    failed = f"{decision.schedule} failed: {type(error).__name__}: {error}"
    found = choice.schedule != LIBRARY
    return Decision(
        decision.spec, decision.sizes, decision.bucket, str(choice.schedule), choice.rung.name.lower(),
        choice.seconds, f"{choice.reason}, since {failed}" if found else failed, choice.rows,
    )  # fmt: skip


def tell(failed: Decision, error: Exception, instead: Decision) -> None:
    """Warn, once per cause, of a kernel that failed, and say what serves its sizes now."""
    library = instead.schedule == str(LIBRARY)
    what = "PyTorch's operators run" if library else f"{instead.schedule} runs"
    warn_once(
        f"kernel:{type(error).__name__}:{error}",
        f"headrace: {failed.schedule} failed for {failed.spec.partition('{')[0]} at sizes "
        f"{failed.sizes} ({type(error).__name__}: {error}); {what} instead",
        error,
    )


def _of_regime(table: RegimeTable, at: int, m: int) -> Choice:
    """The choice of a regime; its seconds where M was measured."""
    schedule, name = table.regimes[at].schedule, table.name(at)
    if table.voice is Voice.MODEL:
        return Choice(schedule, Rung.MODEL, f"cost model, {name}")
    times = next((dict(curve.points) for curve in table.curves if curve.schedule == schedule), {})
    return Choice(schedule, Rung.EXACT, f"database, {name}", times.get(m), table.evidence)
