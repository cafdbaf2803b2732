"""Which roundings decide, and what is left of an expression without the others."""

from __future__ import annotations

import pytest
import torch

from headrace.errors import ExprSyntaxError
from headrace.ir.dtype import DType
from headrace.ir.expr import FUNCTIONS, PREDICATES, Call, Ref, call, evaluate, parse
from headrace.ir.infer import expr_dtype
from headrace.ir.rounding import decided, deciding, jumps, without
from headrace.passes.algebra import bare, strip, tidy

BF16 = {"x": DType.BF16, "y": DType.BF16}


def everywhere(text: str) -> str:
    return str(without(parse(text), lambda each: True))


@pytest.mark.parametrize("fn", sorted(fn for fn, arity in FUNCTIONS.items() if arity < 3))
def test_the_table_knows_every_function_with_a_jump(fn: str) -> None:
    """Found by looking: a function jumps where neighbouring arguments give values far apart."""
    if fn in PREDICATES:
        assert all(jumps(call(fn, *[Ref("x")] * FUNCTIONS[fn]), at) for at in range(FUNCTIONS[fn]))
        return
    x = torch.linspace(0.25, 3.75, 1 << 12, dtype=torch.float64)
    names = ["x", "y"][: FUNCTIONS[fn]]
    for at, name in enumerate(names):
        env = {other: torch.full_like(x, 1.5) for other in names} | {name: x}
        expr = call(fn, *map(Ref, names))
        y = evaluate(expr, env).double()
        # Of positive numbers, as here, powers are continuous.
        assert ((y[1:] - y[:-1]).abs().max() > 0.3) == (jumps(expr, at) and fn != "pow")


def test_casts_jump_unless_they_round() -> None:
    found = {fn: jumps(call(fn, Ref("x")), 0) for fn in ("cast:i8", "cast:b8", "cast:bf16", "round:bf16")}
    assert found == {"cast:i8": True, "cast:b8": True, "cast:bf16": False, "round:bf16": False}


def test_only_the_condition_of_a_choice_jumps_and_no_power_of_a_positive_number() -> None:
    choice = parse("where(x, y, z)")
    assert isinstance(choice, Call)
    assert [jumps(choice, at) for at in range(3)] == [True, False, False]
    assert deciding(parse("pow(2.0, x)")) == frozenset()
    assert deciding(parse("pow(y, x)")) == {"x"}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("mul(cast:bf16(add(x, y)), x)", "mul(add(x, y), x)"),
        ("floor(cast:bf16(add(cast:bf16(mul(x, y)), x)))",) * 2,
        ("floor(where(gt(x, y), cast:bf16(mul(x, y)), neg(cast:f16(x))))",) * 2,
        ("where(gt(cast:bf16(mul(x, y)), x), cast:bf16(add(x, y)), y)",
         "where(gt(cast:bf16(mul(x, y)), x), add(x, y), y)"),
        ("cast:f32(cast:i8(cast:bf16(mul(x, y))))", "cast:i8(cast:bf16(mul(x, y)))"),
        ("sub(x, round:bf16(cast:bf16(x)))", "sub(x, round:bf16(x))"),
    ],
)  # fmt: skip
def test_casts_go_where_nothing_jumps_behind_them(text: str, left: str) -> None:
    assert everywhere(text) == left


def test_a_value_is_the_same_to_all_that_read_it() -> None:
    """x - floor(x) of two different x could be negative."""
    same = "sub(cast:bf16(mul(x, y)), floor(cast:bf16(mul(x, y))))"
    assert everywhere(same) == same


def test_names_are_followed_through_the_steps_that_read_them() -> None:
    steps = [("r0", parse("x")), ("r1", parse("mul(y, r0)")), ("r2", parse("z"))]
    assert deciding(parse("add(floor(r1), r2)")) == {"r1"}
    assert decided([parse("add(floor(r1), r2)")], steps) == {"r1", "r0", "x", "y"}


def test_strip_keeps_what_decides_and_bare_nothing() -> None:
    expr = parse("add(cast:f32(x), where(gt(cast:bf16(mul(x, y)), 1.0), round:bf16(cast:f32(x)), x))")
    assert str(strip(expr, BF16)) == "add(x, where(gt(cast:bf16(mul(x, y)), 1.0), round:bf16(x), x))"
    assert str(bare(expr, BF16)) == "add(x, where(gt(mul(x, y), 1.0), x, x))"


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("div(x, sqrt(y))", "mul(x, rsqrt(y))"),
        ("floor(div(x, sqrt(y)))", "floor(div(x, sqrt(y)))"),
        ("lt(mul(mul(x, 0.5), 0.3), y)", "lt(mul(mul(x, 0.5), 0.3), y)"),
        ("le(mul(mul(i, 2), 3), j)", "le(mul(i, 6), j)"),
    ],
)
def test_what_a_jump_reads_is_tidied_to_the_last_bit(text: str, tidied: str) -> None:
    assert str(tidy(parse(text), {"x": DType.F32, "y": DType.F32})) == tidied


def test_a_rounding_that_is_asked_for_is_part_of_the_exact_value() -> None:
    x = torch.tensor([1.0, 1.001, 3.14159], dtype=torch.float64)
    env = {"x": x}
    assert torch.equal(evaluate(parse("cast:bf16(x)"), env), x)
    assert torch.equal(evaluate(parse("round:bf16(x)"), env), x.bfloat16().double())
    assert evaluate(parse("round:f16(x)"), {"x": x.float()}, exact=False).dtype is torch.float16
    assert expr_dtype(parse("round:f16(x)"), {"x": DType.F32}) is DType.F16
    with pytest.raises(ExprSyntaxError, match="names no element type"):
        parse("round:f32(x)")
