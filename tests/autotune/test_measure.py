"""Timing on a clock of our own: turns, groups, rotation."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from headrace.autotune.measure import MIN_GROUPS, Ring, race


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Runner:
    """Takes `seconds` on the clock; every `hiccup`-th call takes ten times as long."""

    def __init__(self, clock: Clock, seconds: float, name: str, log: list[str], hiccup: int = 0) -> None:
        self.clock, self.seconds, self.name, self.log, self.hiccup = clock, seconds, name, log, hiccup
        self.calls = 0
        self.seen: list[int] = []

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        self.calls += 1
        self.log.append(self.name)
        self.seen.append(inputs[0].data_ptr())
        late = self.hiccup and self.calls % self.hiccup == 0
        self.clock.now += self.seconds * (10 if late else 1)
        return inputs[0]


def ring(copies: int = 1) -> Ring:
    return Ring([torch.ones(16)], (0,), 64 * copies)


def test_samples_are_seconds_per_call_of_each_in_turns() -> None:
    clock = Clock()
    log: list[str] = []
    one, two = Runner(clock, 1e-2, "a", log), Runner(clock, 2e-2, "b", log)
    result = race([one, two], ring(), warmup=1, rounds=6, timer=clock)
    assert result.samples[0] == pytest.approx([1e-2] * 6)
    assert result.samples[1] == pytest.approx([2e-2] * 6)
    turns = "".join(log[2:]).replace("a" * MIN_GROUPS, "A").replace("b" * MIN_GROUPS, "B")
    rounds = [turns[at : at + 2] for at in range(0, 12, 2)]
    assert set(rounds) == {"AB", "BA"}  # each once a round, and nobody always first


def test_a_single_sample_is_one_call_between_those_of_the_others() -> None:
    clock = Clock()
    log: list[str] = []
    runners = [Runner(clock, 1e-2, name, log, hiccup=3) for name in "abc"]
    result = race(runners, ring(), warmup=1, rounds=40, limit_seconds=60.0, timer=clock, single=True)
    rounds = ["".join(log[at : at + 3]) for at in range(3, len(log), 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) == 6  # all neighbours, in any order
    assert all(sum(sample > 5e-2 for sample in run) > 10 for run in result.samples)  # a hiccup shows
    log.clear()
    race(runners, ring(), warmup=1, rounds=40, limit_seconds=60.0, timer=clock, single=True)
    assert rounds == ["".join(log[at : at + 3]) for at in range(3, len(log), 3)]


def test_fast_kernels_are_timed_in_groups_and_hiccups_do_not_show() -> None:
    clock = Clock()
    runner = Runner(clock, 1e-6, "a", [], hiccup=97)
    result = race([runner], ring(), warmup=2, rounds=8, timer=clock)
    assert result.samples[0] == pytest.approx([1e-6] * 8)


def test_hopeless_candidate_gets_one_sample() -> None:
    clock = Clock()
    runners = [Runner(clock, 1e-3, "a", []), Runner(clock, 9e-3, "b", []), Runner(clock, 3e-3, "c", [])]
    result = race(runners, ring(), warmup=2, rounds=7, slow_factor=4.0, timer=clock)
    assert result.slow == [False, True, False]
    assert [len(samples) for samples in result.samples] == [7, 1, 7]


def test_limit_shortens_a_race_but_leaves_six_samples() -> None:
    clock = Clock()
    long = race([Runner(clock, 1.0, "a", [])], ring(), warmup=1, rounds=25, limit_seconds=1.0, timer=clock)
    assert len(long.samples[0]) == 6
    some = race([Runner(clock, 1.0, "a", [])], ring(), warmup=1, rounds=25, limit_seconds=30.0, timer=clock)
    assert len(some.samples[0]) == 10


def test_operands_rotate_over_copies() -> None:
    clock = Clock()
    runner, here = Runner(clock, 1e-3, "a", []), ring(copies=5)
    race([runner], here, warmup=1, rounds=6, timer=clock)
    assert len(here.lists) == 5
    assert all(a != b for a, b in zip(runner.seen, runner.seen[1:], strict=False))
    assert len(set(runner.seen)) == 5
    assert all(torch.equal(operands[0], torch.ones(16)) for operands in here.lists)
    assert len(Ring([torch.zeros(4), torch.ones(2)], (), 1 << 20).lists) == 1


def test_copies_are_laid_into_the_arena_that_is_given() -> None:
    arena = torch.zeros(64 * 3, dtype=torch.uint8)
    operands = [torch.randn(2, 5), torch.arange(7), torch.tensor(3)]
    here = Ring(operands, (0, 1), 1 << 20, arena)
    assert len(here.lists) == 2  # one copy of both takes 128 of 192 bytes
    copy = here.lists[1]
    assert all(torch.equal(a, b) for a, b in zip(copy, operands, strict=True))
    assert copy[2] is operands[2]
    assert arena.data_ptr() <= copy[0].data_ptr() < copy[1].data_ptr() < arena.data_ptr() + 192
