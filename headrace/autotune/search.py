"""Search: Optuna's TPE over dataflows and knobs by ask and tell. It proposes, others measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from headrace.autotune.space import Space
from headrace.ir.schedule import Schedule

if TYPE_CHECKING:
    from optuna.trial import Trial

STARTUP_TRIALS = 8
# How often the sampler is asked for something new before the nearest untried Schedule is taken instead.
ASKS = 3
# What a failed candidate is worth to the sampler: far worse than anything that runs.
FAILED = math.log(100.0)


class Search:
    """Proposes each legal Schedule at most once.

    Values are log(seconds / seconds of the default), so that drift of the machine cancels. A configuration
    that the sampler repeats is answered from memory; one that is illegal is moved to the nearest legal one.
    """

    def __init__(self, space: Space, seed: int, known: Mapping[Schedule, float | None]) -> None:
        """`known`: time ratios of Schedules tried before, None for failures; they are not proposed again."""
        import optuna

        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        # A new study announces itself on standard error; what the user has set otherwise stays.
        previous = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            self._study = optuna.create_study(sampler=sampler)
        finally:
            optuna.logging.set_verbosity(previous)
        self._space = space
        self._values: dict[Schedule, float] = {}
        self._asked: dict[Schedule, Trial] = {}
        for schedule, ratio in known.items():
            self.tell(schedule, ratio)

    def propose(self) -> Schedule | None:
        """A Schedule to try, or None when every legal one has been tried."""
        from optuna.trial import TrialState

        if not self._space.flows:
            return None
        for _ in range(ASKS):
            trial = self._study.ask()
            schedule = self._space.suggest(trial)
            if schedule in self._values:
                self._study.tell(trial, self._values[schedule])
            elif self._space.legal(schedule):
                self._asked[schedule] = trial
                return schedule
            else:
                self._study.tell(trial, state=TrialState.FAIL)
        return self._space.nearest(schedule, self._values)

    def tell(self, schedule: Schedule, ratio: float | None) -> None:
        """Report a time ratio to the default, or None for a failure."""
        from optuna.trial import create_trial

        value = FAILED if ratio is None else math.log(ratio)
        self._values[schedule] = value
        trial = self._asked.pop(schedule, None)
        if trial is not None:
            self._study.tell(trial, value)
        elif self._space.legal(schedule):
            parameters, distributions = self._space.parameters(schedule)
            self._study.add_trial(create_trial(params=parameters, distributions=distributions, value=value))
