# ruff: noqa: E501  (the text of a Spec is one line)
"""The same bits on any number of threads: what a program computes does not depend on which thread runs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from codegen_cases import instantiate, make

from headrace.ir.spec import parse_spec

SOFTMAX = "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}"
NORM = "Rows{inputs=[x:bf16[rn], w:bf16[n]]; reductions=[s = sum(mul(x, x))]; outputs=[bf16 = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}"


def product(dtype: str) -> str:
    return f"Gemm{{x={dtype}; weights=[w0:{dtype}[390,520]nk]; extras=[]; outputs=[{dtype} = acc_w0]; batched=false}}"


def attention(dtype: str, mask: str = "true") -> str:
    return (
        f"Attention{{q={dtype}; k={dtype}; v={dtype}; out={dtype}; heads=[8, 2, 2]; dims=[64, 64]; score=mul(s, 0.125); "
        f"mask={mask}; normalizer=exp/sum/online; safe=false; extras=[]}}"
    )


CASES = [
    (SOFTMAX, "row", (37, 1000)),
    (SOFTMAX, "row_loop", (37, 9000)),
    (NORM, "row", (65, 576)),
    (product("bf16"), "gemv", (1,)),
    (product("bf16"), "flat", (13,)),
    (product("f32"), "flat", (13,)),
    (product("bf16"), "tiled", (300,)),
    (product("f32"), "tiled", (300,)),
    (attention("bf16"), "prefill", (1, 200, 200)),
    (attention("f32", "le(j, i)"), "prefill", (1, 200, 200)),
    (attention("bf16"), "decode", (2, 1, 3000)),
    (attention("f32"), "decode", (2, 1, 3000)),
]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("spec", "flow", "sizes"), CASES, ids=[f"{flow}-{n}" for n, (_, flow, _) in enumerate(CASES)]
)
def test_the_number_of_threads_changes_no_bit(
    threads: None, spec: str, flow: str, sizes: tuple[int, ...]
) -> None:
    inputs = make(parse_spec(spec), sizes)
    built = instantiate(spec, flow, sizes)
    torch.set_num_threads(1)
    alone = built(inputs)
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        for _ in range(3):
            assert torch.equal(built(inputs), alone)
