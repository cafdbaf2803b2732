"""The language model's part: compile, tune, answer, race against eager and Inductor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from headrace.demo.generate import Decoder, Step, chat, greedy
from headrace.demo.measure import Timing, interleaved, ratios
from headrace.demo.models import Loaded

PEERS = ("eager", "inductor", "headrace")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said: tokens, their text up to the end of its turn, seconds for prompt and tokens."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class Race:
    """Decode steps of all peers, taken in turn at the same positions over the same weights."""

    timings: dict[str, Timing]
    over_inductor: float
    over_eager: float
    threads: int
    first_position: int


def compiled(backend: str, **options: Any) -> Callable[[Step], Step]:
    """A compiler of steps for `Decoder`."""

    def compile_step(step: Step) -> Step:
        made: Step = torch.compile(step, backend=backend, fullgraph=True, options=options or None)
        return made

    return compile_step


def warm(decoder: Decoder, prompt: torch.Tensor) -> float:
    """Compile prefill and decode by running each once; seconds."""
    start = time.perf_counter()
    logits = decoder.start(prompt)
    decoder.next(logits.argmax(-1, keepdim=True))
    return time.perf_counter() - start


def answer(
    decoder: Decoder, tokenizer: Any, question: str, count: int, each: Callable[[str], None] | None = None
) -> Answer:
    """Ask, and take `count` greedy tokens; `each` sees the text grow, up to the end of turn."""
    prompt = chat(tokenizer, question)
    stamps: list[float] = []
    seen: list[int] = []
    shown = ""

    def token(value: int) -> None:
        nonlocal shown
        stamps.append(time.perf_counter())
        seen.append(value)
        if each is None or tokenizer.eos_token_id in seen:
            return
        text = tokenizer.decode(seen)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # half of a character: wait for the rest
            each(text[len(shown) :])
            shown = text

    start = time.perf_counter()
    tokens = greedy(decoder, prompt, count, each=token)
    said = tokens[: tokens.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in tokens else tokens
    return Answer(
        tokenizer.decode(said), tuple(tokens), prompt.shape[1], stamps[0] - start, stamps[-1] - stamps[0]
    )


def race(loaded: Loaded, decoder: Decoder, prompt: torch.Tensor, rounds: int) -> Race:
    """Decode `rounds` tokens with each peer, step by step in turn.

    Eager and Inductor get static caches of their own and the same dense weights; Inductor's prompt is read
    eagerly, since only its decode step is raced.
    """
    decoders = {
        "eager": Decoder(loaded.model),
        "inductor": Decoder(loaded.model, compiled("inductor"), compile_prefill=False),
        "headrace": decoder,
    }
    following = {}
    for name, peer in decoders.items():
        token = peer.start(prompt).argmax(-1, keepdim=True)
        for _ in range(3):  # compiles, then settles allocations
            token = peer.next(token).argmax(-1, keepdim=True)
        following[name] = token
    first = decoder.position

    def step(name: str) -> Callable[[], None]:
        def run() -> None:
            following[name] = decoders[name].next(following[name]).argmax(-1, keepdim=True)

        return run

    timings = interleaved({name: step(name) for name in PEERS}, rounds)
    return Race(
        timings,
        ratios(timings, "headrace", "inductor"),
        ratios(timings, "headrace", "eager"),
        torch.get_num_threads(),
        first,
    )
