# ruff: noqa: E501  (the text of a Spec is one line)
"""Every stabilizer of the softmax in every attention template, against the float64 oracle; what falls back is counted."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from codegen_cases import CPU, assert_close, instantiate, make, schedule_for

from headrace.codegen import dataflows, families, stabilizers, targets
from headrace.codegen.attention import plans
from headrace.codegen.build import build
from headrace.codegen.kernel import Kernel
from headrace.errors import ScheduleError
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Attention, Normalizer, parse_spec

HOWS = ("online", "lazy", "pair", "unified")
# Name, queries, knobs: every launch sequence, decode with one query and with several.
FLOWS = {
    "prefill": ("prefill", 37, {}),
    "decode 1": ("decode", 1, {"splits": 1}), "decode 2": ("decode", 2, {"splits": 1}),
    "split 1": ("decode", 1, {"splits": 3}), "split 4": ("decode", 4, {"splits": 3}),
}  # fmt: skip
KEYS = 75


def text(normalizer: str = "unified(0)", dtype: str = "f32", heads: str = "4, 2, 2", dims: str = "24, 40", score: str = "mul(s, 0.25)",
         mask: str = "le(j, add(i, p))", safe: str = "false", extras: str = "p:i64[]") -> str:  # fmt: skip
    return (
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; heads=[{heads}]; dims=[{dims}]; score={score}; "
        f"mask={mask}; normalizer=exp/sum/{normalizer}; safe={safe}; extras=[{extras}]}}"
    )


PLAIN = text()
CAPPED = text(heads="3, 3, 3", dims="16, 16", mask="true", extras="bias:f32[bij]",
              score="add(mul(tanh(div(mul(s, 0.25), 20.0)), 20.0), bias)")  # fmt: skip


@lru_cache
def kernel_of(spec: str, how: str, flow: str, *, single: bool, splits: int = 0) -> Kernel:
    """Kernels are shared by tests: what they compute must not depend on what was computed before."""
    knobs: dict[str, int | str] = {"stabilizer": how, "block_j": 16} | ({"splits": splits} if splits else {})
    return instantiate(spec, flow, (1, 1 if single else 4, KEYS), **knobs)


def hold(spec: str, how: str, name: str, inputs: list[torch.Tensor]) -> int:
    """Run, compare with the oracle, and return how many rows fell back."""
    flow, queries, knobs = FLOWS[name]
    built = kernel_of(spec, how, flow, single=queries == 1, splits=knobs.get("splits", 0))
    before = built.fallback_rows
    assert_close(parse_spec(spec), built(inputs), inputs)
    return built.fallback_rows - before


def operands(
    name: str, batch: int = 2, visible: int = KEYS
) -> tuple[list[torch.Tensor], tuple[int, int, int]]:
    """Random operands of PLAIN whose scores can be planted: dimension 0 of every key is 1, dimension 1 of key 5."""
    queries = FLOWS[name][1]
    inputs = make(parse_spec(PLAIN), (batch, queries, KEYS), seed=3)
    inputs[1][..., 0], inputs[1][..., 1] = 1.0, 0.0
    inputs[1][:, :, 5, 1] = 1.0
    inputs[0][..., :2] = 0.0
    inputs[3] = torch.tensor(visible)
    return inputs, (batch, 4, queries)


both = pytest.mark.parametrize("name", FLOWS)
some = pytest.mark.parametrize("name", ["prefill", "decode 1", "split 4"])
every = pytest.mark.parametrize("how", HOWS)


@both
@every
@pytest.mark.parametrize("shift", [0.0, 50.0, -50.0, 150.0, -150.0])
def test_shifted_scores(shift: float, how: str, name: str) -> None:
    inputs, rows = operands(name)
    inputs[0][..., 0] = 4.0 * shift
    fell = hold(PLAIN, how, name, inputs)
    assert fell == (math.prod(rows) if how == "unified" and abs(shift) > 60 else 0)


@both
@every
def test_only_rows_with_an_outlier_fall_back(how: str, name: str) -> None:
    inputs, (batch, heads, queries) = operands(name)
    wide = torch.zeros(batch, heads, queries, dtype=torch.bool)
    wide[:, ::2, ::2] = True
    wide[1, 1, 0] = True
    inputs[0][..., 1][wide] = 4.0 * 97.0
    assert hold(PLAIN, how, name, inputs) == (int(wide.sum()) if how == "unified" else 0)


@both
@pytest.mark.parametrize(("planted", "falls"), [(61.0, True), (-61.0, True), (57.0, False), (-57.0, False)])
def test_the_guard_stands_at_its_window(planted: float, falls: bool, name: str) -> None:
    inputs, _ = operands(name)
    inputs[0][0, 1, 0] = 0.0
    inputs[0][0, 1, 0, 0] = 4.0 * (planted - math.log(KEYS))  # all weights are equal: l = e^planted
    assert hold(PLAIN, "unified", name, inputs) == int(falls)


@both
@every
def test_rows_without_a_visible_key_do_not_fall_back(how: str, name: str) -> None:
    inputs, _ = operands(name, visible=-2)
    assert hold(PLAIN, how, name, inputs) == 0
    queries = FLOWS[name][1]
    flow, _, knobs = FLOWS[name]
    out = kernel_of(PLAIN, how, flow, single=queries == 1, splits=knobs.get("splits", 0))(inputs)
    assert out[:, :, :2].isnan().all()
    assert not out[:, :, 2:].isnan().any()


@some
@every
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_scores_that_are_no_numbers(value: float, how: str, name: str) -> None:
    queries = FLOWS[name][1]
    inputs = make(parse_spec(CAPPED), (2, queries, KEYS))
    inputs[3][0, 0, 3] = value
    inputs[3][1, :, ::2] = -math.inf
    inputs[3][1, queries - 1, :40] = -math.inf
    fell = hold(CAPPED, how, name, inputs)
    assert fell == (3 if how == "unified" and value != -math.inf else 0)


@some
@every
@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, -1e20, -1e9])
def test_rows_hidden_by_a_lowest_number_are_uniform(lowest: float, how: str, name: str) -> None:
    inputs = make(parse_spec(CAPPED), (2, FLOWS[name][1], KEYS))
    inputs[3][1] = lowest
    inputs[3][0, 0, :40] = lowest
    hold(CAPPED, how, name, inputs)


@some
@every
def test_biases_that_hide_whole_rows(how: str, name: str) -> None:
    inputs = make(parse_spec(CAPPED), (2, FLOWS[name][1], KEYS))
    inputs[3][1] = -math.inf
    assert hold(CAPPED, how, name, inputs) == 0


@pytest.mark.parametrize("name", ["prefill", "split 1"])
@every
def test_values_at_the_ends_of_float32(how: str, name: str) -> None:
    inputs, rows = operands(name)
    for shift, size in ((-55.0, 1e-20), (55.0, 1e20)):
        inputs[0][..., 0] = 4.0 * shift
        inputs[2] = torch.randn(inputs[2].shape, generator=torch.Generator().manual_seed(2)) * size
        fell = hold(PLAIN, how, name, inputs)
        assert fell == (math.prod(rows) if how == "unified" else 0)


@pytest.mark.parametrize("name", ["prefill", "split 4"])
@pytest.mark.parametrize("phi", [50, -50])
def test_a_wrong_phi_costs_no_accuracy(phi: int, name: str) -> None:
    inputs, rows = operands(name)
    assert hold(text(f"unified({phi})"), "unified", name, inputs) == 0
    inputs[0][..., 0] = -4.0 * math.copysign(20.0, phi)
    assert hold(text(f"unified({phi})"), "unified", name, inputs) == math.prod(rows)


@pytest.mark.parametrize("name", ["prefill", "split 4"])
def test_a_proven_bound_keeps_the_guard_of_the_values(name: str) -> None:
    """Scores at a soft cap of 20 fall back for no value, but for those that leave float32 under their weights."""
    spec = text("unified(0, proven)", score="mul(tanh(mul(s, 0.05)), 20.0)")
    inputs, rows = operands(name)
    values = inputs[2]
    for score, size, falls in (
        (20.0, 1.0, False),
        (20.0, 1e37, True),
        (-20.0, 1.0, False),
        (-20.0, 1e-37, True),
    ):
        inputs[0][..., 0] = 25.0 * score
        inputs[2] = values * size
        assert hold(spec, "unified", name, inputs) == (math.prod(rows) if falls else 0)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["prefill", "split 1"])
@pytest.mark.parametrize("how", ["pair", "lazy", "unified"])
def test_narrow_values(how: str, name: str, dtype: str) -> None:
    queries = FLOWS[name][1]
    spec = text("unified(12)", dtype, "4, 4, 4", "16, 16", mask="true", extras="")
    inputs = make(parse_spec(spec), (1, queries, KEYS))
    inputs[0] = inputs[0] * 6.0
    assert hold(spec, how, name, inputs) == 0


@every
def test_a_hundred_thousand_rows_around_the_limits_of_exponents(how: str) -> None:
    """Offsets around the guard's window, float32's largest and smallest exponentials, and powers of two."""
    rows, spec = 100_000, text(heads="1, 1, 1", dims="16, 16", mask="true", extras="")
    generator = torch.Generator().manual_seed(7)
    limits = torch.tensor(
        [60.0, 87.34, 88.72, 103.97, 126 * math.log(2), 127 * math.log(2), 149 * math.log(2)]
    )
    offset = limits[torch.randint(0, len(limits), (rows,), generator=generator)]
    offset = (offset + torch.randn(rows, generator=generator)) * torch.sign(
        torch.randn(rows, generator=generator)
    )
    inputs = make(parse_spec(spec), (1, rows, 32))
    inputs[0] = inputs[0] * 0.2
    inputs[0][0, 0, :, 0] = offset * 4.0
    inputs[1][..., 0] = 1.0
    built = instantiate(spec, "prefill", (1, rows, 32), stabilizer=how, block_j=16)
    out = built(inputs)
    assert bool(out.isfinite().all())
    assert_close(parse_spec(spec), out, inputs)
    scores = 0.25 * inputs[0][0, 0].double() @ inputs[1][0, 0].double().T
    distance = scores.logsumexp(-1).abs()
    if how == "unified":
        assert int((distance > 60.001).sum()) <= built.fallback_rows <= int((distance > 59.999).sum())
        assert built.fallback_rows > rows // 2
    else:
        assert built.fallback_rows == 0


@pytest.mark.parametrize(("how", "name"), [("lazy", "prefill"), ("lazy", "decode 2"), ("unified", "prefill")])
def test_what_gpus_get_computes_the_same(how: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rescaling under a branch, and a launch of its own for prefill's rows, run by the CPU engine."""
    flow, queries, knobs = FLOWS[name]
    build = {"prefill": plans._prefill, "decode": plans._decode}[flow]
    monkeypatch.setattr(
        families, "plan", lambda spec, schedule, device, facts: build(spec, dict(schedule.knobs), facts, True)
    )
    inputs, (batch, heads, _) = operands(name)
    inputs[0][:, :, 1, 1] = 400.0
    built = instantiate(PLAIN, flow, (batch, queries, KEYS), stabilizer=how, block_j=16, **knobs)
    out = built(inputs)
    assert_close(parse_spec(PLAIN), out, inputs)
    assert ("exact_rows" if how == "unified" else "if tl.max(rises") in built.source
    assert built.fallback_rows == (batch * heads if how == "unified" else 0)
    assert torch.equal(built(inputs), out)
    inputs[3] = torch.tensor(-2)
    assert_close(parse_spec(PLAIN), built(inputs), inputs)
    assert built.fallback_rows == (batch * heads * 2 if how == "unified" else 0)


def _agree(how: str, counts: tuple[int, ...]) -> None:
    spec = text("unified(3)", "bf16", "6, 2, 2", "16, 16", mask="le(j, add(i, 300))", extras="")
    inputs = make(parse_spec(spec), (2, 1, 400))
    inputs[0][1, 2] *= 40.0
    for splits in counts:
        built = instantiate(spec, "decode", (2, 1, 400), stabilizer=how, splits=splits, block_j=16)
        out = built(inputs)
        assert_close(parse_spec(spec), out, inputs)
        assert all(torch.equal(built(inputs), out) for _ in range(3))


@pytest.mark.parametrize(("how", "counts"), [("unified", (2, 7, 64)), ("pair", (5, 64)), ("lazy", (33,))])
def test_split_counts_agree_and_repeat_bitwise(how: str, counts: tuple[int, ...]) -> None:
    _agree(how, counts)


@pytest.mark.soak
@every
def test_all_split_counts_agree_and_repeat_bitwise(how: str) -> None:
    _agree(how, tuple(range(1, 65)))


@every
def test_results_repeat_bitwise(how: str) -> None:
    inputs, _ = operands("prefill")
    inputs[0][:, :, ::3, 1] = 400.0
    built = kernel_of(PLAIN, how, "prefill", single=False)
    first = built(inputs)
    assert all(torch.equal(built(inputs), first) for _ in range(5))


def legal(normalizer: str, how: str, dtype: str, target: str) -> str | None:
    device = CPU if target == "cpu" else targets.device_of(target)
    spec = parse_spec(text(normalizer, dtype))
    for flow in ("prefill", "decode"):
        default = dataflows.get(flow).default(spec, (1, 1, 64), device)
        schedule = Schedule(flow, tuple((dict(default.knobs) | {"stabilizer": how}).items()))
        reason = dataflows.get(flow).legal(spec, (1, 1, 64), schedule, device)
        if reason is not None:
            return reason
    return None


@pytest.mark.parametrize("target", ["cpu", "cuda:90"])
def test_a_unified_maximum_needs_the_specs_permission(target: str) -> None:
    assert "permits no unified maximum" in (legal("online", "unified", "bf16", target) or "")
    assert legal("unified(0)", "unified", "bf16", target) is None
    assert all(legal("online", how, "bf16", target) is None for how in HOWS[:3])


def test_float16_weights_are_refused_on_gpus_and_widened_on_the_cpu() -> None:
    assert "float16" in (legal("unified(0)", "unified", "f16", "cuda:90") or "")
    assert legal("unified(0)", "unified", "f16", "cpu") is None
    spec = parse_spec(text("unified(0)", "f16"))
    knob = {
        k.name: k for k in dataflows.get("prefill").knobs(spec, (1, 64, 64), targets.device_of("cuda:90"))
    }
    assert "unified" not in knob["stabilizer"].values


def test_the_default_is_unified_where_it_is_permitted_and_was_measured_to_win() -> None:
    for normalizer, dims, keys, target, default in (
        ("unified(0)", "64, 64", 512, "cpu", "unified"), ("unified(0)", "64, 64", 64, "cpu", "online"),
        ("unified(0)", "128, 128", 512, "cpu", "online"), ("online", "64, 64", 512, "cpu", "online"),
        ("unified(0)", "64, 64", 512, "cuda:90", "online"),
    ):  # fmt: skip
        device = CPU if target == "cpu" else targets.device_of(target)
        spec = parse_spec(text(normalizer, "bf16", dims=dims))
        for flow in ("prefill", "decode"):
            assert dataflows.get(flow).default(spec, (1, 1, keys), device)["stabilizer"] == default


def test_a_schedule_without_permission_is_not_built() -> None:
    spec = parse_spec(text("online"))
    with pytest.raises(ScheduleError, match="calibrated or provably bounded"):
        instantiate(str(spec), "prefill", (1, 4, KEYS), stabilizer="unified")


def test_weights_that_are_not_divided_by_their_sum_have_no_choice() -> None:
    for normalizer in ("exp/none/online", "exp/sum/none", "sigmoid/none/none", "identity/sum/none"):
        assert stabilizers.permitted(Normalizer.parse(normalizer)) == ()
    assert "stabilizer" not in dict(schedule_for(parse_spec(text("none")), "decode", (1, 1, 64)).knobs)


# A thin sample here; the soak holds all.
BUILDS = [("cuda:90", "unified", "prefill", (1, 2048, 2048)), ("cuda:90", "lazy", "prefill", (1, 2048, 2048)),
          ("hip:gfx942", "unified", "decode", (1, 4, 8192)), ("hip:gfx942", "pair", "prefill", (1, 2048, 2048))]  # fmt: skip


def _build(target: str, how: str, flow: str, sizes: tuple[int, int, int]) -> None:
    device = targets.device_of(target)
    spec = parse_spec(text("unified(4)", "bf16", "32, 8, 8", "128, 128", score="mul(s, 0.08838834764831845)"))
    assert isinstance(spec, Attention)
    default = dataflows.get(flow).default(spec, sizes, device)
    schedule = Schedule(flow, tuple((dict(default.knobs) | {"stabilizer": how}).items()))
    made = build(spec, schedule, target, sizes)
    assert made.spills == 0
    assert all(kernel.resources.shared_bytes <= device.on_chip_bytes for kernel in made.kernels)
    split = flow == "decode" and int(schedule["splits"]) > 1
    followed = how == "unified" and (split or flow == "prefill")
    assert len(made.kernels) == 1 + split + followed


@pytest.mark.parametrize(("target", "how", "flow", "sizes"), BUILDS)
def test_default_schedules_build_without_spills(
    target: str, how: str, flow: str, sizes: tuple[int, int, int]
) -> None:
    _build(target, how, flow, sizes)


@pytest.mark.soak
@every
@pytest.mark.parametrize("target", targets.GPU_TARGETS)
def test_every_template_builds_with_every_stabilizer(target: str, how: str) -> None:
    for flow, sizes in (("prefill", (1, 2048, 2048)), ("decode", (1, 1, 8192)), ("decode", (1, 4, 8192))):
        _build(target, how, flow, sizes)
