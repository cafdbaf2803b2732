"""The cost model: limits it must keep, figures it must ask for, and recorded GPUs where they are at hand."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from headrace.codegen.dataflows import dataflows
from headrace.codegen.work import Inner, Work
from headrace.configuration import current
from headrace.errors import DeviceError
from headrace.ir.device import Backend, Device
from headrace.ir.devices import RECORDS, TARGETS, named
from headrace.ir.spec import parse_spec
from headrace.passes import cost
from headrace.passes.cost import attention, constants, library, tile
from headrace.passes.cost.formula import EXPONENT, INPUTS, SECONDS, SOFT, evaluator, printed, scalar

A100, L40S, H100 = named("NVIDIA A100-SXM4-80GB"), named("NVIDIA L40S"), named("NVIDIA H100 80GB HBM3")
FLAT = cost.Tile(16, 64, 128, 5, 4)
WHOLE = [record.device for record in RECORDS.values() if record.device.bandwidth]
DATA = current().settings.recorded_data


# The catalogue.


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_every_figure_of_a_card_has_a_source_and_no_source_is_without_a_figure(record) -> None:
    named_only = {"name", "backend", "arch", "features"}
    known = {f.name for f in fields(Device) if f.name not in named_only and getattr(record.device, f.name)}
    assert known == {figure for figure, source in record.sources.items() if source}
    assert all(len(source) > 10 for source in record.sources.values())


@pytest.mark.parametrize("device", WHOLE, ids=lambda device: device.name)
def test_the_figures_of_a_card_agree_with_one_another(device: Device) -> None:
    assert 0.5e12 < device.bandwidth < 1e13
    assert device.flops_f32 < device.flops_16 <= device.flops_8
    lanes = device.flops_f32 / device.units / device.clock / 2
    # 64 or 128 multiply-adds a cycle, twice that where an instruction holds two (CDNA 3, RDNA 3).
    assert 60 < lanes < 260
    assert device.on_chip_bytes <= device.unit_on_chip_bytes
    assert device.last_level_bandwidth == 0 or device.last_level_bandwidth > device.bandwidth


def test_every_target_is_a_card_of_the_catalogue_and_of_its_architecture() -> None:
    for target, device in TARGETS.items():
        assert target.removeprefix("cuda:").removeprefix("hip:") in device.arch
        assert RECORDS[device.name].device is device


@pytest.mark.parametrize("figure", ["bandwidth", "clock", "flops_16", "units", "registers"])
def test_a_missing_figure_is_named_with_what_to_do(figure: str) -> None:
    blank = replace(A100, **{figure: 0})
    with pytest.raises(DeviceError, match=rf"no {figure} .*replace\(device, {figure}="):
        cost.product(8, 4096, 4096, "bf16", "bf16", FLAT, blank)


def test_a_card_whose_maker_publishes_nothing_is_refused_and_not_guessed() -> None:
    with pytest.raises(DeviceError, match="MI308X"):
        cost.library_product(8, 4096, 4096, "bf16", named("AMD Instinct MI308X"))
    with pytest.raises(DeviceError, match="catalogue has no 'H1000'"):
        named("H1000")
    with pytest.raises(DeviceError, match="processor"):
        cost.decode_attention(1, 8, 8, 64, 128, Device("cpu", Backend.CPU, "x86_64", 2))


# The formula.


def test_the_formula_knows_every_input_and_both_compilations_agree() -> None:
    assert SECONDS.free_symbols == {*INPUTS, EXPONENT}
    fitted = constants.of(A100)
    inputs = tile.product(8, 4096, 4096, 2, 2, FLAT, A100, fitted, peak=A100.flops_16)
    assert scalar()(*(float(v) for v in inputs)) == pytest.approx(float(evaluator()(*inputs)), rel=1e-12)
    assert len(fields(constants.Constants)) <= 8
    for each in constants.FITTED.values():
        assert all(value > 0 for value in each.values())


@pytest.mark.parametrize("device", WHOLE, ids=lambda device: device.name)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 4096, 4096), (16, 12288, 4096), (64, 256, 16384), (512, 4096, 4096)]
)
def test_no_time_is_below_what_bytes_and_operations_need(device: Device, m: int, n: int, k: int) -> None:
    least = max((n * k + m * k + m * n) * 2 / device.bandwidth, 2.0 * m * n * k / device.flops_16)
    shape = cost.Tile(16 if m <= 16 else 64, 64, 64, 3, 4)
    for seconds in (
        cost.product(m, n, k, "bf16", "bf16", shape, device).seconds,
        cost.library_product(m, n, k, "bf16", device),
    ):
        assert least < seconds < 60 * least + 1e-4


@pytest.mark.parametrize("device", [A100, L40S, H100], ids=lambda device: device.name)
def test_time_grows_with_every_size(device: Device) -> None:
    for sizes in itertools.product((8, 32), (1024, 8192), (1024, 8192)):
        base = cost.product(*sizes, "bf16", "bf16", FLAT, device).seconds
        for at in range(3):
            larger = [size * (4 if place == at else 1) for place, size in enumerate(sizes)]
            assert cost.product(*larger, "bf16", "bf16", FLAT, device).seconds >= base
    lengths = [cost.decode_attention(4, 32, 8, 128, n, device) for n in (128, 1024, 8192, 65536)]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("device", WHOLE, ids=lambda device: device.name)
def test_times_are_finite_and_grow_with_rows_on_every_card(device: Device) -> None:
    rows = np.unique(np.geomspace(1, 4096, 40).astype(int)).astype(float)
    fitted = constants.of(device)
    for n, k in ((32, 32), (512, 8192), (4096, 4096), (65536, 1024)):
        many = library.gemm(rows, n, k, 2, device, fitted)
        assert np.isfinite(many).all()
        assert (many > fitted.launch / device.clock).all()
        assert (np.diff(many) >= 0).all()
        inputs = tile.product(rows, n, k, 2, 2, FLAT, device, fitted, peak=device.flops_16)
        assert (np.diff(evaluator()(*inputs)) >= 0).all()
    for kv_heads in (1, 8, 32):
        lengths = [cost.decode_attention(2, 32, kv_heads, 128, int(n), device) for n in rows]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("device", WHOLE, ids=lambda device: device.name)
def test_a_long_stream_takes_what_memory_needs_and_little_more(device: Device) -> None:
    """No other part of a machine that its maker balanced is as slow as its memory."""
    shape = cost.Tile(16, 128, 128, 4, 4)
    found = cost.product(16, 1 << 17, 1 << 14, "bf16", "bf16", shape, device)
    assert found.bound == "dram"
    assert found.seconds < 1.25 * found.parts["dram"]
    # Two of the same in one launch are no faster than two, and no slower.
    twice = cost.product(16, 1 << 18, 1 << 14, "bf16", "bf16", shape, device).seconds
    assert twice == pytest.approx(2 * found.seconds, rel=0.05)


@pytest.mark.parametrize("figure", ["bandwidth", "clock", "flops_16", "last_level_bandwidth"])
@pytest.mark.parametrize("device", [A100, L40S, H100], ids=lambda device: device.name)
def test_no_better_figure_makes_a_call_slower(device: Device, figure: str) -> None:
    # A faster clock brings more operations a second with it.
    more = ("clock", "flops_16", "flops_f32") if figure == "clock" else (figure,)
    better = replace(device, **{name: 1.5 * getattr(device, name) for name in more})
    for m, n, k in itertools.product((1, 16, 64, 1024), (512, 16384), (512, 16384)):
        assert cost.library_product(m, n, k, "bf16", better) <= cost.library_product(m, n, k, "bf16", device)


def test_main_memory_reads_long_runs_faster_than_short_ones() -> None:
    parts = [
        cost.product(8, 16384, 16384, "bf16", "bf16", replace(FLAT, block_k=k), A100).parts["dram"]
        for k in (32, 64, 128)
    ]
    assert parts == sorted(parts, reverse=True)
    assert 1.03 < parts[1] / parts[2] < 1.1  # recorded: 128-byte runs are 6 % slower than 256-byte ones


def test_eight_bit_weights_halve_the_time_of_long_streams_and_not_of_short_ones() -> None:
    def ratio(n: int, k: int) -> float:
        whole, half = (cost.product(8, n, k, "bf16", w, FLAT, A100).seconds for w in ("bf16", "i8"))
        return half / whole

    assert ratio(32768, 16384) < 0.7
    assert ratio(256, 256) > 0.8


def test_gathering_more_elements_than_registers_hold_spills() -> None:
    """Rows of 23 elements: recorded on an A100, steps of 128 take 3.5 times the steps of 64."""
    wide, narrow = (
        cost.product(23, 16, 262144, "f16", "f16", cost.Tile(32, 16, k, 5, 2, copy_x=0), A100).seconds
        for k in (128, 64)
    )
    assert narrow < wide


def test_a_pipeline_hides_latency_while_a_multiprocessor_has_one_program() -> None:
    times = [
        cost.product(8, 2048, 8192, "bf16", "bf16", replace(FLAT, stages=s), A100).seconds for s in (2, 3, 5)
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.3 * times[-1]


def test_converting_int8_weights_costs_more_the_more_warps_stand_along_m() -> None:
    wide = cost.product(64, 65536, 4096, "f16", "i8", cost.Tile(64, 32, 128, 3, 4), A100)
    flat = cost.product(64, 65536, 4096, "f16", "i8", cost.Tile(64, 128, 128, 3, 4), A100)
    assert [float(v) for v in tile.warp_grid(64, 32, 4)] == [4, 1]
    assert [float(v) for v in tile.warp_grid(64, 128, 4)] == [2, 2]
    assert wide.parts["vector"] > 1.5 * flat.parts["vector"]


@pytest.mark.parametrize("device", [A100, H100, L40S], ids=lambda device: device.name)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(8, 512, 8192), (16, 1024, 16384), (4, 256, 4096), (32, 2048, 65536)]
)
def test_k_is_split_where_the_tiles_of_n_fill_less_than_half_of_the_units(
    device: Device, m: int, n: int, k: int
) -> None:
    assert n / 64 < device.units / 2
    assert k >= 8 * n
    shapes = [replace(FLAT, block_m=max(16, m), split_k=split) for split in (1, 2, 4, 8, 16)]
    assert cost.ranked(m, n, k, "bf16", "bf16", shapes, device)[0][0].split_k > 1


def test_k_is_not_split_where_the_tiles_of_n_fill_the_units() -> None:
    shapes = [replace(FLAT, split_k=split) for split in (1, 2, 4, 8)]
    assert cost.ranked(8, 32768, 4096, "bf16", "bf16", shapes, A100)[0][0].split_k == 1


def test_a_program_too_large_for_the_registers_still_runs_alone() -> None:
    held = [float(tile.resident(cost.Tile(16, n, 64, 3, 4), 2.0, 2.0, A100)) for n in (32, 64, 128, 256)]
    assert held == sorted(held, reverse=True)
    assert held[0] > 4
    assert float(tile.resident(cost.Tile(256, 256, 128, 5, 4), 2.0, 2.0, A100)) == 1.0


def test_one_row_takes_a_library_as_long_as_a_few_where_memory_binds() -> None:
    """Recorded on an A100: 353 us for one row of [16384, 16384], 315 to 353 us for 2 to 16."""
    times = [cost.library_product(m, 16384, 16384, "bf16", A100) for m in (1, 2, 16)]
    assert max(times) < 1.08 * min(times)


def test_a_library_has_tiles_of_16_rows_on_amd_cards_and_not_on_nvidia_cards() -> None:
    def share_of_a_narrow_tile(device: Device) -> float:
        tiles = [cost.Tile(16, 64, 64, 5, 4, split) for split in library.SPLITS]
        narrow = cost.ranked(8, 2048, 512, "bf16", "bf16", tiles, device)[0][1]
        return cost.library_product(8, 2048, 512, "bf16", device) / narrow

    assert share_of_a_narrow_tile(A100) > 1.02
    assert share_of_a_narrow_tile(named("AMD Instinct MI300X")) <= 1.0 + 1e-9


def test_heads_that_share_keys_cost_no_more_than_their_keys() -> None:
    shared = cost.decode_attention(64, 32, 8, 128, 8192, A100)
    single = cost.decode_attention(64, 32, 32, 128, 8192, A100)
    assert shared < 0.35 * single


def test_arrays_and_numbers_give_the_same_answers() -> None:
    m, n, k = np.array([1, 8, 64]), np.array([4096, 512, 12288]), np.array([4096, 8192, 4096])
    many = library.gemm(m, n, k, 2, A100, constants.of(A100))
    for at in range(3):
        assert many[at] == pytest.approx(
            cost.library_product(int(m[at]), int(n[at]), int(k[at]), "bf16", A100)
        )
    lengths = np.array([100, 5000])
    many = attention.decode(2, 8, 2, 64, lengths, A100, constants.of(A100))
    assert many[1] == pytest.approx(cost.decode_attention(2, 8, 2, 64, 5000, A100))


def test_a_work_is_estimated_with_its_parts() -> None:
    work = Work(2.0 * 16 * 4096 * 4096, 33.7e6, 64, 1 << 15, 1, Inner(16, 64, 128, 32, stages=4))
    found = cost.estimate(work, A100)
    assert found.bound in ("dram", "programs")
    assert max(found.parts.values()) <= found.seconds <= sum(found.parts.values())


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("Gemm{x=bf16; weights=[w0:bf16[4096,4096]nk]; extras=[]; outputs=[bf16 = acc_w0]; batched=false}",
         (8,)),
        ("Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[32, 8, 8]; dims=[128, 128]; "
         "score=mul(s, 0.088); mask=true; normalizer=exp/sum/online; safe=false; extras=[]}", (1, 1, 8192)),
        ("Rows{inputs=[x:bf16[rn]]; reductions=[s = sum(mul(x, x))]; outputs=[bf16 = mul(x, rsqrt(s))]; "
         "reduced=[]}", (64, 4096)),
    ],
    ids=["gemm", "attention", "rows"],
)  # fmt: skip
def test_every_dataflow_has_a_time_on_every_target(target: str, text: str, sizes: tuple[int, ...]) -> None:
    spec, device = parse_spec(text), TARGETS[target]
    for flow in dataflows(spec, sizes, device):
        seconds = cost.seconds(spec, sizes, flow.default(spec, sizes, device), device)
        assert 5e-7 < seconds < 5e-3, flow.name


# Recorded timings, where the setting `recorded_data` names their folder.


@pytest.mark.skipif(DATA is None or not DATA.is_dir(), reason="setting recorded_data names no folder")
def test_the_bars_on_recorded_gpus_hold_with_the_constants_of_the_package() -> None:
    from benchmarks.cost_model import run

    result = run(data=DATA)
    assert len(result.bars) == 7
    assert [str(bar) for bar in result.bars if not bar.held] == []


def test_without_recorded_timings_the_benchmark_says_so(tmp_path) -> None:
    from benchmarks.cost_model import run

    result = run(data=tmp_path / "none")
    assert "HEADRACE_RECORDED_DATA" in result.notes[0]
    assert not result.bars


def test_the_fit_finds_constants_that_made_the_times() -> None:
    from benchmarks.cost_model.fit import fitted
    from benchmarks.cost_model.recorded import Columns
    from benchmarks.cost_model.scores import library_seconds

    sizes = np.array(list(itertools.product((1, 8, 64), (512, 4096, 16384), (512, 4096, 16384))), dtype=float)
    truth = replace(constants.SM_80, launch=5000.0, dram=0.7)
    table = Columns({"m": sizes[:, 0], "n": sizes[:, 1], "k": sizes[:, 2]}, np.arange(len(sizes)))
    table.values["seconds"] = library_seconds(table, A100, truth)
    found, _ = fitted(constants.SM_80, 5e-6, {"library": table}, A100, free=("launch", "dram"), iterations=60)
    assert found.launch == pytest.approx(5000.0, rel=0.03)
    assert found.dram == pytest.approx(0.7, rel=0.03)
    assert found.latency == truth.latency


# The page docs/cost-model.md.


def test_the_page_shows_the_formula_the_constants_and_the_cards() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cost-model.md").read_text()
    for line in printed():
        assert line in page
    assert f"p is {SOFT}" in page
    for field in fields(constants.Constants):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{field.name}`")]
        shown = [cell.strip() for cell in row.split("|")[-4:-1]]
        assert shown == [f"{getattr(each, field.name):g}" for each in constants.FITTED.values()]
    for name, record in RECORDS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
        assert f"| {record.device.arch} | {record.device.units} |" in row
