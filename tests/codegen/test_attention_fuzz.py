"""Random Attentions by random legal schedules on random layouts, against the float64 oracle.

A case is its seed: head counts that share keys in odd groups, unlike widths and types, scores and masks over
extras of every dimension, every normalizer and stabilizer, for the CPU or as a GPU gets it; then several
numbers of sequences, queries and keys, one among them, on operands in padded, transposed, expanded and offset
memory amid NaN, some rows with scores that no constant maximum suits. `make test` runs a sample, `make soak`
the campaign.
"""

from __future__ import annotations

import random
import re

import pytest
import torch
from codegen_cases import CPU, first_shapes
from random_cases import check, failures, laid

from headrace.codegen import dataflows, kernel, targets
from headrace.codegen.operands import operands
from headrace.ir.device import Device
from headrace.ir.schedule import Schedule, Value
from headrace.ir.spec import Attention, parse_spec

SAMPLE, CAMPAIGN = range(5), range(5, 805)
FLOATS = ("f32", "bf16", "f16")
WIDTHS = (1, 3, 8, 16, 20, 33, 64)
QUERIES, KEYS = (1, 1, 2, 3, 5, 17), (1, 2, 15, 16, 17, 33, 64, 65, 100, 129)
GPUS = (targets.device_of("cuda:90"), targets.device_of("hip:gfx942"))
# {f}: an extra of floats, {n}: of integers, {t}: of booleans, each of any dimensions; {w}: a width.
SCORES = (
    "s", "mul(s, 0.25)", "mul(s, 0.25)", "mul(s, -0.5)", "div(s, 4.0)", "add(mul(s, 0.25), {f})",
    "mul(s, {f})", "mul(5.0, tanh(div(s, 20.0)))", "add(mul(s, 0.25), mul({f}, sub(j, i)))",
    "where({t}, mul(s, 0.25), -inf)",
)  # fmt: skip
MASKS = (
    "true", "le(j, i)", "le(j, add(i, {n}))", "lt(j, {n})", "and(lt(j, {n}), ge(j, sub({n}, {w})))",
    "and(le(j, i), gt(j, sub(i, {w})))", "{t}", "and({t}, le(j, add(i, {n})))", "ge(j, {n})",
    "le(j, sub({w}, i))", "le(j, floordiv(i, 2))", "or(le(j, i), lt(j, {n}))", "lt(sub(j, i), {w})",
    "lt(j, {w})", "eq(floordiv(j, {w}), floordiv(i, {w}))", "lt(j, add(h, {w}))",
    "and(ge(j, {n}), lt(j, {n}))",
)  # fmt: skip
NORMALIZERS = (
    "exp/sum/online", "exp/sum/online", "exp/sum/unified(0)", "exp/sum/unified(16)", "exp/sum/unified(-40)",
    "sigmoid/none/none", "identity/none/none",
)  # fmt: skip
DIMS = {
    "f": ("", "h", "bh", "ij", "hij", "bhij", "bj", "ji", "i"),
    "n": ("", "b", "b", "bh", "bi", "hi", "i"),
    "t": ("bj", "ij", "bij", "hij", "j"),
}


def spec_of(draw: random.Random) -> Attention:
    q = draw.choice(FLOATS)
    k = q if draw.random() < 0.85 else draw.choice(FLOATS)
    v = k if draw.random() < 0.85 else draw.choice(FLOATS)  # the result's too: weights are rounded to it
    shared = draw.choice((1, 1, 2, 3))
    heads = shared * draw.choice((1, 2, 3, 5, 7, 8))
    values = (
        shared if draw.random() < 0.8 else draw.choice([n for n in range(1, heads + 1) if heads % n == 0])
    )
    extras: list[str] = []

    def fill(found: re.Match[str]) -> str:
        kind = found[1]
        if kind == "w":
            return str(draw.choice((1, 2, 5, 16, 17, 40)))
        dtype = {"f": draw.choice(FLOATS), "n": draw.choice(("i32", "i64")), "t": "b8"}[kind]
        extras.append(f"e{len(extras)}:{dtype}[{draw.choice(DIMS[kind])}]")
        return f"e{len(extras) - 1}"

    score, mask = (re.sub(r"\{(\w)\}", fill, draw.choice(forms)) for forms in (SCORES, MASKS))
    spec = parse_spec(
        f"Attention{{q={q}; k={k}; v={v}; out={v}; "
        f"heads=[{heads}, {shared}, {values}]; dims=[{draw.choice(WIDTHS)}, {draw.choice(WIDTHS)}]; "
        f"score={score}; mask={mask}; normalizer={draw.choice(NORMALIZERS)}; "
        f"safe={draw.choice(('true', 'false'))}; extras=[{', '.join(extras)}]}}"
    )
    assert isinstance(spec, Attention)
    return spec


def schedule_of(spec: Attention, sizes: tuple[int, ...], draw: random.Random) -> tuple[Schedule, Device]:
    """A legal schedule of some dataflow, and the device that it is for."""
    for _ in range(200):
        flow = dataflows.get(draw.choice(("prefill", "decode", "stream_decode")))
        device = draw.choice((CPU, CPU, *GPUS))
        knobs: dict[str, Value] = {knob.name: knob.default for knob in flow.knobs(spec, sizes, device)}
        drawn: dict[str, tuple[Value, ...]] = {
            "block_i": (1, 2, 4, 16, 32, 128), "block_r": (1, 2, 4, 8, 16, 32),
            "block_j": (16, 16, 32, 64, 128), "splits": (1, 1, 2, 3, 5, 8, 31),
            "workers": (1, 2, 3, 5, 16, 61, 300),
            "stabilizer": ("online", "lazy", "pair", "unified", "unified"),
        }  # fmt: skip
        knobs |= {name: draw.choice(values) for name, values in drawn.items() if name in knobs}
        made = Schedule(flow.name, tuple(knobs.items()))
        if flow.legal(spec, sizes, made, device) is None:
            return made, device
    raise AssertionError(f"no legal schedule for {spec}")


def operands_of(spec: Attention, sizes: tuple[int, ...], draw: random.Random) -> list[torch.Tensor]:
    """Whole numbers in q and k, so that float32 holds every product exactly, some rows of them large; or
    normal ones. Integers reach beyond both ends of the keys."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    whole, keys = draw.random() < 0.6, sizes[2]
    found = []
    for at, (_, dtype, shape) in enumerate(operands(spec, first_shapes(spec, sizes))):
        assert shape is not None
        if dtype.is_floating:
            value = torch.randn(shape, generator=generator)
            if whole and at < 2:
                value = torch.randint(-2, 3, shape, generator=generator).float()
            if whole and at == 0:
                value *= torch.where(torch.rand((*shape[:3], 1), generator=generator) < 0.3, 32.0, 1.0)
        elif dtype.value == "b8":
            value = torch.rand(shape, generator=generator) < draw.choice((0.1, 0.5, 0.9))
        else:
            low, high = draw.choice((0, 0, -3, -keys)), keys + draw.choice((1, 3, 20))
            value = torch.randint(low, high, shape, generator=generator)
        found.append(laid(value.to(dtype.to_torch()), draw))
    return found


def play(seed: int) -> None:
    """One kernel, called with several sizes: by allocation and into the caller's memory, with the same bits,
    operands untouched."""
    draw = random.Random(seed)
    spec = spec_of(draw)
    sizes = [(draw.choice((1, 2, 3)), draw.choice(QUERIES), draw.choice(KEYS)) for _ in range(4)]
    made, device = schedule_of(spec, sizes[0], draw)
    built = kernel.instantiate(spec, made, device)
    for each in sizes:
        check(spec, built, operands_of(spec, each, draw), draw)


@pytest.mark.parametrize("seed", SAMPLE)
def test_a_random_attention_is_right(seed: int) -> None:
    play(seed)


@pytest.mark.soak
@pytest.mark.parametrize("start", range(CAMPAIGN.start, CAMPAIGN.stop, 100))
def test_random_attentions_are_right(start: int) -> None:
    wrong = failures(play, spec_of, range(start, start + 100))
    assert not wrong, "\n".join(wrong)
