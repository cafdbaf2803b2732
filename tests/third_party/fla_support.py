"""Inputs and references that fla-core's cases share.

Arguments are in the layout of the operators: batch, time, head, channel; ``head_first`` turns them for
references that want batch, head, time, channel. Sequences are longer than a chunk and no multiple of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from fla.ops.attn.naive import naive_parallel_attn
from fla.ops.forgetting_attn.naive import naive_forgetting_attn
from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence
from fla.ops.linear_attn.naive import naive_recurrent_linear_attn
from fla.ops.simple_gla.naive import naive_recurrent_simple_gla
from fla.ops.ttt.naive import chunk_ttt_linear_ref
from third_party_case import Case, Inputs

PACKAGE = "fla-core"
Tensor = torch.Tensor
TAG = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
B, T, H, K, V = 1, 75, 2, 32, 48


def leaf(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * scale).to(dtype).requires_grad_()


def unit(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-1).to(dtype).requires_grad_()


def gate(*shape: int, dtype: torch.dtype = torch.float32, strength: float = 4.0) -> Tensor:
    """Logarithms of decays."""
    return (F.logsigmoid(torch.randn(*shape)) / strength).to(dtype).requires_grad_()


def share(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape).sigmoid().to(dtype).requires_grad_()


def head_first(function: Callable[..., Any], fixed: Iterable[str] = (), **names: str) -> Callable[..., Any]:
    """The reference on arguments turned to head before time, its output turned back; ``names`` renames."""
    kept = set(fixed)

    def call(**given: Any) -> Any:
        turned = {names.get(n, n): v if n in kept else v.transpose(1, 2) for n, v in given.items()}
        result = function(**turned)
        return (result[0] if isinstance(result, tuple) else result).transpose(1, 2)

    return call


def first(function: Callable[..., Any], **more: Any) -> Callable[..., Tensor]:
    """The first result alone: the others are states that were not asked for."""

    def call(**given: Any) -> Tensor:
        result = function(**given, **more)
        return result[0] if isinstance(result, tuple) else result

    return call


def qkv(d: torch.dtype, k: int = K, v: int = V, t: int = T, heads: int = H) -> Inputs:
    return {
        "q": leaf(B, t, heads, k, dtype=d),
        "k": leaf(B, t, heads, k, dtype=d),
        "v": leaf(B, t, heads, v, dtype=d),
    }


def units(d: torch.dtype) -> Inputs:
    """Delta rules want keys of length one."""
    return {"q": leaf(B, T, H, K, dtype=d), "k": unit(B, T, H, K, dtype=d), "v": leaf(B, T, H, V, dtype=d)}


def lightning(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads = q.shape[2]
    decay = -(8 / heads * (1 - 1 / 4)) * torch.arange(heads, dtype=torch.float)
    return naive_recurrent_simple_gla(q, k, v, decay.expand(*q.shape[:3]))[0]


def ungated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return naive_recurrent_linear_attn(q, k, v)[0]


def dplr(q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, gk: Tensor) -> Tensor:
    return head_first(dplr_recurrence, a="alpha", b="beta")(q=q, k=k, v=v, a=a, b=b, gk=gk)


def rwkv7(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # The reference scales by 1 / sqrt(K); the operator by 1.
    return dplr(r * r.shape[-1] ** 0.5, k, v, a, b, w)


def gated_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    # The gate is float32, and the reference multiplies in the dtypes it gets.
    return naive_parallel_attn(q.float(), k.float(), v.float(), g=g)[0].to(q.dtype)


def forgetting(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return naive_forgetting_attn(q, k, v, g).to(q.dtype)


def chunk_sums(g: Tensor, size: int) -> Tensor:
    return torch.cat([part.float().cumsum(1) for part in g.split(size, 1)], 1)


def inverse_of_lower(A: Tensor) -> Tensor:  # the operator's name for it
    """(1 + A)^-1 of the strictly lower triangles of blocks of 64 rows; A (B, T, H, 64)."""
    blocks = A.unflatten(1, (-1, 64)).transpose(2, 3).tril(-1)
    return torch.linalg.inv(blocks + torch.eye(64, dtype=A.dtype)).transpose(2, 3).flatten(1, 2)


def ttt(q: Tensor, **given: Any) -> Tensor:
    # The reference scales its q in place.
    return chunk_ttt_linear_ref(q * 1.0, **given, mini_batch_size=16)[0]


def chunk_means(x: Tensor, size: int) -> Tensor:
    return torch.stack([part.mean(1) for part in x.split(size, 1)], 1)


def shift_tokens(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, -1)) - x


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    c, s = cos[None, :, None], sin[None, :, None]
    return torch.cat((low * c - high * s, low * s + high * c), -1)


def halves(case: Case) -> list[Case]:
    """Operators that their authors refuse in float32."""
    return [] if case.variant == TAG[torch.float32] else [case]


# fla-core's own tests allow a root mean square error of half a percent where products are rounded.
_OWN_CRITERION = {torch.bfloat16: 1e-2, torch.float16: 5e-3}


def fla_case(
    op: str,
    inputs: Callable[[], Inputs],
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *,
    d: torch.dtype,
    **options: Any,
) -> Case:
    # Chunked forms multiply differences of exponentials that the recurrence never forms.
    options = {"factor": 4.0, "why": "sums in another order, over chunks", **options}
    if d in _OWN_CRITERION:
        options.setdefault("ratio", _OWN_CRITERION[d])
    return Case(PACKAGE, op, TAG[d], inputs, first(ours), first(theirs), **options)
