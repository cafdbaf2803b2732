# ruff: noqa: E501  (the text of a Spec is one line)
"""Softmax in the Rows templates: the pair recognised, every stabilizer against the float64 oracle, the fallback
counted, long rows, rows around the limits of the exponent, builds for GPUs."""

from __future__ import annotations

import pytest
import torch
from codegen_cases import CPU, assert_close, instantiate, make

from headrace.codegen import dataflows, targets
from headrace.codegen.build import build
from headrace.codegen.rows.softmax import pair_of
from headrace.codegen.rows.work import passes
from headrace.errors import ScheduleError
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Rows, parse_spec

SOFTMAX = (
    "Rows{{inputs=[x:{0}[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[{0} = div(exp(sub(x, m)), s), f32 = add(m, log(s)), f32 = sub(sub(x, m), log(s))]; reduced=[1]; phi=2}}"
)
PLAIN = (
    "Rows{{inputs=[x:{0}[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[{0} = div(exp(sub(x, m)), s)]; reduced=[]; phi=0}}"
)
# As torch.logsumexp is decomposed.
SAFE = "where(eq(abs(m), inf), 0.0, m)"
LOG_SUM_EXP = (
    f"Rows{{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, {SAFE})))]; "
    f"outputs=[f32 = add(log(s), {SAFE})]; reduced=[0]; phi=2}}"
)
EXACT = ("three_pass", "online", "lazy", "pair")
STABILIZERS = (*EXACT, "unified")
FLOWS = ("row_loop", "row_split")


def rows_of(output: str, score: str = "x", more: str = "", reduced: str = "") -> Rows:
    spec = parse_spec(
        f"Rows{{inputs=[x:f32[rn], y:f32[rn]]; reductions=[m = max({score}), s = sum(exp(sub({score}, m))){more}]; "
        f"outputs=[f32 = {output}]; reduced=[{reduced}]}}"
    )
    assert isinstance(spec, Rows)
    return spec


def difficult(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal, scaled, shifted, far outliers, infinities and NaN; twelve rows in turn."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    big = 1e3 if dtype is torch.float16 else 1e4
    x[1] *= 100
    x[2] *= big
    x[3, 5] = -torch.inf
    x[4] = -torch.inf
    x[5, columns - 1] = torch.nan
    x[6, 3] = torch.inf
    x[7] += 50
    x[8] -= 150
    x[9, : columns // 2] = -torch.inf
    x[10] += 3 * big
    if dtype is not torch.float16:
        x[11] *= 1e30
    return x.to(dtype)


@pytest.mark.parametrize(
    ("output", "score", "more", "reduced"),
    [
        ("div(exp(sub(x, m)), s)", "x", "", ""),
        ("mul(exp(sub(x, m)), reciprocal(s))", "x", "", ""),
        ("sub(sub(mul(x, 2), m), log(s))", "mul(x, 2)", "", ""),
        ("sub(x, add(m, log(s)))", "x", "", ""),
        ("neg(sub(y, add(m, log(s))))", "x", "", ""),
        ("add(m, log(s))", "x", "", "0"),
        ("mul(div(exp(sub(x, m)), s), sub(y, div(t, s)))", "x", ", t = sum(mul(exp(sub(x, m)), y))", ""),
        ("cast:bf16(div(cast:f32(exp(sub(where(gt(y, 0.0), x, -inf), m))), s))", "where(gt(y, 0.0), x, -inf)", "", ""),
    ],
)  # fmt: skip
def test_what_does_not_show_the_maximum_is_a_softmax(
    output: str, score: str, more: str, reduced: str
) -> None:
    pair = pair_of(rows_of(output, score, more, reduced))
    assert pair is not None
    assert (pair.top, pair.total, str(pair.score)) == ("m", "s", score)


@pytest.mark.parametrize(
    ("output", "more"),
    [
        ("sub(x, m)", ""), ("exp(sub(x, m))", ""), ("div(x, s)", ""), ("add(m, s)", ""), ("sub(m, log(s))", ""),
        ("div(exp(mul(2, sub(x, m))), s)", ""), ("mul(div(exp(sub(x, m)), s), t)", ", t = sum(sub(x, m))"),
        ("where(gt(m, 0.0), div(exp(sub(x, m)), s), 0.0)", ""), ("sqrt(div(exp(m), s))", ""),
    ],
)  # fmt: skip
def test_what_shows_the_maximum_is_none(output: str, more: str) -> None:
    assert pair_of(rows_of(output, more=more)) is None


def test_another_sum_or_another_maximum_is_no_pair() -> None:
    for reductions in (
        "m = max(x), s = sum(exp(sub(y, m)))", "m = min(x), s = sum(exp(sub(x, m)))",
        "m = max(x), s = prod(exp(sub(x, m)))", "m = max(y), s = sum(exp(sub(x, m)))",
    ):  # fmt: skip
        text = f"Rows{{inputs=[x:f32[rn], y:f32[rn]]; reductions=[{reductions}]; outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}}"
        spec = parse_spec(text)
        assert isinstance(spec, Rows)
        assert pair_of(spec) is None
        assert "stabilizer" not in dict(dataflows.get("row_loop").default(spec, (2, 5000), CPU).knobs)


@pytest.mark.parametrize("flow", FLOWS)
def test_scores_that_need_a_pass_of_their_own_first_are_no_pair(flow: str) -> None:
    score = "sub(x, div(mu, count))"
    text = (
        f"Rows{{inputs=[x:f32[rn]]; reductions=[mu = sum(x), m = max({score}), s = sum(exp(sub({score}, m)))]; "
        f"outputs=[f32 = div(exp(sub({score}, m)), s)]; reduced=[]; phi=0}}"
    )
    spec = parse_spec(text)
    assert isinstance(spec, Rows)
    assert pair_of(spec) is None
    x = make(spec, (3, 300))
    assert_close(spec, instantiate(text, flow, (3, 300), block_n=64)(x), x)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("how", STABILIZERS)
def test_difficult_rows_under_every_stabilizer(how: str, flow: str, dtype: str) -> None:
    spec = parse_spec(SOFTMAX.format(dtype))
    x = difficult(12, 2600, spec.output_dtypes[0].to_torch())
    built = instantiate(str(spec), flow, (12, 2600), stabilizer=how)
    outputs = built([x])
    assert_close(spec, outputs, [x])
    usual = [0, 1, 2, 3, 7, 8, 9, 10]
    if dtype == "f32":
        assert (outputs[0][usual].double().sum(-1) - 1).abs().max() <= 1e-6
    # phi = 2 does not suit rows 1, 2, 6, 8, 10, 11; powers of two not infinities and 1e30, rows 6 and 11.
    huge = int(dtype != "f16")
    assert built.fallback_rows == {"unified": 5 + huge, "pair": 1 + huge}.get(how, 0)


@pytest.mark.parametrize(
    ("flow", "how"),
    [("row", None), *(("row_loop", how) for how in EXACT), *(("row_split", how) for how in EXACT)],
)
@pytest.mark.parametrize("score", ["mul(x, 1e10)", "mul(x, y)"])
def test_a_product_is_rounded_before_its_maximum_is_subtracted(
    score: str, flow: str, how: str | None
) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 40, generator=generator)
    y = torch.randn(6, 40, generator=generator) * 1e10
    knobs = {"block_n": 16, "stabilizer": how} if how else {}
    if flow == "row_loop":
        knobs["block_r"] = 1
    output = instantiate(str(rows_of(f"div(exp(sub({score}, m)), s)", score)), flow, (6, 40), **knobs)([x, y])
    torch.testing.assert_close(output, torch.softmax(x * (y if "y" in score else 1e10), -1))


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("how", STABILIZERS)
def test_log_sum_exp_of_infinite_rows(how: str, flow: str) -> None:
    spec = parse_spec(LOG_SUM_EXP)
    x = difficult(12, 700, torch.float32)
    out = instantiate(LOG_SUM_EXP, flow, (12, 700), stabilizer=how)([x])
    assert_close(spec, out, [x])
    assert out[4] == -torch.inf
    assert out[6] == torch.inf
    torch.testing.assert_close(out, torch.logsumexp(x, -1), rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("how", STABILIZERS)
def test_nan_stays_nan_beside_an_infinity(how: str, flow: str) -> None:
    """NaN, then infinity, in the same lane of a later block."""
    x = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    x[0, 3], x[0, 3 + 64] = torch.nan, torch.inf
    x[1, 3], x[1, 3 + 128] = torch.inf, torch.nan
    x[2, 3], x[2, 3 + 64] = torch.nan, -torch.inf
    out = instantiate(LOG_SUM_EXP, flow, (3, 400), stabilizer=how, block_n=64)([x])
    assert out.isnan().all()


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("how", STABILIZERS)
def test_a_single_column_has_weight_one(how: str, flow: str) -> None:
    """Exactly, at a length that is part of the code and at one that is not; no such row counts as a fallback."""
    spec = parse_spec(SOFTMAX.format("f32"))
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(4)) * 15
    for first in (1, 300):
        built = instantiate(str(spec), flow, (1, first), stabilizer=how, block_n=64)
        weights, log_sum, log_weights = built([x])
        assert (weights == 1).all()
        assert (log_weights == 0).all()
        assert torch.equal(log_sum, x[:, 0])
        assert built.fallback_rows == 0


@pytest.mark.parametrize("how", STABILIZERS)
def test_a_hundred_thousand_rows_around_the_limits_of_the_exponent(how: str) -> None:
    generator = torch.Generator().manual_seed(1)
    rows, columns = 100_000, 48
    centre = (torch.rand(rows, 1, generator=generator) - 0.5) * 400
    limits = torch.tensor([-104.0, -103.28, -87.34, -60.0, 0.0, 60.0, 88.0, 88.72, 88.73, 128.0])
    centre[::2] = limits[torch.arange(0, rows, 2) // 2 % len(limits), None]
    x = centre + torch.randn(rows, columns, generator=generator)
    x[::3, 1:] -= 90
    spec = parse_spec(PLAIN.format("f32"))
    built = instantiate(str(spec), "row_loop", (rows, columns), stabilizer=how, block_r=1)
    y = built([x])
    assert bool(y.isfinite().all())
    assert (y.double().sum(-1) - 1).abs().max() <= 1e-6
    assert_close(spec, y, [x])
    assert (built.fallback_rows > 0) is (how == "unified")


@pytest.mark.parametrize("flow", FLOWS)
def test_only_wide_rows_are_recomputed(flow: str) -> None:
    x = torch.randn(10, 3000, generator=torch.Generator().manual_seed(2))
    x[1::2, 7] += 200
    x[4] = -torch.inf
    spec = parse_spec(PLAIN.format("f32"))
    built = instantiate(str(spec), flow, (10, 3000), stabilizer="unified")
    assert_close(spec, built([x]), [x])
    assert built.fallback_rows == 5
    built([x])
    assert built.fallback_rows == 10


@pytest.mark.parametrize("how", STABILIZERS)
def test_four_million_columns_keep_their_digits(how: str) -> None:
    n = 1 << 22
    x = torch.randn(1, n, generator=torch.Generator().manual_seed(3)) * 2
    x[0, 0] = -30.0
    for flow in FLOWS:
        y = instantiate(PLAIN.format("f32"), flow, (1, n), stabilizer=how)([x])
        assert abs(y.double().sum().item() - 1) <= 1e-6
        exact = torch.softmax(x.double(), -1)
        assert ((y - exact).abs() / exact).max() <= 4e-6


@pytest.mark.parametrize("splits", [2, 8, 64, 256])
@pytest.mark.parametrize("length", [70_000, 65_536])
def test_split_rows_agree_and_repeat_bit_for_bit(length: int, splits: int) -> None:
    spec = parse_spec(SOFTMAX.format("f32"))
    (x,) = make(spec, (3, length))
    built = instantiate(str(spec), "row_split", (3, length), splits=splits)
    first, again = built([x]), built([x])
    assert_close(spec, first, [x])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("how", ["three_pass", "pair"])
def test_a_changing_length_is_a_run_time_size(how: str, flow: str) -> None:
    spec = parse_spec(SOFTMAX.format("f32"))
    built = instantiate(str(spec), flow, (2, 3000), stabilizer=how)
    for length in (3000, 4096, 2, 70, 5000):
        inputs = make(spec, (2, length))
        assert_close(spec, built(inputs), inputs)
    assert built.launch_info["variants"] == 2


@pytest.mark.parametrize("splits", [2, 16])
def test_other_reductions_are_split_as_well(splits: int) -> None:
    text = (
        "Rows{inputs=[x:f32[rn], w:f16[n], scale:f32[r], e:f32[], k:i32[rn], keep:b8[rn]]; "
        "reductions=[a = sum(where(keep, x, 0.0)), z = prod(add(1.0, mul(0.001, x))), low = min(mul(x, k)), "
        "top = max(sub(x, a)), c = sum(scale), q = sum(mul(sub(x, div(a, count)), sub(x, top)))]; "
        "outputs=[f32 = add(mul(mul(x, w), scale), mul(e, low)), f32 = add(mul(z, scale), top), f16 = a, f32 = add(q, c)]; "
        "reduced=[1, 2, 3]}"
    )
    spec = parse_spec(text)
    inputs = make(spec, (3, 900))
    assert_close(spec, instantiate(text, "row_split", (3, 900), splits=splits, block_n=64)(inputs), inputs)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("how", ["online", "lazy", "pair", "unified"])
def test_later_passes_read_the_softmax(how: str, flow: str) -> None:
    text = (
        "Rows{inputs=[x:f32[rn], g:f32[rn], c:f32[r]]; reductions=[m = max(mul(x, c)), s = sum(exp(sub(mul(x, c), m))), "
        "u = sum(g), t = sum(mul(div(exp(sub(mul(x, c), m)), s), g))]; "
        "outputs=[f32 = mul(div(exp(sub(mul(x, c), m)), s), sub(g, t)), f32 = add(t, u)]; reduced=[1]; phi=0}"
    )
    spec = parse_spec(text)
    inputs = make(spec, (3, 900))
    assert_close(spec, instantiate(text, flow, (3, 900), stabilizer=how, block_n=256)(inputs), inputs)


def test_a_unified_maximum_needs_a_licence() -> None:
    spec = PLAIN.format("f32").replace("; phi=0", "")
    with pytest.raises(ScheduleError, match="calibrated or provably bounded"):
        instantiate(spec, "row_loop", (2, 3000), stabilizer="unified")
    knobs = {k.name: k.values for k in dataflows.get("row_loop").knobs(parse_spec(spec), (2, 3000), CPU)}
    assert knobs["stabilizer"] == EXACT


def test_running_values_belong_to_one_row() -> None:
    with pytest.raises(ScheduleError, match="one row per program"):
        instantiate(PLAIN.format("f32"), "row_loop", (8, 3000), stabilizer="pair", block_r=4)


def test_a_softmax_reads_its_row_twice_but_for_three_passes() -> None:
    spec = parse_spec(PLAIN.format("f32"))
    assert isinstance(spec, Rows)
    for how in STABILIZERS:
        for flow in FLOWS:
            default = dict(dataflows.get(flow).default(spec, (1, 1 << 22), CPU).knobs)
            schedule = Schedule(flow, tuple((default | {"stabilizer": how}).items()))
            assert passes(spec, schedule) == (3 if how == "three_pass" else 2)


def test_few_long_rows_are_offered_to_several_programs() -> None:
    spec = parse_spec(PLAIN.format("f32"))
    assert "row_split" in {flow.name for flow in dataflows.dataflows(spec, (1, 1 << 22), CPU)}
    assert "row_split" not in {flow.name for flow in dataflows.dataflows(spec, (64, 1 << 22), CPU)}
    assert "row_split" not in {flow.name for flow in dataflows.dataflows(spec, (1, 1 << 12), CPU)}


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
@pytest.mark.parametrize(
    ("flow", "sizes", "how"),
    [("row_loop", (16, 128256), "pair"), ("row_loop", (16, 128256), "lazy"), ("row_split", (1, 1 << 22), "unified"),
     ("row_split", (1, 1 << 22), "online")],
)  # fmt: skip
def test_gpu_builds_do_not_spill(target: str, flow: str, sizes: tuple[int, int], how: str) -> None:
    device = targets.device_of(target)
    spec = parse_spec(PLAIN.format("bf16"))
    default = dict(dataflows.get(flow).default(spec, sizes, device).knobs)
    schedule = Schedule(flow, tuple((default | {"stabilizer": how}).items()))
    assert dataflows.get(flow).legal(spec, sizes, schedule, device) is None
    made = build(spec, schedule, target, sizes)
    assert made.spills == 0
    assert all(kernel.resources.shared_bytes <= device.on_chip_bytes for kernel in made.kernels)
