"""fla-core's operators that keep a state: chunked and step by step, against the recurrence."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fla import ops
from fla.ops.abc.naive import naive_recurrent_abc
from fla.ops.comba.naive import naive_chunk_comba
from fla.ops.delta_rule.naive import delta_rule_recurrence
from fla.ops.gated_delta_product.chunk import chunk_gated_delta_product
from fla.ops.gated_delta_product.naive import naive_recurrent_gated_delta_product
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.gdn2.chunk import chunk_gdn2
from fla.ops.gdn2.fused_recurrent import fused_recurrent_gdn2
from fla.ops.gdn2.naive import naive_recurrent_gdn2
from fla.ops.generalized_delta_rule.iplr.naive import iplr_recurrence
from fla.ops.gla.naive import naive_recurrent_gla
from fla.ops.gsa.naive import naive_recurrent_gsa
from fla.ops.hgrn.chunk import chunk_hgrn
from fla.ops.hgrn.naive import naive_recurrent_hgrn
from fla.ops.kda.naive import naive_recurrent_kda
from fla.ops.log_linear_attn.naive import naive_log_linear_attn
from fla.ops.mesa_net.naive import naive_mesa_net_exact
from fla.ops.precond_gated_delta_rule.naive import naive_recurrent_precond_gated_delta_rule
from fla.ops.precond_kda.naive import naive_recurrent_precond_kda
from fla.ops.retention.naive import naive_retention
from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6
from fla.ops.simple_gla.naive import naive_recurrent_simple_gla
from fla.ops.ttt import chunk_ttt_linear, fused_chunk_ttt_linear
from fla_support import (
    B,
    H,
    K,
    T,
    V,
    dplr,
    first,
    fla_case,
    gate,
    halves,
    head_first,
    leaf,
    lightning,
    qkv,
    rwkv7,
    share,
    ttt,
    ungated,
    unit,
    units,
)
from third_party_case import Case, Inputs
from torch import Tensor


def recurrent_cases(d: torch.dtype, quick: bool) -> list[Case]:
    """Operators that keep a state: chunked and step by step against the recurrence."""
    case = partial(fla_case, d=d)
    square = partial(qkv, d, 32, 32)

    def decayed() -> Inputs:
        return {**qkv(d), "g": gate(B, T, H, K, dtype=d)}

    def simple() -> Inputs:
        return {**qkv(d), "g": gate(B, T, H, dtype=torch.float32)}

    def delta() -> Inputs:
        return {**units(d), "beta": share(B, T, H, dtype=d)}

    def gated() -> Inputs:
        return {**delta(), "g": gate(B, T, H, dtype=torch.float32)}

    def keyed() -> Inputs:
        return {**units(d), "g": gate(B, T, H, K, dtype=torch.float32), "beta": share(B, T, H, dtype=d)}

    def slots() -> Inputs:
        return {**qkv(d), "s": leaf(B, T, H, 16, dtype=d), "g": gate(B, T, H, 16, dtype=d)}

    def gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        return naive_recurrent_gla(q, k, v, g)[0]

    def low_rank() -> Inputs:
        a = F.normalize(torch.randn(B, T, H, K), dim=-1)
        return {**qkv(d), "a": (-a).to(d).requires_grad_(), "b": (a * 0.5).to(d).requires_grad_()}

    def rwkv() -> Inputs:
        given = low_rank()
        return {
            "r": given["q"],
            "w": gate(B, T, H, K, dtype=d),
            **{n: given[n] for n in ("k", "v", "a", "b")},
        }

    return [
        case("gla-chunk", decayed, ops.chunk_gla, gla, quick=quick),
        case(
            "gla-recurrent",
            lambda: {**qkv(d), "gk": gate(B, T, H, K, dtype=d)},
            ops.fused_recurrent_gla,
            lambda q, k, v, gk: gla(q, k, v, gk),
        ),
        case(
            "simple_gla-chunk", simple, ops.chunk_simple_gla, first(naive_recurrent_simple_gla), quick=quick
        ),
        case(
            "simple_gla-recurrent", simple, ops.fused_recurrent_simple_gla, first(naive_recurrent_simple_gla)
        ),
        case("simple_gla-fused_chunk", simple, ops.fused_chunk_simple_gla, first(naive_recurrent_simple_gla)),
        case("simple_gla-parallel", simple, ops.parallel_simple_gla, first(naive_recurrent_simple_gla)),
        case("retention-chunk", square, ops.chunk_retention, head_first(naive_retention), quick=quick),
        case("retention-recurrent", square, ops.fused_recurrent_retention, head_first(naive_retention)),
        case("retention-parallel", square, ops.parallel_retention, head_first(naive_retention)),
        case("retention-fused_chunk", square, ops.fused_chunk_retention, head_first(naive_retention)),
        case(
            "linear_attn-chunk",
            partial(qkv, d),
            first(ops.chunk_linear_attn, normalize=False),
            ungated,
            quick=quick,
        ),
        case("linear_attn-recurrent", partial(qkv, d), first(ops.fused_recurrent_linear_attn), ungated),
        case(
            "linear_attn-fused_chunk",
            partial(qkv, d),
            first(ops.fused_chunk_linear_attn, normalize=False),
            ungated,
        ),
        case(
            "lightning_attn-chunk",
            partial(qkv, d),
            first(ops.chunk_lightning_attn, layer_idx=1, num_layers=4),
            lightning,
        ),
        case(
            "lightning_attn-recurrent",
            partial(qkv, d),
            first(ops.fused_recurrent_lightning_attn, layer_idx=1, num_layers=4),
            lightning,
        ),
        *halves(
            case(
                "delta_rule-chunk",
                delta,
                ops.chunk_delta_rule,
                head_first(delta_rule_recurrence),
                quick=d == torch.bfloat16,
            )
        ),
        case(
            "delta_rule-recurrent", delta, ops.fused_recurrent_delta_rule, head_first(delta_rule_recurrence)
        ),
        case(
            "gated_delta_rule-chunk",
            gated,
            ops.chunk_gated_delta_rule,
            first(naive_recurrent_gated_delta_rule),
            quick=quick,
        ),
        case(
            "gated_delta_rule-recurrent",
            gated,
            ops.fused_recurrent_gated_delta_rule,
            first(naive_recurrent_gated_delta_rule),
            backward=False,
        ),
        *halves(
            case(
                "gated_delta_product-chunk",
                lambda: {
                    "q": leaf(B, T, H, K, dtype=d),
                    "k": unit(B, 2 * T, H, K, dtype=d),
                    "v": leaf(B, 2 * T, H, V, dtype=d),
                    "g": gate(B, T, H),
                    "beta": share(B, 2 * T, H, dtype=d),
                },
                first(chunk_gated_delta_product, num_householder=2),
                first(naive_recurrent_gated_delta_product, scale=K**-0.5, num_householder=2),
            )
        ),
        case("kda-chunk", keyed, ops.chunk_kda, first(naive_recurrent_kda), quick=quick),
        case("kda-recurrent", keyed, ops.fused_recurrent_kda, first(naive_recurrent_kda), backward=False),
        case(
            "comba-chunk",
            lambda: {**gated(), "p": unit(B, T, H, K, dtype=d)},
            ops.chunk_comba,
            first(naive_chunk_comba),
        ),
        case(
            "comba-recurrent",
            lambda: {**gated(), "p": unit(B, T, H, K, dtype=d)},
            ops.fused_recurrent_comba,
            first(naive_chunk_comba),
            backward=False,
        ),
        case(
            "dplr-chunk",
            lambda: {**low_rank(), "gk": gate(B, T, H, K, dtype=d)},
            ops.chunk_dplr_delta_rule,
            dplr,
        ),
        case(
            "dplr-recurrent",
            lambda: {**low_rank(), "gk": gate(B, T, H, K, dtype=d)},
            ops.fused_recurrent_dplr_delta_rule,
            dplr,
            backward=False,
        ),
        case(
            "iplr-chunk",
            low_rank,
            ops.chunk_iplr_delta_rule,
            head_first(iplr_recurrence, a="alpha", b="beta"),
            backward=False,
        ),
        case(
            "iplr-recurrent",
            low_rank,
            ops.fused_recurrent_iplr_delta_rule,
            head_first(iplr_recurrence, a="alpha", b="beta"),
        ),
        case("rwkv7-chunk", rwkv, ops.chunk_rwkv7, rwkv7),
        case("rwkv7-recurrent", rwkv, first(ops.fused_recurrent_rwkv7, scale=1.0), rwkv7, backward=False),
        *(
            case(
                f"rwkv6-{kind}",
                lambda: {
                    "r": leaf(B, T, H, K, dtype=d),
                    "k": leaf(B, T, H, K, dtype=d),
                    "v": leaf(B, T, H, V, dtype=d),
                    "w": gate(B, T, H, K, dtype=d),
                    "u": leaf(H, K, dtype=d),
                },
                function,
                head_first(naive_recurrent_rwkv6, fixed=("u",), r="q"),
            )
            for kind, function in (("chunk", ops.chunk_rwkv6), ("recurrent", ops.fused_recurrent_rwkv6))
        ),
        *(
            case(
                f"hgrn-{kind}",
                lambda: {"x": leaf(B, T, 96, dtype=d), "g": gate(B, T, 96, dtype=d)},
                function,
                first(naive_recurrent_hgrn),
                quick=quick and kind == "recurrent",
            )
            for kind, function in (("chunk", chunk_hgrn), ("recurrent", ops.fused_recurrent_hgrn))
        ),
        case("gsa-chunk", slots, ops.chunk_gsa, first(naive_recurrent_gsa)),
        case("gsa-recurrent", slots, ops.fused_recurrent_gsa, first(naive_recurrent_gsa)),
        case(
            "abc-chunk",
            lambda: {**qkv(d), "s": leaf(B, T, H, 16, dtype=d)},
            ops.chunk_abc,
            head_first(naive_recurrent_abc),
        ),
        *(
            case(
                f"ttt-{kind}",
                partial(_ttt_inputs, d),
                first(function, chunk_size=16),
                ttt,
                # Gradients through two normalisations: the scalar reference lowering of the same kernels is
                # as far off.
                **({"ratio": 2e-2} if d == torch.bfloat16 else {}),
            )
            for kind, function in (("chunk", chunk_ttt_linear), ("fused_chunk", fused_chunk_ttt_linear))
        ),
        case(
            "mesa_net-chunk",
            lambda: {
                "q": unit(B, T, H, 64, dtype=d),
                "k": unit(B, T, H, 64, dtype=d),
                "v": leaf(B, T, H, 64, dtype=d),
                "g": gate(B, T, H),
                "beta": share(B, T, H),
                "lamb": (torch.rand(H, 64) + 0.5).requires_grad_(),
            },
            ops.chunk_mesa_net,
            lambda q, k, v, g, beta, lamb: naive_mesa_net_exact(q, k, v, g, lamb, beta)[0],
            ratio=5e-3,
            why="a conjugate-gradient iteration that stops early, where the reference solves",
        ),
        case(
            "log_linear_attn-chunk",
            lambda: {
                "q": leaf(B, 128, 1, 64, dtype=d, scale=0.5),
                "k": leaf(B, 128, 1, 64, dtype=d, scale=0.5),
                "v": leaf(B, 128, H, 64, dtype=d),
                "g": gate(B, 128, H),
                "level_scales": share(B, 128, H, 8, dtype=d),
            },
            ops.chunk_log_linear_attn,
            log_linear,
        ),
        *(
            case(
                f"gdn2-{kind}",
                lambda: {
                    **units(d),
                    "g": gate(B, T, H, K),
                    "b": share(B, T, H, K, dtype=d),
                    "w": share(B, T, H, V, dtype=d),
                },
                function,
                first(naive_recurrent_gdn2),
                backward=kind == "chunk",
            )
            for kind, function in (("chunk", chunk_gdn2), ("recurrent", fused_recurrent_gdn2))
        ),
        *(
            case(
                f"precond_gated_delta_rule-{kind}",
                partial(_preconditioned, d, False),
                function,
                first(naive_recurrent_precond_gated_delta_rule),
                backward=kind == "chunk",
            )
            for kind, function in (
                ("chunk", ops.chunk_precond_gated_delta_rule),
                ("recurrent", ops.fused_recurrent_precond_gated_delta_rule),
            )
        ),
        *(
            case(
                f"precond_kda-{kind}",
                partial(_preconditioned, d, True),
                function,
                preconditioned_kda,
                backward=kind == "chunk",
            )
            for kind, function in (
                ("chunk", ops.chunk_precond_kda),
                ("recurrent", ops.fused_recurrent_precond_kda),
            )
        ),
    ]


def log_linear(q: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    # The reference multiplies in the dtypes it gets, and they differ.
    return naive_log_linear_attn(q.float(), **{n: v.float() for n, v in given.items()}).to(q.dtype)


def preconditioned_kda(q: torch.Tensor, k: torch.Tensor, **given: Any) -> torch.Tensor:
    # The operators make queries and keys of length one themselves.
    return naive_recurrent_precond_kda(F.normalize(q, dim=-1), F.normalize(k, dim=-1), **given)[0]


def _ttt_inputs(d: torch.dtype) -> Inputs:
    return {
        "q": unit(B, 64, H, 32, dtype=d),
        "k": unit(B, 64, H, 32, dtype=d),
        "v": leaf(B, 64, H, 32, dtype=d),
        "w": leaf(H, 32, dtype=d),
        "b": leaf(H, 32, dtype=d),
        "eta": (torch.rand(B, 64, H, 1) * 0.1).to(d).requires_grad_(),
        # From a state of zeros the first rows have no variance, and float16 does not hold what 1e-6 divides.
        "initial_state": leaf(B, H, 32, 32, scale=0.2),
        "initial_state_bias": leaf(B, H, 1, 32, scale=0.2),
    }


def _preconditioned(d: torch.dtype, keyed: bool) -> Inputs:
    return {
        "q": unit(B, T, H, K, dtype=d),
        "k": unit(B, T, H, K, dtype=d),
        "v": leaf(B, T, H, V, dtype=d),
        "g_atk": gate(B, T, H),
        "g": gate(B, T, H, K) if keyed else gate(B, T, H),
        "beta_atk": share(B, T, H),
        "beta": share(B, T, H, dtype=d),
    }
