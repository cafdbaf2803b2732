"""The tutorials' kernels as cases, against torch."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from third_party_case import Case, Inputs

sys.path.insert(0, str(pathlib.Path(__file__).parent / "tutorials"))
import calls  # after the path to it is known

PACKAGE = "tutorials"
Tensor = torch.Tensor
TAG = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def leaf(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * scale).to(dtype).requires_grad_()


def plain(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape).to(dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    logits = (q @ k.transpose(-1, -2)).float() * 0.2
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return torch.softmax(logits, -1).to(v.dtype) @ v


def philox(counter: Tensor, seed: int) -> Tensor:
    """Uniform numbers of the Philox 4x32 generator with ten rounds, as their paper defines it."""
    mask = 0xFFFFFFFF
    out = []
    for first in counter.tolist():
        c, key = [first & mask, 0, 0, 0], [seed & mask, seed >> 32 & mask]
        for _ in range(10):
            high, low = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
            c = [low >> 32 ^ c[1] ^ key[0], low & mask, high >> 32 ^ c[3] ^ key[1], high & mask]
            key = [key[0] + 0x9E3779B9 & mask, key[1] + 0xBB67AE85 & mask]
        # A signed number folded at zero, scaled to [0, 1).
        signed = c[0] - (1 << 32) if c[0] >> 31 else c[0]
        out.append((-signed - 1 if signed < 0 else signed) * 4.6566127342e-10)
    return torch.tensor(out, dtype=torch.float64)


def seeded_dropout(x: Tensor, p: float, seed: int) -> Tensor:
    return torch.where(philox(torch.arange(x.numel()), seed) > p, x / (1 - p), 0.0)


MX = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def scaled_inputs(kinds: tuple[str, str]) -> Inputs:
    """Random elements and scales near one; two e2m1 elements share a byte, the first in its low half."""
    found: Inputs = {}
    for name, rows, kind in (("a", 50, kinds[0]), ("b", 40, kinds[1])):
        if kind == "e2m1":
            found[name] = torch.randint(0, 256, (rows, 64), dtype=torch.uint8)
        else:
            found[name] = torch.randn(rows, 128).to(MX[kind]).view(torch.uint8)
        found[f"{name}_scales"] = torch.randint(124, 130, (rows, 4), dtype=torch.uint8)
    return found


def unscaled(x: Tensor, scales: Tensor, kind: str) -> Tensor:
    if kind == "e2m1":
        codes = torch.stack((x & 15, x >> 4), -1).flatten(-2).long()
        values = torch.where(codes > 7, -1.0, 1.0) * FP4[codes & 7]
    else:
        values = x.view(MX[kind]).float()
    return values * torch.exp2(scales.float() - 127).repeat_interleave(32, -1)


def scaled_matmul(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, kinds: tuple[str, str]) -> Tensor:
    return unscaled(a, a_scales, kinds[0]) @ unscaled(b, b_scales, kinds[1]).t()


def grouped(**given: Tensor) -> list[Tensor]:
    return [given[f"a{i}"] @ given[f"b{i}"] for i in range(len(given) // 2)]


def grouped_call(**given: Tensor) -> list[Tensor]:
    count = len(given) // 2
    return calls.grouped_gemm([given[f"a{i}"] for i in range(count)], [given[f"b{i}"] for i in range(count)])


def _rows(dtype: torch.dtype, quick: bool) -> list[Case]:
    case = partial(_case, variant=TAG[dtype])
    flat = partial(plain, dtype=dtype)
    forward = partial(case, backward=False, quick=quick)
    return [
        forward("vector_add", lambda: {"x": flat(98432), "y": flat(98432)}, calls.add, lambda x, y: x + y),
        forward(
            "fused_softmax",
            lambda: {"x": plain(37, 781, dtype=dtype)},
            calls.softmax,
            lambda x: torch.softmax(x, -1),
        ),
        forward(
            "dropout_by_mask",
            lambda: {"x": flat(3000), "kept": (torch.rand(3000) > 0.5).to(torch.int32)},
            partial(calls.dropout_by_mask, p=0.5),
            lambda x, kept: torch.where(kept > 0, x / 0.5, 0.0),
        ),
        forward(
            "dropout_by_seed",
            lambda: {"x": flat(3000)},
            partial(calls.dropout_by_seed, p=0.4, seed=123),
            partial(seeded_dropout, p=0.4, seed=123),
        ),
        case(
            "layer_norm",
            lambda: {
                "x": leaf(151, 233, dtype=dtype),
                "weight": leaf(233, dtype=dtype),
                "bias": leaf(233, dtype=dtype),
            },
            lambda x, weight, bias: calls.LayerNorm.apply(x, weight, bias, 1e-5),
            lambda x, weight, bias: F.layer_norm(x, (233,), weight, bias, 1e-5),
            quick=quick,
        ),
    ]


def _matrices(dtype: torch.dtype, quick: bool) -> list[Case]:
    case = partial(_case, variant=TAG[dtype], backward=False, quick=quick)

    def pair() -> Inputs:
        return {"a": plain(130, 72, dtype=dtype), "b": plain(72, 150, dtype=dtype)}

    def heads() -> Inputs:
        return {name: leaf(1, 2, 150, 32, dtype=dtype) for name in "qkv"}

    return [
        case("matmul", pair, calls.matmul, lambda a, b: a @ b),
        case(
            "matmul_leaky_relu",
            pair,
            partial(calls.matmul, activation="leaky_relu"),
            lambda a, b: F.leaky_relu(a.float() @ b.float(), 0.01).to(a.dtype),
        ),
        case("persistent_matmul", pair, calls.persistent_matmul, lambda a, b: a @ b),
        case(
            "persistent_matmul_descriptors",
            lambda: {"a": plain(130, 72, dtype=dtype), "b": plain(152, 72, dtype=dtype)},
            calls.persistent_matmul_descriptors,
            lambda a, b: a @ b.t(),
        ),
        *(
            case(
                f"fused_attention{'_causal' if causal else ''}",
                heads,
                lambda q, k, v, causal=causal: calls.Attention.apply(q, k, v, causal, 0.2),
                partial(attention, causal=causal),
                backward=True,
                quick=quick and causal,
            )
            for causal in (False, True)
        ),
    ]


def _case(
    op: str,
    inputs: Callable[[], Inputs],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *,
    variant: str,
    **more: Any,
) -> Case:
    return Case(PACKAGE, op, variant, inputs, ours, theirs, **more)


def cases() -> list[Case]:
    """Every tutorial in every dtype that it takes."""
    found = []
    for dtype in TAG:
        quick = dtype == torch.float32
        found += [*_rows(dtype, quick), *_matrices(dtype, quick)]
    found += [
        _case(
            "extern_asin",
            lambda: {"x": (torch.rand(3000) * 2 - 1)},
            calls.arc_sine,
            torch.asin,
            variant="f32",
            backward=False,
            quick=True,
        ),
        _case(
            "extern_asin",
            lambda: {"x": (torch.rand(3000, dtype=torch.float64) * 2 - 1)},
            calls.arc_sine,
            torch.asin,
            variant="f64",
            backward=False,
        ),
        _case(
            "grouped_gemm",
            lambda: {
                f"{side}{i}": plain(*shape, dtype=torch.float16)
                for i, (m, n, k) in enumerate([(70, 50, 96), (16, 120, 40), (33, 64, 17)])
                for side, shape in (("a", (m, k)), ("b", (k, n)))
            },
            grouped_call,
            grouped,
            variant="f16",
            backward=False,
            quick=True,
        ),
        *(
            _case(
                "block_scaled_matmul",
                partial(scaled_inputs, kinds),
                partial(calls.scaled_matmul, kinds=kinds),
                partial(scaled_matmul, kinds=kinds),
                variant="-".join(kinds),
                backward=False,
                quick=kinds == ("e4m3", "e2m1"),
            )
            for kinds in (("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e4m3", "e2m1"), ("e2m1", "e2m1"))
        ),
    ]
    return found
