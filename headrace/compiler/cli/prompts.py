"""What to calibrate with: texts for a model with a tokenizer, tensors for any other."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.compiler.cli.subject import load
from headrace.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Feed:
    """A function, the batches to call it with, and what to do before each."""

    name: str
    function: Callable[..., Any]
    batches: Iterable[Sequence[Any] | Mapping[str, Any]]
    before: Callable[[], object] | None = None


def feed(subject: str, prompts: Sequence[str], data: Path | None) -> Feed:
    """The function and the batches that a command line names.

    Raises:
        CalibrationError: there is no data, or not what the model takes.
        SubjectError: there is no such model.
    """
    if subject in _TEXT:
        texts = [*prompts, *(_lines(data) if data is not None else ())]
        if not texts:
            raise CalibrationError(f"there is no data: give {subject} prompts, or --data with one a line")
        return _TEXT[subject](texts)
    found = load(subject)
    if prompts:
        raise CalibrationError(f"{subject} takes tensors, not text: give --data with a .pt file")
    if data is None:
        raise CalibrationError(
            f"there is no data: give {subject} --data FILE.pt, a list of argument tuples saved by torch.save"
        )
    batches = _tensors(data)
    return Feed(found[0].name, found[0].function, batches)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CalibrationError(f"{path} is no text: this model takes a prompt a line") from None
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror}") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise CalibrationError(f"{path} holds no prompt")
    return found


def _tensors(path: Path) -> list[Sequence[Any] | Mapping[str, Any]]:
    try:
        found = torch.load(path, weights_only=True)
    except OSError as error:
        raise CalibrationError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever torch's reader makes of a file that is something else
        first = (str(error).splitlines() or [""])[0]
        raise CalibrationError(f"{path} is no file of tensors saved by torch.save ({first})") from None
    if not isinstance(found, (list, tuple)) or not all(isinstance(b, (list, tuple, dict)) for b in found):
        raise CalibrationError(
            f"{path} must hold a list with a tuple of arguments (or a dict, by name) for each call"
        )
    if not found:
        raise CalibrationError(f"{path} holds no batch")
    return list(found)


def _smollm2(texts: list[str]) -> Feed:
    models = importlib.import_module("headrace.demo.models")
    generate = importlib.import_module("headrace.demo.generate")
    loaded = models.load_smollm2()
    tokens = [loaded.tokenizer(text, return_tensors="pt").input_ids for text in texts]
    longest = _fitting(tokens, loaded.model.config.max_position_embeddings)
    decoder = generate.Decoder(loaded.model, length=max(generate.CACHE_LENGTH, longest))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for ids in tokens:
            yield ids, torch.arange(ids.shape[1])

    return Feed("smollm2", decoder.prefill, batches(), decoder.cache.reset)


def _minilm(texts: list[str]) -> Feed:
    models = importlib.import_module("headrace.demo.models")
    embed = importlib.import_module("headrace.demo.embed")
    loaded = models.load_minilm()
    # One by one, so that nothing is padded.
    tokens = [loaded.tokenizer(text, return_tensors="pt") for text in texts]
    _fitting([each["input_ids"] for each in tokens], loaded.model.config.max_position_embeddings)
    batches = [(each["input_ids"], each["attention_mask"]) for each in tokens]
    return Feed("minilm", embed.encoder(loaded.model), batches)


def _fitting(tokens: list[torch.Tensor], context: int) -> int:
    """The longest prompt, as a number of tokens.

    Raises:
        CalibrationError: a prompt is empty, or longer than the model's context.
    """
    for at, ids in enumerate(tokens, start=1):
        if not 0 < ids.shape[1] <= context:
            raise CalibrationError(
                f"prompt {at} has {ids.shape[1]} tokens; the model's context holds 1 to {context}"
            )
    return max(ids.shape[1] for ids in tokens)


_TEXT: Mapping[str, Callable[[list[str]], Feed]] = {"smollm2": _smollm2, "minilm": _minilm}
