"""Operations on rows: softmax against torch with `out=`, norms and pointwise ones against Inductor's C++."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional

from benchmarks import cpu_kernels
from benchmarks.cpu_engine.cells import Cell, Limit, Step, candidates
from benchmarks.cpu_engine.machine import copiers
from headrace.codegen.cpu.direct import compile_direct
from headrace.ir.spec import parse_spec

OVER = 1.2
ROWS, HIDDEN, HEADS, WIDTH = 2048, 4096, 32, 128
EPSILON = 1e-5

_CENTRED = "sub(x, div(s, count))"
SOFTMAX = (
    "Rows{inputs=[x:f32[rn]]; reductions=[m = max(x), s = sum(exp(sub(x, m)))]; "
    "outputs=[f32 = div(exp(sub(x, m)), s)]; reduced=[]}"
)
RMS_NORM = (
    "Rows{inputs=[x:bf16[rn], w:bf16[n]]; reductions=[s = sum(mul(x, x))]; "
    "outputs=[bf16 = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)]; reduced=[]}"
)
LAYER_NORM = (
    "Rows{inputs=[x:bf16[rn], w:bf16[n], b:bf16[n]]; "
    f"reductions=[s = sum(x), q = sum(mul({_CENTRED}, {_CENTRED}))]; "
    f"outputs=[bf16 = add(mul(mul({_CENTRED}, rsqrt(add(div(q, count), 1e-05))), w), b)]; reduced=[]}}"
)
SWIGLU = (
    "Rows{inputs=[g:bf16[rn], u:bf16[rn]]; reductions=[]; outputs=[bf16 = mul(mul(g, sigmoid(g)), u)]; "
    "reduced=[]}"
)


def softmax() -> Iterator[Callable[[], Cell]]:
    yield _softmax


def norms() -> Iterator[Callable[[], Cell]]:
    x = torch.randn(ROWS, HIDDEN).bfloat16()
    w, b = torch.randn(HIDDEN).bfloat16(), torch.randn(HIDDEN).bfloat16()
    yield lambda: _against_inductor(
        "RMSNorm", RMS_NORM, (x, w), lambda x, w: functional.rms_norm(x, (HIDDEN,), w, EPSILON)
    )
    yield lambda: _against_inductor(
        "LayerNorm", LAYER_NORM, (x, w, b), lambda x, w, b: functional.layer_norm(x, (HIDDEN,), w, b, EPSILON)
    )
    yield lambda: _against_inductor(
        "SwiGLU", SWIGLU, (x, x.flip(0).contiguous()), lambda g, u: functional.silu(g) * u
    )
    yield _rope


def _limit(sources: Sequence[torch.Tensor], result: torch.Tensor) -> Limit:
    return Limit("copy", copiers([t for t in sources if t.nbytes == result.nbytes], result))


def _softmax(rows: int = 4096, columns: int = 4096) -> Cell:
    x = torch.randn(rows, columns)
    ours, theirs = torch.empty_like(x), torch.empty_like(x)
    return Cell(
        f"softmax f32 {rows}x{columns}",
        candidates(parse_spec(SOFTMAX), (rows, columns), lambda kernel: lambda: kernel.into((x,), (ours,))),
        {"torch out=": lambda: torch.softmax(x, -1, out=theirs)},
        _limit([x], x),
        over={"torch out=": OVER},
    )


def _against_inductor(
    name: str, text: str, operands: tuple[torch.Tensor, ...], function: Callable[..., torch.Tensor]
) -> Cell:
    compiled = torch.compile(function, dynamic=False)
    return Cell(
        f"{name} bf16 {ROWS}x{HIDDEN}",
        candidates(parse_spec(text), (ROWS, HIDDEN), lambda kernel: lambda: kernel(operands)),
        {"inductor": lambda: compiled(*operands)},
        _limit(operands, operands[0]),
        over={"inductor": OVER},
    )


def _rope() -> Cell:
    half = WIDTH // 2
    x = torch.randn(ROWS, HEADS, WIDTH).bfloat16()
    angles = torch.rand(ROWS, half)
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    signature = {"X": "*bf16", "COS": "*bf16", "SIN": "*bf16", "Y": "*bf16"}
    kernel = compile_direct(cpu_kernels.rope, signature, {"HEADS": HEADS, "HALF": half})

    def ours() -> torch.Tensor:
        y = torch.empty_like(x)
        kernel.launch(ROWS, 1, 1, x.data_ptr(), cos.data_ptr(), sin.data_ptr(), y.data_ptr())
        return y

    def function(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        a, b = x[..., :half].float(), x[..., half:].float()
        c, s = cos[:, None].float(), sin[:, None].float()
        return torch.cat([a * c - b * s, b * c + a * s], -1).bfloat16()

    compiled = torch.compile(function, dynamic=False)
    candidates_: dict[str, Step] = {"rope": ours}
    return Cell(
        f"RoPE bf16 {ROWS}x{HEADS}x{WIDTH}",
        candidates_,
        {"inductor": lambda: compiled(x, cos, sin)},
        _limit([x], x),
        over={"inductor": OVER},
    )
