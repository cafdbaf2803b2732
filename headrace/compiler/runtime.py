"""What happens when a compiled graph calls a kernel: sizes pick the Schedule, without recompiling.

A Dispatcher belongs to one Spec on one kind of device, under the options that graphs were compiled with. It
looks the exact sizes up in a dict. Sizes that it sees for the first time fall into a regime or a bucket, and
each of these has one kernel: the number of rows of an unbatched Gemm is compared with the thresholds of its
RegimeTable, which is asked for once; other sizes are rounded up to powers of two, and the Resolver asks the
database, then the heuristics.

Nothing that goes wrong here stops a model. A kernel that fails at some sizes is replaced at these sizes, by
the next best dataflow that works and PyTorch's own operators last, with one warning per cause. The other
sizes of its regime or bucket keep it, until it has failed at `GIVEN_UP` of them or could not even be built.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from headrace.compiler.decisions import Decision, Resolver, instead, tell
from headrace.compiler.restride import Inputs, Kernel, Restrided, Result, output_strides, same_layout
from headrace.errors import HeadraceError
from headrace.ir.evidence import Rung, bucket
from headrace.ir.regime import RegimeTable
from headrace.ir.schedule import LIBRARY
from headrace.ir.spec import Attention, Spec, parse_spec

# What has a kernel of its own: a regime, by its position in the table, or a size bucket.
Slot = int | tuple[int, ...]

# Exact sizes remembered per Dispatcher; a stream of ever new sizes must not grow without bound.
REMEMBERED_SIZES = 4096
# At so many sizes of a regime or bucket a dataflow may fail before it is not tried at any others.
GIVEN_UP = 3


class Dispatcher:
    """Runs one Spec on tensors of any sizes; thread safe."""

    __slots__ = (
        "_asked", "_by_sizes", "_by_slot", "_failed", "_key", "_lock", "_replaced", "_seen", "_table", "find",
        "resolver", "spec", "text",
    )  # fmt: skip

    def __init__(self, text: str, resolver: Resolver) -> None:
        self.text = text
        self.resolver = resolver
        self.spec = parse_spec(text)
        self._key = _key_function(self.spec)
        self._by_sizes: dict[Any, Kernel] = {}
        self.find = self._by_sizes.get
        self._by_slot: dict[Slot, tuple[Decision, Kernel]] = {}
        self._table: RegimeTable | None = None
        self._asked = False
        self._lock = threading.RLock()
        self._seen: dict[tuple[Slot, tuple[int, ...]], Decision] = {}
        # The dataflows that failed, by slot and sizes, and what serves these sizes instead.
        self._failed: dict[Slot, dict[tuple[int, ...], set[str]]] = {}
        self._replaced: dict[tuple[int, ...], tuple[Decision, Kernel]] = {}

    def __call__(self, inputs: Inputs) -> Result:
        kernel = self.find(self._key(inputs))
        if kernel is None:
            return self.first(inputs)
        try:
            return kernel(inputs)
        except Exception as error:
            return self.rescue(inputs, error)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What was decided so far: one per regime and bucket that ran, and per sizes at which it failed."""
        with self._lock:
            found = {decision.sizes: decision for decision in self._seen.values()}
            found |= {sizes: decision for sizes, (decision, _) in self._replaced.items()}
        return tuple(found.values())

    def forget(self) -> None:
        """Resolve anew at the next call (after tuning, or when settings change)."""
        with self._lock:
            # Emptied, never exchanged: `find` holds on to it.
            self._by_sizes.clear()
            self._by_slot.clear()
            self._table, self._asked = None, False
            self._seen.clear()
            self._failed.clear()
            self._replaced.clear()

    def first(self, inputs: Inputs) -> Result:
        """Run on sizes that were not seen before, or not lately."""
        with self._lock:
            slot, sizes = self._slot(inputs)
            place = slot, bucket(sizes)
            if sizes in self._replaced:
                result, kernel = self._checked(self._replaced[sizes][1], inputs)
                return self._remember(inputs, kernel, result)
            kernel_known = self._by_slot.get(slot)
            if kernel_known is None:
                regime = None if self._table is None or not isinstance(slot, int) else (self._table, slot)
                decision, schedule = self.resolver.decide(self.spec, self.text, sizes, inputs[0], regime)
                try:
                    kernel = self.resolver.build(self.spec, schedule, inputs[0])
                except Exception as error:
                    return self._instead(inputs, slot, sizes, decision, error, built=False)
            else:
                decision, kernel = self._known(kernel_known[0], place, sizes), kernel_known[1]
            self._by_slot.setdefault(slot, (decision, kernel))
            try:
                result, kernel = self._checked(kernel, inputs)
            except Exception as error:
                return self._instead(inputs, slot, sizes, decision, error)
            self._seen[place] = decision
            return self._remember(inputs, kernel, result)

    def rescue(self, inputs: Inputs, error: Exception) -> Result:
        """The result by other means, for a kernel that worked at these sizes and now fails."""
        with self._lock:
            slot, sizes = self._slot(inputs)
            # Nothing is known of a kernel that was forgotten while it ran.
            found = Decision(self.text, sizes, bucket(sizes), "a kernel", Rung.DEFAULT.name.lower(), None, "")
            if sizes in self._replaced:
                found = self._replaced[sizes][0]
            elif slot in self._by_slot:
                found = self._by_slot[slot][0]
            return self._instead(
                inputs, slot, sizes, replace(found, sizes=sizes, bucket=bucket(sizes)), error
            )

    def _instead(
        self,
        inputs: Inputs,
        slot: Slot,
        sizes: tuple[int, ...],
        decision: Decision,
        error: Exception,
        *,
        built: bool = True,
    ) -> Result:
        """Serve sizes at which a kernel failed by the next best dataflow that works."""
        if self.resolver.strict:
            raise error
        dead = self._failed.setdefault(slot, {}).setdefault(sizes, set())
        dead.add(decision.dataflow)
        culprit, first = decision.dataflow, (decision, error)
        for choice in self.resolver.others(self.spec, sizes, inputs[0], self._table):
            if choice.schedule != LIBRARY and choice.schedule.dataflow in dead:
                continue
            replacement = instead(decision, error, choice)
            try:
                kernel = self.resolver.build(self.spec, choice.schedule, inputs[0])
                result, checked = self._checked(kernel, inputs)
            except Exception as again:
                if choice.schedule == LIBRARY:
                    raise
                dead.add(choice.schedule.dataflow)
                decision, error = replacement, again
                continue
            break
        tell(*first, replacement)  # only now is it known what works
        times = sum(culprit in flows for flows in self._failed[slot].values())
        if not built or times >= GIVEN_UP:
            self._by_slot[slot] = replacement, kernel
            self._seen[slot, replacement.bucket] = replacement
            self._replaced.pop(sizes, None)
        else:
            self._replaced[sizes] = replacement, kernel
        return self._remember(inputs, checked, result)

    def _remember(self, inputs: Inputs, kernel: Kernel, result: Result) -> Result:
        if len(self._by_sizes) >= REMEMBERED_SIZES:
            self._by_sizes.clear()
        self._by_sizes[self._key(inputs)] = getattr(kernel, "fast", kernel)
        return result

    def _slot(self, inputs: Inputs) -> tuple[Slot, tuple[int, ...]]:
        """Whose kernel serves the inputs, and their run-time sizes."""
        sizes = tuple(map(int, self.spec.sizes([value.shape for value in inputs])))
        if not self._asked:
            self._table = self.resolver.regimes(self.spec, inputs[0])
            self._asked = True
        at = None if self._table is None or len(sizes) != 1 else self._table.find(sizes[0])
        return bucket(sizes) if at is None else at, sizes

    def _known(
        self, found: Decision, place: tuple[Slot, tuple[int, ...]], sizes: tuple[int, ...]
    ) -> Decision:
        """The decision for sizes whose kernel was found before, maybe in another bucket of the regime."""
        known = self._seen.get(place)
        if known is not None and known.schedule == found.schedule:
            return known
        return replace(found, sizes=sizes, bucket=place[1], seconds=None)

    def _checked(self, kernel: Kernel, inputs: Inputs) -> tuple[Result, Kernel]:
        """Run a kernel for the first time at some sizes, and hold its results against what was promised."""
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


class Table(dict[str, Dispatcher]):
    """Dispatchers by their Spec's text, made when first asked for."""

    def __init__(self, resolver: Resolver) -> None:
        super().__init__()
        self._resolver = resolver

    def __missing__(self, text: str) -> Dispatcher:
        return self.setdefault(text, Dispatcher(text, self._resolver))
