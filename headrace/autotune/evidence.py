"""The database as `ir.evidence.Evidence`: what `passes.choose` and the runtime ask."""

from __future__ import annotations

import logging

from headrace.autotune.db.rows import Observation
from headrace.autotune.db.store import Store
from headrace.autotune.keys import environment, numerics
from headrace.autotune.ladder import Query, Step, answer_of, climb
from headrace.autotune.registry import Codegen, Registry, refusal
from headrace.errors import HeadraceError
from headrace.ir.device import Device
from headrace.ir.evidence import Answer
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec

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
        self._revision = store.revision

    def best(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> Answer | None:
        """The best known schedule; None when no row speaks. Never raises."""
        try:
            if self._revision != self._store.revision:
                self._memo, self._revision = {}, self._store.revision
            key = (spec, sizes, device)
            if key not in self._memo:
                self._memo[key] = answer_of(self.why(spec, sizes, device))
            return self._memo[key]
        except Exception as error:
            _log.debug("evidence for %s at %s is lost: %s", spec.kind, sizes, error)
            return None

    def why(self, spec: Spec, sizes: tuple[int, ...], device: Device) -> tuple[Step, ...]:
        """The rungs that were climbed for an answer, for people: print each Step."""
        query = Query(str(spec), sizes, numerics(device), environment(device))
        verdicts: dict[tuple[str, str], str | None] = {}

        def refuse(row: Observation) -> str | None:
            key = (row.schedule, row.template_digest)
            if key not in verdicts:
                verdicts[key] = self._refusal(spec, sizes, row, device)
            return verdicts[key]

        return climb(self._store.observations(query.spec), query, refuse)

    def _refusal(self, spec: Spec, sizes: tuple[int, ...], row: Observation, device: Device) -> str | None:
        if row.template_digest != self._registry.digest(row.dataflow):
            return "template has changed"
        try:
            reason = refusal(self._registry, spec, sizes, Schedule.parse(row.schedule), device)
        except (HeadraceError, ValueError, KeyError, TypeError):
            return "not a schedule of ours"  # a row may come from anybody's file
        return None if reason is None else "not legal here"
