"""What the races of a scan say about each M so far, and who has to meet again.

A first race of all candidates finds who is close, final ones of these tell them apart. Where a loss that
would count is within the noise even then, the schedules that it concerns meet again, until the noise no
longer explains it or AGAINS more races have been run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from headrace.autotune.regimes import CONFIDENCE, is_tie
from headrace.autotune.stats import median, median_interval
from headrace.ir.schedule import LIBRARY, Schedule

# Final races of those who came close, and of those whom these did not tell apart.
FINALS, AGAINS = 2, 4
# Who came this close to the best in the first race is in the finals, RIVALS at most; the library, which
# nothing may lose to, from further off.
NEAR, NEAR_LIBRARY, RIVALS = 1.08, 1.15, 5
# A loss below this is not worth another race; a pair with so many samples has had its races.
MATTERS, ENOUGH = 0.01, 300


@dataclass
class Races:
    """Samples in seconds by M, race and schedule; of one race all are equally many, taken in turns."""

    _first: dict[int, dict[str, dict[Schedule, tuple[float, ...]]]] = field(default_factory=dict)
    _final: dict[int, dict[str, dict[Schedule, tuple[float, ...]]]] = field(default_factory=dict)

    def add(self, m: int, race: str, samples: dict[Schedule, tuple[float, ...]], *, final: bool) -> None:
        kept = self._final if final else self._first
        kept.setdefault(m, {}).setdefault(race, {}).update(samples)

    def seconds(self, m: int) -> dict[Schedule, float]:
        """Seconds by schedule over the first races at an M; with the finals counted in, who is wanted where
        would differ when a scan goes on."""
        return _merged(list(self._first.get(m, {}).values()))

    def rivals(self, m: int, turn: int) -> list[Schedule]:
        """Who meets in a final race at an M; nobody where one is alone or had more finals than `turn`."""
        known = self.seconds(m)
        order = sorted(known, key=lambda each: (known[each], str(each)))
        best = known[order[0]]
        rivals = [each for each in order if known[each] <= NEAR * best][:RIVALS]
        if LIBRARY not in rivals and known.get(LIBRARY, float("inf")) <= NEAR_LIBRARY * best:
            rivals.append(LIBRARY)
        if len(rivals) < 2:
            return []
        rivals = self._joined(m, rivals)
        return rivals if self._met(m, rivals) <= turn else []

    def undecided(self, m: int) -> list[Schedule]:
        """The best at an M over all races, and those whose loss to it counts if it is none of the noise."""
        races = [*self._first.get(m, {}).values(), *self._final.get(m, {}).values()]
        times = _merged(races)
        best = min(sorted(times, key=str), key=lambda each: times[each])
        rivals = [best]
        for schedule in sorted(times.keys() - {best}, key=str):
            both = [(race[schedule], race[best]) for race in races if {schedule, best} <= race.keys()]
            paired = [mine / theirs for run in both for mine, theirs in zip(*run, strict=True)]
            loss = median(paired) - 1.0 if paired else 0.0
            tied = loss > MATTERS and is_tie(loss, median_interval(paired, CONFIDENCE)[0])
            if tied and len(paired) < ENOUGH:
                rivals.append(schedule)
        if len(rivals) < 2:
            return []
        rivals = self._joined(m, rivals)
        return rivals if self._met(m, rivals) < FINALS + AGAINS else []

    def _joined(self, m: int, rivals: list[Schedule]) -> list[Schedule]:
        """Rivals, and who was in most first races: it joins their times."""
        known = self.seconds(m)
        races = self._first[m].values()
        order = sorted(known, key=lambda each: (known[each], str(each)))
        common = max(order, key=lambda each: sum(each in runners for runners in races))
        return rivals if common in rivals else [*rivals, common]

    def _met(self, m: int, rivals: list[Schedule]) -> int:
        """In how many final races at an M all of them were."""
        return sum(set(rivals) <= runners.keys() for runners in self._final.get(m, {}).values())


def _merged(races: list[dict[Schedule, tuple[float, ...]]]) -> dict[Schedule, float]:
    """Seconds by schedule over several races, by ratios to the schedule that most of them have in common."""
    medians = [{schedule: median(run) for schedule, run in race.items()} for race in races]
    counted = Counter(schedule for times in medians for schedule in times)
    if not counted:
        return {}
    anchor = max(sorted(counted, key=str), key=lambda each: counted[each])
    joined = [times for times in medians if anchor in times]
    base = median([times[anchor] for times in joined])
    ratios: dict[Schedule, list[float]] = {}
    for times in joined:
        for schedule, time in times.items():
            ratios.setdefault(schedule, []).append(time / times[anchor])
    return {schedule: base * median(values) for schedule, values in ratios.items()}
