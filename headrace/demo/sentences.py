"""The embedding model's part: three sentences, compiled against eager."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from headrace.demo.embed import SENTENCES, cosine, encoder, tokenize
from headrace.demo.models import Loaded


@dataclass(frozen=True, slots=True)
class Similarities:
    """Cosines of pairs of compiled embeddings, and of each compiled embedding with eager's."""

    pairs: tuple[tuple[str, str, float], ...]
    to_eager: tuple[float, ...]


def compare(
    loaded: Loaded, sentences: tuple[str, ...] = SENTENCES, backend: str = "headrace"
) -> Similarities:
    """Embed the sentences eagerly and compiled."""
    embed = encoder(loaded.model)
    ids, mask = tokenize(loaded.tokenizer, sentences)
    eager = embed(ids, mask)
    ours = torch.compile(embed, backend=backend)(ids, mask)
    pairs = tuple(
        (sentences[a], sentences[b], float(cosine(ours[a : a + 1], ours[b : b + 1])))
        for a in range(len(sentences))
        for b in range(a + 1, len(sentences))
    )
    return Similarities(pairs, tuple(cosine(ours, eager).tolist()))
