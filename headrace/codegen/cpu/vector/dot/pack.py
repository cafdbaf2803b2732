"""Packing of a matrix that is contiguous along k into one that is contiguous along n: 16 x 16 transposes
in registers."""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Ix, text
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr, packed
from headrace.codegen.cpu.vector.schedule import Scheduler, numel


def transposed(s: Scheduler, source: Expr, columns: str) -> Buffer:
    """b[n, k] of 32-bit elements, or of bf16 taken in pairs, as a tile P[k, n] (P[k / 2, n]) in memory.

    ``columns`` is the bound of n that is needed. Shapes are multiples of the vector width.
    """
    g = s.g
    w = g.machine.lanes
    n, k = source.shape
    pairs = source.element == "bfloat"
    element = "i32" if pairs else source.element
    per = 2 if pairs else 1
    shape = (k // per, n)
    tile = Buffer(g.alloca(element, numel(shape)), shape, element, packed(shape))

    def block(iv: str, _: Values) -> Values:
        def inner(kv: str, _: Values) -> Values:
            vectors = []
            for r in range(w):
                value = source.eval(g, (Ix(iv, r), Ix(kv, 0)), 1, w * per)
                vectors.append(
                    g.bitcast(f"<{w * per} x {text(source.element)}>", value, f"<{w} x {element}>")
                )
            start = kv if per == 1 else g.e.pure(f"lshr i64 {kv}, 1", (kv,))
            for r, vector in enumerate(_transpose(s, vectors, element, w)):
                tile.put(g, (Ix(start, r), Ix(iv, 0)), 1, w, vector)
            return []

        g.e.loop("0", str(k), str(w * per), (), inner)
        return []

    g.e.loop("0", columns, str(w), (), block)
    return tile


def _transpose(s: Scheduler, rows: list[str], element: str, w: int) -> list[str]:
    """Butterfly: at each step lane bit b and row bit b trade places."""
    g = s.g
    step = 1
    while step < w:
        out = list(rows)
        low = [lane if not lane & step else w + (lane & ~step) for lane in range(w)]
        high = [lane | step if not lane & step else w + lane for lane in range(w)]
        for r in range(w):
            if not r & step:
                out[r] = g.shuffle(element, w, rows[r], rows[r | step], low)
                out[r | step] = g.shuffle(element, w, rows[r], rows[r | step], high)
        rows = out
        step *= 2
    return rows
