# ruff: noqa: E501  (tables of properties)
"""A GPU as a Device, from what torch tells of it: cards of the catalogue, unknown cards, both makers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headrace.codegen import dataflows, targets
from headrace.compiler import devices
from headrace.ir.device import Backend
from headrace.ir.devices import RECORDS
from headrace.ir.spec import parse_spec

# As torch prints them on these cards.
H100 = {
    "name": "NVIDIA H100 80GB HBM3", "major": 9, "minor": 0, "total_memory": 84_929_347_584, "multi_processor_count": 132,
    "L2_cache_size": 52_428_800, "shared_memory_per_block": 49_152, "shared_memory_per_block_optin": 232_448,
    "shared_memory_per_multiprocessor": 233_472, "regs_per_multiprocessor": 65_536, "warp_size": 32,
    "max_threads_per_multi_processor": 2048,
}  # fmt: skip
ADA = H100 | {
    "name": "NVIDIA RTX 2000 Ada", "major": 8, "minor": 9, "total_memory": 16 << 30, "multi_processor_count": 22,
    "shared_memory_per_block_optin": 101_376, "clock_rate": 2_130_000, "memory_clock_rate": 8_000_000, "memory_bus_width": 128,
}  # fmt: skip
MI300 = {
    "name": "AMD Instinct MI300A", "major": 9, "minor": 4, "gcnArchName": "gfx942:sramecc+:xnack-", "total_memory": 128 << 30,
    "multi_processor_count": 228, "L2_cache_size": 4 << 20, "shared_memory_per_block": 65_536, "regs_per_multiprocessor": 65_536,
    "warp_size": 64, "max_threads_per_multi_processor": 2048,
}  # fmt: skip


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(properties: dict[str, Any], hip: str | None = None) -> Any:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(**properties))
        monkeypatch.setattr(torch.version, "hip", hip)
        return devices._gpu(0)

    return make


def test_a_card_of_the_catalogue_has_the_figures_of_its_data_sheet(card: Any) -> None:
    found = card(H100)
    listed = RECORDS["NVIDIA H100 80GB HBM3"].device
    assert (found.bandwidth, found.flops_16, found.arch) == (listed.bandwidth, listed.flops_16, "sm_90")
    assert found.memory_bytes == H100["total_memory"]
    assert found.on_chip_bytes <= H100["shared_memory_per_block_optin"]


def test_a_card_of_that_name_with_other_units_is_not_the_catalogues(card: Any) -> None:
    found = card(H100 | {"multi_processor_count": 66})
    assert found.units == 66
    assert found.bandwidth != RECORDS["NVIDIA H100 80GB HBM3"].device.bandwidth


def test_an_unknown_card_is_described_by_what_the_driver_says(card: Any) -> None:
    found = card(ADA)
    assert (found.backend, found.arch, found.units, found.warp) == (Backend.CUDA, "sm_89", 22, 32)
    assert found.on_chip_bytes == 101_376
    assert found.bandwidth == 2 * 8e9 * 128 / 8


@pytest.mark.parametrize(("lds", "expected"), [(65_536, 65_536), (163_840, 163_840)])
def test_an_unknown_amd_card(card: Any, lds: int, expected: int) -> None:
    found = card(MI300 | {"shared_memory_per_block": lds}, hip="7.0")
    assert (found.backend, found.arch, found.units, found.warp) == (Backend.ROCM, "gfx942", 228, 64)
    assert found.on_chip_bytes == expected


@pytest.mark.parametrize(("properties", "hip"), [(H100, None), (ADA, None), (MI300, "7.0")])
def test_every_dataflow_has_a_legal_default_on_a_card_that_was_found(
    card: Any, properties: dict[str, Any], hip: str | None
) -> None:
    found = card(properties, hip)
    for dtype in ("bf16", "f32"):
        for example in targets.examples(dtype):
            spec = parse_spec(example.spec)
            flow = dataflows.get(example.dataflow)
            assert flow.legal(spec, example.sizes, flow.default(spec, example.sizes, found), found) is None
