"""Space and search: nothing illegal, nothing twice, and the planted best is found."""

from __future__ import annotations

import itertools
import math
from typing import Any

from fake_registry import Fake, Faulty, FaultyFlow

from headrace.autotune.search import Search
from headrace.autotune.space import Space
from headrace.ir.device import Backend, Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

DEVICE = Device("Test CPU", Backend.CPU, "x86_64", 2, ("avx2",))
SPEC = parse_spec("Gemm{x=f32; weights=[w:f32[8,8]nk]; extras=[]; outputs=[f32 = acc_w]; batched=false}")


def space() -> Space:
    return Space(Fake(), SPEC, (4,), DEVICE)


def planted(schedule: Schedule) -> float:
    """A bowl around flat{block=128, stages=3}; the ratio of the default is 1."""
    if schedule.dataflow != "flat":
        return 1.5
    return 0.5 + 0.1 * abs(math.log2(int(schedule["block"]) / 128)) + 0.15 * abs(int(schedule["stages"]) - 3)


def test_every_legal_schedule_is_proposed_once_and_no_illegal_one() -> None:
    search, here, seen = Search(space(), 0, {}), space(), []
    while (schedule := search.propose()) is not None:
        assert here.legal(schedule)
        seen.append(schedule)
        search.tell(schedule, planted(schedule))
    blocks, stages = (8, 16, 32, 64, 128, 256), (1, 2, 3, 4)
    legal = [
        Schedule.of(flow, block=b, stages=s)
        for flow, b, s in itertools.product(("flat", "tiled"), blocks, stages)
        if b * s <= 512
    ]
    assert sorted(seen, key=str) == sorted(legal, key=str)


def test_sampler_nears_the_planted_best_in_half_the_space() -> None:
    found = 0
    for seed in range(10):
        search, best = Search(space(), seed, {Schedule.of("flat", block=32, stages=1): 1.0}), 9.0
        for _ in range(20):  # 44 are legal
            schedule = search.propose()
            assert schedule is not None
            search.tell(schedule, planted(schedule))
            best = min(best, planted(schedule))
        found += best <= 0.65
    assert found >= 9


def test_same_seed_gives_the_same_sequence() -> None:
    def sequence(seed: int) -> list[str]:
        search, names = Search(space(), seed, {}), []
        for _ in range(15):
            schedule = search.propose()
            assert schedule is not None
            names.append(str(schedule))
            search.tell(schedule, planted(schedule))
        return names

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)


def test_failures_and_known_schedules_are_not_proposed_again() -> None:
    known: dict[Schedule, float | None] = {
        Schedule.of("flat", block=b, stages=1): None for b in (8, 16, 32, 64, 128, 256)
    }
    known[Schedule("library")] = 0.9
    search = Search(space(), 0, known)
    for _ in range(30):
        schedule = search.propose()
        assert schedule is not None
        assert schedule not in known
        search.tell(schedule, None)


def test_words_are_categories() -> None:
    here = Space(Faulty(), SPEC, (4,), DEVICE)
    assert here.defaults == (FaultyFlow("faulty").default(SPEC, (4,), DEVICE),)
    parameters, distributions = here.parameters(Schedule.of("faulty", fault="crash"))
    assert parameters == {"dataflow": "faulty", "faulty.fault": "crash"}
    faults: Any = distributions["faulty.fault"]
    assert "crash" in faults.choices


def test_foreign_schedules_are_illegal() -> None:
    here = space()
    for text in (
        "library{}",
        "flat{block=64}",
        "flat{block=65, stages=1}",
        "flat{block=64, stages=1, x=1}",
        "flat{block=256, stages=4}",
        "sparse{block=64, stages=1}",
        "flat{block=2147483648, stages=1}",
    ):
        assert not here.legal(Schedule.parse(text))
