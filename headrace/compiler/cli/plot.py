"""A RegimeTable drawn on logarithmic axes: in characters for a terminal, and as SVG.

Time per call over M; one line per dataflow, the fastest schedule of each at every M. Vertical lines are the
ends of regimes, shaded over their confidence intervals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from headrace.compiler.cli.output import seconds
from headrace.ir.regime import RegimeTable

Lines = Mapping[str, Sequence[tuple[int, float]]]

# Colours that stay apart for colour-blind eyes (Okabe and Ito), and letters that do on paper.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 64, 16


def by_dataflow(table: RegimeTable) -> Lines:
    """The fastest schedule of each dataflow at each M."""
    found: dict[str, dict[int, float]] = {}
    for curve in table.curves:
        line = found.setdefault(curve.schedule.dataflow, {})
        for m, time in curve.points:
            line[m] = min(time, line.get(m, math.inf))
    return {name: sorted(line.items()) for name, line in sorted(found.items()) if line}


@dataclass(frozen=True)
class Axes:
    """Logarithmic axes over all points of some lines."""

    first: int
    last: int
    least: float
    most: float

    @classmethod
    def over(cls, lines: Lines) -> Axes:
        points = [point for line in lines.values() for point in line]
        times = [time for _, time in points]
        rows = [m for m, _ in points]
        return cls(min(rows), max(max(rows), min(rows) + 1), min(times) * 0.9, max(times) * 1.1)

    def x(self, m: float) -> float:
        """From 0 at the first M to 1 at the last."""
        return math.log(m / self.first) / math.log(self.last / self.first)

    def y(self, time: float) -> float:
        """From 0 at the least time to 1 at the most."""
        return math.log(time / self.least) / math.log(self.most / self.least)

    @property
    def columns(self) -> list[int]:
        """The powers of two on the M axis."""
        top = int(math.log2(self.last)) + 1
        return [1 << e for e in range(top) if self.first <= 1 << e <= self.last]

    @property
    def levels(self) -> list[float]:
        """Round times on the time axis: 1, 2 and 5 times powers of ten."""
        low, high = math.floor(math.log10(self.least)), math.ceil(math.log10(self.most))
        found = [digit * 10.0**e for e in range(low, high + 1) for digit in (1, 2, 5)]
        return [time for time in found if self.least <= time <= self.most]


def characters(table: RegimeTable) -> list[str]:
    """The plot as lines of text; empty where the table has no times."""
    lines = by_dataflow(table)
    if not lines:
        return []
    axes = Axes.over(lines)
    canvas = [[" "] * (WIDTH + 1) for _ in range(HEIGHT + 1)]
    for bound in table.bounds[:-1] if table.regimes[-1].rows else table.bounds:
        at = axes.x(min(max(bound + 0.5, axes.first), axes.last))
        for row in canvas:
            row[round(at * WIDTH)] = "┊"
    marks = _letters(list(lines))
    for name, line in lines.items():
        for (m, time), (other, later) in itertools.pairwise(line):
            steps = max(2, round((axes.x(other) - axes.x(m)) * WIDTH))
            for step in range(1, steps):
                share = step / steps
                _put(canvas, axes, m * (other / m) ** share, time * (later / time) ** share, "·")
        for m, time in line:
            _put(canvas, axes, m, time, marks[name])
    labels = {HEIGHT - round(axes.y(time) * HEIGHT): seconds(time) for time in axes.levels}
    drawn = [
        f"{labels.get(at, ''):>8} {'┤' if at in labels else '│'}{''.join(row).rstrip()}"
        for at, row in enumerate(canvas)
    ]
    ticks = [" "] * (WIDTH + 4)
    for m in axes.columns:
        at = round(axes.x(m) * WIDTH)
        ticks[at : at + len(str(m))] = str(m)
    drawn += [" " * 9 + "└" + "─" * (WIDTH + 1), " " * 10 + "".join(ticks).rstrip() + "  M"]
    drawn.append(
        " " * 10 + "  ".join(f"{mark} {name}" for name, mark in marks.items()) + "  ┊ end of a regime"
    )
    return drawn


def _put(canvas: list[list[str]], axes: Axes, m: float, time: float, mark: str) -> None:
    row, column = HEIGHT - round(axes.y(time) * HEIGHT), round(axes.x(m) * WIDTH)
    if mark != "·" or canvas[row][column] in " ┊":
        canvas[row][column] = mark


def _letters(names: Sequence[str]) -> dict[str, str]:
    """A letter for each name, the first of its own that nobody has."""
    found: dict[str, str] = {}
    for name in names:
        taken = set(found.values())
        found[name] = next((c for c in (*name, *"0123456789") if c not in taken and c.isalnum()), "?")
    return found


def svg(tables: Sequence[tuple[str, RegimeTable]]) -> str:
    """The plots of titled tables below each other, as an SVG document of its own."""
    width, height = 720, 400
    drawn = [(title, table) for title, table in tables if table.curves]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{max(1, len(drawn)) * height}" '
        f'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for at, (title, table) in enumerate(drawn):
        parts += [f'<g transform="translate(0,{at * height})">', *_panel(title, table, width, height), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(title: str, table: RegimeTable, width: int, height: int) -> list[str]:
    lines = by_dataflow(table)
    axes = Axes.over(lines)
    left, right, top, bottom = 70, width - 110, 50, height - 50

    def x(m: float) -> float:
        return left + min(max(axes.x(m), 0.0), 1.0) * (right - left)

    def y(time: float) -> float:
        return bottom - axes.y(time) * (bottom - top)

    found = [
        _text(left, 20, title, "font-weight='bold'"),
        _text(
            left,
            36,
            f"M1 = {table.m1 or 'beyond'}, M2 = {table.m2 or 'beyond'} ({table.voice})",
            "fill='#555'",
        ),
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" fill="none" '
        'stroke="#999"/>',
    ]
    for m in axes.columns:
        found.append(_line(x(m), top, x(m), bottom, "stroke='#eee'"))
        found.append(_text(x(m), bottom + 16, str(m), "text-anchor='middle'"))
    for time in axes.levels:
        found.append(_line(left, y(time), right, y(time), "stroke='#eee'"))
        found.append(_text(left - 6, y(time) + 4, seconds(time), "text-anchor='end'"))
    found.append(_text((left + right) / 2, bottom + 36, "rows M", "text-anchor='middle'"))
    found += _boundaries(table, x, top, bottom)
    for at, (name, line) in enumerate(lines.items()):
        colour = COLOURS[at % len(COLOURS)]
        points = " ".join(f"{x(m):.1f},{y(time):.1f}" for m, time in line)
        found.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        found += [f'<circle cx="{x(m):.1f}" cy="{y(time):.1f}" r="3" fill="{colour}"/>' for m, time in line]
        level = top + 10 + 18 * at
        found.append(_line(right + 12, level, right + 32, level, f"stroke='{colour}' stroke-width='2'"))
        found.append(_text(right + 38, top + 14 + 18 * at, name, ""))
    return found


def _boundaries(table: RegimeTable, x: Callable[[float], float], top: int, bottom: int) -> list[str]:
    found = []
    for name, group in itertools.groupby(range(len(table.regimes)), lambda at: _flow(table, at)):
        run = list(group)
        low, high = x(table.start(run[0]) - 0.5), x((table.regimes[run[-1]].rows or 1 << 30) + 0.5)
        if high - low >= 7 * len(name):  # else there is no room for its name
            style = "text-anchor='middle' fill='#777' font-size='11'"
            found.append(_text((low + high) / 2, top - 4, name, style))
    for at, regime in enumerate(table.regimes):
        if regime.rows is None or at == len(table.regimes) - 1:
            continue
        if regime.interval is not None:
            low, high = x(regime.interval[0] + 0.5), x(regime.interval[1] + 0.5)
            found.append(
                f'<rect x="{low:.1f}" y="{top}" width="{max(high - low, 1):.1f}" height="{bottom - top}" '
                f'fill="#999" fill-opacity="0.2"/>'
            )
        end = x(regime.rows + 0.5)
        found.append(_line(end, top, end, bottom, "stroke='#666' stroke-dasharray='4 3'"))
    return found


def _flow(table: RegimeTable, at: int) -> str:
    return table.regimes[at].schedule.dataflow


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'
