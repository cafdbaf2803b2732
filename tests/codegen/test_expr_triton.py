# ruff: noqa: E501  (the text of a Spec is one line)
"""Expressions as Triton: every function against torch, kinds and literals, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from codegen_cases import CPU, assert_close, instantiate
from hypothesis import given
from hypothesis import strategies as st

from headrace.codegen import kernel
from headrace.codegen.expr_triton import Code, Kind, Value, literal, name, render
from headrace.errors import RenderError
from headrace.ir.expr import FUNCTIONS, parse
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

LOGIC = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"}
ONE = sorted(fn for fn, arity in FUNCTIONS.items() if arity == 1 and fn not in LOGIC)
TWO = sorted(fn for fn, arity in FUNCTIONS.items() if arity == 2 and fn not in LOGIC)
ENV = {
    "x": name("x", Kind.FLOAT),
    "i": name("i", Kind.INT, natural=True),
    "k": name("k", Kind.INT),
    "c": name("c", Kind.BOOL),
}


def text(source: str) -> str:
    return render(parse(source), ENV).code


def pointwise(expressions: list[str], dtype: str = "f32", inputs: str = "x:f32[rn], y:f32[rn]") -> str:
    outputs = ", ".join(f"{dtype} = {e}" for e in expressions)
    return f"Rows{{inputs=[{inputs}]; reductions=[]; outputs=[{outputs}]; reduced=[]}}"


def compare(spec_text: str, operands: list[torch.Tensor]) -> None:
    spec = parse_spec(spec_text)
    built = kernel.instantiate(spec, Schedule.of("row", block_r=1), CPU)
    assert_close(spec, built(operands), operands)


def test_functions_of_one_argument() -> None:
    x = torch.cat([torch.linspace(0.01, 4, 301), torch.tensor([1.0, 0.5, 1e-3, 1e-6])]).view(1, -1)
    for fn in ONE:
        compare(pointwise([f"{fn}(x)"], inputs="x:f32[rn]"), [x])


def test_functions_defined_below_zero() -> None:
    x = torch.cat([torch.linspace(-8, 8, 301), torch.tensor([-1e-3, 1e-4, -0.0, -30.0, 30.0])]).view(1, -1)
    for fn in ("neg", "abs", "exp", "expm1", "tanh", "erf", "sigmoid", "relu", "floor", "ceil", "sin", "cos"):
        compare(pointwise([f"{fn}(x)"], inputs="x:f32[rn]"), [x])


@pytest.mark.parametrize("fn", ["tanh", "expm1", "log1p"])
def test_small_arguments_keep_their_relative_precision(fn: str) -> None:
    x = torch.logspace(-6, -1, 64).view(1, -1)
    out = instantiate(pointwise([f"{fn}(x)"], inputs="x:f32[rn]"), "row", (1, 64))([x])
    exact = getattr(torch, fn)(x.double())
    assert ((out.double() - exact) / exact).abs().max() < 1e-6


def test_functions_of_two_arguments() -> None:
    x = torch.linspace(-6, 6, 120).view(1, -1)
    y = torch.linspace(0.3, 3, 120).flip(0).view(1, -1)
    compare(pointwise([f"{fn}(x, y)" for fn in TWO if fn != "pow"]), [x, y])
    compare(
        pointwise(
            ["pow(y, x)", "pow(y, 3)", "pow(x, 2)", "pow(x, -2)", "pow(y, 0.5)", "pow(y, -0.5)", "pow(x, 7)"]
        ),
        [x, y],
    )


def test_special_values_match_eager() -> None:
    x = torch.tensor([[math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0, 2.0]])
    y = torch.tensor([[1.0, math.nan, 2.0, -3.0, math.inf, -math.inf, 0.0]])
    compare(
        pointwise(
            [
                "maximum(x, y)",
                "minimum(x, y)",
                "relu(x)",
                "tanh(x)",
                "exp(x)",
                "add(x, y)",
                "where(lt(x, y), x, y)",
            ]
        ),
        [x, y],
    )


def test_powers_and_remainders_of_special_values_match_eager() -> None:
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, -3.0, -1e-7, 1e10, -1e10, math.inf, -math.inf, math.nan]
    x, y = (each.reshape(1, -1).contiguous() for each in torch.cartesian_prod(*[torch.tensor(special)] * 2).T)
    spec = parse_spec(pointwise(["pow(x, y)", "mod(x, y)", "div(1.0, pow(x, y))"]))
    power, rest, inverse = kernel.instantiate(spec, Schedule.of("row", block_r=1), CPU)([x, y])
    torch.testing.assert_close(power, x**y, rtol=1e-5, atol=0.0, equal_nan=True)
    # Scalars, which are exact: eager's vectors give NaN where a quotient overflows.
    wanted = torch.stack([torch.remainder(a, b) for a, b in zip(x.view(-1), y.view(-1), strict=True)])
    torch.testing.assert_close(rest.view(-1), wanted, rtol=0.0, atol=0.0, equal_nan=True)
    torch.testing.assert_close(inverse, 1.0 / x**y, rtol=1e-5, atol=1e-37, equal_nan=True)


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_what_is_compared_is_rounded_where_eager_rounds_it(kind: str, dtype: torch.dtype) -> None:
    """A step too small for the type leaves a number what it was."""
    x = torch.tensor([[1.0, 0.0, -3.0, 1e-4, 100.0]], dtype=dtype)
    spec = parse_spec(
        pointwise([f"where(eq(cast:{kind}(add(x, 0.0001)), x), 1.0, x)"], kind, f"x:{kind}[rn]")
    )
    got = kernel.instantiate(spec, Schedule.of("row", block_r=1), CPU)([x])
    assert torch.equal(got, torch.where(x + 0.0001 == x, 1.0, x))


def test_the_truth_of_a_product_that_vanishes_in_its_type() -> None:
    x = torch.tensor([[1e-4, 0.0, -2.0, 1e-3]], dtype=torch.float16)
    spec = parse_spec(pointwise(["where(cast:b8(cast:f16(mul(x, x))), 1.0, 0.0)"], "f16", "x:f16[rn]"))
    got = kernel.instantiate(spec, Schedule.of("row", block_r=1), CPU)([x])
    assert torch.equal(got, (x * x).bool().half())


def test_a_sum_of_booleans_is_no_number() -> None:
    x, y = torch.linspace(-2, 2, 40).view(1, -1), torch.linspace(-3, 1, 40).flip(0).view(1, -1)
    both = "gt(x, 0.5), lt(y, 0.0)"
    spec = parse_spec(pointwise([f"cast:f32({fn}({both}))" for fn in ("add", "mul", "maximum", "minimum")]))
    got = kernel.instantiate(spec, Schedule.of("row", block_r=1), CPU)([x, y])
    one, other = x > 0.5, y < 0.0
    for out, wanted in zip(got, (one + other, one * other, one | other, one & other), strict=True):
        assert torch.equal(out, wanted.float())


def test_integers_floor_and_mix_with_floats() -> None:
    a = torch.arange(-20, 20, dtype=torch.int32).view(1, -1)
    b = torch.tensor([3, -4, 5, -7], dtype=torch.int32).repeat(10).view(1, -1)
    x = torch.linspace(-2, 2, 40).view(1, -1)
    spec = pointwise(
        ["floordiv(a, b)", "mod(a, b)", "div(a, b)", "add(x, a)", "mul(cast:i32(x), 2)", "where(gt(a, 0), x, b)",
         "cast:f32(and(gt(a, b), not(eq(b, 5))))", "pow(a, 2)", "neg(a)", "abs(a)", "maximum(a, b)", "cast:bf16(x)"],
        inputs="x:f32[rn], a:i32[rn], b:i32[rn]",
    )  # fmt: skip
    compare(spec, [x, a, b])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("mul(x, 0.125)", "x * 0.125"),
        ("add(x, i)", "x + i.to(tl.float32)"),
        ("mul(x, 2)", "x * 2.0"),
        ("cast:bf16(mul(x, x))", "x * x"),
        ("gt(cast:bf16(add(x, x)), x)", "(x + x).to(tl.bfloat16).to(tl.float32) > x"),
        ("gt(cast:bf16(x), 0)", "x > 0.0"),
        ("gt(cast:f16(x), 0)", "x.to(tl.float16).to(tl.float32) > 0.0"),
        ("floor(abs(cast:bf16(add(x, x))))", "tl.floor(tl.abs((x + x).to(tl.bfloat16).to(tl.float32)))"),
        (
            "cast:i32(cast:bf16(cast:f16(x)))",
            "x.to(tl.float16).to(tl.float32).to(tl.bfloat16).to(tl.float32).to(tl.int32)",
        ),
        (
            "floor(where(c, cast:bf16(x), 0.5))",
            "tl.floor(tl.where(c, x.to(tl.bfloat16).to(tl.float32), 0.5))",
        ),
        (
            "where(gt(cast:bf16(x), 1.0), mul(cast:bf16(x), x), cast:bf16(neg(x)))",
            "tl.where(x.to(tl.bfloat16).to(tl.float32) > 1.0, x.to(tl.bfloat16).to(tl.float32) * x, -x)",
        ),
        ("floor(div(x, 3.0))", "tl.floor(tl.div_rn(x, 3.0))"),
        ("floor(reciprocal(sqrt(x)))", "tl.floor(tl.div_rn(1.0, tl.sqrt_rn(x)))"),
        ("gt(sub(mul(x, x), x), 0.5)", "(tl.fma(x, x, 0.0) - x) > 0.5"),
        ("sub(mul(x, x), x)", "(x * x) - x"),
        ("sub(x, round:bf16(x))", "x - x.to(tl.bfloat16).to(tl.float32)"),
        ("floordiv(i, 4)", "i // 4"),
        ("floordiv(k, 4)", "hr.floor_divide_int(k, 4)"),
        ("le(i, add(k, 1))", "i <= (k + 1)"),
        ("and(true, c)", "c"),
        ("or(c, true)", "True"),
        ("where(true, x, 0.0)", "x"),
        ("maximum(i, 3)", "tl.maximum(i, 3)"),
        ("maximum(x, 0.0)", "tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)"),
        ("sigmoid(x)", "tl.sigmoid(x)"),
        ("sub(x, -inf)", 'x - float("-inf")'),
        ("neg(sub(x, 1.0))", "-(x - 1.0)"),
        ("cast:i64(x)", "x.to(tl.int64)"),
        ("le(k, 2147483647)", "k <= 2147483647"),
        ("le(k, 2147483648)", "k.to(tl.int64) <= 2147483648"),
        ("maximum(k, -2147483649)", "tl.maximum(k.to(tl.int64), (-2147483649))"),
        ("sub(k, sub(3, 5))", "k - (-2)"),
        ("add(9223372036854775807, 1)", "-9223372036854775808"),
    ],
)
def test_text(source: str, expected: str) -> None:
    assert text(source) == expected


def test_a_name_that_the_template_lacks_is_refused() -> None:
    with pytest.raises(RenderError, match="reads 'z'; a template here offers c, i, k, x"):
        text("add(x, z)")


def test_a_variable_is_an_identifier() -> None:
    for bad in ("x; import os", "x.y", "", "x[0]", "x\n"):
        with pytest.raises(RenderError):
            name(bad, Kind.FLOAT)


def test_literals_beyond_float32_become_infinite_and_below_zero() -> None:
    assert literal(1e300).text == 'float("inf")'
    assert literal(-1e300).text == 'float("-inf")'
    assert literal(1e-300).text == "0.0"
    with pytest.raises(RenderError, match="64 bits"):
        literal(1 << 64)


@given(st.floats(allow_nan=False, width=32))
def test_a_literal_reads_back_as_itself(value: float) -> None:
    found = eval(literal(value).text, {"float": float})
    assert found == value or abs(value) < 2.0**-126


def test_text_is_marked_as_code() -> None:
    assert isinstance(Value("(x + y)", Kind.FLOAT).code, Code)
    assert Value("(x + y) * (z)", Kind.FLOAT).code == "(x + y) * (z)"
