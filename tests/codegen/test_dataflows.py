"""The registry: what is offered for a Spec, knobs and defaults, legality per device, work."""

from __future__ import annotations

import pytest
from codegen_cases import CPU

from headrace.codegen import dataflows, families, library, targets
from headrace.codegen.dataflows import DATAFLOWS
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

DEVICES = [CPU, *targets.GPU_TARGETS.values()]


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.arch)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_defaults_are_legal_and_every_knob_value_is_known(device, dtype: str) -> None:
    for example in targets.examples(dtype):
        spec = parse_spec(example.spec)
        offered = dataflows.dataflows(spec, example.sizes, device)
        gains = families.offered(example.dataflow, spec, example.sizes, device)
        assert gains == (example.dataflow in {flow.name for flow in offered})
        assert gains or example.dataflow.startswith("stream")
        example.schedule(device)
        assert offered[-1].name == "library"
        for flow in offered:
            default = flow.default(spec, example.sizes, device)
            assert flow.legal(spec, example.sizes, default, device) is None
            for knob in flow.knobs(spec, example.sizes, device):
                for value in knob.values:
                    changed = Schedule(flow.name, tuple((dict(default.knobs) | {knob.name: value}).items()))
                    reason = flow.legal(spec, example.sizes, changed, device)
                    assert reason is None or "is none of" not in reason


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.arch)
def test_work_counts_every_dataflow(device) -> None:
    for example in targets.examples():
        spec = parse_spec(example.spec)
        for flow in dataflows.dataflows(spec, example.sizes, device):
            work = flow.work(spec, example.sizes, flow.default(spec, example.sizes, device), device)
            assert min(work.flops, work.bytes, work.programs, work.launches) > 0


def test_work_of_a_gemv_is_its_weights() -> None:
    spec = parse_spec(targets.examples()[0].spec)
    flow = dataflows.get("gemv")
    work = flow.work(spec, (1,), flow.default(spec, (1,), CPU), CPU)
    weights = 2 * 4096 * (4096 + 1024 + 1024)
    assert weights < work.bytes < 1.01 * weights
    assert work.flops == weights


def test_float64_is_for_the_library() -> None:
    spec = parse_spec(
        "Gemm{x=f64; weights=[w0:f64[8,8]nk]; extras=[]; outputs=[f64 = acc_w0]; batched=false}"
    )
    assert [flow.name for flow in dataflows.dataflows(spec, (1,), CPU)] == ["library"]
    legal = dataflows.get("gemv").legal(spec, (1,), Schedule.of("gemv"), CPU)
    assert "float32, float16 or bfloat16" in str(legal)


def test_shared_memory_and_registers_bound_tiles_on_a_gpu() -> None:
    a100 = targets.GPU_TARGETS["cuda:80"]
    spec = parse_spec(next(e.spec for e in targets.examples() if e.dataflow == "tiled"))
    flow = dataflows.get("tiled")
    default = dict(flow.default(spec, (2048,), a100).knobs)
    deep = Schedule("tiled", tuple((default | {"block_k": 256, "num_stages": 5}).items()))
    wide = Schedule("tiled", tuple((default | {"block_m": 256, "block_n": 256, "num_warps": 4}).items()))
    assert "shared memory" in str(flow.legal(spec, (2048,), deep, a100))
    assert "registers" in str(flow.legal(spec, (2048,), wide, a100))


def test_knobs_of_another_backend_are_refused() -> None:
    spec = parse_spec(targets.examples()[0].spec)
    flow = dataflows.get("gemv")
    gpu = flow.default(spec, (1,), targets.GPU_TARGETS["cuda:90"])
    assert "given" in str(flow.legal(spec, (1,), gpu, CPU))


def test_no_dataflow_but_the_library_takes_empty_sizes() -> None:
    for example in targets.examples():
        sizes = (0, *example.sizes[1:])
        assert [f.name for f in dataflows.dataflows(parse_spec(example.spec), sizes, CPU)] == ["library"]


def test_a_plain_product_and_softmax_reach_torch_directly() -> None:
    spec = parse_spec(targets.examples()[0].spec)
    assert callable(library.function(spec))
    assert set(DATAFLOWS) == {
        "prefill",
        "decode",
        "stream_decode",
        "gemv",
        "flat",
        "tiled",
        "stream_k",
        "row",
        "row_loop",
        "row_split",
        "library",
    }
