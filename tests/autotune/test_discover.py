"""Discovering the processor."""

from __future__ import annotations

import pytest
import torch

from headrace.autotune import discover
from headrace.autotune.db.store import Store
from headrace.ir.device import Backend

SMALL = 8 << 20


def test_figures_are_measured_once_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.in_memory()
    first = discover.discover_cpu(1, store, read_bytes=SMALL)
    assert first.backend is Backend.CPU
    assert first.units == 1
    assert first.bandwidth > 1e8
    assert first.flops_f32 > 1e8
    assert first.flops_16 >= first.flops_f32

    def measured_again(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(discover, "read_bandwidth", measured_again)
    assert discover.discover_cpu(1, store, read_bytes=SMALL) == first
    with pytest.raises(AssertionError, match="measured again"):
        discover.discover_cpu(2, store, read_bytes=SMALL)


def test_damaged_figures_are_measured_again() -> None:
    store = Store.in_memory()
    first = discover.discover_cpu(1, store, read_bytes=SMALL)
    key = f"figures/{first.hard_key}/{first.soft_key}/read={SMALL}"
    for text in ("{}", "no json", '{"bandwidth": -1, "flops_f32": 1, "flops_16": 1}'):
        store.remember(key, text)
        assert discover.discover_cpu(1, store, read_bytes=SMALL).bandwidth > 0


def _measuring(monkeypatch: pytest.MonkeyPatch, bandwidth: float, flops: float) -> None:
    monkeypatch.setattr(discover, "read_bandwidth", lambda *_: bandwidth)
    monkeypatch.setattr(discover, "matmul_peak", lambda *_: flops)


def test_what_a_busy_machine_measured_is_measured_again_and_the_higher_figure_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store.in_memory()
    clock = [1e9]
    monkeypatch.setattr(discover.time, "time", lambda: clock[0])
    _measuring(monkeypatch, 5e9, 4e11)
    assert discover.discover_cpu(1, store).bandwidth == 5e9
    _measuring(monkeypatch, 3e10, 3e11)
    clock[0] += discover.DAY - 1
    assert discover.discover_cpu(1, store, older_than=discover.DAY).bandwidth == 5e9
    clock[0] += 2
    assert discover.discover_cpu(1, store).bandwidth == 5e9  # nobody asked for fresh ones
    device = discover.discover_cpu(1, store, older_than=discover.DAY)
    assert (device.bandwidth, device.flops_f32) == (3e10, 4e11)
    assert discover.remembered(1, store) == discover.Figures(3e10, 4e11, 4e11, clock[0])
    assert discover.remembered(2, store) is None
    clock[0] = 0.0  # a clock that was put back
    _measuring(monkeypatch, 4e10, 3e11)
    assert discover.discover_cpu(1, store, older_than=discover.DAY).bandwidth == 4e10


def test_figures_of_an_unknown_date_are_used_until_they_are_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store.in_memory()
    _measuring(monkeypatch, 1e10, 1e11)
    device = discover.discover_cpu(1, store)
    key = f"figures/{device.hard_key}/{device.soft_key}/read={discover.READ_BYTES}"
    store.remember(key, '{"bandwidth": 2e9, "flops_16": 1e9, "flops_f32": 1e9}')
    assert discover.discover_cpu(1, store).bandwidth == 2e9
    assert discover.discover_cpu(1, store, older_than=discover.DAY).bandwidth == 1e10


def test_measuring_leaves_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    discover.matmul_peak(1, torch.float32, size=64)
    assert torch.get_num_threads() == before


def test_keys_name_machine_and_features_but_no_place() -> None:
    device = discover.discover_cpu(1, read_bytes=SMALL)
    assert device.hard_key.startswith("cpu/")
    assert discover.processor_name() in device.soft_key
    assert list(device.features) == sorted(device.features)
