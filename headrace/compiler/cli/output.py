"""What a command says: tables and lines for people, one JSON document for machines.

On a terminal tables are drawn by rich; through a pipe they are plain, aligned columns, one row a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@dataclass
class Output:
    """Where a command's words go. With `json` only `result` prints, and it prints exactly one document."""

    json: bool = False
    stream: IO[str] | None = None

    @cached_property
    def console(self) -> Console:
        from rich.console import Console

        return Console(file=self.stream or sys.stdout, highlight=False)

    @property
    def terminal(self) -> bool:
        """Whether a person watches: colours and moving bars are welcome."""
        return not self.json and self.console.is_terminal

    def line(self, text: str = "", style: str | None = None) -> None:
        """One line of text, never wrapped through a pipe."""
        if self.json:
            return
        if self.terminal:
            self.console.print(text, style=style, markup=False)
        else:
            self._plain(text)

    def heading(self, text: str) -> None:
        """What comes next, in a word or two."""
        self.line()
        self.line(text, style="bold")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Rows under columns; numbers are aligned to the right by their type."""
        cells = [[_text(cell) for cell in row] for row in rows]
        if self.json:
            return
        if self.terminal:
            from rich.table import Table

            table = Table(box=None, pad_edge=False, header_style="dim")
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in cells:
                table.add_row(*row)
            self.console.print(table, markup=False)
            return
        widths = [max(len(row[at]) for row in [list(columns), *cells]) for at in range(len(columns))]
        for row in [list(columns), *cells]:
            self._plain(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, one a line."""
        found = [(name, _text(value)) for name, value in pairs]
        if self.json or not found:
            return
        width = max(len(name) for name, _ in found)
        for name, value in found:
            if self.terminal:
                from rich.text import Text

                self.console.print(Text(f"{name.ljust(width)}  ", style="dim").append(value, style="default"))
            else:
                self._plain(f"{name.ljust(width)}  {value}")

    def result(self, document: Any) -> None:
        """The JSON document of this command; nothing when text was asked for."""
        if self.json:
            self._plain(json.dumps(document, indent=2, default=str))

    def _plain(self, text: str) -> None:
        print(text, file=self.stream or sys.stdout, flush=True)


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)


def seconds(value: float | None) -> str:
    """A time in the unit that suits it: `812 ns`, `12.4 µs`, `3.1 ms`, `2.0 s`."""
    if value is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def shortened(text: str, width: int = 72) -> str:
    """Text cut to a width, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: width - 1] + "…"
