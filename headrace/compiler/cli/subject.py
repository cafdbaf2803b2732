"""What to tune or explain: an exported program, a function of yours, or one of the demonstration's models."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.errors import SubjectError

HELP = (
    "`model.pt2` (an exported program), `module:function` (a function without arguments that returns "
    "a module or function and its example arguments, a mapping where they are named), or a demonstration "
    "model: smollm2, minilm"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that can be compiled and called."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)

    def run(self, function: Callable[..., Any] | None = None) -> Any:
        """Call it, or a compiled form of it, with the example arguments."""
        return (self.function if function is None else function)(*self.arguments, **self.keywords)


def load(text: str) -> tuple[Subject, ...]:
    """The subjects that a text names; a language model gives two, its prefill and its decode step.

    Raises:
        SubjectError: there is no such thing; names the nearest.
    """
    if text.endswith(".pt2"):
        return (_exported(Path(text)),)
    if ":" in text:
        return (_function(text),)
    if text in _MODELS:
        return _MODELS[text]()
    if Path(text).exists():
        raise SubjectError(f"{text} is not an exported program: give {HELP}")
    raise SubjectError(f"nothing to load under {text!r}{_nearest(text, _MODELS)}: give {HELP}")


def _exported(path: Path) -> Subject:
    import torch

    if not path.exists():
        near = _nearest(path.name, (other.name for other in path.parent.glob("*.pt2")))
        raise SubjectError(f"there is no file {path}{near}")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise SubjectError(f"{path} cannot be read as an exported program: {error}") from error
    if program.example_inputs is None:
        raise SubjectError(f"{path} was exported without example inputs, so there is nothing to run it with")
    arguments, keywords = program.example_inputs
    return Subject(path.stem, program.module(), tuple(arguments), dict(keywords))


def _function(text: str) -> Subject:
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise SubjectError(f"{text!r} names no function: give {HELP}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a user's own modules lie where they work
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SubjectError(f"cannot import {module_name!r}: {error}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        near = _nearest(name, (known for known in vars(module) if callable(getattr(module, known))))
        raise SubjectError(f"module {module_name} has no function {name!r}{near}")
    if not _takes_nothing(factory):
        raise SubjectError(f"{text} needs arguments, and is called without any: give {HELP}")
    made = factory()
    keywords = made[2] if isinstance(made, tuple) and len(made) == 3 else {}
    if not (
        isinstance(made, tuple)
        and len(made) in (2, 3)
        and callable(made[0])
        and isinstance(keywords, Mapping)
    ):
        raise SubjectError(
            f"{text} must return (callable, arguments), (callable, keywords) or "
            f"(callable, arguments, keywords), not {type(made).__name__}"
        )
    given = made[1]
    if isinstance(given, Mapping) and len(made) == 2:
        return Subject(name, made[0], (), dict(given))
    return Subject(
        name, made[0], tuple(given) if isinstance(given, tuple | list) else (given,), dict(keywords)
    )


def _takes_nothing(factory: Callable[..., Any]) -> bool:
    """Whether something can be called without arguments; True where its signature is not known."""
    try:
        inspect.signature(factory).bind()
    except ValueError:
        return True
    except TypeError:
        return False
    return True


def _smollm2() -> tuple[Subject, ...]:
    import torch

    models = importlib.import_module("headrace.demo.models")
    generate = importlib.import_module("headrace.demo.generate")
    loaded = models.load_smollm2()
    prompt = generate.chat(loaded.tokenizer, "What does a headrace do?")
    decoder = generate.Decoder(loaded.model)
    length = prompt.shape[1]
    return (
        Subject("smollm2.prefill", decoder.prefill, (prompt, torch.arange(length))),
        Subject("smollm2.decode", decoder.decode, (prompt[:, -1:], torch.tensor([length]))),
    )


def _minilm() -> tuple[Subject, ...]:
    models = importlib.import_module("headrace.demo.models")
    embed = importlib.import_module("headrace.demo.embed")
    loaded = models.load_minilm()
    return (
        Subject("minilm", embed.encoder(loaded.model), embed.tokenize(loaded.tokenizer, embed.SENTENCES)),
    )


_MODELS: dict[str, Callable[[], tuple[Subject, ...]]] = {"smollm2": _smollm2, "minilm": _minilm}


def _nearest(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""
