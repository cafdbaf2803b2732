"""Attention of one query over a cache, grouped heads, bfloat16: as SmolLM2 and an 8-billion Llama decode."""

from __future__ import annotations

import torch

from benchmarks.common import Result
from benchmarks.operators import Case, compare
from headrace.ir.spec import parse_spec

# heads, key heads, width, keys
SHAPES = ((9, 3, 64, 512), (9, 3, 64, 4096), (32, 8, 128, 1024), (32, 8, 128, 8192))


def run(rounds: int = 0) -> Result:
    return compare("one query over a cache, bfloat16", [case(*shape) for shape in SHAPES], rounds)


def case(heads: int, key_heads: int, width: int, keys: int) -> Case:
    scale = width**-0.5
    spec = parse_spec(
        f"Attention{{q=bf16; k=bf16; v=bf16; out=bf16; heads=[{heads}, {key_heads}, {key_heads}]; "
        f"dims=[{width}, {width}]; score=mul(s, {scale!r}); mask=true; normalizer=exp/sum/online; "
        "safe=true; extras=[]}"
    )

    def operands() -> tuple[torch.Tensor, ...]:
        return (
            torch.randn(1, heads, 1, width).bfloat16(),
            torch.randn(1, key_heads, keys, width).bfloat16(),
            torch.randn(1, key_heads, keys, width).bfloat16(),
        )

    return Case(
        f"H={heads}/{key_heads} D={width} J={keys}",
        spec,
        operands,
        lambda t: torch.nn.functional.scaled_dot_product_attention(*t, scale=scale, enable_gqa=True),
    )
