"""The expression language: text, folding, evaluation, types."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import ExprSyntaxError
from headrace.ir.dtype import DType
from headrace.ir.expr import FUNCTIONS, Call, Const, Expr, Ref, call, evaluate, fold, parse, refs, substitute
from headrace.ir.infer import expr_dtype, promote

LEAVES = st.one_of(
    st.sampled_from(["x0", "x1", "acc_w0", "d0", "i", "count"]).map(Ref),
    st.integers(-(2**40), 2**40).map(Const),
    st.floats().map(Const),
    st.booleans().map(Const),
)
CASTS = [f"cast:{dtype.value}" for dtype in DType]
ANY = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        *(
            st.tuples(*[inner] * arity).map(lambda args, fn=fn: Call(fn, args))
            for fn, arity in FUNCTIONS.items()
        ),
        st.tuples(st.sampled_from(CASTS), inner).map(lambda pair: Call(pair[0], (pair[1],))),
    ),
    max_leaves=12,
)
ARITHMETIC = st.recursive(
    st.one_of(st.sampled_from(["x0", "x1"]).map(Ref), st.sampled_from([0, 1, 0.0, 1.0, 2.5, -1]).map(Const)),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["add", "sub", "mul", "div"]), inner, inner).map(
            lambda t: Call(t[0], t[1:])
        ),
        st.tuples(st.sampled_from(["neg", "sqrt"]), inner).map(lambda t: Call(t[0], t[1:])),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(ANY)
def test_text_is_read_back(expr: Expr) -> None:
    assert parse(str(expr)) == expr


@settings(max_examples=300, deadline=None)
@given(ARITHMETIC)
def test_folding_keeps_the_value(expr: Expr) -> None:
    env = {"x0": torch.tensor([-2.0, 0.5, 3.0]).double(), "x1": torch.tensor([7.0, -0.25, 1.0]).double()}
    before, after = (evaluate(e, env).double().broadcast_to(3) for e in (expr, fold(expr)))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("add(x0, 0)", "x0"),
        ("mul(1, x0)", "x0"),
        ("neg(neg(x0))", "x0"),
        ("div(mul(x0, 1.0), 1)", "x0"),
        ("sqrt(4)", "2.0"),
        ("and(true, lt(i, j))", "lt(i, j)"),
        ("sub(0, x0)", "sub(0, x0)"),
        ("cast:bf16(add(x0, 0))", "cast:bf16(x0)"),
    ],
)
def test_folding(before: str, after: str) -> None:
    assert str(fold(parse(before))) == after


@pytest.mark.parametrize(
    "text",
    [
        "",
        "add(x0",
        "add(x0, )",
        "add(x0)",
        "frob(x0)",
        "x0 x1",
        "add(x0, x1))",
        "X",
        "cast:f33(x0)",
        "1.2.3",
        "(x0)",
    ],
)
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ExprSyntaxError):
        parse(text)


def test_literals_differ_by_type_and_nan_equals_itself() -> None:
    assert Const(1) != Const(1.0)
    assert Const(1) != Const(True)
    assert Const(math.nan) == Const(math.nan)
    assert len({Const(1), Const(1.0), Const(True), Const(math.nan), Const(math.nan)}) == 4


def test_references_and_substitution() -> None:
    expr = parse("add(mul(x0, x1), x0)")
    assert refs(expr) == {"x0", "x1"}
    assert str(substitute(expr, {"x0": parse("neg(y)")})) == "add(mul(neg(y), x1), neg(y))"


@pytest.mark.parametrize("fn", sorted(FUNCTIONS))
def test_every_function_evaluates(fn: str) -> None:
    """On float64 tensors, in the domain where Python's math agrees on the value."""
    names = [Ref(f"x{at}") for at in range(FUNCTIONS[fn])]
    boolean = fn in ("and", "or", "not")
    env = {
        "x0": torch.tensor([0.75, 2.0]).double(),
        "x1": torch.tensor([1.5, 0.5]).double(),
        "x2": torch.zeros(2).double(),
    }
    if boolean:
        env = {name: value > 1 for name, value in env.items()}
    if fn == "where":
        env["x0"] = env["x0"] > 1
    reference = {
        "add": [2.25, 2.5], "sub": [-0.75, 1.5], "mul": [1.125, 1.0], "div": [0.5, 4.0], "floordiv": [0, 4],
        "mod": [0.75, 0.0], "pow": [0.75**1.5, 2**0.5], "maximum": [1.5, 2.0], "minimum": [0.75, 0.5],
        "neg": [-0.75, -2.0], "abs": [0.75, 2.0], "exp2": [2**0.75, 4.0], "rsqrt": [0.75**-0.5, 2**-0.5],
        "reciprocal": [1 / 0.75, 0.5], "sigmoid": [1 / (1 + math.exp(-0.75)), 1 / (1 + math.exp(-2.0))],
        "relu": [0.75, 2.0], "lt": [1, 0], "le": [1, 0], "gt": [0, 1], "ge": [0, 1],
        "eq": [0, 0], "ne": [1, 1],
        "and": [0, 0], "or": [1, 1], "not": [1, 0], "where": [0.0, 0.5],
    }  # fmt: skip
    wanted = reference.get(fn) or [getattr(math, fn)(0.75), getattr(math, fn)(2.0)]
    found = evaluate(call(fn, *names), env)
    assert found.double().tolist() == pytest.approx([float(value) for value in wanted])


def test_exact_skips_rounding_and_inexact_rounds_once() -> None:
    x = torch.tensor([1.0 + 2.0**-9], dtype=torch.float64)
    expr = parse("mul(cast:bf16(x0), 3.0)")
    assert evaluate(expr, {"x0": x}).item() == 3 * (1 + 2.0**-9)
    rounded = evaluate(expr, {"x0": x.float()}, exact=False)
    assert rounded.item() == 3.0
    assert rounded.dtype == torch.float32


def test_sixteen_bit_arithmetic_is_not_rounded_without_a_cast() -> None:
    x = torch.tensor([1.0], dtype=torch.bfloat16)
    assert evaluate(parse("add(x0, 0.001)"), {"x0": x}, exact=False).item() == pytest.approx(1.001, rel=1e-6)
    assert evaluate(parse("cast:bf16(add(x0, 0.001))"), {"x0": x}, exact=False).item() == 1.0


def test_exact_division_of_integers_is_double() -> None:
    value = evaluate(parse("div(x0, 3)"), {"x0": torch.tensor([1])})
    assert value.dtype == torch.float64
    assert value.item() == 1 / 3


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("x", "bf16"),
        ("add(x, 1)", "f32"),
        ("neg(maximum(x, 0.0))", "bf16"),
        ("where(b, x, -inf)", "bf16"),
        ("cast:bf16(add(x, y))", "bf16"),
        ("mul(z, 2.5)", "f64"),
        ("add(n, 1)", "i64"),
        ("add(n, 1.0)", "f32"),
        ("div(n, 2)", "f32"),
        ("add(m, n)", "i64"),
        ("lt(x, n)", "b8"),
        ("and(b, eq(d0, 3))", "b8"),
        ("d1", "i64"),
        ("0.5", "f32"),
        ("add(b, 1)", "i64"),
        ("add(x, n)", "f32"),
    ],
)
def test_types_of_expressions(text: str, dtype: str) -> None:
    env = {"x": DType.BF16, "y": DType.F32, "z": DType.F64, "n": DType.I64, "m": DType.I32, "b": DType.BOOL}
    assert expr_dtype(parse(text), env).value == dtype


@pytest.mark.parametrize("a", DType)
@pytest.mark.parametrize("b", DType)
def test_promotion_is_torchs(a: DType, b: DType) -> None:
    assert promote(a, b).to_torch() == torch.promote_types(a.to_torch(), b.to_torch())
