# ruff: noqa: E501  (the text of a Spec is one line)
"""Calling a kernel: layouts of operands, empty sizes, outputs given by the caller, refusals, source files."""

from __future__ import annotations

import errno
import linecache
import os
from pathlib import Path

import pytest
import torch
from codegen_cases import CPU, assert_close, instantiate, make

from headrace.codegen import kernel
from headrace.errors import OperandError, ScheduleError
from headrace.ir.schedule import LIBRARY, Schedule
from headrace.ir.spec import Attention, parse_spec

GEMM = (
    "Gemm{x=f32; weights=[w0:f32[24,40]nk, w1:f32[16,40]nk]; extras=[bias:f32[n], res:f32[mn]]; "
    "outputs=[f32 = add(acc_w0, bias), f32 = add(acc_w1, res)]; batched=false}"
)
ATTENTION = (
    "Attention{q=f32; k=f32; v=f32; out=f32; heads=[4, 2, 2]; dims=[16, 16]; score=add(mul(s, 0.25), bias); "
    "mask=le(j, add(i, p)); normalizer=exp/sum/online; safe=false; extras=[bias:f32[hij], p:i64[]]}"
)
ROWS = "Rows{inputs=[x:f32[rn], w:f32[n], a:f32[r]]; reductions=[m = max(x)]; outputs=[f32 = mul(sub(x, m), mul(w, a))]; reduced=[]}"
CASES = [
    (GEMM, "gemv", (3,)), (GEMM, "flat", (3,)), (GEMM, "tiled", (20,)), (ATTENTION, "prefill", (2, 5, 30)),
    (ATTENTION, "decode", (2, 1, 30)), (ATTENTION, "decode", (2, 3, 30)), (ROWS, "row", (4, 20)), (ROWS, "row_loop", (4, 20)),
]  # fmt: skip


def padded(t: torch.Tensor) -> torch.Tensor:
    """The same values with gaps between and after the rows."""
    if not t.dim():
        return t
    wide = torch.full([s + 3 for s in t.shape], float("nan") if t.is_floating_point() else 0, dtype=t.dtype)
    view = wide[tuple(slice(1, 1 + s) for s in t.shape)]
    return view.copy_(t)


def strided(t: torch.Tensor) -> torch.Tensor:
    """The same values with a last stride other than 1."""
    return torch.stack([t, torch.full_like(t, 7)], -1)[..., 0] if t.dim() else t


def transposed(t: torch.Tensor) -> torch.Tensor:
    return t.mT.contiguous().mT if t.dim() >= 2 else t


@pytest.mark.parametrize("layout", [padded, strided, transposed])
@pytest.mark.parametrize(("text", "flow", "sizes"), CASES)
def test_any_layout_of_any_operand(text: str, flow: str, sizes: tuple[int, ...], layout) -> None:
    spec = parse_spec(text)
    inputs = make(spec, sizes)
    built = instantiate(text, flow, sizes)
    assert_close(spec, built(inputs), inputs)
    for at in range(len(inputs)):
        changed = [layout(t) if i == at else t for i, t in enumerate(inputs)]
        assert_close(spec, built(changed), inputs)
    assert_close(spec, built([layout(t) for t in inputs]), inputs)
    assert_close(spec, built(inputs), inputs)


@pytest.mark.parametrize(("text", "flow", "sizes"), CASES)
def test_expanded_operands(text: str, flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text)
    inputs = [t[:1].expand_as(t) if t.dim() else t for t in make(spec, sizes)]
    assert_close(spec, instantiate(text, flow, sizes)(inputs), inputs)


@pytest.mark.parametrize(("text", "flow", "sizes"), CASES)
def test_outputs_given_by_the_caller_in_any_layout(text: str, flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text)
    inputs = make(spec, sizes)
    built = instantiate(text, flow, sizes)
    shapes = spec.output_shapes([t.shape for t in inputs])
    for layout in (lambda t: t, padded, strided, transposed):
        outputs = [
            layout(torch.full(s, float("nan"), dtype=d.to_torch()))
            for s, d in zip(shapes, spec.output_dtypes, strict=True)
        ]
        for _ in range(2):
            built.into(inputs, outputs)
            assert_close(spec, tuple(outputs), inputs)


@pytest.mark.parametrize(("flow", "sizes"), [("prefill", (2, 5, 30)), ("decode", (2, 1, 30))])
def test_an_output_of_one_column_with_any_stride(flow: str, sizes: tuple[int, ...]) -> None:
    """PyTorch calls it contiguous, whatever the stride between its columns is."""
    text = ATTENTION.replace("dims=[16, 16]", "dims=[16, 1]")
    inputs = make(parse_spec(text), sizes)
    built = instantiate(text, flow, sizes)
    b, i, _ = sizes
    output = torch.full((b, 4, 1, i), float("nan")).mT
    for _ in range(2):
        built.into(inputs, [output])
        assert_close(parse_spec(text), output, inputs)


@pytest.mark.parametrize(
    ("text", "flow", "sizes"),
    [(GEMM, "gemv", (0,)), (ATTENTION, "prefill", (2, 0, 30)), (ATTENTION, "decode", (0, 1, 30)),
     (ATTENTION, "decode", (2, 1, 0)), (ROWS, "row", (0, 20)), (ROWS, "row", (4, 0))],
)  # fmt: skip
def test_empty_sizes(text: str, flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text)
    usual = next(s for t, f, s in CASES if t == text and f == flow)
    built = instantiate(text, flow, usual)
    for s in (sizes, usual, sizes):
        inputs = make(spec, s)
        assert_close(spec, built(inputs), inputs)


def test_attention_writes_heads_innermost_as_sdpa_does() -> None:
    spec = parse_spec(ATTENTION)
    assert isinstance(spec, Attention)
    for flow, sizes in (("prefill", (2, 5, 30)), ("decode", (2, 3, 30)), ("decode", (2, 1, 30))):
        built = instantiate(ATTENTION, flow, sizes)
        for _ in range(2):
            assert built(make(spec, sizes)).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(("text", "flow", "sizes"), CASES)
def test_operands_that_do_not_fit_the_spec_are_refused(text: str, flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text)
    inputs = make(spec, sizes)
    built = instantiate(text, flow, sizes)
    with pytest.raises(OperandError, match="operands"):
        built(inputs[:-1])
    for at in range(len(inputs)):
        with pytest.raises(OperandError, match="the Spec says"):
            built([t.double() if i == at else t for i, t in enumerate(inputs)])
    longer = [torch.cat([t, t], -1) if i == 1 else t for i, t in enumerate(inputs)]
    with pytest.raises(OperandError, match="has shape"):
        built(longer)


def test_preparing_compiles_before_the_first_call() -> None:
    spec = parse_spec(GEMM)
    built = kernel.instantiate(
        spec, Schedule.of("gemv", block_m=1, block_n=8, block_k=32, reduce="row"), CPU, (1,)
    )
    assert built.launch_info["variants"] == 1
    inputs = make(spec, (1,))
    assert_close(spec, built(inputs), inputs)
    assert built.launch_info["variants"] == 1


def test_source_is_a_file_that_tools_can_read() -> None:
    built = instantiate(GEMM, "gemv", (1,))
    built(make(parse_spec(GEMM), (1,)))
    path = Path(built.launch_info["path"])
    assert path.read_text() == built.source
    assert linecache.getline(str(path), 1) == built.source.splitlines(keepends=True)[0]
    path.write_text("raise SystemExit('not what was rendered')\n")
    again = instantiate(GEMM, "gemv", (1,))
    again(make(parse_spec(GEMM), (1,)))
    assert path.read_text() == built.source


def test_a_kernel_directory_that_cannot_be_written_costs_nothing_but_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path / "file"))
    inputs = make(parse_spec(GEMM), (3,))
    built = instantiate(GEMM, "gemv", (3,))
    assert_close(parse_spec(GEMM), built(inputs), inputs)
    path = str(built.launch_info["path"])
    linecache.checkcache()
    assert linecache.getline(path, 1) == built.source.splitlines(keepends=True)[0]


def test_a_full_disk_leaves_no_half_of_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full(source: str, target: str | Path) -> None:
        if Path(target).is_relative_to(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setenv("HEADRACE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "replace", full)
    inputs = make(parse_spec(GEMM), (3,))
    assert_close(parse_spec(GEMM), instantiate(GEMM, "gemv", (3,))(inputs), inputs)
    assert list((tmp_path / "kernels").iterdir()) == []


@pytest.mark.parametrize(("text", "flow", "sizes"), CASES)
def test_library_agrees(text: str, flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text)
    inputs = make(spec, sizes)
    built = kernel.instantiate(spec, LIBRARY, CPU)
    for _ in range(2):
        assert_close(spec, built(inputs), inputs)
    assert built.source == ""


SOFTMAX = (
    "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}"
)


@pytest.mark.parametrize(("text", "sizes"), [(GEMM, (3,)), (ATTENTION, (2, 5, 30)), (SOFTMAX, (4, 20))])
def test_the_library_computes_float64_in_float64(text: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text.replace("f32", "f64"))
    inputs = make(spec, sizes)
    assert_close(spec, kernel.instantiate(spec, LIBRARY, CPU)(inputs), inputs)


@pytest.mark.parametrize("bias", ["f32", "bf16", "f64"])
@pytest.mark.parametrize("queries", [1, 5])
def test_the_library_adds_a_bias_that_the_queries_type_cannot_hold(bias: str, queries: int) -> None:
    spec = parse_spec(
        ATTENTION.replace("=f32", "=f16")
        .replace("bias:f32", f"bias:{bias}")
        .replace("safe=false", "safe=true")
    )
    inputs = make(spec, (2, queries, 30))
    inputs[3] = 1e5 + 8 * inputs[3]  # float16 ends at 65504
    assert_close(spec, kernel.instantiate(spec, LIBRARY, CPU)(inputs), inputs)


def test_an_illegal_schedule_is_refused_with_its_reason() -> None:
    spec = parse_spec(GEMM)
    with pytest.raises(ScheduleError, match="block_n=3 is none of"):
        kernel.instantiate(spec, Schedule.of("gemv", block_m=1, block_n=3, block_k=32, reduce="row"), CPU)
    with pytest.raises(ScheduleError, match="computes Rows, not Gemm"):
        kernel.instantiate(spec, Schedule.of("row", block_r=1), CPU)
    with pytest.raises(ScheduleError, match="no dataflow 'magic'"):
        kernel.instantiate(spec, Schedule.of("magic"), CPU)
