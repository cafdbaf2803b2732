# ruff: noqa: E501  (the text of a Spec is one line)
"""row and row_loop against the float64 oracle: dtypes, row lengths, several steps, extras, special values."""

from __future__ import annotations

import pytest
import torch
from codegen_cases import assert_close, instantiate, make, run

from headrace.codegen.rows.plans import steps
from headrace.ir.spec import parse_spec

NORM = (
    "Rows{{inputs=[x:{0}[rn], w:{0}[n]]; reductions=[s = sum(mul(x, x))]; "
    "outputs=[{0} = mul(cast:{0}(mul(x, rsqrt(add(div(s, count), 1e-05)))), w)]; reduced=[]}}"
)
SOFTMAX = (
    "Rows{{inputs=[x:{0}[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[{0} = div(exp(sub(x, m)), s), f32 = add(m, log(s))]; reduced=[1]}}"
)
FLOWS = ["row", "row_loop"]


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("spec", [NORM, SOFTMAX])
def test_norm_and_softmax(spec: str, flow: str, dtype: str) -> None:
    run(spec.format(dtype), flow, (5, 77))


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (3, 2), (7, 16), (2, 129), (1, 1000)])
@pytest.mark.parametrize("block_r", [1, 4])
@pytest.mark.parametrize("flow", FLOWS)
def test_row_lengths_and_rows_per_program(flow: str, block_r: int, rows: int, length: int) -> None:
    exact = {"stabilizer": "three_pass"} if flow == "row_loop" else {}
    run(SOFTMAX.format("f32"), flow, (rows, length), block_r=block_r, **exact)


@pytest.mark.parametrize("block_r", [1, 2])
@pytest.mark.parametrize("flow", FLOWS)
def test_inputs_of_every_dimension(flow: str, block_r: int) -> None:
    run(
        "Rows{inputs=[x:f32[rn], w:f16[n], scale:f32[r], e:f32[], k:i32[rn], keep:b8[rn]]; "
        "reductions=[a = sum(where(keep, x, 0.0)), z = prod(add(1.0, mul(0.01, x))), low = min(mul(x, k)), top = max(sub(x, a)), c = sum(scale)]; "
        "outputs=[f32 = add(mul(mul(x, w), scale), mul(e, low)), f32 = add(mul(z, scale), add(c, top)), f16 = a, b8 = gt(x, low)]; "
        "reduced=[1, 2]}",
        flow, (5, 70), block_r=block_r,
    )  # fmt: skip


@pytest.mark.parametrize("flow", FLOWS)
def test_a_changing_row_length_compiles_at_most_twice_per_power_of_two(flow: str) -> None:
    spec = parse_spec(SOFTMAX.format("f32"))
    built = instantiate(str(spec), flow, (2, 40))
    for length in (40, 41, 63, 64, 40, 50):
        inputs = make(spec, (2, length))
        assert_close(spec, built(inputs), inputs)
    assert built.launch_info["variants"] <= 2


@pytest.mark.parametrize("flow", FLOWS)
def test_nan_and_infinities(flow: str) -> None:
    spec = parse_spec(SOFTMAX.format("f32"))
    inputs = make(spec, (6, 50))
    inputs[0][0, 3] = torch.nan
    inputs[0][1, 4] = torch.inf
    inputs[0][2, 4] = -torch.inf
    inputs[0][3, :] = -torch.inf
    assert_close(spec, instantiate(str(spec), flow, (6, 50))(inputs), inputs)


@pytest.mark.parametrize("flow", FLOWS)
def test_maximum_and_minimum_propagate_nan(flow: str) -> None:
    text = "Rows{inputs=[x:f32[rn]]; reductions=[a = max(x), b = min(x)]; outputs=[f32 = a, f32 = b]; reduced=[0, 1]}"
    spec = parse_spec(text)
    inputs = make(spec, (3, 50))
    inputs[0][1, 17] = torch.nan
    assert_close(spec, instantiate(text, flow, (3, 50))(inputs), inputs)


@pytest.mark.parametrize("flow", FLOWS)
def test_any_number_of_leading_dimensions(flow: str) -> None:
    spec = parse_spec(NORM.format("bf16"))
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(2, 3, 4, 24, generator=generator).bfloat16(),
        torch.randn(24, generator=generator).bfloat16(),
    ]
    out = instantiate(str(spec), flow, (24, 24))(inputs)
    assert_close(spec, out, inputs)


def test_constant_output() -> None:
    run("Rows{inputs=[x:f32[rn]]; reductions=[]; outputs=[f32 = 1.5]; reduced=[]}", "row", (2, 5))


def test_steps_follow_what_reductions_read() -> None:
    spec = parse_spec(
        "Rows{inputs=[x:f32[rn]]; reductions=[a = sum(x), b = max(x), c = sum(sub(x, a)), d = sum(sub(c, b))]; "
        "outputs=[f32 = d]; reduced=[0]}"
    )
    assert [[r.name for r in step] for step in steps(spec)] == [["a", "b"], ["c"], ["d"]]
