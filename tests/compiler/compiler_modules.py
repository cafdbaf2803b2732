"""Small modules that between them spell what models are made of; used to hold compiled results against
float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Shape = tuple[int, ...]


class Fn(nn.Module):
    """A function of its inputs as a module, with parameters of given shapes before them."""

    def __init__(self, function: Callable[..., Any], *weights: Shape) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(shape) / math.sqrt(shape[-1])) for shape in weights]
        )

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(*self.weights, *inputs)


class Heads(nn.Module):
    """Projections around an attention given as a function of q, k, v `[B, H, T, D]`."""

    def __init__(
        self, attend: Callable[..., torch.Tensor], heads: int = 4, kv_heads: int = 4, width: int = 16
    ) -> None:
        super().__init__()
        self.attend, self.heads, self.kv_heads, self.width = attend, heads, kv_heads, width
        self.q = nn.Linear(32, heads * width)
        self.k = nn.Linear(32, kv_heads * width, bias=False)
        self.v = nn.Linear(32, kv_heads * width, bias=False)
        self.o = nn.Linear(heads * width, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.width).transpose(1, 2)
        k = self.k(x).view(b, t, self.kv_heads, self.width).transpose(1, 2)
        v = self.v(x).view(b, t, self.kv_heads, self.width).transpose(1, 2)
        return x + self.o(self.attend(q, k, v).transpose(1, 2).reshape(b, t, -1))


class LlamaNorm(nn.Module):
    """RMSNorm as transformers spells it: in float32, rounded, then scaled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The float64 reference must not fall back to float32 here.
        wide = x if x.dtype == torch.float64 else x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Heads(lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=True), 4, 2, 16)
        self.norms = nn.ModuleList([LlamaNorm(32), LlamaNorm(32)])
        self.mlp = SwiGlu(32, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Recurrent(nn.Module):
    """A GRU cell by hand, over the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(12, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(x.shape[0], 16)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, groups=8),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((-1, -2)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Embedding(16, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.layer(self.tokens(ids) + self.places(places)).mean(1)


sdpa = F.scaled_dot_product_attention


def raw(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v


def scaled_before(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scale = q.shape[-1] ** -0.25
    return torch.matmul(((q * scale) @ (k * scale).mT).softmax(dim=-1), v)


def causal_fill(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ k.mT * 0.25
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v


def einsums(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(0.25).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def batched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    b, h, t, d = q.shape
    flat = [x.reshape(b * h, t, d) for x in (q, k, v)]
    zeros = q.new_zeros(1, 1, 1)
    weights = torch.baddbmm(zeros, flat[0], flat[1].mT, beta=0.0, alpha=0.25).softmax(-1)
    return torch.bmm(weights, flat[2]).view(b, h, t, d)


def repeated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    b, h, t, d = k.shape
    times = q.shape[1] // h
    k, v = (x[:, :, None].expand(b, h, times, t, d).reshape(b, h * times, t, d) for x in (k, v))
    weights = (q @ k.transpose(2, 3)) * d**-0.5
    wide = weights if q.dtype == torch.float64 else weights.float()
    return wide.softmax(-1).to(q.dtype) @ v


def alibi(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    t = q.shape[2]
    place = torch.arange(t, device=q.device)
    slopes = 2.0 ** -torch.arange(1, q.shape[1] + 1, device=q.device, dtype=q.dtype)
    bias = -(place[:, None] - place[None, :]).abs().to(q.dtype) * slopes[:, None, None]
    return ((q @ k.mT) * 0.25 + bias).softmax(-1) @ v


def boolean(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    t = q.shape[2]
    place = torch.arange(t, device=q.device)
    return sdpa(q, k, v, attn_mask=(place[:, None] - place[None, :]).abs() < 3)


def additive(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    t = q.shape[2]
    mask = torch.full((t, t), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    return sdpa(q, k, v, attn_mask=mask[None, None])


def scaled_addmm(b: torch.Tensor, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.addmm(b, x, w, beta=0.5, alpha=2)


def sigmoid_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(q @ k.mT * 0.25 - math.log(q.shape[2])) @ v


@dataclass(frozen=True)
class Case:
    """A module, the shapes of its inputs, and what to vary.

    Attributes:
        dynamic: dimension of every input that is given two further sizes, compiled dynamically; None leaves
            it.
        dtype: of weights and inputs.
        ids: the inputs are token numbers below this.
    """

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[Shape, ...]
    dynamic: int | None = None
    dtype: torch.dtype = torch.float32
    ids: int = 0

    def inputs(self, extra: int = 0) -> tuple[torch.Tensor, ...]:
        made = []
        for shape in self.shapes:
            size = [n + extra if at == self.dynamic else n for at, n in enumerate(shape)]
            made.append(torch.randint(self.ids, size) if self.ids else torch.randn(size).to(self.dtype))
        return tuple(made)


HALF = torch.bfloat16

CASES = (
    # norms and softmaxes
    Case("layer_norm", lambda: nn.LayerNorm(33), ((5, 33),), 0),
    Case("layer_norm_two_dims", lambda: nn.LayerNorm((3, 8)), ((5, 3, 8),)),
    Case("layer_norm_bf16", lambda: nn.LayerNorm(64), ((3, 7, 64),), dtype=HALF),
    Case("rms_norm", lambda: nn.RMSNorm(40, eps=1e-5), ((2, 5, 40),), 1),
    Case("llama_norm_bf16", lambda: LlamaNorm(48), ((2, 3, 48),), 1, HALF),
    Case("group_norm", lambda: nn.GroupNorm(2, 6), ((3, 6, 5),)),
    Case("batch_norm", lambda: nn.BatchNorm1d(6).eval(), ((4, 6, 5),)),
    Case("softmax", lambda: Fn(lambda x: x.softmax(-1)), ((7, 129),), 0),
    Case("softmax_of_the_middle", lambda: Fn(lambda x: x.softmax(1)), ((3, 9, 4),)),
    Case("log_softmax", lambda: Fn(lambda x: (x * 3).log_softmax(-1)), ((4, 5, 31),), 1),
    Case("l2_normalize", lambda: Fn(lambda x: F.normalize(x, dim=-1)), ((6, 17),)),
    # products
    Case("linear", lambda: nn.Linear(33, 17), ((5, 33),), 0),
    Case("linear_one_row_bf16", lambda: nn.Linear(64, 96, bias=False), ((1, 64),), dtype=HALF),
    Case("linear_f16", lambda: nn.Linear(64, 48), ((9, 64),), dtype=torch.float16),
    Case("linear_f64", lambda: nn.Linear(16, 16), ((4, 16),), dtype=torch.float64),
    Case("linear_no_rows", lambda: nn.Linear(16, 16), ((0, 16),)),
    Case("mlp_relu", lambda: nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 8)), ((3, 5, 24),), 1),
    Case("mlp_gelu", lambda: nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24)), ((6, 24),)),
    Case("mlp_gelu_tanh", lambda: nn.Sequential(nn.Linear(24, 40), nn.GELU("tanh")), ((6, 24),)),
    Case("swiglu", lambda: SwiGlu(32, 56), ((2, 3, 32),), 1),
    Case("swiglu_bf16", lambda: SwiGlu(64, 96), ((1, 1, 64),), dtype=HALF),
    Case("residual", lambda: Fn(lambda w, x: x + F.linear(F.relu(x), w), (24, 24)), ((4, 24),)),
    Case("product_of_batches", lambda: Fn(torch.bmm), ((3, 5, 7), (3, 7, 4))),
    Case("product_of_stacks", lambda: Fn(lambda x, y: x @ y.mT), ((2, 3, 5, 16), (2, 3, 9, 16))),
    Case("scaled_addmm", lambda: Fn(scaled_addmm, (17,), (24, 17)), ((5, 24),)),
    Case("shared_weight", lambda: Fn(lambda w, x: F.linear(F.relu(F.linear(x, w)), w), (20, 20)), ((5, 20),)),
    Case("matrix_vector", lambda: Fn(lambda w, x: w @ x, (18, 24)), ((24,),)),
    # attention
    Case("attention_sdpa", lambda: Heads(sdpa), ((2, 7, 32),), 1),
    Case("attention_causal", lambda: Heads(lambda q, k, v: sdpa(q, k, v, is_causal=True)), ((1, 9, 32),), 1),
    Case("attention_gqa", lambda: Heads(lambda q, k, v: sdpa(q, k, v, enable_gqa=True), 4, 2), ((2, 5, 32),)),
    Case("attention_boolean_mask", lambda: Heads(boolean), ((2, 7, 32),)),
    Case("attention_additive_mask", lambda: Heads(additive), ((2, 7, 32),)),
    Case("attention_raw", lambda: Heads(raw), ((2, 7, 32),), 1),
    Case("attention_scaled_before", lambda: Heads(scaled_before), ((2, 6, 32),)),
    Case("attention_masked_fill", lambda: Heads(causal_fill), ((2, 7, 32),)),
    Case("attention_einsum", lambda: Heads(einsums), ((2, 5, 32),)),
    Case("attention_baddbmm", lambda: Heads(batched), ((2, 5, 32),)),
    Case("attention_repeated_bf16", lambda: Heads(repeated, 4, 2), ((2, 6, 32),), dtype=HALF),
    Case("attention_alibi", lambda: Heads(alibi), ((1, 8, 32),)),
    Case("attention_sigmoid", lambda: Heads(sigmoid_attention), ((1, 8, 32),)),
    Case("attention_one_head_odd", lambda: Heads(sdpa, 1, 1, 24), ((1, 3, 32),)),
    # whole things
    Case("llama_block", LlamaBlock, ((1, 6, 32),), 1),
    Case("llama_block_bf16", LlamaBlock, ((1, 1, 32),), dtype=HALF),
    Case("encoder", Encoder, ((2, 9),), ids=50),
    Case("convolutions", Convolutions, ((2, 3, 10, 9),)),
    Case("convolution_1d", lambda: nn.Conv1d(4, 6, 3, stride=2), ((2, 4, 11),)),
    Case("transposed_convolution", lambda: nn.ConvTranspose2d(2, 3, 3), ((1, 2, 5, 4),)),
    Case("recurrent", Recurrent, ((3, 4, 12),)),
    Case("gathers", lambda: Fn(lambda x: x.cumsum(1).gather(1, x.argsort(1)).flip(1)), ((4, 6),)),
)  # fmt: skip
