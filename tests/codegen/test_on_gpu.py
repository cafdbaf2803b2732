# ruff: noqa: E501  (the text of a Spec is one line)
"""Kernels on a real GPU: every dataflow, stabilizer and dtype against float64, and what no other machine can show.

`python -m pytest -m gpu` with a torch that sees a GPU; without one these tests fail. Nothing here takes times.
"""

from __future__ import annotations

import math

import pytest
import torch
from codegen_cases import assert_close, make
from gpu_cases import CASES, CAUSAL, GATED, LONG, PRODUCT, SOFTMAX, Case, back, hold, instantiate, legal, on

from headrace.autotune.db.rows import Verdict
from headrace.autotune.verify import verify
from headrace.codegen import dataflows, kernel, targets
from headrace.ir.device import Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

pytestmark = pytest.mark.gpu
DTYPES = ("f32", "bf16", "f16")


@pytest.fixture(scope="module")
def where() -> torch.device:
    assert torch.cuda.is_available(), "these tests need a GPU and a torch that sees it"
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="module")
def device(where: torch.device) -> Device:
    from headrace.compiler.devices import device_of

    return device_of(torch.empty(0, device=where))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_every_dataflow_and_stabilizer_is_right(
    case: Case, dtype: str, device: Device, where: torch.device
) -> None:
    if legal(case, dtype):
        hold(case, dtype, device, where)


EXAMPLES = range(max(len(targets.examples(dtype)) for dtype in DTYPES))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", EXAMPLES)
def test_defaults_at_the_shapes_of_a_large_model(
    at: int, dtype: str, device: Device, where: torch.device
) -> None:
    """As `verify` of the tuner: poisoned memory, bitwise repetition, NaN, the smallest sizes of the bucket."""
    examples = targets.examples(dtype)
    if at >= len(examples):
        return
    example = examples[at]
    spec = parse_spec(example.spec)
    # One of the two is as good as all: heads and columns repeat the same tile.
    sizes = tuple(
        min(size, 512) if example.dataflow in ("prefill", "tiled") else size for size in example.sizes
    )
    built = kernel.instantiate(spec, example.schedule(device), device)
    found = verify(built, spec, sizes, [1, 2], repeats=5, device=str(where))
    assert (found.verdict, found.cause) == (Verdict.OK, "")


# The guard of a unified maximum.

GUARDED = [("prefill", 37, {}), ("decode", 1, {"splits": 1}), ("decode", 4, {"splits": 1}), ("decode", 1, {"splits": 3}),
           ("decode", 4, {"splits": 3}), ("stream_decode", 1, {"workers": 5}), ("stream_decode", 4, {"workers": 7})]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("planted", [97.0, -97.0, math.nan])
@pytest.mark.parametrize(("flow", "queries", "knobs"), GUARDED)
def test_only_rows_out_of_range_fall_back_and_are_counted(
    flow: str,
    queries: int,
    knobs: dict[str, int | str],
    planted: float,
    dtype: str,
    device: Device,
    where: torch.device,
) -> None:
    case = Case("", CAUSAL, flow, (2, queries, 75), knobs | {"stabilizer": "unified"})
    spec = parse_spec(case.text(dtype))
    inputs = make(spec, case.sizes, seed=3)
    inputs[0][..., 0] = 0.0
    inputs[1][..., 0] = 1.0  # adds the same to all scores of a row
    inputs[3] = torch.tensor(75)
    wide = torch.zeros(2, 6, queries, dtype=torch.bool)
    wide[:, ::2, ::2] = True
    inputs[0][..., 0][wide] = 4.0 * planted
    built = instantiate(case, dtype, device)
    there = on(where, inputs)
    for turn in (1, 2):
        assert_close(spec, back(built(there)), inputs)
        assert built.fallback_rows == turn * int(wide.sum())


@pytest.mark.parametrize("how", ["online", "lazy", "pair", "unified"])
@pytest.mark.parametrize("flow", ["row_loop", "row_split"])
def test_rows_around_the_limits_of_the_exponent(
    flow: str, how: str, device: Device, where: torch.device
) -> None:
    """20,000 rows shifted by up to +-150: exp2 of a GPU flushes what is denormal, and nothing else."""
    case = Case(
        "", SOFTMAX, flow, (20_000, 300), {"stabilizer": how} | ({"block_r": 1} if flow == "row_loop" else {})
    )
    spec = parse_spec(case.text("f32"))
    inputs = make(spec, case.sizes)
    inputs[0] += torch.linspace(-150.0, 150.0, 20_000)[:, None]
    assert_close(spec, back(instantiate(case, "f32", device)(on(where, inputs))), inputs)


# Memory.


@pytest.mark.parametrize("flow", ["decode", "stream_decode", "prefill"])
def test_a_cache_of_more_than_two_to_the_31_elements(flow: str, device: Device, where: torch.device) -> None:
    text = (
        "Attention{{q={0}; k={0}; v={0}; out={0}; heads=[2, 2, 2]; dims=[128, 128]; score=mul(s, 0.125); mask=ge(j, p); "
        "normalizer=exp/sum/online; safe=false; extras=[p:i64[]]}}"
    )
    keys, seen = (1 << 23) + 4096, 3000  # times 2 heads and 128 columns
    spec = parse_spec(text.format("f16"))
    small = make(spec, (1, 2, seen))
    cache = [torch.zeros(1, 2, keys, 128, dtype=torch.float16, device=where) for _ in range(2)]
    for large, part in zip(cache, small[1:3], strict=True):
        large[:, :, keys - seen :] = part.to(where)
    built = instantiate(Case("", text, flow, (1, 2, keys)), "f16", device)
    result = built([small[0].to(where), *cache, torch.tensor(keys - seen, device=where)])
    assert_close(spec, back(result), [*small[:3], torch.tensor(0)])


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("offset", [1, 3, 8])
def test_operands_that_are_not_aligned(offset: int, dtype: str, device: Device, where: torch.device) -> None:
    for flow, text, sizes in (("flat", PRODUCT, (5,)), ("gemv", PRODUCT, (1,)), ("tiled", PRODUCT, (70,)),
                              ("decode", LONG, (1, 1, 300)), ("prefill", LONG, (1, 70, 300)), ("row", SOFTMAX, (7, 333))):  # fmt: skip
        case = Case("", text, flow, sizes)
        spec = parse_spec(case.text(dtype))
        inputs = make(spec, sizes)
        moved = []
        for operand in inputs:
            room = torch.empty(operand.numel() + offset, dtype=operand.dtype, device=where)
            moved.append(room[offset:].view(operand.shape).copy_(operand))
        built = instantiate(case, dtype, device)
        assert_close(spec, back(built(on(where, inputs))), inputs)
        assert_close(spec, back(built(moved)), inputs)


def test_a_position_in_main_memory(device: Device, where: torch.device) -> None:
    case = Case("", LONG, "decode", (1, 1, 300), {"splits": 2})
    spec = parse_spec(case.text("bf16"))
    inputs = make(spec, case.sizes)
    inputs[3] = torch.tensor(200)
    built = instantiate(case, "bf16", device)
    assert_close(spec, back(built([*on(where, inputs[:3]), inputs[3]])), inputs)


def test_sizes_beyond_the_grid(device: Device, where: torch.device) -> None:
    case = Case("", CAUSAL, "decode", (2, 1, 8), {"splits": 2})
    spec = parse_spec(case.text("bf16"))
    inputs = make(spec, (12_000, 1, 8))  # times six heads
    assert_close(spec, back(instantiate(case, "bf16", device)(on(where, inputs))), inputs)


# Streams, graphs, devices.


def test_kernels_run_on_the_current_stream(device: Device, where: torch.device) -> None:
    case = Case("", GATED, "flat", (5,), {"split_k": 3})
    spec = parse_spec(case.text("bf16"))
    inputs = make(spec, case.sizes)
    built = instantiate(case, "bf16", device)
    there = on(where, inputs)
    built(there)
    late = torch.zeros_like(there[0])
    torch.cuda.synchronize(where)
    with torch.cuda.stream(torch.cuda.Stream(where)):
        torch.cuda._sleep(200_000_000)  # about 0.1 s
        late.copy_(there[0])
        result = built([late, *there[1:]])
    torch.cuda.synchronize(where)
    assert_close(spec, back(result), inputs)


@pytest.mark.parametrize(
    ("flow", "text", "sizes", "knobs"),
    [
        ("flat", GATED, (5,), {"split_k": 3}), ("stream_k", GATED, (5,), {"workers": 5}), ("row_split", SOFTMAX, (2, 70_000), {"stabilizer": "pair"}),
        ("decode", CAUSAL, (2, 4, 75), {"splits": 3, "stabilizer": "unified"}), ("prefill", CAUSAL, (2, 37, 75), {"stabilizer": "unified"}),
        ("stream_decode", CAUSAL, (2, 4, 75), {"workers": 7, "stabilizer": "unified"}),
    ],
)  # fmt: skip
def test_a_recorded_graph_gives_new_results_for_new_operands(
    flow: str,
    text: str,
    sizes: tuple[int, ...],
    knobs: dict[str, int | str],
    device: Device,
    where: torch.device,
) -> None:
    case = Case("", text, flow, sizes, knobs)
    spec = parse_spec(case.text("bf16"))
    built, warm = instantiate(case, "bf16", device), instantiate(case, "bf16", device)
    there = on(where, make(spec, sizes, seed=0))
    warm(there)  # compiles
    built(there)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = built(there)
    before = built.fallback_rows
    for seed in (1, 2):
        inputs = make(spec, sizes, seed=seed)
        if "unified" in knobs.values():
            inputs[0][0, 0, 0] *= 1000.0
        for fixed, operand in zip(there, inputs, strict=True):
            fixed.copy_(operand)
        graph.replay()
        torch.cuda.synchronize(where)
        assert_close(spec, back(result), inputs)
    assert built.fallback_rows - before == (2 if "unified" in knobs.values() else 0)


def test_every_gpu_computes_what_lies_on_it(where: torch.device) -> None:
    """With one GPU this is one run; with several, all but one are not the current device."""
    from headrace.compiler.devices import device_of

    case = Case("", CAUSAL, "decode", (2, 4, 75), {"splits": 3, "stabilizer": "unified"})
    spec = parse_spec(case.text("bf16"))
    inputs = make(spec, case.sizes)
    for index in range(torch.cuda.device_count()):
        there = torch.device("cuda", index)
        built = instantiate(case, "bf16", device_of(torch.empty(0, device=there)))
        assert_close(spec, back(built(on(there, inputs))), inputs)
        assert torch.cuda.current_device() == where.index


def test_the_device_is_what_the_driver_says(device: Device, where: torch.device) -> None:
    properties = torch.cuda.get_device_properties(where)
    assert device.units == properties.multi_processor_count
    assert device.warp in (32, 64)
    for figure in (
        "bandwidth",
        "flops_f32",
        "flops_16",
        "on_chip_bytes",
        "launch_seconds",
        "last_level_bytes",
    ):
        assert device.figure(figure) > 0
    if torch.version.hip is None:
        assert device.arch == f"sm_{properties.major}{properties.minor}"
        assert device.on_chip_bytes <= properties.shared_memory_per_block_optin


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", EXAMPLES)
def test_every_dataflow_that_is_offered_has_a_default_that_launches(
    at: int, dtype: str, device: Device, where: torch.device
) -> None:
    """Also those that are not the example's own: what a tuner would try first."""
    examples = targets.examples(dtype)
    if at >= len(examples):
        return
    spec, sizes = parse_spec(examples[at].spec), examples[at].sizes
    inputs = on(where, make(spec, sizes))
    for flow in dataflows.dataflows(spec, sizes, device):
        schedule: Schedule = flow.default(spec, sizes, device)
        kernel.instantiate(spec, schedule, device)(inputs)
    torch.cuda.synchronize(where)
