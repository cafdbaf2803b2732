"""The demonstration's parts, on small models with random weights."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from headrace.compiler.cli.bandwidth import Reader, read_bandwidth
from headrace.demo import show
from headrace.demo.embed import SENTENCES, cosine, encoder, tokenize
from headrace.demo.generate import Decoder, greedy
from headrace.demo.measure import interleaved, ratios
from headrace.demo.models import package_folder
from headrace.errors import DemoModelMissing
from tests.models.shapes import prompt, smollm2


@pytest.fixture(scope="module")
def model():
    return smollm2(2, torch.float32, vocabulary=300)


def uncached(model, tokens: torch.Tensor, count: int) -> list[int]:
    """Greedy tokens without any cache: the whole sequence is read again for each."""
    found = []
    for _ in range(count):
        found.append(int(model(input_ids=tokens).logits[:, -1].argmax(-1)))
        tokens = torch.cat((tokens, torch.tensor([[found[-1]]])), 1)
    return found


def test_decoding_with_the_cache_equals_reading_everything_again(model):
    with torch.no_grad():
        assert greedy(Decoder(model, length=64), prompt(9, 300), 12) == uncached(model, prompt(9, 300), 12)


def test_starting_again_forgets_what_was_read(model):
    with torch.no_grad():
        decoder = Decoder(model, length=64)
        first = greedy(decoder, prompt(9, 300), 5)
        greedy(decoder, prompt(20, 300), 5)
        assert greedy(decoder, prompt(9, 300), 5) == first


def test_generation_stops_at_the_token_that_ends(model):
    with torch.no_grad():
        tokens = greedy(Decoder(model, length=64), prompt(9, 300), 8)
        seen: list[int] = []
        stopped = greedy(Decoder(model, length=64), prompt(9, 300), 8, stop=tokens[2], each=seen.append)
        assert stopped == seen == tokens[: tokens.index(tokens[2]) + 1]


def test_the_cache_is_counted_in_bytes(model):
    decoder = Decoder(model, length=64)
    assert decoder.cache_bytes == 2 * 2 * 3 * 64 * 64 * 4
    assert len(set(decoder.cache_pointers())) == 4


def test_a_missing_model_package_says_what_to_install():
    with pytest.raises(DemoModelMissing, match="make demo"):
        package_folder("no_such_model_package", "no-such-model-package")


def test_embeddings_have_length_one_and_ignore_padding():
    class Echo(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            hidden = torch.nn.functional.one_hot(input_ids, 8).float()
            return type("Out", (), {"last_hidden_state": hidden})

    embed = encoder(Echo())
    short = embed(torch.tensor([[1, 2]]), torch.tensor([[1, 1]]))
    padded = embed(torch.tensor([[1, 2, 0, 0]]), torch.tensor([[1, 1, 0, 0]]))
    assert torch.allclose(short, padded)
    assert torch.allclose(short.norm(dim=-1), torch.ones(1))
    assert torch.allclose(cosine(short, padded), torch.ones(1, dtype=torch.float64))


def test_the_sentences_tokenize_to_one_padded_batch():
    try:
        from headrace.demo.models import load_minilm

        tokenizer = load_minilm().tokenizer
    except DemoModelMissing as missing:
        pytest.skip(str(missing))
    ids, mask = tokenize(tokenizer, SENTENCES)
    assert ids.shape == mask.shape
    assert ids.shape[0] == len(SENTENCES)


def test_every_round_runs_every_step_once_in_turn():
    order: list[str] = []
    timings = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, 4)
    assert "".join(order) == "abccbaabccba"
    assert all(len(timing.seconds) == 4 for timing in timings.values())


def test_a_ratio_is_the_median_of_paired_rounds():
    from headrace.demo.measure import Timing

    timings = {"fast": Timing("fast", (1.0, 2.0, 3.0)), "slow": Timing("slow", (2.0, 6.0, 9.0))}
    assert ratios(timings, "fast", "slow") == 3.0


def test_bandwidth_is_measured_over_the_bytes_asked_for():
    found = read_bandwidth(4 << 20, threads=2, repeats=1)
    assert found.bytes == 4 << 20
    assert found.bytes_per_second > 1e8
    assert "2 threads" in str(found)


def test_a_reader_gives_its_memory_back():
    reader = Reader(1 << 20, 1)
    assert reader.read() > 0
    reader.close()
    assert reader._memory.closed


def test_origins_tell_the_database_from_the_rest():
    from headrace.compiler.decisions import Decision

    def decision(rung: str) -> Decision:
        return Decision("Gemm{}", (1,), (1,), "gemv{}", rung, None, "")

    found = (decision("exact"), decision("same_device"), decision("default"))
    assert show.origins(found) == "2 of 3 decisions from database, 1 from default"
