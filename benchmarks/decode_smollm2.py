"""Decode steps of SmolLM2-135M-Instruct in bfloat16: eager, Inductor and headrace, in turn, same weights.

Bars: headrace at least 1.2 times Inductor and 2 times eager. The fraction of the bandwidth floor is printed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.common import Bar, Result, floor, noise, race, readers
from headrace.compiler.cli.output import seconds
from headrace.demo.generate import Decoder, chat
from headrace.demo.language import compiled
from headrace.demo.measure import ratios
from headrace.demo.models import load_smollm2

POSITION = 128
OVER_INDUCTOR, OVER_EAGER = 1.2, 2.0


def run(rounds: int = 0) -> Result:
    """Race at positions from 128 on, each peer with a static cache of its own."""
    loaded = load_smollm2(torch.bfloat16)
    prompt = chat(loaded.tokenizer, "Explain how a water wheel works.")
    decoders = {
        "eager": Decoder(loaded.model),
        "inductor": Decoder(loaded.model, compiled("inductor"), compile_prefill=False),
        "headrace": Decoder(loaded.model, compiled("headrace"), compile_prefill=False),
    }
    rounds = rounds or 60
    config = loaded.model.config
    width = config.hidden_size // config.num_attention_heads
    per_position = 2 * config.num_hidden_layers * config.num_key_value_heads * width * 2
    must_read = loaded.weight_bytes + per_position * (POSITION + rounds // 2)
    with readers(must_read) as reading:
        steps: dict[str, Callable[[], object]] = dict(reading)
        for name, decoder in decoders.items():
            steps[name] = _stepper(decoder, prompt)
        timings = race(steps, rounds)
    least = floor(timings)
    eager, inductor = ratios(timings, "headrace", "eager"), ratios(timings, "headrace", "inductor")
    result = Result(
        "SmolLM2-135M decode, bfloat16, batch 1",
        ("peer", "step", "tokens/s", "fraction of the floor", "noise"),
    )
    for name in decoders:
        timing = timings[name]
        result.rows.append(
            (name, seconds(timing.median), f"{timing.per_second:.1f}", f"{least / timing.median:.0%}",
             f"{noise(timing):.0%}")
        )  # fmt: skip
    result.notes.append(
        f"floor: {must_read / 2**20:.0f} MiB at {must_read / least / 1e9:.1f} GB/s is {seconds(least)} a step"
    )
    result.bars += [
        Bar("headrace over inductor", inductor, OVER_INDUCTOR),
        Bar("headrace over eager", eager, OVER_EAGER),
    ]
    return result


def _stepper(decoder: Decoder, prompt: torch.Tensor) -> Callable[[], object]:
    token = decoder.start(prompt).argmax(-1, keepdim=True)
    decoder.seek(POSITION)  # what a step costs does not depend on what the cache holds

    def step() -> torch.Tensor:
        nonlocal token
        token = decoder.next(token).argmax(-1, keepdim=True)
        return token

    return step
