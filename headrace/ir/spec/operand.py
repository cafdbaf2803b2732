"""What the Specs share: named tensor operands and one canonical text form with its hash.

The canonical text is the database key of an operation and the static argument of its operator, so it
must be stable: one line of `Kind{field=value; ...}` in declaration order, values by their own text form.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from headrace.errors import SpecSyntaxError
from headrace.ir.dtype import DType

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Extra:
    """A further tensor that an expression reads by name.

    `dims` names the index of each of its dimensions, one letter each, e.g. `n` for a bias over columns,
    `mn` for a residual, `bhij` for an additive attention mask, empty for a scalar tensor. A dimension
    along which the tensor does not vary is left out; strides are the tensor's own at call time.
    Text: `name:dtype[dims]`.
    """

    name: str
    dtype: DType
    dims: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SpecSyntaxError(f"operand name {self.name!r} must match {NAME.pattern}")

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype.value}[{self.dims}]"

    @classmethod
    def parse(cls, text: str) -> Extra:
        match = re.fullmatch(r"([a-z][a-z0-9_]*):([a-z0-9]+)\[([a-z]*)\]", text.strip())
        if match is None:
            raise SpecSyntaxError(f"cannot read operand {text!r}; expected name:dtype[dims]")
        try:
            return cls(match[1], DType(match[2]), match[3])
        except ValueError:
            raise SpecSyntaxError(f"unknown dtype {match[2]!r} in operand {text!r}") from None


def digest(text: str) -> str:
    """The hash under which a Spec's text is stored: SHA-256, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def fields_of(text: str, kind: str) -> dict[str, str]:
    """Split `Kind{a=1; b=[x; y]}` into its fields; `;` inside brackets does not separate."""
    match = re.fullmatch(r"([A-Z][A-Za-z]*)\{(.*)\}", text.strip(), re.DOTALL)
    if match is None or match[1] != kind:
        raise SpecSyntaxError(f"expected {kind}{{...}}, got {text[:60]!r}")
    found: dict[str, str] = {}
    for part in split(match[2], ";"):
        name, eq, value = part.partition("=")
        if not eq or name.strip() in found:
            raise SpecSyntaxError(f"cannot read field {part!r} of {kind}")
        found[name.strip()] = value.strip()
    return found


def split(text: str, separator: str) -> list[str]:
    """Split at a separator outside every bracket; empty text gives no parts."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == separator and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def listing(values: Iterable[object]) -> str:
    """`[a, b]` of anything iterable, by each value's own text."""
    return "[" + ", ".join(str(value) for value in values) + "]"


def unlist(text: str) -> list[str]:
    """The parts of `[a, b]`."""
    if not (text.startswith("[") and text.endswith("]")):
        raise SpecSyntaxError(f"expected a list in brackets, got {text!r}")
    return split(text[1:-1], ",")
