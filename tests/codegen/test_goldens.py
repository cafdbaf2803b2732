# ruff: noqa: E501  (the text of a Spec is one line)
"""Rendered kernels as reviewed text."""

from __future__ import annotations

import pytest
from codegen_cases import CPU

from headrace.codegen import dataflows, families, targets
from headrace.codegen.render import render
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

QKV = (
    "Gemm{x=bf16; weights=[w0:bf16[576,576]nk, w1:bf16[192,576]nk, w2:bf16[192,576]nk]; extras=[]; "
    "outputs=[bf16 = acc_w0, bf16 = acc_w1, bf16 = acc_w2]; batched=false}"
)
GATE = (
    "Gemm{x=bf16; weights=[w0:bf16[1536,576]nk, w1:bf16[1536,576]nk]; extras=[]; "
    "outputs=[bf16 = mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1)]; batched=false}"
)
DOWN = "Gemm{x=bf16; weights=[w0:bf16[576,1536]nk]; extras=[r:bf16[mn]]; outputs=[bf16 = add(r, acc_w0)]; batched=false}"
CACHE = (
    "Attention{q=bf16; k=bf16; v=bf16; out=bf16; heads=[9, 3, 3]; dims=[64, 64]; score=mul(s, 0.125); "
    "mask=le(j, add(i, p)); normalizer=exp/sum/online; safe=false; extras=[p:i64[]]}"
)
NORM = (
    "Rows{inputs=[x:bf16[rn], w:bf16[n]]; reductions=[s = sum(mul(x, x))]; "
    "outputs=[bf16 = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}"
)
SOFTMAX = (
    "Rows{inputs=[x:bf16[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[bf16 = div(exp(sub(x, m)), s), f32 = add(m, log(s))]; reduced=[1]; phi=16}"
)
CASES = {
    "gemv_qkv": (QKV, "gemv", (1,), {}),
    "gemv_down_two_rows": (DOWN, "gemv", (2,), {}),
    "flat_swiglu_split": (GATE, "flat", (8,), {"split_k": 2, "block_k": 64}),
    "flat_down_swapped": (DOWN, "flat", (8,), {"swap": 1, "block_k": 64}),
    "stream_k_qkv": (QKV, "stream_k", (8,), {"workers": 7, "block_k": 64}),
    "tiled_qkv": (QKV, "tiled", (64,), {}),
    "prefill_cache": (CACHE, "prefill", (1, 64, 512), {}),
    "decode_cache": (CACHE, "decode", (1, 1, 512), {}),
    "decode_cache_split": (CACHE, "decode", (1, 4, 512), {"splits": 4}),
    "row_norm": (NORM, "row", (1, 576), {}),
    "row_loop_norm": (NORM, "row_loop", (1, 576), {}),
    "row_softmax": (SOFTMAX, "row", (1, 1000), {}),
    "row_loop_softmax_pair": (SOFTMAX, "row_loop", (1, 5000), {"stabilizer": "pair"}),
    "row_loop_softmax_lazy": (SOFTMAX, "row_loop", (1, 4096), {"stabilizer": "lazy"}),
    "row_split_softmax_unified": (SOFTMAX, "row_split", (1, 70000), {"stabilizer": "unified"}),
}


@pytest.mark.parametrize("case", CASES)
def test_rendered_source(case: str, golden) -> None:
    text, flow, sizes, knobs = CASES[case]
    spec = parse_spec(text)
    default = dataflows.get(flow).default(spec, sizes, CPU)
    schedule = Schedule(flow, tuple((dict(default.knobs) | knobs).items()))
    plan = families.plan(spec, schedule, CPU, families.facts(spec, schedule, sizes))
    golden(f"{case}.txt", render(plan.template, plan.context))


def test_a_gpu_renders_the_same_kernel_but_for_its_knobs() -> None:
    spec = parse_spec(QKV)
    schedule = Schedule.of("gemv", block_m=1, block_n=16, block_k=64, reduce="row")
    facts = families.facts(spec, schedule, (1,))
    texts = {
        render("gemv", families.plan(spec, schedule, device, facts).context)
        for device in (CPU, *targets.GPU_TARGETS.values())
    }
    assert len(texts) == 1
