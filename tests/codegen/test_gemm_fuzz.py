"""Random Gemms by random legal schedules on random layouts and values, against the float64 oracle.

A case is its seed: sizes that no block divides, one to three weights of unlike widths, types and layouts,
epilogues over extras of every dimension, batches; operands in padded, transposed, expanded and offset memory
amid NaN; values that are normal, large, small, NaN or infinite in some places. `make test` runs a sample,
`make soak` the campaign.
"""

from __future__ import annotations

import random

import pytest
import torch
from codegen_cases import CPU, first_shapes
from random_cases import check, failures, laid

from headrace.codegen import dataflows, kernel
from headrace.codegen.operands import operands
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Gemm, parse_spec

SAMPLE, CAMPAIGN = range(12), range(12, 1612)
FLOWS = ("gemv", "flat", "tiled", "stream_k")
FLOATS = ("f32", "bf16", "f16")
SIZES = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 37, 51, 64, 65, 80, 100)
# Epilogues of one accumulator, and of two of equal width; e is some extra. None amplifies an error much.
ALONE = (
    "{a}", "{a}", "add({a}, {e})", "mul({a}, sigmoid({a}))", "relu(add({a}, {e}))", "tanh(mul({a}, 0.25))",
    "maximum({a}, {e})", "sub({e}, mul({a}, 0.5))", "minimum(abs({a}), 3.0)", "mul(sigmoid({e}), {a})",
    "mul(mul({a}, 0.5), add(erf(mul({a}, 0.7071067811865476)), 1.0))", "cast:{t}(mul(cast:{t}({a}), 2.0))",
)  # fmt: skip
PAIR = ("mul(mul({a}, sigmoid({a})), {b})", "add({a}, {b})", "maximum({a}, sub({b}, {e}))")
DIMS = ("", "n", "m", "mn")


def spec_of(draw: random.Random) -> Gemm:
    """A Gemm with one to three weights and as many outputs, or fewer where a pair shares one."""
    k, batched = draw.choice(SIZES), draw.random() < 0.2
    x = draw.choice(FLOATS)
    weights, extras, outputs, at = [], [], [], 0
    for _ in range(draw.choice((1, 1, 2, 3))):
        n = draw.choice(SIZES)
        dtype = x if draw.random() < 0.75 else draw.choice(FLOATS)
        layout = "nk" if draw.random() < 0.7 else "kn"
        pair = draw.random() < 0.2
        for _ in range(2 if pair else 1):
            weights.append(f"w{at}:{dtype}[{n},{k}]{layout}")
            at += 1
        out = draw.choice((x, "f32"))
        form = draw.choice(PAIR if pair else ALONE)
        if "{e}" in form:
            dims = draw.choice(("", "b") if batched else ("",)) + draw.choice(DIMS)
            extras.append(f"e{at}:{draw.choice((*FLOATS, 'i32'))}[{dims}]")
        text = form.format(a=f"acc_w{at - 1}", b=f"acc_w{at - 2}", e=f"e{at}", t=x)
        outputs.append(f"{out} = {text}")
    spec = parse_spec(
        f"Gemm{{x={x}; weights=[{', '.join(weights)}]; extras=[{', '.join(extras)}]; "
        f"outputs=[{', '.join(outputs)}]; batched={str(batched).lower()}}}"
    )
    assert isinstance(spec, Gemm)
    return spec


def schedule_of(spec: Gemm, sizes: tuple[int, ...], draw: random.Random) -> Schedule:
    """A legal schedule of some dataflow: every knob drawn from its own values."""
    for _ in range(200):
        flow = dataflows.get(draw.choice(FLOWS))
        knobs = {knob.name: draw.choice(knob.values) for knob in flow.knobs(spec, sizes, CPU)}
        if flow.name == "stream_k":
            knobs["workers"] = draw.choice((1, 2, 3, 5, 7, 16, 132))
        if flow.name == "flat" and draw.random() < 0.2:
            knobs["swap"] = 1
        made = Schedule(flow.name, tuple(knobs.items()))
        if flow.legal(spec, sizes, made, CPU) is None:
            return made
    raise AssertionError(f"no legal schedule for {spec}")


def operands_of(spec: Gemm, sizes: tuple[int, ...], draw: random.Random) -> list[torch.Tensor]:
    """Operands with values and layouts drawn; f16 stays far from its largest number."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    half = "f16" in str(spec)
    scale = draw.choice((1.0, 1.0, 8.0, 1e-3) if half else (1.0, 1.0, 1e4, 1e12, 1e-10))
    found = []
    for at, (_, dtype, shape) in enumerate(operands(spec, first_shapes(spec, sizes))):
        shape = shape if shape is not None else ()
        if dtype.is_floating:
            value = torch.randn(shape, generator=generator) * (scale if at == 0 else 1.0)
            if draw.random() < 0.15 and value.numel():
                odd = draw.choice((torch.nan, torch.inf, -torch.inf))
                value.view(-1)[draw.randrange(value.numel())] = odd
        else:
            value = torch.randint(-3, 4, shape, generator=generator)
        found.append(laid(value.to(dtype.to_torch()), draw))
    return found


def play(seed: int) -> None:
    """One case: by allocation and into the caller's memory, twice the same bits, operands untouched."""
    draw = random.Random(seed)
    spec = spec_of(draw)
    m = draw.choice((1, 1, 2, 3, 4, 5, 8, 13, 16, 17, 33, 50, 64))
    sizes = (draw.choice((1, 2, 3)), m) if spec.batched else (m,)
    made = schedule_of(spec, sizes, draw)
    inputs = operands_of(spec, sizes, draw)
    check(spec, kernel.instantiate(spec, made, CPU, sizes), inputs, draw)


@pytest.mark.parametrize("seed", SAMPLE)
def test_a_random_product_is_right(seed: int) -> None:
    play(seed)


@pytest.mark.soak
@pytest.mark.parametrize("start", range(CAMPAIGN.start, CAMPAIGN.stop, 100))
def test_random_products_are_right(start: int) -> None:
    wrong = failures(play, spec_of, range(start, start + 100))
    assert not wrong, "\n".join(wrong)
