"""Greedy decoding over a static cache: the same two functions, run eagerly or compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CACHE_LENGTH = 512

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Decoder:
    """A model with a key-value cache of its own, and its step: tokens and positions in, logits out.

    The position enters as a tensor, so one compilation of `decode` serves every position; prefill and
    decode are separate functions, so neither turns the other's length into a symbol.

    Args:
        model: a causal language model of transformers.
        compiled: how to compile a step, e.g. `lambda f: torch.compile(f, backend="headrace")`; None: eager.
        compile_prefill: whether the prompt goes through the compiler too.
        length: positions that the cache holds.
    """

    def __init__(
        self,
        model: Any,
        compiled: Callable[[Step], Step] | None = None,
        *,
        compile_prefill: bool = True,
        length: int = CACHE_LENGTH,
    ) -> None:
        from transformers import StaticCache

        config = model.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.length = length
        self.cache: Any = StaticCache(config=config, max_cache_len=length)
        # Ahead of tracing: a cache that allocates itself inside a compiled prefill costs a graph break.
        self.cache.early_initialization(1, heads, width, model.dtype, torch.device("cpu"))
        cache = self.cache

        def prefill(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return _forward(model, cache, tokens, positions)

        def decode(tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return _forward(model, cache, tokens, positions)

        self.prefill: Step = compiled(prefill) if compiled and compile_prefill else prefill
        self.decode: Step = compiled(decode) if compiled else decode
        self.position = 0

    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        """Forget everything, read a prompt `[1, n]`, return the logits `[1, vocabulary]` after it."""
        self.cache.reset()
        self.position = tokens.shape[1]
        return self.prefill(tokens, torch.arange(self.position))

    def next(self, token: torch.Tensor) -> torch.Tensor:
        """Append one token `[1, 1]`, return the logits `[1, vocabulary]` after it."""
        logits = self.decode(token, torch.tensor([self.position]))
        self.position += 1
        return logits

    def seek(self, position: int) -> None:
        """Pretend that `position` tokens have been read; what the cache holds there stays as it is."""
        self.position = position
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(position)

    def cache_pointers(self) -> tuple[int, ...]:
        """Addresses of every layer's keys and values: unchanged while nothing reallocates the cache."""
        return tuple(t.data_ptr() for layer in self.cache.layers for t in (layer.keys, layer.values))

    @property
    def cache_bytes(self) -> int:
        return sum(int(t.nbytes) for layer in self.cache.layers for t in (layer.keys, layer.values))


def _forward(model: Any, cache: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    out = model(
        input_ids=tokens,
        position_ids=positions[None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: torch.Tensor = out.logits[:, -1]
    return logits


def greedy(
    decoder: Decoder,
    prompt: torch.Tensor,
    count: int,
    *,
    stop: int | None = None,
    each: Callable[[int], None] | None = None,
) -> list[int]:
    """The `count` most likely tokens after a prompt `[1, n]`, one by one; fewer when `stop` is met.

    `each` sees every token as it appears.
    """
    found: list[int] = []
    logits = decoder.start(prompt)
    while True:
        token = logits.argmax(-1, keepdim=True)
        found.append(int(token))
        if each is not None:
            each(found[-1])
        if len(found) == count or found[-1] == stop:
            return found
        logits = decoder.next(token)


def chat(tokenizer: Any, question: str) -> torch.Tensor:
    """A user's question in the model's chat template, as token ids `[1, n]`."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    ids: torch.Tensor = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    return ids
