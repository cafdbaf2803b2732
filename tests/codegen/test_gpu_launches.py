# ruff: noqa: E501  (the text of a Spec is one line)
"""What GPUs launch, without a GPU: their kernels through Triton's own launcher on the CPU engine, and the launcher's text.

The launcher makes kernels for the arguments it sees (a size of 1 becomes a constant, a multiple of 16 a promise), which the
CPU's direct path never does.
"""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from codegen_cases import assert_close, make
from gpu_cases import CASES, GATED, NORM, SOFTMAX, Case, hold, instantiate, legal

from headrace.codegen import dataflows, families, host, kernel, targets
from headrace.ir.device import Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

H100, MI300 = targets.device_of("cuda:90"), targets.device_of("hip:gfx942")
HERE = torch.device("cpu")
SAMPLE = [
    "gate, M = 1, flat, split_k=3", "three outputs, M = 3, stream_k, workers=5", "product, M = 1, gemv", "batched, 1 x 1, tiled",
    "causal, prefill (2, 37, 53) {'stabilizer': 'unified'}", "lengths, decode (1, 1, 1) {'splits': 4, 'stabilizer': 'unified'}",
    "window, stream_decode (1, 3, 77) {'workers': 2, 'stabilizer': 'pair'}", "bias, decode (1, 3, 77) {'splits': 1}",
    "kinds, row_loop (1, 1)", "softmax, row_split (5, 700) lazy",
]  # fmt: skip


def named(title: str) -> Case:
    return next(case for case in CASES if case.title == title)


@pytest.mark.parametrize("title", SAMPLE)
def test_a_gpus_kernels_are_right_through_tritons_launcher(title: str) -> None:
    hold(named(title), "f32", H100, HERE)


@pytest.mark.soak
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("device", [H100, MI300], ids=["H100", "MI300X"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_every_kernel_of_a_gpu_is_right_through_tritons_launcher(
    case: Case, device: Device, dtype: str
) -> None:
    if legal(case, dtype):
        hold(case, dtype, device, HERE)


@pytest.mark.parametrize("flow", ["row", "row_loop", "row_split"])
def test_a_row_length_of_one_after_another_length(flow: str) -> None:
    spec = parse_spec(NORM.format("f32"))
    built = instantiate(Case("", NORM, flow, (4, 40)), "f32", H100)
    for sizes in ((4, 40), (3, 33), (1, 1)):
        inputs = make(spec, sizes)
        assert_close(spec, built(inputs), inputs)


def test_one_compilation_serves_any_number_of_rows() -> None:
    built = instantiate(Case("", GATED, "flat", (4,), {"split_k": 2}), "f32", H100)
    spec = built.spec
    for m in (1, 2, 16, 48):
        inputs = make(spec, (m,))
        assert_close(spec, built(inputs), inputs)
    (variant,) = built._variants.values()
    for function in variant.functions:
        compiled = [made for made, *_ in function.device_caches.values()]
        assert [len(made) for made in compiled] == [1]


# Grids.


def test_sizes_beyond_the_grid_go_to_the_library_with_the_same_result() -> None:
    case = Case("", GATED, "flat", (5,), {"split_k": 2})
    small, large = 3, 65536
    built = instantiate(case, "f32", H100)
    for m in (small, large):
        inputs = make(built.spec, (m,))
        assert_close(built.spec, built(inputs), inputs)
    text = host.source(next(iter(built._variants.values())).plan, built.spec, H100, direct=False)
    assert "M <= 65535" in text


@pytest.mark.parametrize(
    ("flow", "spec", "sizes", "knobs"),
    [
        ("prefill", "causal, prefill (2, 37, 53) {'stabilizer': 'online'}", (16384, 8, 8), {}),
        ("decode", "causal, prefill (2, 37, 53) {'stabilizer': 'online'}", (16384, 1, 8), {}),
        ("decode", "causal, prefill (2, 37, 53) {'stabilizer': 'online'}", (1, 1 << 20, 8), {"block_r": 16}),
        ("gemv", "batched, 3 x 5, gemv", (65536, 1), {}), ("tiled", "batched, 3 x 5, tiled", (65536, 64), {}),
        ("flat", "product, M = 3, gemv", (65536,), {"split_k": 2}), ("flat", "batched, 3 x 5, tiled", (40000, 4), {"split_k": 2}),
    ],
)  # fmt: skip
def test_a_schedule_beyond_the_grid_is_not_legal_on_a_gpu(
    flow: str, spec: str, sizes: tuple[int, ...], knobs: dict[str, int]
) -> None:
    parsed = parse_spec(named(spec).text("bf16"))
    default = dataflows.get(flow).default(parsed, tuple(min(s, 64) for s in sizes), H100)
    schedule = Schedule(flow, tuple((dict(default.knobs) | knobs).items()))
    assert dataflows.get(flow).legal(parsed, tuple(min(s, 64) for s in sizes), schedule, H100) is None
    assert "the grid needs" in str(dataflows.get(flow).legal(parsed, sizes, schedule, H100))


def test_hip_counts_the_threads_of_a_grid() -> None:
    spec = parse_spec(SOFTMAX.format("f32"))
    schedule = dataflows.get("row").default(spec, (4, 256), MI300)
    plan = families.plan(spec, schedule, MI300, families.facts(spec, schedule, (4, 256)))
    (launch,) = plan.launches
    most = ((1 << 32) - 1) // (launch.num_warps * 64)
    assert host.in_grid(plan, MI300, {"R": most, "N": 256})
    assert not host.in_grid(plan, MI300, {"R": most + 1, "N": 256})
    assert host.in_grid(plan, H100, {"R": most + 1, "N": 256})


# Addresses.


@pytest.mark.parametrize(
    ("flow", "knobs"),
    [("gemv", {"block_n": 256, "block_k": 16}), ("flat", {"block_n": 256}), ("tiled", {"block_n": 256})],
)
def test_weights_whose_rows_lie_far_apart(flow: str, knobs: dict[str, int]) -> None:
    """256 rows that are 2^23 elements apart reach beyond what int32 counts; the memory between is never touched."""
    text = "Gemm{x=bf16; weights=[w0:bf16[256,16]nk]; extras=[]; outputs=[bf16 = acc_w0]; batched=false}"
    spec, apart = parse_spec(text), 1 << 23
    inputs = make(spec, (2,))
    room = torch.empty(255 * apart + 16, dtype=torch.bfloat16)
    far = room.as_strided((256, 16), (apart, 1)).copy_(inputs[1])
    built = instantiate(
        Case("", text.replace("{", "{{").replace("}", "}}"), flow, (2,), dict(knobs)), "bf16", H100
    )
    assert_close(spec, built([inputs[0], far]), inputs)
    wide = f"tl.arange(0, BLOCK_N).to(tl.int64)[:, None] * {apart}"
    assert wide in built.source
    assert_close(spec, built(inputs), inputs)
    assert "tl.arange(0, BLOCK_N)[:, None] * 16" in built.source


# Devices and streams.


def test_operands_on_another_gpu_are_computed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    class Entered:
        def __init__(self, device: object) -> None:
            self.device = device

        def __enter__(self) -> None:
            seen.append(self.device)

        def __exit__(self, *_: object) -> None:
            seen.append("left")

    monkeypatch.setattr(torch.cuda, "current_device", lambda: len(seen))
    monkeypatch.setattr(torch.cuda, "device", Entered)
    second = SimpleNamespace(index=1)
    assert host._elsewhere(second)
    assert host._on(second, lambda *arguments: (arguments, list(seen)), 1, 2) == ((1, 2), [second])
    assert seen == [second, "left"]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert not host._elsewhere(second)


def test_every_launch_follows_the_look_at_the_device() -> None:
    for case in (named(SAMPLE[0]), named(SAMPLE[4]), named(SAMPLE[9])):
        spec = parse_spec(case.text("f32"))
        schedule = dataflows.get(case.flow).default(spec, case.sizes, H100)
        plan = families.plan(spec, schedule, H100, families.facts(spec, schedule, case.sizes))
        for text in host.source(plan, spec, H100, direct=False).split("def ")[1:]:
            assert 0 < text.index("if elsewhere(device)") < text.index("launch_0[")


def test_the_count_of_recomputed_rows_is_made_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recording of a CUDA graph asks for belongs to the graph."""
    makers: list[str] = []
    zeros = torch.zeros

    def noted(*arguments: object, **options: object) -> torch.Tensor:
        makers.append(threading.current_thread().name)
        return zeros(1, dtype=torch.int64)

    monkeypatch.setattr(torch, "zeros", noted)
    kernel._zero_that_stays(torch.device("cuda", 0))
    assert makers != [threading.current_thread().name]
