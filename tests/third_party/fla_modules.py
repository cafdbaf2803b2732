"""fla-core's building blocks of layers."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from fla.modules.causal_conv1d import causal_conv1d
from fla.modules.fused_cross_entropy.ops import cross_entropy_loss
from fla.modules.fused_kl_div import FusedKLDivLoss
from fla.modules.norm import l2norm, layernorm, layernorm_gated
from fla.modules.norm.fused_norm_gate import rms_norm_gated
from fla.modules.rotary import rotary_embedding
from fla.modules.token_shift import token_shift
from fla.ops.rwkv7.channel_mixing import channel_mixing_rwkv7, channel_mixing_rwkv7_torch
from fla.ops.rwkv7.fused_addcmul import fused_addcmul_rwkv7, torch_addcmul_rwkv7
from fla.ops.rwkv7.fused_k_update import fused_k_rwkv7, k_update_ref
from fla.ops.rwkv7.gate_output_correction import gate_output_correction, gate_output_correction_ref
from fla.ops.utils import chunk_global_cumsum, chunk_local_cumsum, mean_pooling
from fla.ops.utils.matmul import matmul
from fla.ops.utils.solve_tril import solve_tril
from fla_support import (
    B,
    H,
    T,
    chunk_means,
    chunk_sums,
    first,
    fla_case,
    inverse_of_lower,
    leaf,
    rotary,
    shift_tokens,
)
from third_party_case import Case
from torch import Tensor


def modules_cases(d: torch.dtype, quick: bool) -> list[Case]:
    """Building blocks of the layers."""
    case = partial(fla_case, d=d)
    x = partial(leaf, B, T, 96, dtype=d)
    cos = torch.outer(torch.arange(T), torch.rand(16)).cos()
    sin = torch.outer(torch.arange(T), torch.rand(16)).sin()

    def w() -> Tensor:
        return (torch.randn(96) + 1).to(d).requires_grad_()

    def labels() -> Tensor:
        return torch.cat([torch.randint(0, 500, (18,)), torch.full((2,), -100)])

    return [
        case(
            "layer_norm",
            lambda: {"x": x(), "weight": w(), "bias": w()},
            layernorm.layer_norm,
            lambda x, weight, bias: F.layer_norm(x, (96,), weight, bias),
        ),
        case(
            "rms_norm",
            lambda: {"x": x(), "weight": w(), "bias": w()},
            layernorm.rms_norm,
            lambda x, weight, bias: (F.rms_norm(x.float(), (96,), eps=1e-5) * weight + bias).to(x.dtype),
        ),
        case(
            "group_norm",
            lambda: {"x": x(), "weight": w(), "bias": w()},
            first(layernorm.group_norm, num_groups=3),
            lambda x, weight, bias: F.group_norm(x.flatten(0, 1), 3, weight, bias).view_as(x),
        ),
        case(
            "l2norm",
            lambda: {"x": x()},
            l2norm.l2norm,
            lambda x: (x.float() * torch.rsqrt(x.float().square().sum(-1, keepdim=True) + 1e-6)).to(x.dtype),
            quick=quick,
        ),
        case(
            "rms_norm_gated",
            lambda: {"x": x(), "weight": w(), "z": x()},
            lambda x, weight, z: layernorm_gated.rmsnorm_fn(x, weight, None, z=z, eps=1e-5),
            lambda x, weight, z: F.rms_norm(x.float(), (96,), eps=1e-5).to(x.dtype) * weight * F.silu(z),
        ),
        case(
            "rotary",
            lambda: {"x": leaf(B, T, H, 32, dtype=d), "cos": cos.to(d), "sin": sin.to(d)},
            rotary_embedding,
            rotary,
        ),
        case("token_shift", lambda: {"x": x()}, token_shift, shift_tokens),
        case(
            "cross_entropy",
            lambda: {"logits": leaf(20, 500, dtype=d), "target": labels()},
            cross_entropy_loss,
            lambda logits, target: F.cross_entropy(logits.float(), target, reduction="none"),
        ),
        case(
            "local_cumsum",
            lambda: {"g": leaf(B, T, H)},
            first(chunk_local_cumsum, chunk_size=16),
            first(chunk_sums, size=16),
            backward=False,
        ),
        case(
            "global_cumsum",
            lambda: {"s": leaf(B, T, H, 24, dtype=d)},
            chunk_global_cumsum,
            lambda s: s.float().cumsum(1),
            backward=False,
        ),
        case(
            "mean_pooling",
            lambda: {"x": leaf(B, T, H, 24, dtype=d)},
            first(mean_pooling, chunk_size=16),
            first(chunk_means, size=16),
        ),
        case(
            "norm_gate",
            lambda: {"x": x(), "g": x(), "weight": w(), "bias": w()},
            rms_norm_gated,
            lambda x, g, weight, bias: (
                (F.rms_norm(x.float(), (96,), eps=1e-6) * weight + bias) * F.silu(g.float())
            ).to(x.dtype),
        ),
        case(
            "causal_conv1d",
            lambda: {"x": x(), "weight": leaf(96, 4, dtype=d), "bias": leaf(96, dtype=d)},
            first(causal_conv1d, activation="silu"),
            lambda x, weight, bias: F.silu(
                F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), weight[:, None], bias, groups=96)
            ).transpose(1, 2),
        ),
        case(
            "matmul",
            lambda: {"a": leaf(70, 90, dtype=d), "b": leaf(90, 50, dtype=d)},
            matmul,
            lambda a, b: a @ b,
            backward=False,
        ),
        case(
            "solve_tril",
            lambda: {"A": leaf(B, 128, H, 64, scale=0.1)},
            solve_tril,
            inverse_of_lower,
            backward=False,
        ),
        case(
            "rwkv7-k_update",
            lambda: {"k": x(), "a": x(), "ka": leaf(1, 1, 96, dtype=d)},
            fused_k_rwkv7,
            k_update_ref,
        ),
        case(
            "rwkv7-gate_output_correction",
            lambda: {
                "o": leaf(B, T, H * 32, dtype=d),
                **{n: leaf(B, T, H, 32, dtype=d) for n in "rkv"},
                "r_k": leaf(H, 32, dtype=d),
                "g": leaf(B, T, H * 32, dtype=d),
            },
            lambda o, r, k, v, r_k, g: gate_output_correction(o, r, k, r_k, v, g),
            lambda o, r, k, v, r_k, g: gate_output_correction_ref(o, r, k, r_k, v, g),
        ),
        case(
            "rwkv7-channel_mixing",
            lambda: {
                "x": x(),
                "x_prev": leaf(B, 96, dtype=d),
                "x_k": leaf(96, dtype=d),
                "key_weight": leaf(96, 128, dtype=d, scale=0.1),
                "value_weight": leaf(128, 96, dtype=d, scale=0.1),
            },
            channel_mixing_rwkv7,
            channel_mixing_rwkv7_torch,
        ),
        case(
            "rwkv7-addcmul",
            lambda: {
                "x": x(),
                "delta": x(),
                **{n: leaf(1, 1, 96, dtype=d) for n in ("r", "w", "k", "v", "a", "g")},
            },
            lambda **given: torch.cat(list(fused_addcmul_rwkv7(*given.values()))),
            lambda **given: torch.cat(list(torch_addcmul_rwkv7(*given.values()))),
        ),
        case(
            "linear_kl_div",
            lambda: {
                "x": leaf(20, 64, dtype=d),
                "target_x": leaf(20, 64, dtype=d).detach(),
                "weight": leaf(300, 64, dtype=d, scale=0.2),
                "target_weight": leaf(300, 64, dtype=d, scale=0.2).detach(),
            },
            lambda x, target_x, weight, target_weight: FusedKLDivLoss()(x, target_x, weight, target_weight),
            lambda x, target_x, weight, target_weight: F.kl_div(
                torch.log_softmax((x @ weight.t()).float(), -1),
                torch.softmax((target_x @ target_weight.t()).float(), -1),
                reduction="batchmean",
            ),
            kernels_backward=False,
        ),
    ]
