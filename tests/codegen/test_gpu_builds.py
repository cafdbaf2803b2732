# ruff: noqa: E501  (the text of a Spec is one line)
"""Builds for GPUs that are not there: every template on every target, no spills, matrix instructions where due."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.codegen import dataflows, target_table, targets
from headrace.codegen.build import build
from headrace.codegen.render import TEMPLATES
from headrace.codegen.resources import Resources, read_amdgcn
from headrace.errors import BuildError
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

MATRIX = {
    "cuda:80": {"HMMA"},
    "cuda:89": {"HMMA"},
    "cuda:90": {"HMMA", "HGMMA"},
    "cuda:100": {"HMMA", "UTCHMMA"},
    "cuda:120": {"HMMA"},
    "hip:gfx90a": {"v_mfma_f32"},
    "hip:gfx942": {"v_mfma_f32"},
    "hip:gfx950": {"v_mfma_f32"},
    "hip:gfx1201": {"v_wmma_f32"},
}
PRODUCTS = ("flat", "stream_k", "tiled", "prefill", "decode", "stream_decode")
SAMPLE = [
    ("cuda:80", "gemv", "QKV projections, M = 1"), ("cuda:80", "decode", "attention, 1 query, 8192 keys"),
    ("cuda:90", "tiled", "gate and up with SwiGLU, M = 2048"), ("cuda:90", "row", "RMSNorm, 4096 columns"),
    ("cuda:100", "tiled", "QKV projections, M = 2048"), ("cuda:120", "flat", "gate and up with SwiGLU, M = 16"),
    ("hip:gfx942", "tiled", "QKV projections, M = 2048"), ("hip:gfx942", "prefill", "attention, 2048 queries"),
    ("hip:gfx950", "stream_k", "shard of the O projection, M = 8"), ("hip:gfx90a", "flat", "QKV projections, M = 8"),
    ("hip:gfx1201", "stream_k", "QKV projections, M = 8"), ("hip:gfx942", "row_loop", "softmax, 128256 columns"),
]  # fmt: skip


def example(flow: str, title: str, dtype: str = "bf16") -> targets.Example:
    return next(e for e in targets.examples(dtype) if (e.dataflow, e.title) == (flow, title))


def hold(target: str, case: targets.Example, dtype: str = "bf16") -> None:
    device, spec = targets.device_of(target), parse_spec(case.spec)
    schedule = case.schedule(device)
    assert dataflows.get(case.dataflow).legal(spec, case.sizes, schedule, device) is None
    made = build(spec, schedule, target, case.sizes)
    assert made.spills == 0
    for kernel in made.kernels:
        assert 0 < kernel.resources.registers <= 512
        assert kernel.resources.shared_bytes <= device.on_chip_bytes
        assert len(kernel.binary) > 0
    threads = int(dict(schedule.knobs).get("num_warps", 4)) * device.warp
    assert threads <= 1024
    found = {name for kernel in made.kernels for name, _ in kernel.resources.matrix}
    if case.dataflow in PRODUCTS and dtype != "f32":
        assert found
        assert found <= MATRIX[target]
        if target == "cuda:90" and case.dataflow in ("prefill", "tiled", "flat", "stream_k"):
            assert "HGMMA" in found
    elif case.dataflow not in PRODUCTS or target.startswith("cuda"):
        assert not found  # in float32 they would be TF32's


@pytest.mark.parametrize(("target", "flow", "title"), SAMPLE)
def test_default_schedule_builds_without_spills(target: str, flow: str, title: str) -> None:
    hold(target, example(flow, title))


@pytest.mark.parametrize("flow", ["prefill", "stream_decode"])
def test_float32_attention_keeps_to_the_registers_of_rdna(flow: str) -> None:
    hold("hip:gfx1201", next(e for e in targets.examples("f32") if e.dataflow == flow), "f32")


HEADS = (
    "Attention{{q={0}; k={0}; v={0}; out={0}; heads=[16, 4, 4]; dims=[{1}, {1}]; score=mul(s, 0.0625); "
    "mask=le(j, add(i, p)); normalizer=exp/sum/online; safe=false; extras=[p:i64[]]}}"
)
SIZES = {"prefill": (1, 2048, 2048), "decode": (1, 1, 8192), "stream_decode": (8, 1, 8192)}


@pytest.mark.soak
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("flow", SIZES)
@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("target", targets.GPU_TARGETS)
def test_heads_of_other_widths_build_without_spills(target: str, width: int, flow: str, dtype: str) -> None:
    case = targets.Example("", flow, HEADS.format(dtype, width), SIZES[flow])
    if (target, width, dtype) == ("hip:gfx1201", 256, "f32"):
        with pytest.raises(BuildError, match="do not fit RDNA's registers"):
            target_table.table([target], [case])
    else:
        hold(target, case, dtype)


def test_a_narrow_head_in_float32_does_not_spill() -> None:
    hold("cuda:100", targets.Example("", "prefill", HEADS.format("f32", 64), SIZES["prefill"]), "f32")


@pytest.mark.soak
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("target", targets.GPU_TARGETS)
@pytest.mark.parametrize("at", range(len(targets.examples())))
def test_every_default_schedule_builds_without_spills(target: str, at: int, dtype: str) -> None:
    cases = targets.examples(dtype)
    if at < len(cases):
        hold(target, cases[at], dtype)


def at_stages(target: str, stages: int, **knobs: int) -> tuple[targets.Example, Resources, str]:
    case = example("flat", "shard of the O projection, M = 8")
    default = dict(case.schedule(targets.device_of(target)).knobs)
    schedule = Schedule("flat", tuple((default | {"num_stages": stages, "split_k": 1} | knobs).items()))
    made = build(parse_spec(case.spec), schedule, target, case.sizes)
    return case, made.kernels[0].resources, made.source


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90"])
def test_two_stages_show_the_double_buffer(target: str) -> None:
    (_, one, text), (_, two, same), (_, four, _) = (at_stages(target, stages) for stages in (1, 2, 4))
    assert one.copies == ()
    assert {name for name, _ in two.copies} <= {"LDGSTS", "UBLKCP", "UTMALDG"}
    assert two.copies
    assert four.copies
    assert one.shared_bytes < two.shared_bytes < four.shared_bytes
    assert text == same


@pytest.mark.parametrize(
    ("target", "swap", "rows", "instruction"),
    [
        ("cuda:90", 1, 8, "HGMMA"),
        ("cuda:90", 0, 16, "HMMA"),
        ("cuda:100", 1, 8, "UTCHMMA"),
        ("hip:gfx942", 0, 16, "v_mfma_f32"),
    ],
)
def test_a_swap_chooses_the_matrix_instruction(target: str, swap: int, rows: int, instruction: str) -> None:
    _, found, text = at_stages(target, 2, swap=swap, block_m=rows, block_n=64)
    assert [name for name, _ in found.matrix] == [instruction]
    assert ("tl.dot(w, tl.trans(x)" in text) == bool(swap)


def test_a_loop_of_known_length_is_not_unrolled_whole() -> None:
    case = example("flat", "QKV projections, M = 8")
    default = dict(case.schedule(targets.device_of("cuda:80")).knobs)
    made = build(parse_spec(case.spec), Schedule("flat", tuple(default.items())), "cuda:80", case.sizes)
    assert dict(made.kernels[0].resources.matrix)["HMMA"] <= 16


def test_no_template_leaves_the_precision_of_a_product_to_triton() -> None:
    """Its default on NVIDIA is TF32: three digits."""
    texts = {path.name: path.read_text() for path in TEMPLATES.glob("*.j2")}
    asked = {
        name: (text.count("tl.dot("), text.count('input_precision="ieee"')) for name, text in texts.items()
    }
    assert sum(dots for dots, _ in asked.values()) >= 4
    assert all(dots == whole for dots, whole in asked.values())


def test_a_spill_is_seen() -> None:
    spec = parse_spec(example("tiled", "QKV projections, M = 2048").spec)
    crowded = Schedule.of("tiled", block_m=256, block_n=256, block_k=32, group_m=8, num_warps=4, num_stages=2)
    assert build(spec, crowded, "cuda:80", (2048,)).spills > 0


def test_the_table_has_a_line_per_kernel(tmp_path: Path) -> None:
    chosen = [example("flat", "QKV projections, M = 8")]
    lines = target_table.table(["hip:gfx942"], chosen)
    text = target_table.markdown(lines)
    assert len(text.splitlines()) == 2 + len(lines)
    assert "| hip:gfx942 | QKV projections, M = 8 (`flat`) |" in text
    page = tmp_path / "page.md"
    before, after = "Before.\n<!-- table: defaults -->\n", "<!-- end: defaults -->\nAfter.\n"
    page.write_text(before + after)
    target_table.replace_table(page, "defaults", text)
    assert page.read_text() == before + text + after
    other = text.replace("hip:gfx942", "cuda:80")
    target_table.replace_table(page, "defaults", other)
    rows = other.splitlines() + text.splitlines()[2:]
    assert page.read_text() == before + "\n".join(rows) + "\n" + after
    with pytest.raises(BuildError, match="no lines <!-- table: double-buffer -->"):
        target_table.replace_table(page, "double-buffer", text)


def test_the_stages_table_has_a_line_per_legal_number_of_stages() -> None:
    chosen = [example("flat", "shard of the O projection, M = 8")]
    lines = target_table.double_buffer(["hip:gfx950"], chosen)
    assert [line.schedule["num_stages"] for line in lines] == [1, 2, 3, 4]
    assert lines[1].copies.startswith("global_load_lds")
    text = target_table.stages_markdown(lines)
    assert "| hip:gfx950 | shard of the O projection, M = 8 | 2 |" in text


def test_an_unknown_target_is_refused() -> None:
    case = example("row", "RMSNorm, 4096 columns")
    with pytest.raises(BuildError, match="known: cuda:80"):
        build(parse_spec(case.spec), Schedule.of("row", block_r=1), "cuda:75", case.sizes)


def test_assembly_without_metadata_is_refused() -> None:
    with pytest.raises(BuildError, match="vgpr"):
        read_amdgcn("s_endpgm", 0)
