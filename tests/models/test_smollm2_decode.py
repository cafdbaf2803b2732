"""A compiled decode step: one compilation for all positions, no cache copied, only its valid part read."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("transformers")

from headrace import upstream
from headrace.demo.generate import CACHE_LENGTH, Decoder
from headrace.demo.language import compiled
from tests.models.pages import PAGE, Watched
from tests.models.shapes import prompt, smollm2

LAYERS = 2
KV_HEADS, WIDTH = 3, 64


@pytest.fixture(scope="module")
def stepped() -> tuple[Decoder, list[str]]:
    """A compiled decoder with watched caches after one step, and the code that Inductor generated."""
    run_and_get_code = upstream.fetch("torch._inductor.utils", "run_and_get_code")
    with torch.no_grad(), upstream.inductor_config().patch(fx_graph_cache=False):
        model = smollm2(LAYERS, vocabulary=512)
        decoder = Decoder(
            model, compiled("headrace", claim="all", strict=True, tuning="off"), compile_prefill=False
        )
        if Watched.supported():
            decoder.watched = [_watch(layer) for layer in decoder.cache.layers]
        decoder.start(prompt(8, 512))
        _, code = run_and_get_code(decoder.next, prompt(1, 512))
    return decoder, code


def _watch(layer) -> tuple[Watched, Watched]:
    """Put keys and values into watched memory, apart: shared storage would compile differently."""
    keys, values = (Watched(tuple(layer.keys.shape), layer.keys.dtype) for _ in range(2))
    layer.keys, layer.values = keys.tensor, values.tensor
    return keys, values


def test_one_compilation_serves_every_position(stepped):
    decoder, _ = stepped
    stats = upstream.fetch("torch._dynamo.utils", "counters")["stats"]
    before = stats["unique_graphs"]
    with torch.no_grad():
        for position in range(CACHE_LENGTH):
            decoder.seek(position)
            assert torch.isfinite(decoder.next(prompt(1, 512))).all()
    assert stats["unique_graphs"] == before


def test_every_position_equals_eager(stepped):
    decoder, _ = stepped
    with torch.no_grad():
        eager = Decoder(smollm2(LAYERS, vocabulary=512))
        for position in (1, 31, 32, 33, 200, CACHE_LENGTH - 1):
            for here, there in zip(decoder.cache.layers, eager.cache.layers, strict=True):
                generator = torch.Generator().manual_seed(position)
                for mine, other in ((here.keys, there.keys), (here.values, there.values)):
                    other.copy_(torch.randn(other.shape, generator=generator))
                    mine.copy_(other)
            decoder.seek(position)
            eager.seek(position)
            ours, theirs = decoder.next(prompt(1, 512)), eager.next(prompt(1, 512))
            error = (ours.double() - theirs.double()).abs().max()
            assert error <= 0.03 * theirs.abs().max(), position


def test_the_cache_is_neither_copied_nor_reallocated(stepped):
    decoder, code = stepped
    elements = KV_HEADS * CACHE_LENGTH * WIDTH
    text = "\n".join(code)
    assert text
    assert not re.search(rf"empty\w*\(\(1, {KV_HEADS}, {CACHE_LENGTH}, {WIDTH}\)", text)
    assert f"{elements}L" not in text, "a loop runs over a whole cache"
    pointers = decoder.cache_pointers()
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        decoder.seek(20)
        decoder.next(prompt(1, 512))
    assert decoder.cache_pointers() == pointers
    largest = max((event.cpu_memory_usage for event in profile.events()), default=0)
    assert largest < elements * 2, "something as large as a cache was allocated"


@pytest.mark.skipif(not Watched.supported(), reason="needs the accessed bits of Linux")
@pytest.mark.parametrize("position", [40, 200, 500])
def test_decode_reads_only_the_valid_part_of_the_cache(stepped, position):
    decoder, _ = stepped
    with torch.no_grad():
        decoder.seek(position)
        decoder.next(prompt(1, 512))
        decoder.seek(position)
        Watched.forget()
        decoder.next(prompt(1, 512))
        touched = [watched.touched() for pair in decoder.watched for watched in pair]
    valid = (position + 1) * WIDTH * 2
    per_head = -(-valid // PAGE) * PAGE
    # A page more for each head, where a block of keys ends beyond the last valid one.
    most = KV_HEADS * (per_head + PAGE)
    assert all(KV_HEADS * valid * 0.9 <= each <= most for each in touched), (touched, most)


def test_what_lies_beyond_the_valid_part_does_not_matter(stepped):
    decoder, _ = stepped
    token = prompt(1, 512)
    with torch.no_grad():
        for layer in decoder.cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        decoder.seek(70)
        clean = decoder.next(token)
        for layer in decoder.cache.layers:
            layer.keys[:, :, 71:] = float("nan")
            layer.values[:, :, 71:] = float("nan")
        decoder.seek(70)
        assert torch.equal(decoder.next(token), clean)
