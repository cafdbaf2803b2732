"""The search space of one task: dataflows, their knobs, and what is legal, as Optuna distributions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING

from headrace.autotune.registry import Dataflow, Registry
from headrace.ir.device import Device
from headrace.ir.schedule import LIBRARY, Knob, Schedule, Value
from headrace.ir.spec import Spec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

DATAFLOW = "dataflow"
# How many configurations a walk to the nearest legal one looks at before it gives up.
WALK = 20_000


class Space:
    """Every Schedule that may run a Spec at some sizes on a device; illegal ones are never handed out.

    A knob becomes an integer parameter `dataflow.knob` over the positions of its values, which are in order,
    or a categorical one where the values are words. `library` is not part of the space: it is always raced.
    """

    def __init__(self, registry: Registry, spec: Spec, sizes: tuple[int, ...], device: Device) -> None:
        self._at = (spec, sizes, device)
        self.flows: dict[str, Dataflow] = {
            flow.name: flow
            for flow in registry.dataflows(spec, sizes, device)
            if flow.name != LIBRARY.dataflow
        }
        self.knobs: dict[str, tuple[Knob, ...]] = {
            name: flow.knobs(spec, sizes, device) for name, flow in self.flows.items()
        }

    @property
    def defaults(self) -> tuple[Schedule, ...]:
        """Each dataflow's own default, in the registry's order."""
        return tuple(flow.default(*self._at) for flow in self.flows.values())

    def legal(self, schedule: Schedule) -> bool:
        """Whether a Schedule is of this space and may run."""
        flow = self.flows.get(schedule.dataflow)
        if flow is None:
            return False
        values = dict(schedule.knobs)
        knobs = self.knobs[flow.name]
        if values.keys() != {knob.name for knob in knobs}:
            return False
        if any(values[knob.name] not in knob.values for knob in knobs):
            return False
        spec, sizes, device = self._at
        return flow.legal(spec, sizes, schedule, device) is None

    def suggest(self, trial: Trial) -> Schedule:
        """The Schedule that a sampler asks for, which may be illegal."""
        name = trial.suggest_categorical(DATAFLOW, list(self.flows))
        values: dict[str, Value] = {}
        for knob in self.knobs[str(name)]:
            parameter = f"{name}.{knob.name}"
            if _ordered(knob):
                values[knob.name] = knob.values[trial.suggest_int(parameter, 0, len(knob.values) - 1)]
            else:
                word = trial.suggest_categorical(parameter, list(knob.values))
                values[knob.name] = word if isinstance(word, int) else str(word)
        return Schedule.of(str(name), **values)

    def parameters(self, schedule: Schedule) -> tuple[dict[str, Value], dict[str, BaseDistribution]]:
        """A Schedule as Optuna's parameters and their distributions."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        parameters: dict[str, Value] = {DATAFLOW: schedule.dataflow}
        distributions: dict[str, BaseDistribution] = {DATAFLOW: CategoricalDistribution(list(self.flows))}
        for knob in self.knobs[schedule.dataflow]:
            name, value = f"{schedule.dataflow}.{knob.name}", schedule[knob.name]
            if _ordered(knob):
                parameters[name] = knob.values.index(value)
                distributions[name] = IntDistribution(0, len(knob.values) - 1)
            else:
                parameters[name] = value
                distributions[name] = CategoricalDistribution(list(knob.values))
        return parameters, distributions

    def nearest(self, schedule: Schedule, seen: Container[Schedule]) -> Schedule | None:
        """The legal Schedule not yet seen that takes the fewest steps along knobs; None when there is none
        left.
        """

        def wanted(candidate: Schedule) -> bool:
            return candidate not in seen and self.legal(candidate)

        names = sorted(self.flows, key=lambda name: name != schedule.dataflow)
        for name in names:
            start = schedule if name == schedule.dataflow else self.flows[name].default(*self._at)
            found = self._walk(start, wanted)
            if found is not None:
                return found
        return None

    def _walk(self, start: Schedule, wanted: Callable[[Schedule], bool]) -> Schedule | None:
        queue, known = deque([start]), {start}
        while queue and len(known) <= WALK:
            schedule = queue.popleft()
            if wanted(schedule):
                return schedule
            for neighbour in self._neighbours(schedule):
                if neighbour not in known:
                    known.add(neighbour)
                    queue.append(neighbour)
        return next(filter(wanted, queue), None)

    def _neighbours(self, schedule: Schedule) -> Iterator[Schedule]:
        values = dict(schedule.knobs)
        for knob in self.knobs[schedule.dataflow]:
            if values.get(knob.name) in knob.values:
                for value in knob.neighbours(values[knob.name]):
                    yield Schedule.of(schedule.dataflow, **(values | {knob.name: value}))


def _ordered(knob: Knob) -> bool:
    return all(isinstance(value, int) for value in knob.values)
