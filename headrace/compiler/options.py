"""What a user can ask of the backend: `torch.compile(..., options={...})` and `mode=`, checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from headrace import upstream
from headrace.errors import UnknownOption

TUNING = ("off", "replay", "tune", "verify")
CLAIM = ("auto", "all", "none", "attention", "gemm", "rows")
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "lite")
TARGETS = ("auto", "cpu", "cuda", "hip", "library")


@dataclass(frozen=True, slots=True)
class Options:
    """The backend's options; keys of `options={...}` are these field names.

    Attributes:
        strict: raise what goes wrong inside headrace instead of falling back to Inductor with a warning.
        tuning: `off` heuristics only; `replay` reads the database; `tune` also measures what it does not
            know, within `budget`; `verify` checks each recorded answer against the reference before using it.
        budget: seconds that `tuning="tune"` may spend in this process.
        database: path of the database; None takes `HEADRACE_DATABASE` or the user's own.
        claim: `auto` claims what is expected to be faster, `all` everything a kernel exists for, `none`
            nothing; or kinds of region joined by `+`, e.g. `attention+gemm`.
        target: the engine that kernels run on; `auto` follows the tensors, `library` uses PyTorch's
            operators. With `cpu`, `cuda` or `hip`, graphs whose tensors are elsewhere go to Inductor.
        dump: a folder that receives each graph as text, before and after the passes; None writes nothing.
        calibration: the name of a calibration in the database (`headrace calibrate`), which permits a unified
            maximum where it found one to be right; None permits it only where scores are bounded for certain.
        inductor: options handed to Inductor unchanged: keys written `inductor.<name>`, and names that only
            Inductor knows.
    """

    strict: bool = False
    tuning: str = "replay"
    budget: float = 60.0
    database: str | None = None
    claim: str = "auto"
    target: str = "auto"
    dump: str | None = None
    calibration: str | None = None
    inductor: tuple[tuple[str, Any], ...] = field(default=())

    def __post_init__(self) -> None:
        _one_of("tuning", self.tuning, TUNING)
        kinds = self.claim.split("+")
        for kind in kinds:
            _one_of("claim", kind, CLAIM if len(kinds) == 1 else CLAIM[3:])
        _one_of("target", self.target, TARGETS)
        if not self.budget >= 0:  # NaN is no number of seconds either
            raise UnknownOption(f"option budget is a number of seconds, not {self.budget!r}")

    @property
    def fingerprint(self) -> str:
        """What of the options changes the rewritten graph; part of Inductor's cache key.

        What a calibration permits is added by `rewrite.fingerprint`, since its name does not say it.
        """
        return f"claim={self.claim};target={self.target}"


_TYPES: Mapping[str, tuple[type, ...]] = {
    "strict": (bool,),
    "tuning": (str,),
    "budget": (int, float),
    "database": (str, type(None)),
    "claim": (str,),
    "target": (str,),
    "dump": (str, type(None)),
    "calibration": (str, type(None)),
}


def read(mode: str | None, options: Mapping[str, Any] | None, *, base: Options | None = None) -> Options:
    """Options from what torch.compile hands to a backend, over `base` (the settings' defaults).

    A key is looked up, in this order: a field of Options; `inductor.<name>`; a name of Inductor's
    configuration. `mode` is one of torch.compile's and means to Inductor what it always means;
    `max-autotune` and `max-autotune-no-cudagraphs` also set `tuning="tune"` where `base` merely replays.

    Raises:
        UnknownOption: naming the nearest known key or value.
    """
    chosen = base or Options()
    inductor: dict[str, Any] = dict(chosen.inductor)
    if mode is not None:
        _one_of("mode", mode, MODES, kind="mode")
        inductor |= upstream.inductor_mode_options(mode)
        if mode.startswith("max-autotune") and chosen.tuning == "replay":
            chosen = replace(chosen, tuning="tune")
    own: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if key in _TYPES:
            own[key] = _checked(key, value)
        else:
            inductor[_inductor_name(key)] = value
    return replace(chosen, **own, inductor=tuple(sorted(inductor.items())))


def _checked(key: str, value: Any) -> Any:
    import os

    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    kinds = _TYPES[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise UnknownOption(f"option {key} takes {wanted}, not {value!r}")
    return float(str(value)) if key == "budget" else value


def _inductor_name(key: str) -> str:
    known = inductor_names()
    name = key.removeprefix("inductor.").replace("-", "_")
    if name in known:
        return name
    if key.startswith("inductor."):
        raise UnknownOption(f"Inductor has no option {name!r}{nearest(name, known)}")
    own = [option.name for option in fields(Options) if option.name != "inductor"]
    hint = nearest(key, own) or nearest(key, known)
    raise UnknownOption(f"unknown option {key!r}{hint}; known: {', '.join(own)}, and Inductor's own")


def inductor_names() -> frozenset[str]:
    """The names of Inductor's configuration."""
    return frozenset(upstream.inductor_config().get_config_copy())


def _one_of(name: str, value: str, known: Iterable[str], kind: str = "value") -> None:
    choices = tuple(known)
    if value not in choices:
        what = f"unknown mode {value!r}" if kind == "mode" else f"option {name} cannot be {value!r}"
        raise UnknownOption(f"{what}{nearest(value, choices)}; known: {', '.join(choices)}")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of the known words, or nothing."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""
