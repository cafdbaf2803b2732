"""One query over sequences of very unequal lengths: stream-K against split keys and PyTorch's attention.

Keys and values stand in a padded cache of which only the valid part was ever written, so PyTorch's padded
call reads zeros that take no memory traffic; it is shown at its best. Its mask is made beforehand. The floor
is the time in which a plain reader gets through as many bytes as the valid keys and values have.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.common import Bar, Result, noise, race
from benchmarks.cpu_engine.machine import reader
from headrace.codegen.attention import stream
from headrace.codegen.dataflows import get
from headrace.codegen.kernel import instantiate
from headrace.codegen.plan import cdiv
from headrace.compiler.cli.output import seconds
from headrace.compiler.devices import host_device
from headrace.demo.measure import Timing
from headrace.ir.schedule import Schedule
from headrace.ir.spec import Spec, parse_spec

LENGTHS = (1, 37, 4096, 65536)
HEADS, WIDTH = 32, 128
KEY_HEADS = (8, 32)
TYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
SPLITS = (1, 2, 4, 8)
PEER_ROUNDS = 3
# A GPU's streaming multiprocessors, for which the balance of the schedules is counted.
UNITS, TILE = 132, 64


def spec(dtype: str, key_heads: int) -> Spec:
    return parse_spec(
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; "
        f"heads=[{HEADS}, {key_heads}, {key_heads}]; dims=[{WIDTH}, {WIDTH}]; "
        f"score=mul(s, {WIDTH**-0.5!r}); mask=lt(j, n); "
        "normalizer=exp/sum/online; safe=false; extras=[n:i64[b]]}"
    )


def run(rounds: int = 0) -> Result:
    result = Result(
        f"one query over {', '.join(map(str, LENGTHS))} keys, {HEADS} heads, width {WIDTH}",
        ("case", "what", "time", "against torch", "of the floor", "noise"),
    )
    for key_heads in KEY_HEADS:
        for dtype in TYPES:
            _case(result, dtype, key_heads, rounds or 7)
    for key_heads in KEY_HEADS:
        split = min(
            imbalance_of_splits(LENGTHS, key_heads, splits, UNITS) for splits in (1, 2, 4, 8, 16, 32, 64)
        )
        result.notes.append(
            f"on {UNITS} units, {key_heads} key heads, the busiest unit has "
            f"{imbalance_of_stream(key_heads):.2f}x the mean number of tiles with stream-K, "
            f"{split:.2f}x with the best split count"
        )
    return result


def _case(result: Result, dtype: str, key_heads: int, rounds: int) -> None:
    device, operation = host_device(), spec(dtype, key_heads)
    sizes = (len(LENGTHS), 1, max(LENGTHS))
    q = torch.randn(len(LENGTHS), HEADS, 1, WIDTH).to(TYPES[dtype])
    k, v = (torch.zeros(len(LENGTHS), key_heads, max(LENGTHS), WIDTH, dtype=TYPES[dtype]) for _ in range(2))
    for cache in (k, v):
        for b, keys in enumerate(LENGTHS):
            cache[b, :, :keys].normal_()
    n = torch.tensor(LENGTHS)
    operands = [q, k, v, n]
    ours: dict[str, Schedule] = {
        "stream_decode": get("stream_decode").default(operation, sizes, device),
        **{f"decode, {s} split(s)": _changed("decode", operation, sizes, splits=s) for s in SPLITS},
    }
    steps: dict[str, Callable[[], object]] = {}
    for name, schedule in ours.items():
        kernel = instantiate(operation, schedule, device, sizes)
        steps[name] = lambda kernel=kernel: kernel(operands)  # type: ignore[misc]  # bound now
    mask = (torch.arange(max(LENGTHS)) < n[:, None])[:, None, None, :]
    steps["torch, padded"] = lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    steps["torch, a loop"] = lambda: [
        scaled_dot_product_attention(
            q[b : b + 1], k[b : b + 1, :, :keys], v[b : b + 1, :, :keys], enable_gqa=True
        )
        for b, keys in enumerate(LENGTHS)
    ]
    longest = max(range(len(LENGTHS)), key=LENGTHS.__getitem__)
    steps["read"] = reader([k[longest], v[longest]])
    # PyTorch's take seconds each: fewer rounds of them, between ours.
    timings = race(steps, min(rounds, PEER_ROUNDS), warmup=1)
    more = race(
        {name: step for name, step in steps.items() if not name.startswith("torch")}, rounds, warmup=0
    )
    timings |= {
        name: Timing(name, (*timings[name].seconds, *timing.seconds)) for name, timing in more.items()
    }
    floor = timings["read"].median * sum(LENGTHS) / max(LENGTHS)
    least = min(min(timings[name].seconds) for name in steps if name.startswith("torch"))
    peer = min(timings[name].median for name in steps if name.startswith("torch"))
    label = f"{dtype} H={HEADS}/{key_heads}"
    for name, timing in timings.items():
        if name != "read":
            share = f"{floor / timing.median:.0%}"
            result.rows.append(
                (
                    label,
                    name,
                    seconds(timing.median),
                    f"{peer / timing.median:.2f}x",
                    share,
                    f"{noise(timing):.0%}",
                )
            )
    own = timings["stream_decode"]
    split = min((timings[name] for name in ours if name.startswith("decode")), key=lambda t: t.median)
    result.bars += [
        Bar(f"{label}: against the better of torch's", peer / own.median, 1.0, best=least / min(own.seconds)),
        Bar(f"{label}: against the best split count", split.median / own.median, 0.95,
            best=min(split.seconds) / min(own.seconds)),
    ]  # fmt: skip


def _changed(flow: str, operation: Spec, sizes: tuple[int, ...], **knobs: int) -> Schedule:
    default = get(flow).default(operation, sizes, host_device())
    return Schedule(flow, tuple((dict(default.knobs) | knobs).items()))


def imbalance_of_splits(lengths: Sequence[int], heads: int, splits: int, units: int) -> float:
    """Tiles of the busiest of `units` over the mean, where each sequence's keys are split `splits` ways and
    programs go in order to whichever unit is free."""
    busy = [0] * units
    for keys in lengths:
        tiles = max(cdiv(keys, TILE), 1)
        each = cdiv(tiles, splits)
        for _ in range(heads):
            for split in range(splits):
                heapq.heapreplace(busy, busy[0] + max(min(each, tiles - split * each), 0))
    return max(busy) * units / sum(busy)


def imbalance_of_stream(heads: int) -> float:
    """The same for stream-K with one worker a unit."""
    pieces = stream.schedule(stream.tile_counts(LENGTHS, heads, TILE), UNITS)
    loads = [sum(s.last - s.first for s in segments) for segments in pieces]
    return max(loads) * UNITS / sum(loads)
