"""Greedy tokens in float32 equal eager's."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from headrace.demo.generate import Decoder, chat, greedy
from headrace.demo.language import compiled
from tests.models.shapes import prompt, smollm2


def test_tokens_of_a_small_model_equal_eagers():
    with torch.no_grad():
        model = smollm2(3, torch.float32, vocabulary=4096)
        ours = Decoder(model, compiled("headrace", claim="all", strict=True, tuning="off"))
        assert greedy(ours, prompt(13, 4096), 24) == greedy(Decoder(model), prompt(13, 4096), 24)


@pytest.mark.soak
def test_64_tokens_of_smollm2_equal_eagers():
    from headrace.demo.models import load_smollm2

    with torch.no_grad():
        loaded = load_smollm2(torch.float32)
        question = chat(
            loaded.tokenizer, "Explain how a water wheel turns the flow of a river into useful work."
        )
        eager = greedy(Decoder(loaded.model), question, 64)
        for claim in ("auto", "all"):
            torch._dynamo.reset()
            ours = greedy(Decoder(loaded.model, compiled("headrace", claim=claim, strict=True)), question, 64)
            assert ours == eager, claim
