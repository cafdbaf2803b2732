"""liger-kernel's losses as cases."""

from __future__ import annotations

from functools import partial
from typing import Any

import liger_references as reference
import torch
import torch.nn.functional as F
from liger_kernel import ops
from liger_kernel.ops.grpo_loss import GrpoLossFunction
from liger_kernel.transformers import functional as liger
from liger_support import TAG, Dtype, labels, leaf, liger_case, log_probabilities, probabilities
from third_party_case import Case


def loss_cases(dtype: Dtype, quick: bool) -> list[Case]:
    tag, case = TAG[dtype], partial(liger_case, dtype=dtype)
    rows, vocabulary = 13, 1000
    logits = partial(leaf, rows, vocabulary, dtype=dtype)
    variants: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("mean", {}, {}),
        (
            "sum-smoothed",
            {"reduction": "sum", "label_smoothing": 0.1},
            {"reduction": "sum", "smoothing": 0.1},
        ),
        ("capped-z", {"softcap": 5.0, "lse_square_scale": 1e-2}, {"cap": 5.0, "square": 1e-2}),
        ("none", {"reduction": "none"}, {"reduction": "none"}),
    ]
    found = [
        case(
            "cross_entropy",
            f"{name}-{tag}",
            lambda: {"logits": logits(), "target": labels(rows, vocabulary, 2)},
            lambda logits, target, mine=mine: liger.liger_cross_entropy(logits, target, **mine),
            lambda logits, target, theirs=theirs: reference.cross_entropy(logits, target, **theirs),
            quick=quick and name == "mean",
            # The gradient is made by the forward kernel; without a reduction PyTorch scales it.
            kernels_backward=name != "none",
        )
        for name, mine, theirs in variants
    ]
    divergences = [
        case(
            "jsd",
            f"beta{beta}-{tag}",
            lambda: {
                "x": log_probabilities(rows, 300, dtype),
                "y": log_probabilities(rows, 300, dtype).detach(),
            },
            lambda x, y, beta=beta: liger.liger_jsd(x, y, beta=beta),
            lambda x, y, beta=beta: reference.jsd(x.float(), y.float(), beta).to(x.dtype),
            kernels_backward=False,
        )
        for beta in (0.0, 0.3, 1.0)
    ]
    return [
        *found,
        *divergences,
        case(
            "cross_entropy",
            f"weighted-{tag}",
            lambda: {
                "logits": logits(),
                "target": labels(rows, vocabulary, 2),
                "weight": torch.rand(vocabulary) + 0.5,
            },
            lambda logits, target, weight: liger.liger_cross_entropy(logits, target, weight),
            reference.cross_entropy,
        ),
        case(
            "fused_linear_cross_entropy",
            tag,
            lambda: {
                "x": leaf(rows, 64, dtype=dtype),
                "weight": leaf(vocabulary, 64, dtype=dtype, scale=0.1),
                "target": labels(rows, vocabulary, 2),
                "bias": leaf(vocabulary, dtype=dtype),
            },
            liger.liger_fused_linear_cross_entropy,
            reference.fused_linear_cross_entropy,
            positional=True,
            quick=quick,
        ),
        case(
            "vocab_parallel_cross_entropy",
            tag,
            lambda: {"logits": leaf(5, 2, 700, dtype=dtype), "target": torch.randint(0, 700, (5, 2))},
            lambda logits, target: ops.LigerVocabParallelCEFunction.apply(
                logits, target, None, -100, 0.0, "pytorch", "global"
            ),
            lambda logits, target: F.cross_entropy(
                logits.float().flatten(0, 1), target.flatten(), reduction="none"
            ).view(5, 2),
        ),
        case(
            "kl_div",
            tag,
            lambda: {"x": log_probabilities(rows, 300, dtype), "y": probabilities(rows, 300, dtype).detach()},
            lambda x, y: liger.liger_kl_div(x, y, reduction="batchmean"),
            lambda x, y: F.kl_div(x, y, reduction="batchmean"),
        ),
        case(
            "tvd",
            tag,
            lambda: {"p": probabilities(rows, 300, dtype), "q": probabilities(rows, 300, dtype).detach()},
            lambda p, q: liger.liger_tvd(p, q, reduction="batchmean"),
            reference.tvd,
            kernels_backward=False,
        ),
        case(
            "fused_ce_tvd",
            tag,
            lambda: {"student": logits(), "teacher": logits().detach(), "target": labels(rows, vocabulary)},
            ops.LigerFusedCETVDFunction.apply,
            reference.fused_ce_tvd,
        ),
        case(
            "fused_linear_jsd",
            tag,
            lambda: {
                "x": leaf(rows, 64, dtype=dtype),
                "weight": leaf(300, 64, dtype=dtype, scale=0.1),
                "teacher": leaf(rows, 64, dtype=dtype).detach(),
                "teacher_weight": leaf(300, 64, dtype=dtype, scale=0.1).detach(),
            },
            liger.liger_fused_linear_jsd,
            reference.fused_linear_jsd,
            positional=True,
        ),
        case(
            "fused_linear_kl_div",
            tag,
            lambda: {
                "x": leaf(rows, 64, dtype=dtype),
                "weight": leaf(300, 64, dtype=dtype, scale=0.1),
                "target": probabilities(rows, 300, dtype).detach(),
            },
            liger.liger_fused_linear_kl_div,
            reference.fused_linear_kl_div,
            positional=True,
        ),
        case(
            "grpo_loss",
            tag,
            lambda: {
                "logits": leaf(3, 8, 500, dtype=dtype),
                "old": torch.randn(3, 7) * 0.1 - 6,
                "ref": torch.randn(3, 7) * 0.1 - 6,
                "ids": torch.randint(0, 500, (3, 7)),
                "advantages": torch.randn(3),
                "mask": (torch.rand(3, 7) > 0.2).int(),
            },
            lambda logits, old, ref, ids, advantages, mask: GrpoLossFunction.apply(
                logits, old, ref, ids, advantages, mask, 1.0, 0.04, 0.2, 0.2, False, "grpo", None, False
            )[0],
            partial(reference.grpo_loss, beta=0.04),
        ),
    ]
