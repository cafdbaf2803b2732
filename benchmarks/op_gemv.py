"""Matrix products with few rows: y = x w^T, bfloat16, weights streamed from memory."""

from __future__ import annotations

import torch

from benchmarks.common import Result
from benchmarks.operators import Case, compare
from headrace.ir.dtype import DType
from headrace.ir.spec import Gemm, parse_spec

SHAPES = ((1, 576, 576), (1, 1536, 576), (1, 576, 1536), (1, 49152, 576), (1, 4096, 4096), (8, 4096, 4096))


def run(rounds: int = 0) -> Result:
    return compare("few rows times a matrix, bfloat16", [case(*shape) for shape in SHAPES], rounds)


def case(m: int, n: int, k: int) -> Case:
    spec = parse_spec(
        f"Gemm{{x=bf16; weights=[w0:bf16[{n},{k}]nk]; extras=[]; outputs=[bf16 = acc_w0]; batched=false}}"
    )
    assert isinstance(spec, Gemm)
    dtype = DType.BF16.to_torch()
    return Case(
        f"M={m} N={n} K={k}",
        spec,
        lambda: (torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)),
        lambda t: torch.nn.functional.linear(t[0], t[1]),
    )
