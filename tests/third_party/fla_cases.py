"""fla-core's operators as cases, with the naive references that come in the package."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from fla_attention import attention_cases
from fla_modules import modules_cases
from fla_states import recurrent_cases
from fla_support import TAG, T
from third_party_case import Case

# Operators that take several sequences in one row of a batch, by where each begins.
PACKED = [
    "gla-chunk",
    "gla-recurrent",
    "simple_gla-chunk",
    "simple_gla-parallel",
    "retention-chunk",
    "linear_attn-chunk",
    "delta_rule-recurrent",
    "gated_delta_rule-chunk",
    "kda-chunk",
    "comba-chunk",
    "dplr-chunk",
    "rwkv7-chunk",
    "rwkv6-chunk",
    "hgrn-recurrent",
    "gsa-chunk",
    "attn",
    "forgetting_attn",
]
BEGINS = (0, 20, 21, T)


def packed(case: Case) -> Case:
    """The same on three sequences of 20, 1 and 54 steps; the reference sees them one by one."""

    def ours(**given: Any) -> Any:
        return case.ours(**given, cu_seqlens=torch.tensor(BEGINS))

    def reference(**given: Any) -> torch.Tensor:
        parts = []
        for begin, end in pairwise(BEGINS):
            cut = {n: v[:, begin:end] if v.dim() > 2 else v for n, v in given.items()}
            parts.append(case.reference(**cut))
        return torch.cat(parts, 1)

    return replace(case, variant=f"packed-{case.variant}", ours=ours, reference=reference, quick=False)


def cases() -> list[Case]:
    """Every operator in float32, bfloat16 and float16, and packed sequences in float32."""
    found = []
    for dtype in TAG:
        quick = dtype == torch.float32
        found += [
            *recurrent_cases(dtype, quick),
            *attention_cases(dtype, quick),
            *modules_cases(dtype, quick),
        ]
    return found + [packed(c) for c in found if c.op in PACKED and c.variant == "f32"]
