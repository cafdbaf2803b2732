"""fla-core's operators that look at all keys."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import torch
from fla import ops
from fla.ops.attn.naive import naive_parallel_attn
from fla.ops.attnres.naive import naive_attnres
from fla.ops.based.naive import naive_parallel_based
from fla.ops.nsa.naive import naive_nsa_selection
from fla.ops.parallax.naive import naive_parallax
from fla.ops.path_attn.naive import naive_path_attn
from fla.ops.rebased.naive import naive_parallel_rebased
from fla.ops.rebased.parallel import parallel_rebased
from fla.ops.stickbreaking_attn.naive import naive_stickbreaking_attn
from fla.ops.wall_attn.naive import naive_wall_attn
from fla_support import (
    B,
    H,
    T,
    Tensor,
    first,
    fla_case,
    forgetting,
    gate,
    gated_attention,
    halves,
    head_first,
    leaf,
    qkv,
    share,
    unit,
)
from third_party_case import Case, Inputs


def attnres(query: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The operator begins by asking whether its tensors are on a CUDA device."""
    with mock.patch.object(torch.Tensor, "is_cuda", True):
        return ops.fused_attnres(query, [x, y], weight)


def attention_cases(d: torch.dtype, quick: bool) -> list[Case]:
    """Operators that look at all keys."""
    case = partial(fla_case, d=d)
    whole = partial(qkv, d, 32, 32)

    def heads() -> Inputs:
        """Grouped queries."""
        return {
            "q": leaf(B, T, 4, 32, dtype=d),
            "k": leaf(B, T, 2, 32, dtype=d),
            "v": leaf(B, T, 2, 48, dtype=d),
        }

    return [
        case("attn", heads, ops.parallel_attn, first(naive_parallel_attn), quick=quick),
        case("attn-gated", lambda: {**heads(), "g": gate(B, T, 4)}, ops.parallel_attn, gated_attention),
        case(
            "attn-window",
            heads,
            first(ops.parallel_attn, window_size=20),
            first(naive_parallel_attn, window_size=20),
        ),
        case(
            "forgetting_attn",
            lambda: {**heads(), "g": gate(B, T, 4)},
            ops.parallel_forgetting_attn,
            forgetting,
            quick=quick,
        ),
        case(
            "based-parallel",
            lambda: qkv(d, 16, 32),
            ops.parallel_based,
            head_first(naive_parallel_based),
            quick=quick,
        ),
        case(
            "based-fused_chunk",
            lambda: qkv(d, 16, 32),
            ops.fused_chunk_based,
            head_first(naive_parallel_based),
        ),
        case(
            "rebased-parallel",
            lambda: qkv(d, 16, 32),
            first(parallel_rebased, eps=1e-6),
            head_first(naive_parallel_rebased),
        ),
        case("stickbreaking_attn", whole, ops.parallel_stickbreaking_attn, naive_stickbreaking_attn),
        *halves(
            case(
                "parallax",
                lambda: {
                    "q": leaf(B, T, 4, 32, dtype=d),
                    "r": leaf(B, T, 4, 32, dtype=d, scale=0.2),
                    "k": leaf(B, T, 2, 32, dtype=d),
                    "v": leaf(B, T, 2, 32, dtype=d),
                },
                ops.parallel_parallax,
                naive_parallax,
            )
        ),
        case(
            "path_attn",
            lambda: {
                **qkv(d, 32, 32),
                "w": unit(B, T, H, 32),
                "beta": share(B, T, H, dtype=torch.float32),
                "g": gate(B, T, H),
            },
            first(ops.parallel_path_attn, scale=32**-0.5),
            first(naive_path_attn, scale=32**-0.5),
        ),
        case(
            "nsa-selection",
            lambda: {
                "q": leaf(B, 64, 16, 32, dtype=d),
                "k": leaf(B, 64, 1, 32, dtype=d),
                "v": leaf(B, 64, 1, 32, dtype=d),
                "block_indices": torch.stack([torch.arange(64) // 16, torch.zeros(64).long()], -1)[
                    None, :, None
                ],
            },
            lambda q, k, v, block_indices: ops.parallel_nsa(
                q,
                k,
                v,
                g_slc=torch.ones(*q.shape[:3], dtype=q.dtype),
                block_indices=_distinct(block_indices),
                block_counts=2,
                block_size=16,
            ),
            lambda q, k, v, block_indices: naive_nsa_selection(q, k, v, _distinct(block_indices), 16),
        ),
        case(
            "wall_attn",
            lambda: {**heads(), "g": gate(B, T, 4, 32, dtype=torch.float32)},
            first(ops.parallel_wall_attn, scale=32**-0.5),
            first(naive_wall_attn_in_torch, scale=32**-0.5),
            # The gate's gradient is a running sum of differences of rounded products: the scalar reference
            # lowering of the same kernels is as far off.
            **({"ratio": 2e-2} if d == torch.bfloat16 else {}),
        ),
        case(
            "attnres",
            lambda: {
                "query": leaf(64, dtype=d),
                "x": leaf(B, T, 64, dtype=d),
                "y": leaf(B, T, 64, dtype=d),
                "weight": leaf(64, dtype=d),
            },
            attnres,
            lambda query, x, y, weight: naive_attnres(query, [x, y], weight),
        ),
    ]


def _distinct(indices: Tensor) -> Tensor:
    """Block 0 once only: the second choice of the first rows is no block."""
    own = torch.arange(64)[None, :, None] // 16
    return torch.stack([own, torch.where(own == 0, torch.full_like(own, -1), torch.zeros_like(own))], -1)


def naive_wall_attn_in_torch(scale: float, **given: Tensor) -> Tensor:
    """The package's reference with its one kernel, a cumulative sum, replaced by torch's."""
    from unittest import mock

    def sums(s: Tensor, cu_seqlens: Any = None, scale: float = 1.0) -> Tensor:
        return s.float().cumsum(1) * scale

    with mock.patch("fla.ops.wall_attn.naive.chunk_global_cumsum", sums):
        return naive_wall_attn(**given, scale=scale).to(given["q"].dtype)
