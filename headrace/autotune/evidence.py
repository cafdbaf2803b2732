"""The database as `ir.evidence.Evidence`: what `passes.choose` and the runtime ask."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from headrace.autotune.db.rows import Observation
from headrace.autotune.db.store import Store
from headrace.autotune.keys import environment, numerics
from headrace.autotune.ladder import Query, Step, answer_of, climb, priors
from headrace.autotune.regimes import derive, silence
from headrace.autotune.registry import Codegen, Registry, refusal
from headrace.errors import HeadraceError
from headrace.ir.device import Device
from headrace.ir.evidence import Answer
from headrace.ir.regime import RegimeTable
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention, Gemm, Rows, Spec, Stabilizer

_log = logging.getLogger("headrace.autotune")
_Key = tuple[Spec, tuple[int, ...], Device]


class DatabaseEvidence:
    """Answers from a Store, each looked up once per process until the Store gains rows.

    A row counts only while its template is unchanged and its schedule is legal here. Every failure is a miss.
    """

    def __init__(self, store: Store, registry: Registry | None = None) -> None:
        self._store = store
        self._registry = registry or Codegen()
        self._memo: dict[_Key, Answer | None] = {}
        self._tables: dict[tuple[Spec, Device], RegimeTable | None] = {}
        self._revision = store.revision

    def best(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Answer | None:
        """The best known schedule; None when no row speaks. Never raises."""
        try:
            self._renew()
            key = (spec, sizes, device)
            memo = self._memo  # another thread may renew it meanwhile
            if key not in memo:
                memo[key] = answer_of(self.why(spec, sizes, device))
            return memo[key]
        except Exception as error:
            _log.debug("evidence for %s at %s is lost: %s", spec.kind, sizes, error)
            return None

    def regimes(self, spec: Spec, device: Device) -> RegimeTable | None:
        """The regimes of an unbatched Gemm as measured on this very setup; None when too little was. Never
        raises."""
        try:
            self._renew()
            key = (spec, device)
            tables = self._tables
            if key not in tables:
                tables[key] = self._derived(spec, device)
            return tables[key]
        except Exception as error:
            _log.debug("the regimes of %s are lost: %s", spec.kind, error)
            return None

    def silent(self, spec: Spec, device: Device) -> dict[str, int]:
        """Why rows of an operation do not speak for its regimes here, and how many; for people."""
        query = Query(str(spec), (), numerics(device), environment(device))
        refuse = _Remembered(lambda row: self._refusal(spec, row.sizes, row, device))
        return silence(self._store.observations(query.spec), query, refuse)

    def _derived(self, spec: Spec, device: Device) -> RegimeTable | None:
        if not isinstance(spec, Gemm) or spec.batched:
            return None
        query = Query(str(spec), (), numerics(device), environment(device))
        refuse = _Remembered(lambda row: self._refusal(spec, row.sizes, row, device))
        return derive(self._store.observations(query.spec), query, refuse)

    def _renew(self) -> None:
        if self._revision != self._store.revision:
            self._memo, self._tables, self._revision = {}, {}, self._store.revision

    def why(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> tuple[Step, ...]:
        """The rungs that were climbed for an answer, for people: print each Step.

        Where nothing is known of an operation, what is known of its `relatives` is a prior.
        """
        query = Query(str(spec), sizes, numerics(device), environment(device))
        refuse = _Remembered(lambda row: self._refusal(spec, sizes, row, device))
        steps = climb(self._store.observations(query.spec), query, refuse)
        for other, about in relatives(spec):
            if answer_of(steps) is not None:
                break
            query = replace(query, spec=str(other))
            found = climb(self._store.observations(query.spec), query, refuse)
            steps = (*steps, *(priors(step, about) for step in found))
        return steps

    def _refusal(self, spec: Spec, sizes: tuple[int, ...], row: Observation, device: Device) -> str | None:
        if row.template_digest != self._registry.digest(row.dataflow):
            return "template has changed"
        try:
            reason = refusal(self._registry, spec, sizes, Schedule.parse(row.schedule), device)
        except (HeadraceError, ValueError, KeyError, TypeError):
            return "not a schedule of ours"  # a row may come from anybody's file
        return None if reason is None else "not legal here"


def relatives(spec: Spec) -> tuple[tuple[Spec, str], ...]:
    """Operations with much the same kernels, whose schedules are legal for this one too, nearest first, each
    with what sets it apart: rows of -inf give NaN instead of zeros, or no unified maximum is permitted.
    """
    found: list[tuple[Spec, str]] = []
    if isinstance(spec, Attention) and spec.safe:
        found.append((replace(spec, safe=False), "where rows of -inf are NaN"))
    for each, about in [(spec, ""), *found]:
        plain = unlicensed(each)
        if plain is not None:
            found.append((plain, ", ".join(filter(None, ("without a unified maximum", about)))))
    return tuple(found)


def unlicensed(spec: Spec) -> Spec | None:
    """The operation without its permission of a unified maximum; None where it has none."""
    if isinstance(spec, Attention) and spec.normalizer.stabilizer is Stabilizer.UNIFIED:
        plain = replace(spec.normalizer, stabilizer=Stabilizer.ONLINE, phi=0, proven=False)
        return replace(spec, normalizer=plain)
    if isinstance(spec, Rows) and spec.phi is not None:
        return replace(spec, phi=None)
    return None


class _Remembered:
    """A judgement on rows, made once per implementation and sizes."""

    def __init__(self, judge: Callable[[Observation], str | None]) -> None:
        self._judge = judge
        self._verdicts: dict[tuple[str, str, tuple[int, ...]], str | None] = {}

    def __call__(self, row: Observation) -> str | None:
        key = (row.schedule, row.template_digest, row.sizes)
        if key not in self._verdicts:
            self._verdicts[key] = self._judge(row)
        return self._verdicts[key]
