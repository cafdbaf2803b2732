"""Schedule: the decision how a Spec is computed; Knob: one question that the decision answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.errors import SpecSyntaxError

Value = int | str


@dataclass(frozen=True, slots=True)
class Knob:
    """A tunable parameter: its name, its default and its legal values in order (neighbours are adjacent)."""

    name: str
    default: Value
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if self.default not in self.values or len(set(self.values)) != len(self.values):
            raise SpecSyntaxError(
                f"knob {self.name}: default {self.default!r} must be one of {self.values}, once each"
            )

    def neighbours(self, value: Value) -> tuple[Value, ...]:
        """The legal values next to `value`."""
        at = self.values.index(value)
        return self.values[max(at - 1, 0) : at] + self.values[at + 1 : at + 2]

    @property
    def fingerprint(self) -> str:
        """Text that changes when the question changes."""
        return f"{self.name}={self.default}|{','.join(map(str, self.values))}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A dataflow's name and its knob values. Text: `gemv{block_k=512, block_n=8}`, knobs sorted by name.

    The reserved dataflow `library` means PyTorch's own operators, without knobs.
    """

    dataflow: str
    knobs: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "knobs", tuple(sorted(self.knobs)))

    def __getitem__(self, name: str) -> Value:
        return dict(self.knobs)[name]

    def __str__(self) -> str:
        return f"{self.dataflow}{{{', '.join(f'{name}={value}' for name, value in self.knobs)}}}"

    @classmethod
    def of(cls, dataflow: str, **knobs: Value) -> Schedule:
        return cls(dataflow, tuple(knobs.items()))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        match = re.fullmatch(r"([a-z][a-z0-9_]*)\{(.*)\}", text.strip())
        if match is None:
            raise SpecSyntaxError(f"cannot read schedule {text!r}; expected dataflow{{knob=value, ...}}")
        knobs: list[tuple[str, Value]] = []
        for part in filter(None, (part.strip() for part in match[2].split(","))):
            name, eq, value = part.partition("=")
            if not eq or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
                raise SpecSyntaxError(f"cannot read knob {part!r} of schedule {text!r}")
            knobs.append((name, int(value) if re.fullmatch(r"-?\d{1,18}", value) else value))
        return cls(match[1], tuple(knobs))


LIBRARY = Schedule("library")
