"""Sentence embeddings with all-MiniLM-L6-v2: the mean of the last hidden states, at length one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

SENTENCES = (
    "The mill stands where the headrace meets the wheel.",
    "A channel carries the river's water to the turbine.",
    "Bread is best on the day that it is baked.",
)


def encoder(model: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """(token ids `[B, T]`, mask `[B, T]`, 1 = real token) -> unit vectors `[B, 384]`.

    e_b = normalize(sum_t mask_bt h_bt / sum_t mask_bt)
    """

    def embed(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)

    return embed


def tokenize(
    tokenizer: Any, sentences: Sequence[str], length: int = 256
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask `[B, T]`, padded to the longest sentence, cut at `length` tokens."""
    batch = tokenizer(list(sentences), padding=True, truncation=True, max_length=length, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine of corresponding rows `[B, D]`, in float64: `[B]`."""
    return torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1)
