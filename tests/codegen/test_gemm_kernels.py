# ruff: noqa: E501  (the text of a Spec is one line)
"""gemv, flat and tiled against the float64 oracle: dtypes, layouts, odd sizes, several weights, extras, splits."""

from __future__ import annotations

import re

import pytest
import torch
from codegen_cases import CPU, instantiate, make, run

from headrace.codegen import dataflows
from headrace.errors import ScheduleError
from headrace.ir.spec import parse_spec

FLOWS = [("gemv", 3), ("flat", 5), ("tiled", 33)]


def product(dtype: str, n: int, k: int, layout: str = "nk") -> str:
    return f"Gemm{{x={dtype}; weights=[w0:{dtype}[{n},{k}]{layout}]; extras=[]; outputs=[{dtype} = acc_w0]; batched=false}}"


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_product_of_odd_sizes(dtype: str, flow: str, m: int) -> None:
    run(product(dtype, 37, 51), flow, (m,))


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_weight_stored_kn(flow: str, m: int) -> None:
    run(product("bf16", 45, 64, "kn"), flow, (m,))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
def test_gemv_takes_any_number_of_rows(m: int) -> None:
    run(product("bf16", 32, 64), "gemv", (m,), block_m=2)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 40), (17, 1), (64, 64)])
def test_gemv_of_extreme_sizes(n: int, k: int) -> None:
    run(product("f32", n, k), "gemv", (1,))


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_three_outputs_of_unequal_n_with_bias_and_residual(flow: str, m: int) -> None:
    run(
        "Gemm{x=bf16; weights=[w0:bf16[80,64]nk, w1:bf16[33,64]nk, w2:bf16[16,64]nk]; "
        "extras=[bias:bf16[n], res:f32[mn]]; outputs=[bf16 = acc_w0, f32 = add(acc_w1, res), bf16 = add(acc_w2, bias)]; "
        "batched=false}",
        flow,
        (m,),
    )


@pytest.mark.parametrize(("flow", "m"), FLOWS)
@pytest.mark.parametrize(
    ("x", "one", "other"), [("bf16", "bf16", "f32"), ("f16", "bf16", "f16"), ("f32", "f16", "f32")]
)
def test_weights_of_unlike_types_beside_each_other(flow: str, m: int, x: str, one: str, other: str) -> None:
    run(
        f"Gemm{{x={x}; weights=[w0:{one}[40,32]nk, w1:{other}[24,32]nk]; extras=[]; "
        f"outputs=[{x} = acc_w0, f32 = acc_w1]; batched=false}}",
        flow,
        (m,),
    )


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_weights_of_unlike_layout_get_loops_of_their_own(flow: str, m: int) -> None:
    run(
        "Gemm{x=f16; weights=[w0:f16[40,32]nk, w1:f16[24,32]kn]; extras=[]; outputs=[f16 = acc_w0, f16 = acc_w1]; batched=false}",
        flow,
        (m,),
    )


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_swiglu_of_two_weights(flow: str, m: int) -> None:
    run(
        "Gemm{x=bf16; weights=[w0:bf16[48,64]nk, w1:bf16[48,64]nk]; extras=[]; outputs=[bf16 = "
        "mul(cast:bf16(mul(cast:f32(cast:bf16(acc_w0)), sigmoid(cast:bf16(acc_w0)))), cast:bf16(acc_w1))]; batched=false}",
        flow,
        (m,),
    )


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_two_outputs_of_one_weight_share_its_read(flow: str, m: int) -> None:
    built, _ = run(
        "Gemm{x=f32; weights=[w0:f32[24,32]nk]; extras=[]; outputs=[f32 = relu(acc_w0), f32 = neg(acc_w0)]; batched=false}",
        flow,
        (m,),
    )
    assert built.source.count("tl.load(w0") == 1


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_batched_with_extras_of_every_dimension(flow: str, m: int) -> None:
    run(
        "Gemm{x=f32; weights=[w0:f32[20,24]nk]; extras=[a:f32[bmn], c:f32[m], d:f32[b], e:f32[], f:i32[n], g:b8[mn]]; "
        "outputs=[f32 = where(g, add(mul(acc_w0, c), add(a, d)), mul(e, f))]; batched=true}",
        flow,
        (3, m),
    )


TURNED = "Gemm{{x=f32; weights=[w0:f32[20,24]nk]; extras=[a:f32[{}]]; outputs=[f32 = add(acc_w0, a)]; batched=true}}"


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_an_extra_with_columns_before_rows_is_addressed_beyond_int32(flow: str, m: int) -> None:
    built, _ = run(TURNED.format("bnm"), flow, (2, m))
    assert "n.to(tl.int64)" in built.source
    assert not re.search(r"\bn(\[None, :\])? \* M", built.source)


@pytest.mark.parametrize("dims", ["mb", "nb", "mnb", "nmb"])
def test_an_extra_whose_batch_is_not_in_front_is_refused(dims: str) -> None:
    spec = parse_spec(TURNED.format(dims))
    assert dataflows.dataflows(spec, (2, 3), CPU) == (dataflows.get("library"),)
    with pytest.raises(ScheduleError, match="batch not in front"):
        instantiate(str(spec), "flat", (2, 3))


@pytest.mark.parametrize(("weight", "extra"), [("x", "e"), ("w0", "w0")])
def test_operands_of_one_name_are_refused(weight: str, extra: str) -> None:
    spec = (
        f"Gemm{{x=f32; weights=[{weight}:f32[16,16]nk]; extras=[{extra}:f32[n]]; "
        f"outputs=[f32 = add(acc_{weight}, {extra})]; batched=false}}"
    )
    with pytest.raises(ScheduleError, match="one name"):
        instantiate(spec, "flat", (16,))


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_mixed_operand_types(flow: str, m: int) -> None:
    run(
        "Gemm{x=bf16; weights=[w0:f32[24,40]nk]; extras=[]; outputs=[f32 = acc_w0]; batched=false}",
        flow,
        (m,),
    )


@pytest.mark.parametrize("split", [1, 2, 3, 4, 5, 6, 7, 8])
def test_flat_split_over_k(split: int) -> None:
    text = (
        "Gemm{x=bf16; weights=[w0:bf16[33,200]nk, w1:bf16[20,200]nk]; extras=[r:bf16[mn]]; "
        "outputs=[bf16 = add(acc_w0, r), bf16 = acc_w1]; batched=false}"
    )
    built, result = run(text, "flat", (5,), split_k=split, block_k=32)
    again = built(make(parse_spec(text), (5,)))
    assert all(torch.equal(a, b) for a, b in zip(result, again, strict=True))


def test_flat_split_and_batched() -> None:
    run(
        "Gemm{x=f32; weights=[w0:f32[20,96]nk]; extras=[]; outputs=[f32 = acc_w0]; batched=true}", "flat", (2, 3),
        split_k=2, block_k=32,
    )  # fmt: skip


@pytest.mark.parametrize(("flow", "m"), FLOWS)
def test_nan_and_infinity_reach_the_output(flow: str, m: int) -> None:
    text = product("f32", 16, 32)
    inputs = make(parse_spec(text), (m,))
    inputs[0][0, 3] = torch.nan
    inputs[1][2, 5] = torch.inf
    inputs[0][:, 5] = inputs[0][:, 5].abs() + 1
    built = instantiate(text, flow, (m,))
    out = built(inputs)
    assert out[0].isnan().all()
    assert torch.equal(out[1:].isinf(), torch.arange(16).eq(2).expand(m - 1, 16))


def test_one_kernel_serves_every_number_of_rows() -> None:
    text = product("bf16", 40, 64)
    spec = parse_spec(text)
    built = instantiate(text, "tiled", (16,))
    from codegen_cases import assert_close

    for m in (16, 1, 100, 31):
        inputs = make(spec, (m,), seed=m)
        assert_close(spec, built(inputs), inputs)
    assert built.launch_info["variants"] == 1
