# ruff: noqa: E501  (the text of a Spec is one line)
"""The launch through `@triton.jit`, as on a GPU, run by Triton's interpreter in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from codegen_cases import run
GEMM = ("Gemm{x=f32; weights=[w0:f32[24,40]nk, w1:f32[16,40]nk]; extras=[bias:f32[n], res:f32[mn], keep:b8[m]]; "
        "outputs=[f32 = add(acc_w0, bias), f32 = where(keep, add(acc_w1, res), 0.0)]; batched=false}")
ATTENTION = ("Attention{q=f32; k=f32; v=f32; out=f32; heads=[4, 2, 2]; dims=[16, 24]; score=mul(s, 0.25); "
             "mask=and(le(j, add(i, p)), ge(j, w)); normalizer=exp/sum/online; safe=false; extras=[p:i64[], w:i32[i]]}")
ROWS = ("Rows{inputs=[x:f32[rn], a:f32[r]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
        "outputs=[f32 = div(exp(sub(x, m)), s), f32 = mul(a, log(s))]; reduced=[1]}")
run(GEMM, "gemv", (3,))
run(GEMM, "flat", (3,), split_k=2, block_k=16)
run(GEMM, "flat", (3,), swap=1, split_k=1, block_k=16)
run(GEMM, "stream_k", (3,), workers=3, block_k=16, block_n=16, block_m=4)
run(GEMM, "tiled", (20,))
run(ATTENTION, "prefill", (1, 20, 40))
run(ATTENTION, "decode", (1, 1, 40), splits=2, block_j=16)
run(ATTENTION, "decode", (1, 2, 40), splits=1, block_j=16)
run(ROWS, "row", (3, 20), block_r=2)
run(ROWS, "row_loop", (3, 40), block_n=16)
print("all agree")
"""


def test_every_template_agrees_in_the_interpreter(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "HEADRACE_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parent)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout.strip() == "all agree", done.stderr[-2000:]
