"""What liger-kernel's operators compute: the formulas of its docstrings, or torch's own operators."""

from __future__ import annotations

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * (weight + offset)."""
    wide = x.float()
    unit = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (unit * (weight.float() + offset)).to(x.dtype)


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x + residual
    return rms_norm(total, weight, eps), total


def modulated_rms_norm(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Rows of x are grouped; each group has its own scale and shift."""
    groups = x.view(scale.shape[0], -1, x.shape[-1])
    return (rms_norm(groups, weight, eps) * (1 + scale[:, None]) + shift[:, None]).view(x.shape)


def poly_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """w0 norm(x^3) + w1 norm(x^2) + w2 norm(x) + b."""

    def norm(u: Tensor) -> Tensor:
        return u * torch.rsqrt(u.pow(2).mean(-1, keepdim=True) + eps)

    return weight[0] * norm(x**3) + weight[1] * norm(x**2) + weight[2] * norm(x) + bias


def rotate_half(x: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat((-high, low), dim=-1)


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q (B, H, S, D), cos and sin (1, S, D)."""
    c, s = cos.unsqueeze(1), sin.unsqueeze(1)
    return q * c + rotate_half(q) * s, k * c + rotate_half(k) * s


def mrope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, section: list[int]) -> tuple[Tensor, Tensor]:
    """cos and sin (3, B, S, D): channels of time, height and width take turns in sections."""

    def mixed(table: Tensor) -> Tensor:
        parts = table.split(section * 2, dim=-1)
        return torch.cat([p[i % 3] for i, p in enumerate(parts)], dim=-1).unsqueeze(1)

    c, s = mixed(cos), mixed(sin)
    return q * c + rotate_half(q) * s, k * c + rotate_half(k) * s


def llama4_rope(q: Tensor, k: Tensor, freqs: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbouring channels of q (B, S, H, D) are complex numbers, turned by freqs (S, D/2, 2)."""

    def turn(x: Tensor) -> Tensor:
        real, imag = x.unflatten(-1, (-1, 2)).unbind(-1)
        c, s = freqs[..., 0][None, :, None], freqs[..., 1][None, :, None]
        return torch.stack((real * c - imag * s, real * s + imag * c), -1).flatten(-2)

    return turn(q), turn(k)


def swiglu(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


def geglu(a: Tensor, b: Tensor) -> Tensor:
    return F.gelu(a, approximate="tanh") * b


def mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(swiglu(F.linear(x, gate), F.linear(x, up)), down)


def softcapped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    smoothing: float = 0.0,
    cap: float | None = None,
    square: float = 0.0,
) -> Tensor:
    """torch's cross entropy of the capped logits, plus ``square`` times the squared log-sum-exp."""
    z = softcapped(logits.float(), cap)
    loss = F.cross_entropy(z, target, weight, reduction=reduction, label_smoothing=smoothing)
    if square:
        # Liger divides by the number of targets that count.
        z_loss = square * torch.logsumexp(z, -1).pow(2) * (target != -100)
        loss = loss + z_loss.sum() / (target != -100).sum()
    return loss


def fused_linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None) -> Tensor:
    return F.cross_entropy(F.linear(x, weight, bias).float(), target)


def jsd(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    """beta KL(P || M) + (1 - beta) KL(Q || M), M = beta P + (1 - beta) Q, over the number of rows."""
    rows = log_q.shape[0]
    if beta == 0.0:
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / rows
    if beta == 1.0:
        return F.kl_div(log_p, log_q, reduction="sum", log_target=True) / rows
    log_m = torch.log(beta * log_p.exp() + (1 - beta) * log_q.exp())
    first = F.kl_div(log_m, log_p, reduction="sum", log_target=True)
    second = F.kl_div(log_m, log_q, reduction="sum", log_target=True)
    return (beta * first + (1 - beta) * second) / rows


def fused_linear_jsd(x: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor) -> Tensor:
    student = torch.log_softmax((x @ weight.t()).float(), -1)
    return jsd(student, torch.log_softmax((teacher @ teacher_weight.t()).float(), -1), 0.5)


def fused_linear_kl_div(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.kl_div(torch.log_softmax((x @ weight.t()).float(), -1), target, reduction="batchmean")


def tvd(p: Tensor, q: Tensor) -> Tensor:
    """Half the sum of |p - q|, over the number of rows."""
    return 0.5 * (p - q).abs().sum() / p.shape[0]


def fused_ce_tvd(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    ce = F.cross_entropy(student.float(), target, reduction="none")
    distance = torch.softmax(student.float(), -1) - torch.softmax(teacher.float(), -1)
    return ce, 0.5 * distance.abs().sum(-1)


def sparsemax(x: Tensor) -> Tensor:
    """Projection of the last axis on the simplex."""
    ordered, _ = torch.sort(x.float(), dim=-1, descending=True)
    sums = ordered.cumsum(-1) - 1
    ranks = torch.arange(1, x.shape[-1] + 1, device=x.device)
    support = (ranks * ordered > sums).sum(-1, keepdim=True)
    return torch.clamp(x.float() - sums.gather(-1, support - 1) / support, min=0).to(x.dtype)


def multi_token_attention(scores: Tensor, weight: Tensor, bias: Tensor, sparse: bool) -> Tensor:
    """Causal softmax (or sparsemax), convolved over queries and keys, causal again."""
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    masked = scores.float().masked_fill(future, -1e9)
    probabilities = (sparsemax(masked) if sparse else torch.softmax(masked, -1)).to(scores.dtype)
    mixed = F.conv2d(probabilities, weight, bias, padding=weight.shape[-1] // 2)
    return mixed.masked_fill(future, 0.0)


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, size: int, dilation: int) -> Tensor:
    n = q.shape[-2]
    distance = torch.arange(n)[None, :] - torch.arange(n)[:, None]
    near = (distance.abs() <= size // 2 * dilation) & (distance % dilation == 0)
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    return torch.softmax(scores.masked_fill(~near, -torch.inf), -1).to(v.dtype) @ v


def attention_residual(v: Tensor, query: Tensor, norm: Tensor, eps: float) -> Tensor:
    """Softmax over the blocks of v (N, B, T, D) of query . rms_norm(v)."""
    scores = torch.einsum("d,nbtd->nbt", query.float(), rms_norm(v, norm, eps).float())
    return torch.einsum("nbt,nbtd->btd", torch.softmax(scores, 0), v.float()).to(v.dtype)


def dyt(x: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return torch.tanh(alpha * x) * gamma + beta


def mhc_coefficients(
    x: Tensor, phi: Tensor, b: Tensor, a_pre: Tensor, a_post: Tensor, a_res: Tensor, rounds: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of manifold-constrained hyper-connections: x (N, H, C), phi (H C, 2 H + H H)."""
    streams, eps = x.shape[-2], 1e-6
    flat = x.flatten(-2).float()
    mix = (flat @ phi.float()) * torch.rsqrt(flat.pow(2).mean(-1, keepdim=True) + eps)
    pre, post, res = mix.split((streams, streams, streams * streams), -1)
    b_pre, b_post, b_res = b.float().split((streams, streams, streams * streams))
    matrix = torch.softmax((res * a_res + b_res).unflatten(-1, (streams, streams)), -1) + eps
    matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
    for _ in range(rounds - 1):
        matrix = matrix / (matrix.sum(-1, keepdim=True) + eps)
        matrix = matrix / (matrix.sum(-2, keepdim=True) + eps)
    return torch.sigmoid(pre * a_pre + b_pre), 2 * torch.sigmoid(post * a_post + b_post), matrix


def mhc_pre(x: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("nh,nhc->nc", weights.float(), x.float()).to(x.dtype)


def mhc_post_res(x: Tensor, f: Tensor, post: Tensor, res: Tensor) -> Tensor:
    mixed = torch.einsum("noh,nhc->noc", res.float(), x.float())
    return (mixed + post.float()[..., None] * f.float()[:, None]).to(x.dtype)


def fused_moe(x: Tensor, gate_up: Tensor, down: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
    """Every token through its experts' SwiGLU, weighted."""
    out = torch.zeros_like(x)
    for slot in range(experts.shape[1]):
        for expert in range(gate_up.shape[0]):
            rows = (experts[:, slot] == expert).nonzero()[:, 0]
            gate, up = (x[rows] @ gate_up[expert].t()).chunk(2, -1)
            found = (F.silu(gate) * up) @ down[expert].t()
            out = out.index_add(0, rows, found * weights[rows, slot, None])
    return out


def grpo_loss(
    logits: Tensor, old: Tensor, ref: Tensor, ids: Tensor, advantages: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """Clipped policy loss per token plus ``beta`` times the KL estimate, masked; logits (B, L + 1, V)."""
    logp = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[..., None])[..., 0]
    ratio = (logp - old).exp()
    gain = advantages[:, None]
    loss = -torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
    return (loss + beta * ((ref - logp).exp() - (ref - logp) - 1)) * mask


def int8_int2_product(a: Tensor, weights: Tensor) -> Tensor:
    """a (M, K) int8 times weights (K, N) in {-1, 0, 1}."""
    return (a.long() @ weights.long()).int()
