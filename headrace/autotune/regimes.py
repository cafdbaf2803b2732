"""From timings at exact M's to a RegimeTable: which schedule serves which range of M.

    cost(s, M) = t(s, M) / min_s' t(s', M) - 1          from samples of one race, paired round by round
    choice     = argmin over s_1 .. s_g of  sum_i cost(s_i, M_i) + SWITCH * #{i : s_i != s_(i-1)}

over a grid of M's that is even on a log scale: exact, by dynamic programming over grid points x schedules. A
first-crossing scan (FlashDecoding++, section 5) finds the same where curves cross once and timings are
exact; this one needs neither. A cost inside the noise band is a tie, and a tie goes to the choice whose
numerics are pinned, then to the neighbour's (a switch has its price). A boundary lies where the times of two
schedules cross, interpolated in log M between grid points; its 95 % interval is bootstrapped over rounds.

Tables are derived, never stored: rows of another device, other software or another template do not speak.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from headrace.autotune.db.rows import Observation, Verdict
from headrace.autotune.ladder import Query, usable
from headrace.autotune.stats import median, median_interval, quantile
from headrace.errors import SpecSyntaxError
from headrace.ir.regime import Curve, Regime, RegimeTable, Voice, is_library
from headrace.ir.schedule import Schedule
from headrace.ir.spec.operand import digest

# What a further regime has to gain, as a share of the time at one grid point.
SWITCH = 0.01
# Times that differ by less are a tie where noise can explain it; beyond, the expectation counts.
TIE = 0.03
# The price of a tie: small beside any real difference, larger for the choice whose sums nobody pins.
TIE_SHARE, UNPINNED, SPLIT = 0.05, 5e-3, 1e-3
# Between neighbours of the grid M grows at most by this factor: further apart nothing is interpolated.
STEP = 2.0
LEAST_POINTS = 3
# Of the interval that tells a tie: a whole grid is judged, and one false alarm makes a false regime.
CONFIDENCE = 0.99
BOOTSTRAPS = 200


def derive(
    rows: Iterable[Observation], query: Query, refuse: Callable[[Observation], str | None] = lambda row: None
) -> RegimeTable | None:
    """The table of an operation, or None where too little was measured for one.

    Args:
        rows: observations of the operation, any place, any sizes.
        query: the operation, its arithmetic contract and the place; its sizes do not matter.
        refuse: why a row's implementation cannot be used now (stale template, illegal there), or None.
    """
    points = _grid(_points(list(rows), query, refuse))
    if len(points) < LEAST_POINTS:
        return None
    path = _path(points)
    seed = random.Random(int(digest(query.spec)[:8], 16))
    regimes: list[Regime] = []
    start = 0
    for at in range(1, len(points)):
        if path[at] == path[at - 1]:
            continue
        after = next((k for k in range(at, len(points)) if path[k] != path[at]), len(points))
        end, interval = _boundary(points[start:after], at - start, path[at - 1], path[at], seed)
        regimes.append(Regime(end, path[at - 1], interval))
        start = at
    regimes.append(Regime(points[-1].m, path[-1]))
    names = sorted({schedule for point in points for schedule in point.ratios}, key=str)
    return RegimeTable(
        spec=query.spec,
        device=query.environment.device,
        regimes=tuple(regimes),
        voice=Voice.MEASURED,
        first=points[0].m,
        grid=tuple(point.m for point in points),
        evidence=tuple(sorted({row for point in points for row in point.rows})),
        curves=tuple(
            Curve(each, tuple((p.m, p.seconds(each)) for p in points if each in p.ratios)) for each in names
        ),
    )


def silence(
    rows: Iterable[Observation], query: Query, refuse: Callable[[Observation], str | None] = lambda row: None
) -> dict[str, int]:
    """Why rows of the operation are left out of its table, and how many are."""
    counted: Counter[str] = Counter()
    for row in rows:
        if row.spec != query.spec:
            continue
        there, here = row.environment, query.environment
        if there.hard != here.hard:
            counted["measured on another architecture"] += 1
        elif there.device != here.device:
            counted["measured on another device"] += 1
        elif there.versions != here.versions:
            counted["measured with other software"] += 1
        elif row.numerics != query.numerics:
            counted["another arithmetic contract"] += 1
        elif not row.verdict.right:
            counted[row.verdict.value] += 1
        elif (reason := refuse(row)) is not None:
            counted[reason] += 1
        elif not row.race:
            counted["not raced with others"] += 1
    return dict(sorted(counted.items()))


@dataclass(frozen=True)
class Point:
    """What was measured at one M.

    Attributes:
        anchor: median seconds of the schedule that all races here have in common.
        ratios: per schedule and race, its samples over the anchor's of the same round.
        rows: ids of the rows behind it.
    """

    m: int
    anchor: float
    ratios: dict[Schedule, dict[str, tuple[float, ...]]]
    rows: tuple[str, ...]

    def ratio(self, schedule: Schedule, draw: dict[str, list[int]] | None = None) -> float:
        """The median time over the anchor's; with `draw`, over these rounds of each race."""
        runs = self.ratios[schedule]
        if draw is None:
            return median([value for run in runs.values() for value in run])
        return median([run[at] for race, run in runs.items() for at in draw[race]])

    def seconds(self, schedule: Schedule) -> float:
        return self.anchor * self.ratio(schedule)

    def against(self, one: Schedule, other: Schedule) -> tuple[float, float]:
        """The median ratio one/other, and the lower end of its interval."""
        mine, theirs = self.ratios[one], self.ratios[other]
        common = mine.keys() & theirs.keys()
        if common:
            paired = [a / b for race in sorted(common) for a, b in zip(mine[race], theirs[race], strict=True)]
            return median(paired), median_interval(paired, CONFIDENCE)[0]
        low = median_interval([value for run in mine.values() for value in run], CONFIDENCE)[0]
        high = median_interval([value for run in theirs.values() for value in run], CONFIDENCE)[1]
        return self.ratio(one) / self.ratio(other), low / high

    def rounds(self) -> dict[str, int]:
        """How many rounds each race had."""
        return {race: len(run) for runs in self.ratios.values() for race, run in runs.items()}


def _points(
    rows: list[Observation], query: Query, refuse: Callable[[Observation], str | None]
) -> list[Point]:
    """The M's at which several schedules were raced, in this very place, with software and templates of
    today."""
    spoken = [row for row in rows if row.spec == query.spec and row.numerics == query.numerics]
    sizes = {row.sizes for row in spoken if len(row.sizes) == 1 and row.sizes[0] > 0}
    points = []
    for place in sorted(sizes):
        good, _ = usable(spoken, replace(query, sizes=place), refuse)
        here = [
            row
            for row in good
            if row.sizes == place
            and row.environment == query.environment
            and row.verdict is Verdict.OK
            and row.race
            and row.samples
            and all(math.isfinite(sample) and sample > 0 for sample in row.samples)
        ]
        point = _point(place[0], here)
        if point is not None:
            points.append(point)
    return points


def _point(m: int, rows: list[Observation]) -> Point | None:
    races: dict[tuple[str, tuple[str, int]], dict[Schedule, Observation]] = defaultdict(dict)
    for row in rows:
        try:
            schedule = Schedule.parse(row.schedule)
        except SpecSyntaxError:
            continue  # a row may come from anybody's file
        races[row.race, (row.policy.cache, row.policy.version)][schedule] = row
    # Cold and warm operands are two questions, and so are calls in a row and calls between others: the one
    # with more answers is the one that was asked.
    count: dict[tuple[str, int], int] = defaultdict(int)
    for (_, kind), runners in races.items():
        count[kind] += len(runners)
    if not count:
        return None
    asked = max(sorted(count), key=lambda each: count[each])
    kept = {race: runners for (race, kind), runners in races.items() if kind == asked and len(runners) > 1}
    seen: dict[Schedule, tuple[int, int]] = {}  # races, and samples in them
    for runners in kept.values():
        for schedule, row in runners.items():
            met, samples = seen.get(schedule, (0, 0))
            seen[schedule] = met + 1, samples + len(row.samples)
    if len(seen) < 2:
        return None
    anchor = max(sorted(seen, key=str), key=lambda each: seen[each])
    ratios: dict[Schedule, dict[str, tuple[float, ...]]] = defaultdict(dict)
    used: list[Observation] = []
    for race, runners in sorted(kept.items()):
        base = runners.get(anchor)
        if base is None:
            continue
        for schedule, row in runners.items():
            if len(row.samples) == len(base.samples):
                pairs = zip(row.samples, base.samples, strict=True)
                ratios[schedule][race] = tuple(mine / theirs for mine, theirs in pairs)
                used.append(row)
    if len(ratios) < 2:
        return None
    seconds = median(
        [sample for row in used if Schedule.parse(row.schedule) == anchor for sample in row.samples]
    )
    return Point(m, seconds, dict(ratios), tuple(row.id for row in used))


def _grid(points: list[Point]) -> list[Point]:
    """The longest stretch without a gap."""
    best: list[Point] = []
    stretch: list[Point] = []
    for point in points:
        if stretch and point.m > STEP * stretch[-1].m:
            stretch = []
        stretch.append(point)
        if len(stretch) > len(best):
            best = list(stretch)
    return best


def _costs(point: Point) -> dict[Schedule, float]:
    """What each schedule loses at one M; ties cost next to nothing."""
    best = min(sorted(point.ratios, key=str), key=point.ratio)
    found = {}
    for schedule in point.ratios:
        ratio, low = point.against(schedule, best)
        loss = max(ratio - 1.0, 0.0)
        if is_tie(loss, low):
            loss = TIE_SHARE * loss + UNPINNED * is_library(schedule) + SPLIT * _split(schedule)
        found[schedule] = loss
    return found


def is_tie(loss: float, low: float) -> bool:
    """Whether noise can explain a loss: it is small, and the interval of the ratio reaches down to 1.

    Args:
        loss: the median ratio of two times, less 1.
        low: the lower end of the ratio's interval of CONFIDENCE.
    """
    return low <= 1.0 and loss <= TIE


def _split(schedule: Schedule) -> bool:
    """Whether partial sums take another way through memory."""
    return schedule.dataflow == "stream_k" or dict(schedule.knobs).get("split_k", 1) != 1


def _path(points: list[Point]) -> list[Schedule]:
    """The choice at each grid point, by dynamic programming."""
    names = sorted({schedule for point in points for schedule in point.ratios}, key=str)
    total = dict.fromkeys(names, 0.0)
    came: list[dict[Schedule, Schedule]] = []
    for at, point in enumerate(points):
        costs = _costs(point)
        cheapest = min(names, key=lambda each: total[each])
        origin, fresh = {}, {}
        for name in names:
            stay, move = total[name], total[cheapest] + (SWITCH if at else 0.0)
            origin[name] = name if stay <= move else cheapest
            fresh[name] = min(stay, move) + costs.get(name, math.inf)
        total = fresh
        came.append(origin)
    path = [min(names, key=lambda each: total[each])]
    for origin in reversed(came[1:]):
        path.append(origin[path[-1]])
    return path[::-1]


def _boundary(
    points: list[Point], split: int, left: Schedule, right: Schedule, seed: random.Random
) -> tuple[int, tuple[int, int]]:
    """The last M of `left`, which serves points[:split] before `right`, and its 95 % interval."""
    below, above = points[split - 1].m, points[split].m
    shared = [point for point in points if left in point.ratios and right in point.ratios]
    gaps = [(p.m, math.log(p.ratio(left) / p.ratio(right))) for p in shared]
    end = _crossing(gaps, below, above)
    found = [
        _crossing([(p.m, _drawn(p, left, right, seed)) for p in shared], None, None, near=end)
        for _ in range(BOOTSTRAPS)
    ] if shared else []  # fmt: skip
    found = found or [below, above - 1]
    low, high = math.floor(quantile(found, 0.025)), math.ceil(quantile(found, 0.975))
    return end, (min(low, end), max(high, end))


def _drawn(point: Point, left: Schedule, right: Schedule, seed: random.Random) -> float:
    """log(t_left / t_right) over rounds drawn with replacement, the same rounds for both."""
    draw = {race: [seed.randrange(count) for _ in range(count)] for race, count in point.rounds().items()}
    return math.log(point.ratio(left, draw) / point.ratio(right, draw))


def _crossing(gaps: list[tuple[int, float]], below: int | None, above: int | None, near: int = 0) -> int:
    """The last M at which the left schedule serves, where `gaps` holds log(t_left / t_right) by M.

    Between `below` and `above` where those are given; else where the split of the points that loses least
    lies, the one nearest to `near` among equals.
    """
    if below is None or above is None:
        if not gaps:
            return near
        losses = [
            sum(max(0.0, d) for _, d in gaps[:at]) + sum(max(0.0, -d) for _, d in gaps[at:])
            for at in range(len(gaps) + 1)
        ]
        ends = [gaps[0][0] - 1, *(m for m, _ in gaps)]
        at = min(range(len(losses)), key=lambda k: (losses[k], abs(ends[k] - near)))
        if at in (0, len(gaps)):
            return ends[at]
        below, above = gaps[at - 1][0], gaps[at][0]
    known = dict(gaps)
    if below not in known or above not in known:
        # Who was not measured on the other's side does not go there.
        return above - 1 if above in known else below
    here, there = known[below], known[above]
    if here >= 0:
        return below
    if there <= 0:
        return above - 1
    crossing = math.exp(math.log(below) + math.log(above / below) * here / (here - there))
    return max(below, min(above - 1, math.floor(crossing + 1e-9)))
