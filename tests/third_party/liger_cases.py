"""liger-kernel's operators as cases."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import liger_references as reference
import torch
import torch.nn.functional as F
from liger_kernel import ops
from liger_kernel.ops.experimental.embedding import LigerEmbeddingFunction
from liger_kernel.ops.experimental.mm_int8int2 import matmul as int8_int2
from liger_kernel.ops.mlp import LigerMLPFunction
from liger_kernel.transformers import functional as liger
from liger_losses import loss_cases
from liger_support import PACKAGE, TAG, Dtype, angles, leaf, liger_case
from third_party_case import Case, Inputs


class DyT(ops.LigerDyTFunction):
    """DyT, whose backward asks how many multiprocessors a CUDA, XPU or NPU device has and knows no other.
    Told that this is an NPU, it asks Triton's driver, and takes 20 where the driver does not say."""

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> Any:
        with mock.patch("liger_kernel.ops.dyt.infer_device", return_value="npu"):
            return ops.LigerDyTFunction.backward(ctx, dy)


def fused_mlp(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The SwiGLU MLP on tensor descriptors from the host, whose forward begins by asserting ``is_cuda``."""
    with mock.patch.object(torch.Tensor, "is_cuda", True):
        return LigerMLPFunction.apply(x, gate, up, down)


def _norms(dtype: Dtype, quick: bool) -> list[Case]:
    tag, case = TAG[dtype], partial(liger_case, dtype=dtype)
    tokens, hidden = 14, 200
    x = partial(leaf, tokens, hidden, dtype=dtype)
    w = partial(leaf, hidden, dtype=dtype, shift=1.0)
    found = [
        case(
            "rms_norm",
            f"{mode}-{tag}",
            lambda: {"x": x(), "weight": w()},
            lambda x, weight, mode=mode, offset=offset: liger.liger_rms_norm(x, weight, 1e-6, offset, mode),
            lambda x, weight, offset=offset: reference.rms_norm(x, weight, 1e-6, offset),
            quick=quick and mode == "llama",
        )
        for mode, offset in (("llama", 0.0), ("gemma", 1.0), ("none", 0.0))
        if mode != "none" or dtype == torch.float32
    ]
    rows = partial(leaf, 4000, 96, dtype=dtype)
    return [
        *found,
        case(
            "rms_norm",
            f"blocks-{tag}",
            lambda: {"x": rows(), "weight": leaf(96, dtype=dtype, shift=1.0)},
            lambda x, weight: ops.LigerRMSNormFunction.apply(x, weight, 1e-6, 0.0, "llama", True, False),
            lambda x, weight: reference.rms_norm(x, weight, 1e-6),
        ),
        case(
            "fused_add_rms_norm",
            tag,
            lambda: {"x": x(), "residual": x(), "weight": w()},
            lambda x, residual, weight: liger.liger_fused_add_rms_norm(x, residual, weight, 1e-6),
            lambda x, residual, weight: reference.fused_add_rms_norm(x, residual, weight, 1e-6),
        ),
        case(
            "modulated_rms_norm",
            tag,
            lambda: {
                "x": x(),
                "weight": w(),
                "scale": leaf(2, hidden, dtype=dtype),
                "shift": leaf(2, hidden, dtype=dtype),
            },
            lambda x, weight, scale, shift: liger.liger_modulated_rms_norm(x, weight, scale, shift, 1e-6),
            lambda x, weight, scale, shift: reference.modulated_rms_norm(x, weight, scale, shift, 1e-6),
        ),
        case(
            "layer_norm",
            tag,
            lambda: {"x": x(), "weight": w(), "bias": leaf(hidden, dtype=dtype)},
            lambda x, weight, bias: liger.liger_layer_norm(x, weight, bias, 1e-6),
            lambda x, weight, bias: F.layer_norm(x, (hidden,), weight, bias, 1e-6),
            quick=quick,
        ),
        case(
            "group_norm",
            tag,
            lambda: {
                "x": leaf(2, 6, 70, dtype=dtype),
                "weight": leaf(6, dtype=dtype, shift=1.0),
                "bias": leaf(6, dtype=dtype),
            },
            lambda x, weight, bias: liger.liger_group_norm(x, weight, bias, 6, 3, 1e-6),
            lambda x, weight, bias: F.group_norm(x, 3, weight, bias, 1e-6),
        ),
        case(
            "poly_norm",
            tag,
            lambda: {"x": x(), "weight": leaf(3, dtype=dtype), "bias": leaf(dtype=dtype)},
            lambda x, weight, bias: liger.liger_poly_norm(x, weight, bias, 1e-6),
            lambda x, weight, bias: reference.poly_norm(x, weight, bias, 1e-6),
        ),
        case(
            "dyt",
            tag,
            lambda: {
                "x": x(),
                "alpha": leaf(1, dtype=dtype),
                "gamma": w(),
                "beta": leaf(hidden, dtype=dtype),
            },
            DyT.apply,
            reference.dyt,
        ),
        case(
            "attn_res",
            tag,
            lambda: {
                "v": leaf(5, 2, 7, 96, dtype=dtype),
                "query": leaf(96, dtype=dtype),
                "norm": leaf(96, dtype=dtype),
            },
            lambda v, query, norm: liger.liger_attn_res(v, query, norm, 1e-6),
            lambda v, query, norm: reference.attention_residual(v, query, norm, 1e-6),
        ),
    ]


def _elementwise(dtype: Dtype, quick: bool) -> list[Case]:
    tag, case = TAG[dtype], partial(liger_case, dtype=dtype)
    x = partial(leaf, 3, 5, 300, dtype=dtype)

    def heads() -> Inputs:
        cos, sin = angles(11, 64, dtype)
        return {
            "q": leaf(2, 6, 11, 64, dtype=dtype),
            "k": leaf(2, 2, 11, 64, dtype=dtype),
            "cos": cos,
            "sin": sin,
        }

    def sections() -> Inputs:
        cos, sin = zip(*(angles(11, 64, dtype) for _ in range(3)), strict=True)
        tables = {
            "cos": torch.stack(cos).expand(3, 2, 11, 64) * 1.0,
            "sin": torch.stack(sin).expand(3, 2, 11, 64) * 1.0,
        }
        tables["cos"][1] *= 0.5
        return {"q": leaf(2, 6, 11, 64, dtype=dtype), "k": leaf(2, 2, 11, 64, dtype=dtype), **tables}

    def complex_heads() -> Inputs:
        cos, sin = angles(9, 32, torch.float32)
        return {
            "q": leaf(2, 9, 4, 32, dtype=dtype),
            "k": leaf(2, 9, 2, 32, dtype=dtype),
            "freqs": torch.stack((cos[0, :, :16], sin[0, :, :16]), -1),
        }

    return [
        case("rope", tag, heads, liger.liger_rope, reference.rope, quick=quick),
        case(
            "qwen2vl_mrope",
            tag,
            sections,
            lambda q, k, cos, sin: liger.liger_qwen2vl_mrope(q, k, cos, sin, [8, 12, 12]),
            lambda q, k, cos, sin: reference.mrope(q, k, cos, sin, [8, 12, 12]),
        ),
        case("llama4_rope", tag, complex_heads, ops.LigerLlama4RopeFunction.apply, reference.llama4_rope),
        case("swiglu", tag, lambda: {"a": x(), "b": x()}, liger.liger_swiglu, reference.swiglu, quick=quick),
        case(
            "swiglu_fused_gate_up",
            tag,
            lambda: {"y": leaf(15, 300, dtype=dtype)},
            ops.LigerFusedGateUpSiLUMulFunction.apply,
            lambda y: reference.swiglu(*y.chunk(2, -1)),
        ),
        case("geglu", tag, lambda: {"a": x(), "b": x()}, liger.liger_geglu, reference.geglu, quick=quick),
        case("relu_squared", tag, lambda: {"x": x()}, liger.liger_relu_squared, lambda x: F.relu(x).square()),
        case(
            "softmax",
            tag,
            lambda: {"x": x()},
            liger.liger_softmax,
            lambda x: F.softmax(x.float(), -1).to(x.dtype),
        ),
        case(
            "softmax",
            f"long-{tag}",
            lambda: {"x": leaf(2, 40000, dtype=dtype)},
            liger.liger_softmax,
            lambda x: F.softmax(x.float(), -1).to(x.dtype),
        ),
        case(
            "sparsemax",
            tag,
            lambda: {"x": leaf(9, 130, dtype=dtype)},
            liger.liger_sparsemax,
            reference.sparsemax,
        ),
        case(
            "embedding",
            tag,
            lambda: {"table": leaf(40, 100, dtype=dtype), "indices": torch.randint(0, 40, (3, 50))},
            LigerEmbeddingFunction.apply,
            lambda table, indices: F.embedding(indices, table),
        ),
    ]


def _attention(dtype: Dtype) -> list[Case]:
    tag, case = TAG[dtype], partial(liger_case, dtype=dtype)
    tokens = {"x": partial(leaf, 20, 4, 48, dtype=dtype)}
    scores = partial(leaf, 2, 4, 20, 20, dtype=dtype)
    found = [
        case(
            "multi_token_attention",
            f"{'sparsemax' if sparse else 'softmax'}-{tag}",
            lambda: {
                "scores": scores(),
                "weight": leaf(4, 4, 3, 3, dtype=dtype),
                "bias": leaf(4, dtype=dtype),
            },
            lambda scores, weight, bias, sparse=sparse: liger.liger_multi_token_attention(
                scores, weight, bias, padding=1, sparse=sparse
            ),
            lambda scores, weight, bias, sparse=sparse: reference.multi_token_attention(
                scores, weight, bias, sparse
            ),
        )
        for sparse in ((False, True) if dtype == torch.float32 else (False,))
    ]
    return [
        *found,
        *(
            case(
                "fused_neighborhood_attention",
                f"dilation{dilation}-{tag}",
                lambda: {name: leaf(2, 2, 50, 32, dtype=dtype) for name in "qkv"},
                lambda q, k, v, d=dilation: liger.liger_fused_neighborhood_attention(q, k, v, 7, d),
                lambda q, k, v, d=dilation: reference.neighborhood_attention(q, k, v, 7, d),
            )
            for dilation in (1, 2)
        ),
        case(
            "mhc_coeffs",
            tag,
            lambda: {
                "x": tokens["x"](),
                "phi": leaf(192, 24, dtype=dtype, scale=0.1),
                "b": leaf(24),
                **{n: torch.tensor(0.7, requires_grad=True) for n in ("a_pre", "a_post", "a_res")},
            },
            lambda x, phi, b, a_pre, a_post, a_res: liger.liger_mhc_coeffs(
                x, phi, b, a_pre, a_post, a_res, allow_fp32=True, tmax=4
            ),
            lambda *a, **k: reference.mhc_coefficients(*a, **k, rounds=4),
        ),
        case(
            "mhc_pre",
            tag,
            lambda: {"x": tokens["x"](), "weights": leaf(20, 4)},
            liger.liger_mhc_pre,
            reference.mhc_pre,
            positional=True,
        ),
        case(
            "mhc_post_res",
            tag,
            lambda: {
                "x": tokens["x"](),
                "f": leaf(20, 48, dtype=dtype),
                "post": leaf(20, 4),
                "res": leaf(20, 4, 4),
            },
            liger.liger_mhc_post_res,
            reference.mhc_post_res,
            positional=True,
        ),
        case(
            "mlp",
            tag,
            lambda: {
                "x": leaf(2, 70, 136, dtype=dtype),
                "gate": leaf(200, 136, dtype=dtype, scale=0.1),
                "up": leaf(200, 136, dtype=dtype, scale=0.1),
                "down": leaf(136, 200, dtype=dtype, scale=0.1),
            },
            fused_mlp,
            reference.mlp,
        ),
        case(
            "fused_moe",
            tag,
            lambda: {
                "x": leaf(30, 64, dtype=dtype),
                "gate_up": leaf(4, 96, 64, dtype=dtype, scale=0.1),
                "down": leaf(4, 64, 48, dtype=dtype, scale=0.1),
                "experts": torch.stack([torch.randperm(4)[:2] for _ in range(30)]).int(),
                "weights": torch.rand(30, 2).to(dtype).requires_grad_(),
            },
            ops.LigerFusedMoEFunction.apply,
            reference.fused_moe,
        ),
    ]


def cases() -> list[Case]:
    """Every operator in three dtypes; the quick ones in float32 only."""
    found = []
    for dtype in TAG:
        quick = dtype == torch.float32
        found += [
            *_norms(dtype, quick),
            *_elementwise(dtype, quick),
            *_attention(dtype),
            *loss_cases(dtype, quick),
        ]
    found.append(
        Case(
            PACKAGE,
            "mm_int8int2",
            "i8",
            lambda: {
                "a": torch.randint(-128, 128, (70, 256), dtype=torch.int8),
                "weights": torch.randint(-1, 2, (256, 90), dtype=torch.int8),
            },
            lambda a, weights: int8_int2(a, _packed(weights)),
            reference.int8_int2_product,
            backward=False,
        )
    )
    return found


def _packed(weights: torch.Tensor) -> torch.Tensor:
    """Four rows of {-1, 0, 1} in one of bytes, the first in the lowest bits."""
    quarters = (weights + 1).to(torch.uint8).chunk(4, 0)
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
