"""Stabilizers of the softmax in turn, per shape: online, lazy, pair, unified with and without its guard.

SmolLM2's shapes run on queries, keys and values captured from the model (repeated where its text is shorter
than J), a larger model's on normal numbers. All peers are one Spec, one dataflow and one set of knob values;
only the stabilizer differs. `online` runs twice, and what its two runs differ by is noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import Result, cycling, noise, race, rotated
from headrace.codegen.dataflows import get
from headrace.codegen.kernel import instantiate
from headrace.compiler.cli.output import seconds
from headrace.compiler.devices import host_device
from headrace.demo.measure import Timing, ratios
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

SECTIONS = ("decode", "prefill", "large", "short")
PROMPTS = Path(__file__).with_name("prompts.txt")
LENGTHS = (64, 512, 2048, 8192)
LAYER = 10  # the one with the widest range of row maxima
PEERS = ("online", "lazy", "pair", "unified", "unguarded")
Operands = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Shape:
    """An attention at sizes, and how its operands are made."""

    label: str
    dataflow: str
    heads: int
    key_heads: int
    width: int
    causal: bool
    operands: Callable[[], Operands]

    def spec(self, normalizer: str) -> str:
        mask = "le(j, add(i, e0))" if self.causal else "true"
        extras = "[e0:i64[]]" if self.causal else "[]"
        heads, keys, width = self.heads, self.key_heads, self.width
        return (
            f"Attention{{q=bf16; k=bf16; v=bf16; out=bf16; heads=[{heads}, {keys}, {keys}]; "
            f"dims=[{width}, {width}]; score=mul(s, {width**-0.5!r}); mask={mask}; "
            f"normalizer=exp/sum/{normalizer}; safe=false; extras={extras}}}"
        )


def run(rounds: int = 0, *, only: tuple[str, ...] = (), best: bool = False, cpu: bool = False) -> Result:
    """A row per shape: the time of `online` and how many times faster each other peer is.

    With `cpu`, processor time instead of wall time: for one thread on a machine with other work.
    """
    if cpu and torch.get_num_threads() > 1:
        raise SystemExit("--cpu-time needs --threads 1")
    clock = time.thread_time if cpu else time.perf_counter
    result = Result(
        f"stabilizers of attention, bfloat16, batch 1, {torch.get_num_threads()} threads",
        ("shape", "dataflow", "online", *PEERS[1:], "noise", "falls back", "best"),
    )
    for shape in _shapes(only or SECTIONS[:3]):
        result.rows.append(_row(shape, rounds or 60, clock))
    result.notes.append(
        "ratios: median over the rounds of online / peer, above 1 is faster; noise: that of two runs of "
        "online, or how well a median is known; best: faster than online beyond noise, else online"
    )
    return result


def _row(shape: Shape, rounds: int, clock: Callable[[], float]) -> tuple[object, ...]:
    device = host_device()
    first = shape.operands()
    spec = parse_spec(shape.spec("unified(0)"))
    proven = parse_spec(shape.spec("unified(0, proven)"))
    sizes = spec.sizes([tensor.shape for tensor in first])
    default = dict(get(shape.dataflow).default(spec, sizes, device).knobs)
    kernels = {
        name: instantiate(
            proven if name == "unguarded" else spec,
            Schedule.of(
                shape.dataflow,
                **default | {"stabilizer": {"unguarded": "unified", "again": "online"}.get(name, name)},
            ),
            device,
        )
        for name in (*PEERS, "again")
    }
    step = cycling(rotated(lambda: first))
    timings = race({name: step(kernel) for name, kernel in kernels.items()}, rounds, clock=clock)
    gains = {name: ratios(timings, name, "online") for name in PEERS[1:]}
    band = max(abs(ratios(timings, "again", "online") - 1.0), _spread(timings))
    winner = max(gains, key=lambda name: gains[name] if name != "unguarded" else 0.0)
    kernels["unified"](first)
    tripped = getattr(kernels["unified"], "fallback_rows", 0)
    return (
        shape.label, shape.dataflow, seconds(timings["online"].median),
        *(f"{gains[name]:.3f}x" for name in PEERS[1:]), f"{band:.1%}", tripped,
        winner if gains[winner] > 1.0 + band else "online",
    )  # fmt: skip


def _spread(timings: dict[str, Timing]) -> float:
    """Of a median over n rounds: the quartiles' half distance over the root of n."""
    timing = timings["online"]
    return noise(timing) / len(timing.seconds) ** 0.5


def _shapes(sections: tuple[str, ...]) -> list[Shape]:
    found: list[Shape] = []
    if {"decode", "prefill", "short"} & set(sections):
        q, k, v = captured()
    for section in sections:
        if section in ("decode", "short"):
            found += [
                Shape(
                    f"SmolLM2 decode J={keys}", "decode", 9, 3, 64, True, _cut(q, k, v, 1, keys)
                )
                for keys in (LENGTHS if section == "decode" else LENGTHS[:2])
            ]  # fmt: skip
        elif section == "prefill":
            found += [
                Shape(
                    f"SmolLM2 prefill I={min(keys, 512)} J={keys}", "prefill", 9, 3, 64, True,
                    _cut(q, k, v, min(keys, 512), keys),
                )
                for keys in LENGTHS[:3]
            ]  # fmt: skip
        elif section == "large":
            found += [
                Shape(f"H=32/8 D=128 decode J={keys}", "decode", 32, 8, 128, False, _normal(keys))
                for keys in LENGTHS
            ]
        else:
            raise SystemExit(f"there is no section {section!r}; known: {', '.join(SECTIONS)}")
    return found


def _cut(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: int, keys: int) -> Callable[[], Operands]:
    """The last `rows` queries of the first `keys` positions, over those positions."""
    times = -(-keys // k.shape[2])
    longer = [tensor.repeat(1, 1, times, 1)[:, :, :keys].contiguous() for tensor in (q, k, v)]
    query = longer[0][:, :, keys - rows :].contiguous()
    return lambda: (query, longer[1], longer[2], torch.tensor(keys - rows))


def _normal(keys: int) -> Callable[[], Operands]:
    torch.manual_seed(0)
    shapes = ((1, 32, 1, 128), (1, 8, keys, 128), (1, 8, keys, 128))
    made = tuple(torch.randn(shape).bfloat16() for shape in shapes)
    return lambda: made


def captured(layer: int = LAYER, least: int = 1024) -> Operands:
    """q `[1, 9, T, 64]`, k and v `[1, 3, T, 64]` of a layer of SmolLM2 over the prompts, end to end."""
    from headrace.demo.models import load_smollm2

    loaded = load_smollm2()
    text = PROMPTS.read_text(encoding="utf-8")
    ids = loaded.tokenizer(text, return_tensors="pt").input_ids
    ids = ids.repeat(1, -(-least // ids.shape[1]))[:, :least]
    seen: list[Operands] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def watched(*arguments: torch.Tensor, **keywords: object) -> torch.Tensor:
        seen.append(arguments[:3])
        return original(*arguments, **keywords)  # type: ignore[arg-type]  # handed on as given

    torch.nn.functional.scaled_dot_product_attention = watched
    try:
        loaded.model.model(input_ids=ids, use_cache=False)
    finally:
        torch.nn.functional.scaled_dot_product_attention = original
    q, k, v = seen[layer]
    group = q.shape[1] // 3
    k, v = (each[:, ::group] if each.shape[1] == q.shape[1] else each for each in (k, v))
    return q.contiguous(), k.contiguous(), v.contiguous()
