"""The normal form: text before and after; expressions; predicates."""

from __future__ import annotations

import pytest

from headrace.ir.dtype import DType
from headrace.ir.expr import parse
from headrace.passes.algebra import rounded, strip, terms, tidy, total
from headrace.passes.masks import sees_first_key, split_mask
from headrace.passes.predicates import normalize
from tests.passes.harness import rewrite


def test_text_of_canonicalize() -> None:
    before = """
x: bf16[1, 8] = input()  # fx=x
w: bf16[8, 8] = input()  # fx=w
a: bf16[1, 8] = view(x) {index=[0, d1]}  # fx=a
b: bf16[8] = view(a) {index=[0, d0]}  # fx=b
c: bf16[8] = view(x) {index=[0, d0]}  # fx=c
d: bf16[1, 1, 8] = view(c) {index=[d2]}  # fx=d
y: f32[1, 1, 8] = map(d) {expr=cast:f32(x0)}  # fx=y
n: f32[1, 1, 8] = map(y) {expr=div(x0, add(exp(neg(x0)), 1))}  # fx=n
p: f32[1, 1, 8] = map(n, n) {expr=mul(x0, x1)}  # fx=p
dead: f32[1, 1, 8] = map(n) {expr=exp(x0)}  # fx=dead
return b, c, p
"""
    assert rewrite(before, "canonicalize").strip().split("\n") == [
        "x: bf16[1, 8] = input()",
        "w: bf16[8, 8] = input()",
        "b: bf16[8] = view(x) {index=[0, d0]}",
        "c: bf16[8] = view(x) {index=[0, d0]}",
        "d: bf16[1, 1, 8] = view(x) {index=[0, d2]}",
        "y: f32[1, 1, 8] = map(d) {expr=cast:f32(x0)}",
        "n: f32[1, 1, 8] = map(y) {expr=mul(x0, sigmoid(x0))}",
        "p: f32[1, 1, 8] = map(n) {expr=mul(x0, x0)}",
        "return b, c, p",
    ]


def test_equal_values_are_read_from_the_first() -> None:
    before = """
x: f32[4] = input()  # fx=x
a: f32[4] = map(x) {expr=exp(x0)}  # fx=a
b: f32[4] = map(x) {expr=exp(x0)}  # fx=b
y: f32[4] = map(a, b) {expr=add(x0, x1)}  # fx=y
return y
"""
    assert "y: f32[4] = map(a) {expr=add(x0, x0)}" in rewrite(before, "canonicalize")


DTYPES = {"x": DType.F32, "h": DType.BF16, "m": DType.BOOL, "n": DType.I64}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("div(x, add(exp(neg(x)), 1))", "mul(x, sigmoid(x))"),
        ("div(1, add(1, exp(neg(x))))", "sigmoid(x)"),
        ("reciprocal(add(exp(neg(x)), 1.0))", "sigmoid(x)"),
        ("mul(x, reciprocal(add(exp(neg(x)), 1)))", "mul(x, sigmoid(x))"),
        ("pow(x, 2)", "mul(x, x)"),
        ("pow(x, 0.5)", "sqrt(x)"),
        ("pow(x, -0.5)", "rsqrt(x)"),
        ("pow(x, 3)", "mul(mul(x, x), x)"),
        ("pow(x, 2.5)", "pow(x, 2.5)"),
        ("div(x, sqrt(x))", "mul(x, rsqrt(x))"),
        ("div(1, sqrt(x))", "rsqrt(x)"),
        ("reciprocal(sqrt(x))", "rsqrt(x)"),
        ("mul(2.0, x)", "mul(x, 2.0)"),
        ("mul(mul(x, 0.5), 0.25)", "mul(x, 0.125)"),
        ("mul(mul(x, 1e20), 1e20)", "mul(mul(x, 1e+20), 1e+20)"),
        ("mul(mul(x, 1e-30), 1e-30)", "mul(mul(x, 1e-30), 1e-30)"),
        ("mul(x, -1)", "neg(x)"),
        ("add(x, neg(h))", "sub(x, h)"),
        ("sub(x, neg(h))", "add(x, h)"),
        ("sub(x, 2.0)", "add(x, -2.0)"),
        ("sub(0, x)", "neg(x)"),
        ("add(x, 0)", "x"),
        ("maximum(x, 0)", "relu(x)"),
        ("where(not(m), x, h)", "where(m, h, x)"),
        ("where(true, x, h)", "x"),
        ("where(m, x, x)", "x"),
        ("cast:f32(h)", "h"),
        ("cast:bf16(h)", "h"),
        ("cast:bf16(cast:bf16(x))", "cast:bf16(x)"),
        ("cast:bf16(x)", "cast:bf16(x)"),
        ("cast:f32(cast:bf16(x))", "cast:bf16(x)"),
        ("cast:bf16(cast:f32(h))", "h"),
        ("cast:f32(n)", "cast:f32(n)"),
        ("cast:bf16(-inf)", "-inf"),
        ("cast:bf16(0.1)", "cast:bf16(0.1)"),
    ],
)
def test_tidy(before: str, after: str) -> None:
    done = tidy(parse(before), DTYPES)
    assert str(done) == after
    assert tidy(done, DTYPES) == done


def test_strip_drops_floating_casts_and_keeps_conversions() -> None:
    assert str(strip(parse("cast:bf16(add(cast:f32(n), cast:f32(h)))"), DTYPES)) == "add(cast:f32(n), h)"


def test_terms_of_a_sum() -> None:
    parts = terms(parse("sub(x, add(m, neg(h)))"))
    assert [(sign, str(term)) for sign, term in parts] == [(1, "x"), (-1, "m"), (1, "h")]
    assert str(total(parts)) == "add(sub(x, m), h)"
    assert str(total([])) == "0.0"


def test_factors_are_rounded_to_one_spelling() -> None:
    assert str(rounded(parse("mul(x, 0.12499999999999997)"))) == "mul(x, 0.125)"


KEYS = {"e0": DType.I64, "e1": DType.BOOL, "e2": DType.F32}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("le(j, i)", "le(j, i)"),
        ("ge(i, j)", "le(j, i)"),
        ("not(gt(j, i))", "le(j, i)"),
        ("not(ge(sub(j, i), 1))", "le(j, i)"),
        ("lt(j, add(i, 1))", "le(j, i)"),
        ("lt(j, add(i, add(e0, 1)))", "le(j, add(i, e0))"),
        ("le(sub(j, e0), i)", "le(j, add(i, e0))"),
        ("gt(j, sub(i, 256))", "ge(j, sub(i, 255))"),
        ("lt(sub(i, j), 256)", "ge(j, sub(i, 255))"),
        ("and(e1, le(j, i))", "and(le(j, i), e1)"),
        ("not(or(gt(j, i), not(e1)))", "and(le(j, i), e1)"),
        ("or(e1, le(j, i))", "or(e1, le(j, i))"),
        ("or(e1, true)", "true"),
        ("ge(j, 0)", "true"),
        ("le(0, e0)", "le(0, e0)"),
        ("and(ge(i, 0), e1)", "e1"),
        ("le(0, add(i, j))", "true"),
        ("gt(0, h)", "false"),
        ("lt(add(i, 1), 0)", "false"),
        ("le(neg(i), 0)", "true"),
        ("le(i, i)", "true"),
        ("lt(1, 0)", "false"),
        ("ne(e1, 0)", "e1"),
        ("eq(e1, false)", "not(e1)"),
        ("not(eq(e0, 0))", "ne(e0, 0)"),
        ("not(lt(e2, 0.5))", "not(lt(e2, 0.5))"),
        ("cast:b8(e0)", "ne(e0, 0)"),
        ("le(mul(j, 2), i)", "le(mul(j, 2), i)"),
        ("eq(j, i)", "eq(j, i)"),
        ("and(le(j, i), le(j, i))", "le(j, i)"),
    ],
)
def test_predicates_have_one_form(before: str, after: str) -> None:
    done = normalize(parse(before), KEYS)
    assert str(done) == after
    assert normalize(done, KEYS) == done


@pytest.mark.parametrize(
    ("scores", "finite", "score", "mask"),
    [
        ("where(m, s, -inf)", False, "s", "m"),
        ("where(m, -inf, s)", False, "s", "not(m)"),
        ("add(s, where(m, 0.0, -inf))", False, "s", "m"),
        ("add(where(m, 0.0, -inf), s)", False, "s", "m"),
        ("add(s, where(m, t, -inf))", False, "add(s, t)", "m"),
        ("mul(where(m, s, -inf), 0.5)", False, "mul(s, 0.5)", "m"),
        ("mul(where(m, s, -inf), -0.5)", False, "mul(where(m, s, -inf), -0.5)", "true"),
        ("where(m, where(n, s, -inf), -inf)", False, "s", "and(m, n)"),
        ("where(m, s, -3e+38)", False, "where(m, s, -3e+38)", "true"),
        ("where(m, s, -3e+38)", True, "s", "m"),
        ("where(m, s, -100.0)", True, "where(m, s, -100.0)", "true"),
        ("mul(where(m, s, -3e+38), 0.125)", True, "mul(s, 0.125)", "m"),
        ("mul(where(m, s, -1e9), 1e-9)", True, "mul(where(m, s, -1000000000.0), 1e-09)", "true"),
        ("div(where(m, s, -inf), 1e9)", True, "div(s, 1000000000.0)", "m"),
    ],
)
def test_scores_are_split_from_masks(scores: str, finite: bool, score: str, mask: str) -> None:
    found = split_mask(parse(scores), finite=finite)
    assert tuple(map(str, found)) == (score, mask)


@pytest.mark.parametrize(
    ("mask", "seen"),
    [
        ("true", True), ("le(j, i)", True), ("le(j, add(i, 3))", True), ("le(j, 0)", True),
        ("le(j, e0)", False),
        ("le(j, sub(i, 1))", False), ("and(le(j, i), e1)", False), ("ge(j, i)", False), ("e1", False),
    ],
)  # fmt: skip
def test_rows_that_see_key_zero_for_certain(mask: str, seen: bool) -> None:
    assert sees_first_key(parse(mask)) is seen
