"""Models of real shape with random weights: what a graph looks like does not depend on the weights."""

from __future__ import annotations

from typing import Any

import torch


def smollm2(layers: int = 30, dtype: torch.dtype = torch.bfloat16, vocabulary: int = 49152) -> Any:
    """A language model of SmolLM2-135M's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, rms_norm_eps=1e-5,
        tie_word_embeddings=True, rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        initializer_range=0.04, dtype=dtype,
    )  # fmt: skip
    torch.manual_seed(1)
    return LlamaForCausalLM(config).to(dtype).eval()


def prompt(length: int, vocabulary: int = 49152) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, vocabulary, (1, length), generator=generator)
