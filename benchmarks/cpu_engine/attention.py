"""Attention: many queries against scaled_dot_product_attention, one query against the bandwidth floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.common import BEYOND_CACHES, cycling, rotated
from benchmarks.cpu_engine.cells import Cell, Limit, candidates
from benchmarks.cpu_engine.machine import peak
from benchmarks.cpu_engine.reading import Operands, read_limit
from headrace.ir.spec import Spec, parse_spec

HEADS, LENGTHS, WIDTHS = 8, (1024, 2048, 4096), (64, 128)
OVER = {torch.bfloat16: 1.3, torch.float32: 1.2}
DECODE_HEADS, DECODE_KEY_HEADS, DECODE_WIDTH, BATCHES = 32, (8, 32), 128, (1, 8)
CACHES = (64 << 20, 256 << 20)
OF_FLOOR = 0.90
_NAMES = {torch.bfloat16: "bf16", torch.float32: "f32"}


def spec(dtype: str, heads: int, key_heads: int, width: int, *, causal: bool = False) -> Spec:
    return parse_spec(
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; "
        f"heads=[{heads}, {key_heads}, {key_heads}]; dims=[{width}, {width}]; "
        f"score=mul(s, {width**-0.5!r}); mask={'le(j, i)' if causal else 'true'}; "
        "normalizer=exp/sum/online; safe=true; extras=[]}"
    )


def prefill() -> Iterator[Callable[[], Cell]]:
    for dtype in OVER:
        for length in LENGTHS:
            for width in WIDTHS:
                for causal in (False, True):
                    yield lambda dtype=dtype, length=length, width=width, causal=causal: _prefill(
                        dtype, length, width, causal
                    )


def decode() -> Iterator[Callable[[], Cell]]:
    for batch in BATCHES:
        for key_heads in DECODE_KEY_HEADS:
            for cache in CACHES:
                yield lambda batch=batch, key_heads=key_heads, cache=cache: _decode(batch, key_heads, cache)


def _prefill(dtype: torch.dtype, length: int, width: int, causal: bool) -> Cell:
    q, k, v = (torch.randn(1, HEADS, length, width).to(dtype) for _ in range(3))
    name = _NAMES[dtype]
    most = peak(dtype)
    # Two products of S x S x D; below the diagonal half of them.
    operations = (
        4.0 * HEADS * length * (length + 1) / 2 * width if causal else 4.0 * HEADS * length**2 * width
    )
    return Cell(
        f"prefill {name} S={length} D={width}{' causal' if causal else ''}",
        {
            flow: step
            for flow, step in candidates(
                spec(name, HEADS, HEADS, width, causal=causal),
                (1, length, length),
                lambda kernel: lambda: kernel((q, k, v)),
                prefer="prefill",
            ).items()
            if flow == "prefill"
        },
        {"SDPA": lambda: scaled_dot_product_attention(q, k, v, is_causal=causal)},
        Limit(f"{most.instruction} peak", {"registers": most.step}, operations / most.operations),
        over={"SDPA": OVER[dtype]},
    )


def _decode(batch: int, key_heads: int, cache: int) -> Cell:
    heads, width = DECODE_HEADS, DECODE_WIDTH
    keys = cache // (batch * key_heads * width * 2 * 2)
    group = heads // key_heads
    shape = (batch, key_heads, keys, width)

    def make() -> Operands:
        k, v = (torch.randn(shape, dtype=torch.bfloat16) for _ in range(2))
        return torch.randn(batch, heads, 1, width).bfloat16(), k, v

    def naive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = torch.matmul(q.view(batch, key_heads, group, width) * width**-0.5, k.transpose(-1, -2))
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype)
        return torch.matmul(weights, v).view(batch, heads, 1, width)

    # A layer's keys come back when those of all other layers have been read.
    operands = rotated(make, BEYOND_CACHES)
    made = cycling(operands)
    return Cell(
        f"decode bf16 B={batch} H={heads}/{key_heads} J={keys} ({cache >> 20} MiB)",
        candidates(
            spec("bf16", heads, key_heads, width),
            (batch, 1, keys),
            made,
            prefer="decode",
        ),
        {
            "SDPA": made(lambda t: scaled_dot_product_attention(t[0], t[1], t[2], enable_gqa=True)),
            "matmuls": made(lambda t: naive(*t)),
        },
        read_limit(operands, lambda t: list(t[1:]), made),
        of_limit=OF_FLOOR,
    )
