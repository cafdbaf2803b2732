"""What a pass is: a frozen dataclass whose fields are its options and whose text form builds it again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from headrace.ir.graph import Graph


@dataclass(frozen=True)
class Pass:
    """One rewrite of a graph.

    `run` changes the graph in place. The verifier holds before and after; every FX value keeps its value.
    Text: `fuse_epilogue{max_ops=24}`, only the fields that differ from their defaults, and no braces where
    none does. `headrace.passes.pipeline.parse_pass` reads it back.
    """

    name: ClassVar[str] = "pass"

    def run(self, graph: Graph) -> None:
        """Rewrite `graph` in place."""
        raise TypeError(f"{type(self).__name__} does not say what it does: override run")

    def __str__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}{{{', '.join(shown)}}}" if shown else self.name
