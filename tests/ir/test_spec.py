"""Specs, Schedules and the small tables: text is identity, nonsense is refused."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import SpecSyntaxError
from headrace.ir.dtype import DType
from headrace.ir.evidence import bucket
from headrace.ir.expr import Const, Expr, Ref, call, parse
from headrace.ir.schedule import LIBRARY, Knob, Schedule
from headrace.ir.spec import (
    Attention,
    Denominator,
    Extra,
    Gemm,
    Normalizer,
    Output,
    Reduction,
    Rows,
    Stabilizer,
    Weight,
    Weighting,
    parse_spec,
)
from headrace.ir.tolerance import EPSILON, bound

DTYPES = st.sampled_from(DType)
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
FUNCTIONS = st.sampled_from(["add", "mul", "maximum", "sub"])


def expressions(names: list[str]) -> st.SearchStrategy[Expr]:
    leaves = st.one_of(
        st.sampled_from(names).map(Ref), st.floats().map(Const), st.integers(-99, 99).map(Const)
    )
    return st.recursive(
        leaves, lambda e: st.tuples(FUNCTIONS, e, e).map(lambda t: call(t[0], t[1], t[2])), max_leaves=5
    )


@st.composite
def gemms(draw: st.DrawFn) -> Gemm:
    n, k = draw(st.integers(0, 5000)), draw(st.integers(0, 5000))
    weights = tuple(
        Weight(f"w{at}", draw(DTYPES), n, k, draw(st.sampled_from(["nk", "kn"])))
        for at in range(draw(st.integers(1, 3)))
    )
    extras = tuple(
        Extra(f"e{at}", draw(DTYPES), draw(st.sampled_from(["", "n", "mn", "m"])))
        for at in range(draw(st.integers(0, 2)))
    )
    names = [f"acc_{weight.name}" for weight in weights] + [extra.name for extra in extras]
    outputs = tuple(
        Output(draw(DTYPES), call("add", Ref(names[0]), draw(expressions(names))))
        for _ in range(draw(st.integers(1, 2)))
    )
    return Gemm(draw(DTYPES), weights, outputs, extras, draw(st.booleans()))


@st.composite
def normalizers(draw: st.DrawFn) -> Normalizer:
    weighting, denominator = draw(st.sampled_from(Weighting)), draw(st.sampled_from(Denominator))
    if weighting is Weighting.EXP and denominator is Denominator.SUM and draw(st.booleans()):
        phi, proven = draw(st.integers(-(1 << 20), 1 << 20)), draw(st.booleans())
        return Normalizer(weighting, denominator, Stabilizer.UNIFIED, phi, proven)
    return Normalizer(weighting, denominator, draw(st.sampled_from([Stabilizer.ONLINE, Stabilizer.NONE])))


@pytest.mark.parametrize(
    "text",
    ["exp/sum/lazy", "exp/sum/pair", "exp/sum/unified", "exp/sum/unified(1e3)", "exp/sum/unified(1048577)",
     "sigmoid/none/unified(0)", "exp/none/unified(0)", "exp/none/unified(0, proven)", "exp/sum/online(3)",
     "exp/sum"],
)  # fmt: skip
def test_a_normalizer_that_no_kernel_could_obey_is_refused(text: str) -> None:
    with pytest.raises(SpecSyntaxError):
        Normalizer.parse(text)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    heads, group = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    extras = tuple(
        Extra(f"e{at}", draw(DTYPES), draw(st.sampled_from(["", "bhij", "hij"])))
        for at in range(draw(st.integers(0, 2)))
    )
    names = [*"bhij", *(extra.name for extra in extras)]
    return Attention(
        draw(DTYPES), draw(DTYPES), draw(DTYPES), draw(DTYPES), heads * group, heads, heads, 64, 32,
        draw(expressions([*names, "s"])), call("le", Ref("j"), draw(expressions(names))),
        draw(normalizers()),
        draw(st.booleans()), extras,
    )  # fmt: skip


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    inputs = (
        Extra("x", draw(DTYPES), "rn"),
        *(Extra(f"e{at}", draw(DTYPES), draw(st.sampled_from(["rn", "n", "r", ""]))) for at in range(2)),
    )
    names = [extra.name for extra in inputs] + ["count"]
    reductions = []
    for at in range(draw(st.integers(0, 2))):
        reductions.append(
            Reduction(
                f"m{at}", draw(st.sampled_from(["sum", "max", "min", "prod"])), draw(expressions(names))
            )
        )
        names.append(f"m{at}")
    outputs = (Output(draw(DTYPES), draw(expressions(names))),)
    return Rows(inputs, tuple(reductions), outputs, phi=draw(st.none() | st.integers(-(1 << 20), 1 << 20)))


@settings(max_examples=150, deadline=None)
@given(st.one_of(gemms(), attentions(), rows()))
def test_text_is_read_back_and_is_the_identity(spec: Gemm | Attention | Rows) -> None:
    assert parse_spec(str(spec)) == spec
    assert spec.digest == hashlib.sha256(str(spec).encode()).hexdigest()


PROJECTION = (
    "Gemm{x=bf16; weights=[w:bf16[6,8]nk]; extras=[b:bf16[n]]; outputs=[bf16 = add(acc_w, b)]; batched=false}"
)
SOFTMAX = "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x)]; outputs=[f32 = sub(x, m)]; reduced=[]}"
CAUSAL = (
    "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[9, 3, 3]; dims=[64, 64]; score=mul(s, 0.125); "
    "mask=le(j, i); normalizer=exp/sum/online; safe=false; extras=[]}"
)


@pytest.mark.parametrize("text", [PROJECTION, SOFTMAX, CAUSAL])
def test_the_canonical_texts_stay_as_they_are(text: str) -> None:
    """These are database keys: a change here loses every tuned result."""
    assert str(parse_spec(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "Gem{}", "Gemm{", "Gemm{x=bf16}",
        PROJECTION.replace("bf16[6,8]nk", "bf17[6,8]nk"), PROJECTION.replace("[6,8]nk", "[6,8]mn"),
        PROJECTION.replace("acc_w, b", "acc_v, b"), PROJECTION.replace("acc_w, b", "b, b"),
        PROJECTION.replace("batched=false", "batched=no"),
        PROJECTION.replace("weights=[w:bf16[6,8]nk]", "weights=[]"),
        PROJECTION.replace("[w:bf16[6,8]nk]", "[w:bf16[6,8]nk, u:bf16[6,9]nk]"),
        PROJECTION + "}",
        SOFTMAX.replace("max(x)", "median(x)"), SOFTMAX.replace("x:f32[rn]", "x:f32[n]"),
        SOFTMAX.replace("max(x)", "max(y)"),
        SOFTMAX.replace("reduced=[]", "reduced=[0]"), SOFTMAX.replace("sub(x, m)", "sub(x, q)"),
        CAUSAL.replace("[9, 3, 3]", "[9, 2, 3]"), CAUSAL.replace("exp/sum", "exp/mean"),
        CAUSAL.replace("le(j, i)", "le(j, s)"),
        CAUSAL.replace("exp/sum/online", "exp"), CAUSAL.replace("dims=[64, 64]", "dims=[64]"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(SpecSyntaxError):
        parse_spec(text)


def test_shapes_and_sizes() -> None:
    gemm, softmax, causal = map(parse_spec, (PROJECTION, SOFTMAX, CAUSAL))
    assert gemm.output_shapes([(5, 8), (6, 8), (6,)]) == ((5, 6),)
    assert gemm.sizes([(5, 8)]) == (5,)
    assert softmax.output_shapes([(2, 3, 7)]) == ((2, 3, 7),)
    assert softmax.sizes([(2, 3, 7)]) == (6, 7)
    assert causal.output_shapes([(1, 9, 4, 64), (1, 3, 12, 64), (1, 3, 12, 64)]) == ((1, 9, 4, 64),)
    assert causal.sizes([(1, 9, 4, 64), (1, 3, 12, 64)]) == (1, 4, 12)


def test_a_row_value_may_not_read_the_row() -> None:
    with pytest.raises(SpecSyntaxError, match="one value per row"):
        Rows((Extra("x", DType.F32, "rn"),), (), (Output(DType.F32, parse("x")),), reduced=(0,))


@settings(max_examples=100, deadline=None)
@given(NAMES, st.dictionaries(NAMES, st.one_of(st.integers(-(10**9), 10**9), NAMES), max_size=5))
def test_schedules_are_read_back(dataflow: str, knobs: dict[str, int | str]) -> None:
    schedule = Schedule.of(dataflow, **knobs)
    assert Schedule.parse(str(schedule)) == schedule
    assert all(schedule[name] == value for name, value in knobs.items())


def test_knobs_are_sorted_so_that_equal_schedules_are_equal() -> None:
    assert Schedule("gemv", (("b", 2), ("a", 1))) == Schedule("gemv", (("a", 1), ("b", 2)))
    assert str(LIBRARY) == "library{}"


@pytest.mark.parametrize("text", ["", "gemv", "gemv{a}", "gemv{a=1", "Gemv{}", "gemv{A=1}", "gemv{}; gemv{}"])
def test_bad_schedules_are_refused(text: str) -> None:
    with pytest.raises(SpecSyntaxError):
        Schedule.parse(text)


def test_knobs_know_their_neighbours() -> None:
    knob = Knob("block", 32, (16, 32, 64))
    assert [knob.neighbours(value) for value in knob.values] == [(32,), (16, 64), (32,)]
    with pytest.raises(SpecSyntaxError, match="default 8"):
        Knob("block", 8, (16, 32))


def test_size_buckets() -> None:
    assert bucket((1, 2, 3, 4, 5, 8, 9, 512, 513)) == (1, 2, 3, 4, 8, 8, 16, 512, 1024)


def test_tolerance_is_twice_eagers_error_plus_a_share_of_the_scale() -> None:
    assert bound(DType.BF16, 0.5, 10.0) == 1.0 + EPSILON[DType.BF16] * 10.0
    assert bound(DType.F32, 0.0, 1.0, backward=True) == 3 * EPSILON[DType.F32]


@pytest.mark.parametrize("dtype", DType)
def test_dtypes_match_torchs(dtype: DType) -> None:
    assert DType.from_torch(dtype.to_torch()) is dtype
    assert dtype.itemsize == dtype.to_torch().itemsize
    assert dtype.is_floating == dtype.to_torch().is_floating_point
