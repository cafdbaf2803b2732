"""What the benchmarks share. No time is asserted here: bars belong to `python -m benchmarks`."""

from __future__ import annotations

import torch

from benchmarks.common import Bar, cycling, floor, noise, race, readers, rotated
from headrace.demo.measure import Timing


def test_a_bar_is_held_at_its_least_value():
    assert Bar("speed", 1.2, 1.2).held
    assert not Bar("speed", 1.19, 1.2).held
    assert str(Bar("speed", 1.0, 1.2)).startswith("MISSED")


def test_a_bar_on_a_time_is_missed_above_it():
    assert Bar("launch", 20.0, 20.0, at_most=True).held
    assert not Bar("launch", 20.1, 20.0, at_most=True).held


def test_a_bar_inside_the_band_of_two_identical_runs_is_held():
    assert Bar("speed", 1.19, 1.2, best=1.21).held
    assert not Bar("speed", 1.19, 1.2, best=1.195).held
    assert Bar("launch", 21.0, 20.0, at_most=True, best=19.9).held


def test_operands_are_copied_until_no_cache_holds_them():
    copies = rotated(lambda: (torch.ones(256),), total=16 << 10)
    assert len(copies) == 16
    assert len({operands[0].data_ptr() for operands in copies}) == 16


def test_the_number_of_copies_is_limited():
    assert len(rotated(lambda: (torch.ones(1),), total=1 << 20, most=7)) == 7


def test_steps_on_the_same_operands_take_turns_on_them():
    seen: list[tuple[str, int]] = []
    made = cycling([(torch.tensor(at),) for at in range(3)])
    ours = made(lambda operands: seen.append(("ours", int(operands[0]))))
    peer = made(lambda operands: seen.append(("peer", int(operands[0]))))
    for step in (ours, peer, peer, ours):
        step()
    assert seen == [("ours", 0), ("peer", 1), ("peer", 2), ("ours", 0)]


def test_the_floor_is_the_better_kind_of_page():
    timings = {
        "read huge": Timing("read huge", (2.0,)),
        "read 4 KiB": Timing("read 4 KiB", (1.0,)),
        "eager": Timing("eager", (0.5,)),
    }
    assert floor(timings) == 1.0


def test_readers_read_on_both_kinds_of_page():
    with readers(2 << 20) as reading:
        timings = race(reading, 2, warmup=1)
    assert set(timings) == {"read 4 KiB", "read huge"}
    assert floor(timings) > 0


def test_noise_is_none_where_every_round_took_the_same():
    assert noise(Timing("step", (1.0,) * 8)) == 0.0
    assert noise(Timing("step", (1.0, 1.0, 2.0, 2.0, 3.0, 3.0))) > 0.2
