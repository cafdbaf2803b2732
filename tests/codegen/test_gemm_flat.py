# ruff: noqa: E501  (the text of a Spec is one line)
"""Flat products whole: swapped operands, stages, split-K and stream-K against the float64 oracle.

Rows M between and at powers of two, N and K that no block divides, and a decoder's sizes reduced.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from codegen_cases import CPU, assert_close, instantiate, make, run

from headrace.codegen import dataflows, kernel, targets
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

ROWS = (1, 2, 3, 7, 8, 16, 33, 64)
RAGGED, LLAMA, OPT, NARROW = (37, 51), (192, 128), (128, 344), (24, 520)
SHORT = {
    "flat": {"block_n": 16, "block_k": 32, "split_k": 1},
    "swapped": {"block_n": 16, "block_k": 32, "split_k": 1, "swap": 1},
    "split": {"block_n": 16, "block_k": 32, "split_k": 3},
    "stream_k": {"block_n": 16, "block_k": 32, "workers": 7},
    "stream_k swapped": {"block_n": 16, "block_k": 32, "workers": 5, "swap": 1},
}
THREE = (
    "Gemm{x=bf16; weights=[w0:bf16[80,64]nk, w1:bf16[33,64]nk, w2:bf16[16,64]nk]; extras=[bias:bf16[n], res:f32[mn]]; "
    "outputs=[bf16 = acc_w0, f32 = add(acc_w1, res), bf16 = add(acc_w2, bias)]; batched=false}"
)
SWIGLU = (
    "Gemm{x=bf16; weights=[w0:bf16[48,64]nk, w1:bf16[48,64]nk, w2:bf16[20,64]nk]; extras=[]; "
    "outputs=[bf16 = mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1), bf16 = acc_w2]; batched=false}"
)
UNLIKE = "Gemm{x=f16; weights=[w0:f16[40,72]nk, w1:f16[24,72]kn]; extras=[]; outputs=[f16 = acc_w0, f16 = acc_w1]; batched=false}"
BATCHED = (
    "Gemm{x=f32; weights=[w0:f32[20,40]nk]; extras=[a:f32[bmn], c:f32[m], d:f32[b], e:f32[], f:i32[n], g:b8[mn]]; "
    "outputs=[f32 = where(g, add(mul(acc_w0, c), add(a, d)), mul(e, f))]; batched=true}"
)


def product(dtype: str, shape: tuple[int, int], layout: str = "nk") -> str:
    n, k = shape
    return f"Gemm{{x={dtype}; weights=[w0:{dtype}[{n},{k}]{layout}]; extras=[]; outputs=[{dtype} = acc_w0]; batched=false}}"


def schedule(name: str, m: int) -> tuple[str, dict[str, int]]:
    """A short schedule of the name for m rows."""
    rows = min(16, 1 << (m - 1).bit_length())
    return ("stream_k" if name.startswith("stream_k") else "flat"), {"block_m": rows, **SHORT[name]}


def cases() -> list[tuple[str, str, tuple[int, int]]]:
    """Every schedule with every dtype once, shapes in turn: the rest of the product is the campaign's."""
    shapes = itertools.cycle((RAGGED, LLAMA, OPT, NARROW))
    return [(name, dtype, next(shapes)) for name in SHORT for dtype in ("f32", "bf16", "f16")]


@pytest.mark.parametrize(("name", "dtype", "shape"), cases())
def test_every_number_of_rows_from_one_kernel(name: str, dtype: str, shape: tuple[int, int]) -> None:
    text, (flow, knobs) = product(dtype, shape), schedule(name, 8)
    spec, built = parse_spec(text), instantiate(text, flow, (8,), **knobs)
    for m in ROWS:
        inputs = make(spec, (m,), seed=m)
        assert_close(spec, built(inputs), inputs)
    assert built.launch_info["variants"] == 1
    assert not any(built.launch_info["engine_reason"])


@pytest.mark.soak
@pytest.mark.parametrize("shape", [RAGGED, LLAMA, OPT, NARROW, (1, 300), (300, 1), (2048, 512)])
@pytest.mark.parametrize("layout", ["nk", "kn"])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("name", SHORT)
def test_every_schedule_shape_and_number_of_rows(name: str, dtype: str, layout: str, shape) -> None:
    for m in ROWS:
        flow, knobs = schedule(name, m)
        run(product(dtype, shape, layout), flow, (m,), **knobs)


@pytest.mark.parametrize("name", ["swapped", "stream_k", "stream_k swapped"])
@pytest.mark.parametrize("text", [THREE, SWIGLU, UNLIKE], ids=["three", "swiglu", "unlike"])
def test_several_weights_and_epilogues(name: str, text: str) -> None:
    flow, knobs = schedule(name, 3)
    run(text, flow, (5,), **knobs)


@pytest.mark.parametrize("name", ["swapped", "stream_k"])
def test_batched_with_extras_of_every_dimension(name: str) -> None:
    flow, knobs = schedule(name, 2)
    run(BATCHED, flow, (3, 5), **(knobs | {"block_k": 16}))


@pytest.mark.parametrize("workers", [1, 2, 7, 132])
def test_any_number_of_workers_gives_the_same_product(workers: int) -> None:
    spec, inputs = parse_spec(THREE), make(parse_spec(THREE), (5,))
    knobs = {"block_m": 4, "block_n": 16, "block_k": 16, "workers": workers}
    built = instantiate(THREE, "stream_k", (5,), **knobs)
    first = built(inputs)
    assert_close(spec, first, inputs)
    assert built.launch_info["launches"][0][1] == (str(workers), "1", "1")
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, built(inputs), strict=True))


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("k", [33, 16, 2])
def test_weights_that_are_one_row_for_all_columns(dtype: str, k: int) -> None:
    """Expanded memory: columns lie no distance apart, and words along k are copied where k is odd."""
    spec = parse_spec(product(dtype, (64, k)))
    generator = torch.Generator().manual_seed(k)
    x, row = (
        torch.randn(rows, k, generator=generator).to(spec.output_dtypes[0].to_torch()) for rows in (33, 1)
    )
    for block_m in (1, 4, 8, 16, 32, 64):
        built = instantiate(str(spec), "flat", (33,), block_m=block_m, block_n=32, block_k=64, split_k=1)
        inputs = [x, row.expand(64, k)]
        assert_close(spec, built(inputs), inputs)


def test_stream_k_without_shared_tiles_is_flat_bit_by_bit() -> None:
    text = product("f32", (64, 96))
    inputs = make(parse_spec(text), (4,))
    blocks = {"block_m": 4, "block_n": 16, "block_k": 32}
    alone = instantiate(text, "flat", (4,), split_k=1, **blocks)(inputs)
    assert torch.equal(instantiate(text, "stream_k", (4,), workers=4, **blocks)(inputs), alone)
    assert torch.equal(instantiate(text, "stream_k", (4,), workers=1, **blocks)(inputs), alone)


def test_a_swap_changes_no_bit_of_a_product_of_whole_numbers() -> None:
    text = product("f32", (33, 70))
    x, w = torch.arange(-2.0, 5).repeat(10)[None].expand(5, 70).contiguous(), torch.ones(33, 70)
    blocks = {"block_m": 8, "block_n": 16, "block_k": 16, "split_k": 1}
    plain = instantiate(text, "flat", (5,), **blocks)([x, w])
    assert torch.equal(instantiate(text, "flat", (5,), swap=1, **blocks)([x, w]), plain)
    assert plain[0, 0] == 70


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("m", [3, 9])
def test_nothing_outside_the_operands_is_read_or_written(name: str, m: int) -> None:
    n, k = 37, 51
    text, (flow, knobs) = product("f32", (n, k)), schedule(name, 8)
    built = instantiate(text, flow, (m,), **knobs)

    def guarded(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        memory = torch.full((rows * columns + 512,), torch.nan)
        return memory, memory[256 : 256 + rows * columns].view(rows, columns)

    (_, x), (_, w), (memory, y) = guarded(m, k), guarded(n, k), guarded(m, n)
    x.copy_(torch.randn(m, k)), w.copy_(torch.randn(n, k))
    built.into([x, w], [y])
    assert_close(parse_spec(text), y, [x, w])
    assert memory[:256].isnan().all()
    assert memory[256 + m * n :].isnan().all()


@pytest.mark.parametrize("n", [256, 512, 4096])
def test_k_is_split_where_the_tiles_of_n_leave_units_idle(n: int) -> None:
    for target, device in targets.GPU_TARGETS.items():
        spec = parse_spec(product("bf16", (n, 8 * n if n < 4096 else 4096)))
        for m in (1, 8, 16):
            made = dataflows.get("flat").default(spec, (m,), device)
            tiles, split = -(-n // int(made["block_n"])), int(made["split_k"])
            assert (split > 1) == (2 * tiles <= device.units), (target, made)
            assert split * tiles <= max(device.units, tiles)
            assert dataflows.get("flat").work(spec, (m,), made, device).programs == split * tiles


def test_rows_are_padded_to_eight_where_operands_are_swapped() -> None:
    spec = parse_spec(product("bf16", (4096, 4096)))
    for target, device in targets.GPU_TARGETS.items():
        made = dict(dataflows.get("flat").default(spec, (3,), device).knobs)
        expected = (1, 8) if target.startswith("cuda") else (int(target == "hip:gfx950"), 16)
        assert (made["swap"], made["block_m"]) == expected
        padded = Schedule("flat", tuple((made | {"swap": 0, "block_m": 8}).items()))
        assert "block_m=8 is none of" in str(dataflows.get("flat").legal(spec, (3,), padded, device))


@pytest.mark.parametrize("workers", [0, -1, 5000, "many"])
def test_a_number_of_workers_out_of_range_is_refused(workers: int | str) -> None:
    spec = parse_spec(product("bf16", (64, 64)))
    made = dict(dataflows.get("stream_k").default(spec, (3,), CPU).knobs) | {"workers": workers}
    reason = dataflows.get("stream_k").legal(spec, (3,), Schedule("stream_k", tuple(made.items())), CPU)
    assert "is no number from 1 to 4096" in str(reason)


def test_more_steps_than_int32_numbers_are_refused() -> None:
    spec = parse_spec(
        "Gemm{x=f32; weights=[w0:f32[32000,4096]nk]; extras=[]; outputs=[f32 = acc_w0]; batched=false}"
    )
    smallest = Schedule.of("stream_k", block_m=16, block_n=16, block_k=16, workers=8)
    stream_k = dataflows.get("stream_k")
    assert stream_k.legal(spec, (4096,), smallest, CPU) is None
    reason = stream_k.legal(spec, (1 << 17,), smallest, CPU)
    assert reason is not None
    assert "more than stream_k can number" in reason


def test_a_call_with_more_steps_than_int32_numbers_is_left_to_the_library() -> None:
    """A kernel made for any sizes: 2^21 steps a row, so that 1024 rows have one too many."""
    spec = parse_spec(product("f32", (2048, 1024)))
    single = Schedule.of("stream_k", block_m=1, block_n=1, block_k=1, workers=2)
    built = kernel.instantiate(spec, single, CPU)
    x, w = torch.randn(1024, 1024), torch.randn(2048, 1024)
    for rows in (1, 1024):  # the second call finds the launcher that the first one has bound
        assert_close(spec, built([x[:rows], w]), [x[:rows], w])
        result = torch.full((rows, 2048), torch.nan)
        built.into([x[:rows], w], [result])
        assert_close(spec, result, [x[:rows], w])


def test_work_counts_workers_and_the_tiles_that_they_share() -> None:
    device, spec = targets.device_of("cuda:90"), parse_spec(product("bf16", (4096, 4096)))
    flow, flat = dataflows.get("stream_k"), dataflows.get("flat")
    default = flow.default(spec, (8,), device)
    alone = flat.work(spec, (8,), Schedule("flat", (*blocks_of(default), ("split_k", 1))), device)
    whole = flow.work(spec, (8,), Schedule("stream_k", (*blocks_of(default), ("workers", 64))), device)
    shared = flow.work(spec, (8,), Schedule("stream_k", (*blocks_of(default), ("workers", 132))), device)
    assert (alone.programs, whole.programs, shared.programs) == (64, 64, 132)
    assert alone.bytes == whole.bytes
    # At most two tiles [8, 64] of float32 a worker are written and read once more.
    assert alone.bytes < shared.bytes <= alone.bytes + 132 * 2 * 2 * 4 * 8 * 64
    assert alone.flops == whole.flops == shared.flops
    assert (alone.launches, shared.launches) == (1, 2)


def blocks_of(schedule: Schedule) -> list[tuple[str, int | str]]:
    return [(name, value) for name, value in schedule.knobs if name != "workers"]
