"""What happens when a compiled graph calls a kernel: sizes pick the Schedule, without recompiling.

A Dispatcher belongs to one Spec on one kind of device. It looks the exact sizes up in a dict. Sizes that it
sees for the first time fall into a regime or a bucket, and each of these has one kernel: the number of rows
of an unbatched Gemm is compared with the thresholds of its RegimeTable, which is asked for once; other sizes
are rounded up to powers of two, and the Resolver asks the database, then the heuristics. Nothing that goes
wrong here stops a model: a kernel that cannot be built or launched is replaced by PyTorch's own operators,
with one warning.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headrace.compiler.notices import warn_once
from headrace.compiler.restride import Inputs, Kernel, Restrided, Result, same_layout
from headrace.errors import HeadraceError
from headrace.ir.device import Device
from headrace.ir.evidence import Rung, bucket
from headrace.ir.regime import RegimeTable, Voice
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Attention, Gemm, Spec, parse_spec

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# What has a kernel of its own: a regime, by its position in the table, or a size bucket.
Slot = int | tuple[int, ...]

# Exact sizes remembered per Dispatcher; a stream of ever new sizes must not grow without bound.
REMEMBERED_SIZES = 4096


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


class Dispatcher:
    """Runs one Spec on tensors of any sizes; thread safe."""

    __slots__ = ("_asked", "_by_sizes", "_by_slot", "_key", "_lock", "_table", "decisions", "spec", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.spec = parse_spec(text)
        self._key = _key_function(self.spec)
        self._by_sizes: dict[Any, Kernel] = {}
        self._by_slot: dict[Slot, tuple[Decision, Kernel]] = {}
        self._table: RegimeTable | None = None
        self._asked = False
        self._lock = threading.RLock()
        self.decisions: dict[tuple[Slot, tuple[int, ...]], Decision] = {}

    def __call__(self, inputs: Inputs) -> Result:
        kernel = self._by_sizes.get(self._key(inputs))
        if kernel is None:
            return self._first(inputs)
        try:
            return kernel(inputs)
        except Exception as error:
            return self._rescue(inputs, error)

    def function(self) -> Callable[..., Result]:
        """This Dispatcher as a function of tensors, for generated code; about 0.5 microseconds over the
        kernel.
        """
        find, first, rescue = self._by_sizes.get, self._first, self._rescue
        if isinstance(self.spec, Attention):

            def attend(*inputs: torch.Tensor) -> Result:
                kernel = find((inputs[0].shape, inputs[1].shape[2]))
                try:
                    return first(inputs) if kernel is None else kernel(inputs)
                except Exception as error:
                    if kernel is None:
                        raise
                    return rescue(inputs, error)

            return attend

        def call(*inputs: torch.Tensor) -> Result:
            kernel = find(inputs[0].shape)
            try:
                return first(inputs) if kernel is None else kernel(inputs)
            except Exception as error:
                if kernel is None:
                    raise
                return rescue(inputs, error)

        return call

    def forget(self) -> None:
        """Resolve anew at the next call (after tuning, or when settings change)."""
        with self._lock:
            # Emptied, never exchanged: bound functions hold on to it.
            self._by_sizes.clear()
            self._by_slot.clear()
            self._table, self._asked = None, False
            self.decisions.clear()

    def _first(self, inputs: Inputs) -> Result:
        with self._lock:
            slot, sizes = self._slot(inputs)
            place = slot, bucket(sizes)
            found = self._by_slot.get(slot)
            if found is None:
                regime = None if self._table is None or not isinstance(slot, int) else (self._table, slot)
                resolver = RUNTIME.resolver
                decision, kernel = resolver.resolve(self.spec, self.text, sizes, inputs[0], regime)
            else:
                decision, kernel = self._known(found[0], place, sizes), found[1]
            try:
                result, kernel = self._checked(kernel, inputs)
            except Exception as error:
                if RUNTIME.resolver.strict:
                    raise
                decision = _failed(decision, error)
                library = RUNTIME.resolver.library(self.spec, inputs[0])
                result, kernel = self._checked(library, inputs)
                self._by_slot[slot] = decision, library
            self._by_slot.setdefault(slot, (decision, kernel))
            self.decisions[place] = decision
            if len(self._by_sizes) >= REMEMBERED_SIZES:
                self._by_sizes.clear()
            self._by_sizes[self._key(inputs)] = getattr(kernel, "fast", kernel)
            return result

    def _slot(self, inputs: Inputs) -> tuple[Slot, tuple[int, ...]]:
        """Whose kernel serves the inputs, and their run-time sizes."""
        sizes = tuple(map(int, self.spec.sizes([value.shape for value in inputs])))
        if not self._asked:
            self._table = RUNTIME.resolver.regimes(self.spec, inputs[0])
            self._asked = True
        at = None if self._table is None or len(sizes) != 1 else self._table.find(sizes[0])
        return bucket(sizes) if at is None else at, sizes

    def _known(
        self, found: Decision, place: tuple[Slot, tuple[int, ...]], sizes: tuple[int, ...]
    ) -> Decision:
        """The decision for sizes whose kernel was found before, maybe in another bucket of the regime."""
        known = self.decisions.get(place)
        if known is not None and known.schedule == found.schedule:
            return known
        return replace(found, sizes=sizes, bucket=place[1], seconds=None)

    def _rescue(self, inputs: Inputs, error: Exception) -> Result:
        """PyTorch's operators, for a kernel that worked at these sizes and now fails (other strides)."""
        if RUNTIME.resolver.strict:
            raise error
        with self._lock:
            slot, sizes = self._slot(inputs)
            place = slot, bucket(sizes)
            library = RUNTIME.resolver.library(self.spec, inputs[0])
            result, kernel = self._checked(library, inputs)
            # Nothing is known of a kernel that was forgotten while it ran.
            unknown = Decision(self.text, sizes, place[1], "a kernel", Rung.DEFAULT.name.lower(), None, "")
            decision = _failed(self.decisions.get(place, unknown), error)
            self._by_slot[slot] = decision, library
            self.decisions[place] = decision
            self._by_sizes[self._key(inputs)] = getattr(kernel, "fast", kernel)
            return result

    def _checked(self, kernel: Kernel, inputs: Inputs) -> tuple[Result, Kernel]:
        """Run a kernel for the first time at some sizes, and hold its results against what was promised."""
        from headrace.compiler.operators import output_strides

        result = kernel(inputs)
        made = result if isinstance(result, tuple) else (result,)
        shapes = self.spec.output_shapes([tuple(value.shape) for value in inputs])
        promised = zip(shapes, output_strides(self.spec, shapes), self.spec.output_dtypes, strict=True)
        restride = False
        for value, (shape, strides, dtype) in zip(made, promised, strict=True):
            if tuple(value.shape) != tuple(shape) or value.dtype != dtype.to_torch():
                raise HeadraceError(
                    f"a kernel returned {value.dtype} {tuple(value.shape)} instead of "
                    f"{dtype.to_torch()} {tuple(shape)}"
                )
            restride |= not same_layout(shape, value.stride(), strides)
        if restride:
            kernel = Restrided(kernel, self.spec)
            result = kernel.arrange(result, inputs)
        return result, kernel


def _key_function(spec: Spec) -> Callable[[Inputs], Any]:
    """The cheapest function of the inputs that determines the run-time sizes."""
    if isinstance(spec, Attention):
        return lambda inputs: (inputs[0].shape, inputs[1].shape[2])
    return lambda inputs: inputs[0].shape


def _failed(decision: Decision, error: Exception) -> Decision:
    warn_once(
        f"kernel:{type(error).__name__}:{error}",
        f"headrace: {decision.schedule} failed for {decision.spec.partition('{')[0]} at sizes "
        f"{decision.sizes} ({type(error).__name__}: {error}); PyTorch's operators run instead",
        error,
    )
    return Decision(
        decision.spec, decision.sizes, decision.bucket, str(LIBRARY), Rung.DEFAULT.name.lower(), None,
        f"{decision.schedule} failed: {type(error).__name__}: {error}",
    )  # fmt: skip


class Table(dict[str, Dispatcher]):
    """Dispatchers by their Spec's text, made when first asked for."""

    def __missing__(self, text: str) -> Dispatcher:
        return self.setdefault(text, Dispatcher(text))


class Resolver:
    """Finds the Schedule and the kernel of a Spec at sizes: database, then heuristics, then the library.

    Args:
        choose: (spec, sizes, device) -> Decision's schedule, rung, seconds, reason and rows.
        build: (spec, schedule, device) -> kernel.
        device_of: tensor -> Device.
        regimes: (spec, device) -> the RegimeTable of an unbatched Gemm, or None: then buckets decide.
    """

    def __init__(
        self,
        choose: Callable[[Spec, tuple[int, ...], Device], Choice],
        build: Callable[[Spec, Schedule, Device], Kernel],
        device_of: Callable[[torch.Tensor], Device],
        *,
        strict: bool = False,
        regimes: Callable[[Gemm, Device], RegimeTable | None] | None = None,
    ) -> None:
        self._choose = choose
        self._build = build
        self._device_of = device_of
        self._regimes = regimes
        self.strict = strict

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

    def resolve(
        self,
        spec: Spec,
        text: str,
        sizes: tuple[int, ...],
        example: torch.Tensor,
        regime: tuple[RegimeTable, int] | None = None,
    ) -> tuple[Decision, Kernel]:
        """The kernel for sizes, or for a regime of a table (given as the table and the regime's position)."""
        device = self._device_of(example)
        choice = self._choose(spec, sizes, device) if regime is None else _of_regime(*regime, sizes[0])
        decision = Decision(
            text, sizes, bucket(sizes), str(choice.schedule), choice.rung.name.lower(), choice.seconds,
            choice.reason, choice.rows, "" if regime is None else regime[0].name(regime[1]),
        )  # fmt: skip
        log.debug("%s at %s: %s (%s)", text, sizes, choice.schedule, choice.reason)
        try:
            return decision, self._build(spec, choice.schedule, device)
        except Exception as error:
            if self.strict:
                raise
            return _failed(decision, error), self.library(spec, example)

    def library(self, spec: Spec, example: torch.Tensor) -> Kernel:
        return self._build(spec, LIBRARY, self._device_of(example))


@dataclass(frozen=True, slots=True)
class Choice:
    """A Schedule with the reason for it."""

    schedule: Schedule
    rung: Rung
    reason: str
    seconds: float | None = None
    rows: tuple[str, ...] = ()


def _of_regime(table: RegimeTable, at: int, m: int) -> Choice:
    """The choice of a regime; its seconds where M was measured."""
    schedule, name = table.regimes[at].schedule, table.name(at)
    if table.voice is Voice.MODEL:
        return Choice(schedule, Rung.MODEL, f"cost model, {name}")
    times = next((dict(curve.points) for curve in table.curves if curve.schedule == schedule), {})
    return Choice(schedule, Rung.EXACT, f"database, {name}", times.get(m), table.evidence)


class Runtime:
    """The resolver in use and everything it has resolved in this process."""

    def __init__(self) -> None:
        self._resolver: Resolver | None = None
        self._lock = threading.Lock()

    @property
    def resolver(self) -> Resolver:
        if self._resolver is None:
            from headrace.compiler.resolve import default_resolver

            with self._lock:
                self._resolver = self._resolver or default_resolver()
        return self._resolver

    def use(self, resolver: Resolver) -> None:
        """Resolve with another resolver from now on; what is resolved already is forgotten."""
        self._resolver = resolver
        self.forget()

    def forget(self) -> None:
        """Let every Dispatcher resolve anew at its next call."""
        for table in TABLES.values():
            for dispatcher in list(table.values()):
                dispatcher.forget()

    def decisions(self) -> tuple[Decision, ...]:
        """All decisions made so far, in the order in which Specs were first run."""
        return tuple(
            decision
            for table in TABLES.values()
            for dispatcher in list(table.values())
            for decision in list(dispatcher.decisions.values())
        )


def bind(key: str, text: str) -> Callable[..., Result]:
    """The function of a Spec on a kind of device (`CPU` or `CUDA`); what generated code asks for when it is
    loaded.
    """
    return TABLES[key][text].function()


# By torch's dispatch key. Both are caches: emptying them changes nothing but speed.
TABLES: dict[str, Table] = {"CPU": Table(), "CUDA": Table()}
RUNTIME = Runtime()
