# ruff: noqa: E501  (the text of a Spec is one line)
"""Builds for GPUs that are not there: every template on every target, no spills, matrix instructions where due."""

from __future__ import annotations

import pytest

from headrace.codegen import dataflows, targets
from headrace.codegen.build import build
from headrace.codegen.resources import read_amdgcn
from headrace.errors import BuildError
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

EXAMPLES = {example.title: example for example in targets.examples()}
MATRIX = {
    "cuda:80": {"HMMA"},
    "cuda:90": {"HMMA", "HGMMA"},
    "cuda:100": {"HMMA", "UTCHMMA"},
    "hip:gfx942": {"v_mfma_f32"},
}
SAMPLE = [
    ("cuda:80", "QKV projections, M = 1"), ("cuda:80", "QKV projections, M = 8"), ("cuda:80", "attention, 1 query, 8192 keys"),
    ("cuda:90", "gate and up with SwiGLU, M = 2048"), ("cuda:90", "RMSNorm, 4096 columns"),
    ("cuda:100", "QKV projections, M = 2048"), ("hip:gfx942", "QKV projections, M = 2048"),
    ("hip:gfx942", "attention, 2048 queries"), ("hip:gfx942", "softmax, 128256 columns"),
]  # fmt: skip


def hold(target: str, example: targets.Example) -> None:
    device = targets.device_of(target)
    spec = parse_spec(example.spec)
    schedule = dataflows.get(example.dataflow).default(spec, example.sizes, device)
    made = build(spec, schedule, target, example.sizes)
    assert made.spills == 0
    for kernel in made.kernels:
        assert 0 < kernel.resources.registers <= 512
        assert kernel.resources.shared_bytes <= device.on_chip_bytes
        assert len(kernel.binary) > 0
    found = {name for name, _ in made.kernels[0].resources.matrix}
    if example.dataflow in ("flat", "tiled", "prefill", "decode"):
        assert found
        assert found <= MATRIX[target]
    else:
        assert not found


@pytest.mark.parametrize(("target", "title"), SAMPLE)
def test_default_schedule_builds_without_spills(target: str, title: str) -> None:
    hold(target, EXAMPLES[title])


@pytest.mark.soak
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("target", targets.GPU_TARGETS)
@pytest.mark.parametrize("title", EXAMPLES)
def test_every_default_schedule_builds_without_spills(target: str, title: str, dtype: str) -> None:
    example = next(e for e in targets.examples(dtype) if e.title == title)
    device = targets.device_of(target)
    spec = parse_spec(example.spec)
    schedule = dataflows.get(example.dataflow).default(spec, example.sizes, device)
    made = build(spec, schedule, target, example.sizes)
    assert made.spills == 0
    assert all(kernel.resources.shared_bytes <= device.on_chip_bytes for kernel in made.kernels)


def test_a_spill_is_seen() -> None:
    spec = parse_spec(EXAMPLES["QKV projections, M = 2048"].spec)
    crowded = Schedule.of("tiled", block_m=256, block_n=256, block_k=32, group_m=8, num_warps=4, num_stages=2)
    assert build(spec, crowded, "cuda:80", (2048,)).spills > 0


def test_the_table_has_a_line_per_kernel() -> None:
    chosen = [EXAMPLES["QKV projections, M = 8"]]
    lines = targets.table(["hip:gfx942"], chosen)
    text = targets.markdown(lines)
    assert len(text.splitlines()) == 2 + len(lines)
    assert "| hip:gfx942 | QKV projections, M = 8 (`flat`) |" in text


def test_an_unknown_target_is_refused() -> None:
    example = EXAMPLES["RMSNorm, 4096 columns"]
    with pytest.raises(BuildError, match="known: cuda:80"):
        build(parse_spec(example.spec), Schedule.of("row", block_r=1), "cuda:75", example.sizes)


def test_assembly_without_metadata_is_refused() -> None:
    with pytest.raises(BuildError, match="vgpr"):
        read_amdgcn("s_endpgm", 0)
