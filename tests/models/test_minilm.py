"""MiniLM's embeddings, compiled, point where eager's point."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from headrace.demo.embed import cosine, encoder
from headrace.demo.models import load_minilm
from headrace.errors import DemoModelMissing

LENGTHS = (1, 2, 3, 5, 8, 12, 16, 17, 24, 31, 33, 48, 64, 65, 100, 127, 128, 180, 255, 256)


@pytest.fixture(scope="module")
def loaded():
    try:
        return load_minilm()
    except DemoModelMissing as missing:
        pytest.skip(str(missing))


def sentence(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sentence of `length` tokens out of the vocabulary's words."""
    generator = torch.Generator().manual_seed(length)
    return torch.randint(1996, 29000, (1, length), generator=generator), torch.ones(
        1, length, dtype=torch.long
    )


def worst(loaded, lengths: tuple[int, ...]) -> float:
    embed = encoder(loaded.model)
    ours = torch.compile(embed, backend="headrace", dynamic=True, options={"claim": "all", "strict": True})
    with torch.no_grad():
        return min(float(cosine(ours(*sentence(n)), embed(*sentence(n)))) for n in lengths)


@pytest.mark.soak
def test_20_sentences_of_1_to_256_tokens(loaded):
    assert worst(loaded, LENGTHS) >= 0.9999


def test_sentences_of_a_few_lengths(loaded):
    assert worst(loaded, (1, 9, 40)) >= 0.9999


def test_padding_does_not_change_an_embedding(loaded):
    embed = encoder(loaded.model)
    ours = torch.compile(embed, backend="headrace", options={"claim": "all", "strict": True})
    ids, mask = sentence(20)
    padded = torch.nn.functional.pad(ids, (0, 12)), torch.nn.functional.pad(mask, (0, 12))
    with torch.no_grad():
        assert float(cosine(ours(*padded), embed(ids, mask))) >= 0.9999
