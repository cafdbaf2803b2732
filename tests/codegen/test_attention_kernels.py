# ruff: noqa: E501  (the text of a Spec is one line)
"""prefill and decode against the float64 oracle: dtypes, head maps, masks, bounds, splits, odd sizes, special values."""

from __future__ import annotations

import pytest
import torch
from codegen_cases import assert_close, instantiate, make, run

from headrace.codegen.attention.bounds import bounds
from headrace.ir.expr import parse, refs
from headrace.ir.spec import parse_spec


def text(dtype: str = "f32", heads: str = "4, 4, 4", dims: str = "16, 16", score: str = "mul(s, 0.25)", mask: str = "true",
         normalizer: str = "exp/sum/online", safe: str = "false", extras: str = "") -> str:  # fmt: skip
    return (
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; heads=[{heads}]; dims=[{dims}]; score={score}; "
        f"mask={mask}; normalizer={normalizer}; safe={safe}; extras=[{extras}]}}"
    )


FLOWS = [("prefill", (2, 37, 53)), ("decode", (2, 1, 77)), ("decode", (2, 3, 77))]
CACHE = {"mask": "le(j, add(i, p))", "extras": "p:i64[]"}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_grouped_heads(dtype: str, flow: str, sizes: tuple[int, ...]) -> None:
    run(text(dtype, "6, 2, 2"), flow, sizes)


@pytest.mark.parametrize("heads", ["4, 1, 1", "4, 2, 1", "6, 3, 2", "3, 3, 3"])
@pytest.mark.parametrize(("flow", "sizes"), FLOWS[:2])
def test_unequal_head_maps(heads: str, flow: str, sizes: tuple[int, ...]) -> None:
    run(text(heads=heads), flow, sizes)


@pytest.mark.parametrize("dims", ["24, 40", "64, 16", "8, 8"])
@pytest.mark.parametrize(("flow", "sizes"), FLOWS[:2])
def test_unequal_and_odd_head_dimensions(dims: str, flow: str, sizes: tuple[int, ...]) -> None:
    run(text(dims=dims), flow, sizes)


@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_static_cache_reads_only_its_valid_keys(flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text(heads="4, 2, 2", **CACHE))
    inputs = make(spec, sizes)
    inputs[3] = torch.tensor(20)
    built = instantiate(str(spec), flow, sizes)
    assert_close(spec, built(inputs), inputs)
    last = 20 + sizes[1]
    expected = built(inputs)
    for operand in inputs[1:3]:
        operand[:, :, last:] = torch.nan
    assert torch.equal(built(inputs), expected)


@pytest.mark.parametrize("position", [-5, -1, 0, 5, 31, 32, 33, 76, 500, 1 << 40])
def test_bounds_at_any_position(position: int) -> None:
    spec = parse_spec(text(**CACHE))
    inputs = make(spec, (1, 1, 77))
    inputs[3] = torch.tensor(position)
    assert_close(spec, instantiate(str(spec), "decode", (1, 1, 77), block_j=32)(inputs), inputs)


@pytest.mark.parametrize("dtype", ["i32", "i64"])
@pytest.mark.parametrize("mask", ["le(j, n)", "lt(j, n)", "gt(j, n)", "and(le(j, n), le(j, i))"])
@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_the_largest_integer_is_no_bound_at_all(
    flow: str, sizes: tuple[int, ...], mask: str, dtype: str
) -> None:
    """`le(j, n)` is `lt(j, add(n, 1))`, which must not wrap around."""
    spec = parse_spec(text(mask=mask, extras=f"n:{dtype}[b]", safe="true"))
    inputs = make(spec, sizes)
    limits = torch.iinfo(inputs[3].dtype)
    for value in (limits.max, limits.max - 1, limits.min):
        inputs[3].fill_(value)
        assert_close(spec, instantiate(str(spec), flow, sizes, block_j=16)(inputs), inputs)


@pytest.mark.parametrize(
    "mask",
    ["le(j, add(i, n))", "lt(j, add(add(i, n), 7))", "gt(sub(j, n), i)", "le(j, mul(add(i, 1), 1500000000))"],
)
@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_arithmetic_on_indices_is_as_wide_as_that_of_torch(
    flow: str, sizes: tuple[int, ...], mask: str
) -> None:
    """torch.arange is int64: i + n of an int32 n near 2^31 does not wrap around."""
    spec = parse_spec(text(mask=mask, extras="n:i32[b]" if "n)" in mask else "", safe="true"))
    inputs = make(spec, sizes)
    for value in ((1 << 31) - 1, -(1 << 31)) if len(inputs) > 3 else (0,):
        for extra in inputs[3:]:
            extra.fill_(value)
        assert_close(spec, instantiate(str(spec), flow, sizes, block_j=16)(inputs), inputs)


@pytest.mark.parametrize(
    "mask",
    ["and(lt(j, 3000000000), and(gt(j, sub(i, 9223372036854775807)), le(sub(i, j), 9223372036854775807)))",
     "and(ge(j, -3000000000), lt(j, add(i, 9000000000)))", "le(j, sub(5000000000, 4999999960))",
     "ge(j, add(9223372036854775807, 1))", "lt(j, n)", "ne(n, 3000000000)"],
)  # fmt: skip
@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_numbers_beyond_int32_in_a_mask(flow: str, sizes: tuple[int, ...], mask: str) -> None:
    """A window without an end is often the largest integer."""
    spec = parse_spec(text(mask=mask, extras="n:i64[b]" if "n" in refs(parse(mask)) else "", safe="true"))
    inputs = make(spec, sizes)
    for extra in inputs[3:]:
        extra.copy_(torch.tensor([3000000000, 40]))
    assert_close(spec, instantiate(str(spec), flow, sizes, block_j=16)(inputs), inputs)


@pytest.mark.parametrize(
    "mask",
    ["le(j, i)", "lt(j, add(i, 3))", "ge(i, j)", "and(le(j, i), gt(j, sub(i, 9)))", "gt(j, sub(i, 9))",
     "and(le(j, i), eq(mod(j, 2), 0))", "ne(j, i)", "le(j, sub(40, i))", "or(lt(j, 4), le(j, i))"],
)  # fmt: skip
@pytest.mark.parametrize(("flow", "sizes"), [FLOWS[0], FLOWS[2]])
def test_masks(mask: str, flow: str, sizes: tuple[int, ...]) -> None:
    run(text(mask=mask), flow, sizes)


@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_mask_and_bounds_from_extras_of_every_dimension(flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(
        text(
            mask="and(and(lt(j, len), ge(j, low)), and(keep, ne(j, mul(ban, h))))",
            heads="4, 2, 2",
            extras="len:i32[b], low:i64[bi], keep:b8[bj], ban:i32[h]",
        )
    )
    b, _, j = sizes
    inputs = make(spec, sizes)
    inputs[3] = torch.tensor([j, j // 2][:b], dtype=torch.int32)
    inputs[5] = torch.rand(b, j, generator=torch.Generator().manual_seed(1)) < 0.8
    inputs[5][:, 5] = True
    assert_close(spec, instantiate(str(spec), flow, sizes)(inputs), inputs)


@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_additive_bias_and_soft_cap(flow: str, sizes: tuple[int, ...]) -> None:
    run(
        text(score="add(mul(tanh(div(mul(s, 0.25), 2.0)), 2.0), mul(bias, slope))", extras="bias:f32[bhij], slope:f32[h]",
             heads="4, 2, 2"),
        flow, sizes,
    )  # fmt: skip


@pytest.mark.parametrize("safe", ["false", "true"])
@pytest.mark.parametrize(("flow", "sizes"), FLOWS)
def test_rows_without_a_visible_key(safe: str, flow: str, sizes: tuple[int, ...]) -> None:
    _, out = run(text(mask="and(le(j, i), gt(i, 1))", safe=safe), flow, sizes)
    hidden = out[:, :, :2]
    assert (hidden == 0).all() if safe == "true" else hidden.isnan().all()


@pytest.mark.parametrize("splits", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("queries", [1, 2])
def test_decode_split_over_keys(splits: int, queries: int) -> None:
    run(
        text("bf16", "6, 2, 2", mask="le(j, add(i, 60))"),
        "decode",
        (2, queries, 100),
        splits=splits,
        block_j=16,
    )


@pytest.mark.parametrize(
    "normalizer",
    ["sigmoid/none/none", "identity/none/none", "identity/sum/none", "exp/sum/none", "exp/none/online"],
)
@pytest.mark.parametrize(
    ("flow", "sizes", "knobs"),
    [("prefill", (1, 9, 33), {}), ("decode", (1, 1, 33), {"splits": 3, "block_j": 16})],
)
def test_normalizers(normalizer: str, flow: str, sizes: tuple[int, ...], knobs: dict[str, int]) -> None:
    score = "add(abs(s), 1.0)" if normalizer.startswith("identity") else "mul(s, 0.25)"
    run(text(normalizer=normalizer, score=score, mask="le(j, add(i, 20))"), flow, sizes, **knobs)


@pytest.mark.parametrize(("flow", "sizes"), FLOWS[:2])
def test_large_scores_do_not_overflow(flow: str, sizes: tuple[int, ...]) -> None:
    run(text(score="mul(s, 40.0)"), flow, sizes)


@pytest.mark.parametrize(("flow", "sizes"), FLOWS[:2])
def test_nan_in_a_query_or_a_key(flow: str, sizes: tuple[int, ...]) -> None:
    spec = parse_spec(text())
    inputs = make(spec, sizes)
    inputs[0][0, 1, 0, 2] = torch.nan
    inputs[1][1, 2, 4, 3] = torch.nan
    assert_close(spec, instantiate(str(spec), flow, sizes)(inputs), inputs)


def test_decode_serves_one_and_several_queries() -> None:
    spec = parse_spec(text(heads="4, 2, 2", mask="le(j, add(i, 9))"))
    built = instantiate(str(spec), "decode", (1, 1, 40))
    for sizes in ((1, 1, 40), (2, 5, 40), (1, 1, 7), (3, 2, 17)):
        inputs = make(spec, sizes)
        assert_close(spec, built(inputs), inputs)


def test_bounds_are_read_from_conjuncts_that_do_not_read_j() -> None:
    found = bounds(parse("and(and(le(j, add(i, 2)), gt(5, j)), and(ge(j, 1), ne(j, i)))"), ())
    assert [str(e) for e in found.upper] == ["add(add(i, 2), 1)", "5"]
    assert [str(e) for e in found.lower] == ["1"]
    assert [str(e) for e in found.rest] == ["ne(j, i)"]
