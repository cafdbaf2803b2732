"""Row operations: softmax in float32 and RMSNorm in bfloat16."""

from __future__ import annotations

import torch

from benchmarks.common import Result
from benchmarks.operators import Case, compare
from headrace.ir.spec import parse_spec

SOFTMAX = ((32, 32000), (1024, 1024))
NORM = ((1, 576), (256, 4096), (2048, 4096))


def run(rounds: int = 0) -> Result:
    cases = [softmax(*shape) for shape in SOFTMAX] + [norm(*shape) for shape in NORM]
    return compare("rows", cases, rounds)


def softmax(rows: int, columns: int) -> Case:
    spec = parse_spec(
        "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
        "outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}"
    )
    return Case(
        f"softmax {rows}x{columns}",
        spec,
        lambda: (torch.randn(rows, columns),),
        lambda t: torch.softmax(t[0], -1),
    )


def norm(rows: int, columns: int) -> Case:
    spec = parse_spec(
        "Rows{inputs=[x:bf16[rn], w:bf16[n]]; reductions=[s = sum(mul(x, x))]; "
        "outputs=[bf16 = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}"
    )
    return Case(
        f"RMSNorm {rows}x{columns}",
        spec,
        lambda: (torch.randn(rows, columns).bfloat16(), torch.randn(columns).bfloat16()),
        lambda t: torch.nn.functional.rms_norm(t[0], (columns,), t[1], 1e-5),
    )
