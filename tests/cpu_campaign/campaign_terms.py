"""Expressions over tiles of one shape, drawn at random together with what they are in torch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

Env = dict[str, Any]
Value = Callable[[Env], Any]
NAMES = {
    torch.float32: "tl.float32", torch.float64: "tl.float64", torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16", torch.int8: "tl.int8", torch.int16: "tl.int16", torch.int32: "tl.int32",
    torch.int64: "tl.int64",
}  # fmt: skip


@dataclass(frozen=True)
class Term:
    """Source text with its meaning: a tile of ``dtype``."""

    text: str
    value: Value
    dtype: torch.dtype


@dataclass
class Terms:
    """What expressions may use: tiles by name, and the counters of the loops around.

    ``rows`` x ``columns`` is the shape of every tile; ``r`` and ``c`` are its indices.
    """

    rng: random.Random
    rows: int
    columns: int
    tiles: dict[str, torch.dtype] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)
    count: int = 0

    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def term(self, dtype: torch.dtype, depth: int) -> Term:
        """An expression of this type."""
        if depth == 0 or self.rng.random() < 0.2:
            return self._leaf(dtype)
        a, b = self.term(dtype, depth - 1), self.term(dtype, depth - 1)
        floating = dtype.is_floating_point
        rules = [*_BOTH, *(_FLOAT if floating else _INT)]
        text, rule = self.rng.choice(rules)
        if "{2}" in text:
            c, d = self.term(dtype, 0), self._leaf(dtype)
            return Term(
                f"({text.format(a.text, b.text, c.text, d.text)}).to({NAMES[dtype]})",
                lambda e: rule(a.value(e), b.value(e), c.value(e), d.value(e)),
                dtype,
            )
        return Term(
            f"({text.format(a.text, b.text)}).to({NAMES[dtype]})",
            lambda e: rule(a.value(e), b.value(e)).to(dtype),
            dtype,
        )

    def _leaf(self, dtype: torch.dtype) -> Term:
        """A tile of this type, one that is converted, a constant, an index or a loop's counter."""
        rng = self.rng
        same = [n for n, t in self.tiles.items() if t is dtype]
        if same and rng.random() < 0.5:
            name = rng.choice(same)
            return Term(name, lambda e: e[name], dtype)
        kind = rng.randrange(4)
        cast = f".to({NAMES[dtype]})"
        if kind == 0 and self.counters:
            name = rng.choice(self.counters)
            return Term(
                f"({name} + r * 0 + c * 0){cast}",
                lambda e: torch.full((self.rows, self.columns), e[name], dtype=torch.int32).to(dtype),
                dtype,
            )
        if kind <= 1:
            axis = rng.choice("rc")
            return Term(
                f"({axis} + r * 0 + c * 0){cast}",
                lambda e: (e[axis] + e["r"] * 0 + e["c"] * 0).to(dtype),
                dtype,
            )
        if kind == 2:
            number = rng.randint(-9, 9)
            return Term(
                f"(r * 0 + c * 0 + {number}){cast}",
                lambda e: torch.full((self.rows, self.columns), number, dtype=torch.int32).to(dtype),
                dtype,
            )
        name = rng.choice(list(self.tiles))
        source = self.tiles[name]
        if source.is_floating_point and not dtype.is_floating_point:
            text = f"tl.minimum(tl.maximum({name}.to(tl.float32), -100.0), 100.0){cast}"
            low, high = torch.tensor(-100.0), torch.tensor(100.0)
            return Term(text, lambda e: torch.fmin(torch.fmax(e[name].float(), low), high).to(dtype), dtype)
        if source.is_floating_point and dtype.itemsize == 2:  # one rounding: f64 to bf16 has two ways
            return Term(f"{name}.to(tl.float32){cast}", lambda e: e[name].float().to(dtype), dtype)
        if not source.is_floating_point and dtype.is_floating_point:
            # 24 bits fit f32; the smaller floats round once, from f32.
            return Term(
                f"({name} & 0xFF).to(tl.float32){cast}" if source is not torch.int8
                else f"{name}.to(tl.float32){cast}",
                lambda e: (e[name] & 0xFF if source is not torch.int8 else e[name]).float().to(dtype), dtype,
            )  # fmt: skip
        return Term(f"{name}{cast}", lambda e: e[name].to(dtype), dtype)


_BOTH: list[tuple[str, Callable[..., torch.Tensor]]] = [
    ("{0} + {1}", lambda a, b: a + b),
    ("{0} - {1}", lambda a, b: a - b),
    ("tl.maximum({0}, {1})", lambda a, b: torch.fmax(a, b) if a.is_floating_point() else torch.maximum(a, b)),
    ("tl.minimum({0}, {1})", lambda a, b: torch.fmin(a, b) if a.is_floating_point() else torch.minimum(a, b)),
    ("tl.where({0} > {1}, {2}, {3})", lambda a, b, c, d: torch.where(a > b, c, d)),
]
_FLOAT: list[tuple[str, Callable[..., torch.Tensor]]] = [
    ("{0} * 0.5 + {1} * 0", lambda a, b: a * 0.5 + b * 0),
    ("tl.abs({0}) - {1}", lambda a, b: a.abs() - b),
]
_INT: list[tuple[str, Callable[..., torch.Tensor]]] = [
    ("{0} * {1}", lambda a, b: a * b),
    ("{0} ^ {1}", lambda a, b: a ^ b),
    ("{0} & {1}", lambda a, b: a & b),
    ("({0} >> 1) | {1}", lambda a, b: (a >> 1) | b),
    ("(~{0}) + {1}", lambda a, b: ~a + b),
]
