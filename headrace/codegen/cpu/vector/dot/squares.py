"""Transposing blocks of words in registers."""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import SIZES, Context, Ix, text
from headrace.codegen.cpu.vector.dot.place import place_of
from headrace.codegen.cpu.vector.dot.words import Source
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.reduction.accumulate import direct


class Squares:
    """Blocks of w x w words of a source, transposed.

    A block that a mask cuts, whose elements have to be computed, or are no neighbours in either direction (as
    where all rows are one), is first put into a small square of memory, so that the code which transposes
    exists once.
    """

    def __init__(self, g: Context, source: Source, w: int) -> None:
        self.g, self.source, self.w = g, source, w
        self.count = w if source.along_k else w * source.per  # rows of the raw block ...
        self.width = w * source.per if source.along_k else w  # ... and elements in each
        place = place_of(g, source.x)
        self.place = place if place is not None and place.strides[int(source.along_k)] == "1" else None
        self._square = ""

    def columns(self, r: str, k: str) -> list[str]:
        """The words of rows r to r + w from element k on, transposed: vectors along r where the source is
        contiguous along k, else along k."""
        g, source, w = self.g, self.source, self.w
        element = text(source.x.element)
        align = SIZES[source.x.element]
        pointer, stride = self._block(r, k)
        raw = []
        for n in range(self.count):
            at = g.gep(element, pointer, g.mul(stride, str(n)))
            # ``here``: a square in memory is filled anew for each block, so this must not be hoisted
            raw.append(g.e.here(f"load <{self.width} x {element}>, ptr {at}, align {align}"))
        if source.along_k:
            whole = f"<{self.width} x {element}>"
            words = [g.bitcast(whole, v, f"<{w} x {source.word}>") for v in raw]
        else:
            words = [source.merged(g, raw[n : n + source.per], w) for n in range(0, self.count, source.per)]
        words = [source.flipped(g, v, w) for v in words]
        return transpose(g, words, source.word)

    def _block(self, r: str, k: str) -> tuple[str, str]:
        """Pointer to the first element of a block and the distance of its rows."""
        g, place = self.g, self.place
        if place is None:
            self._fill(r, k)
            return self._square, str(self.width)
        across = 0 if self.source.along_k else 1
        whole = "true"
        for d, start, size in ((0, r, self.w), (1, k, self.w * self.source.per)):
            for name in place.bounds[d]:
                inside = g.cmp("sle", g.add(start, str(size)), name)
                whole = inside if whole == "true" else g.op("and", "i1", whole, inside)
        here = place.at(g, r, k)
        if whole == "true":
            return here, place.strides[across]

        def some() -> Values:
            self._fill(r, k)
            return [self._square, str(self.width)]

        pointer, stride = g.e.branch(whole, ("ptr", "i64"), lambda: [here, place.strides[across]], some)
        return pointer, stride

    def _fill(self, r: str, k: str) -> None:
        """Compute a block, or read it under its masks."""
        g, source = self.g, self.source
        element = source.x.element
        self._square = self._square or g.alloca(element, self.count * self.width)
        along = 1 if source.along_k else 0
        part = self.width if direct(source.x, along) else min(self.width, g.machine.lanes)

        def row(n: str, _: Values) -> Values:
            for at in range(0, self.width, part):
                index = (Ix(g.add(r, n), 0), Ix(k, at)) if along else (Ix(r, at), Ix(g.add(k, n), 0))
                value = source.x.eval(g, index, along, part)
                to = g.gep(text(element), self._square, g.add(g.mul(n, str(self.width)), str(at)))
                g.store(element, part, value, to)
            return []

        g.e.loop("0", str(self.count), "1", (), row)


def transpose(g: Context, vectors: list[str], element: str) -> list[str]:
    """Transpose w vectors of w 32-bit words, w = 8 or 16, by interleaving words, pairs and 128-bit quarters.

    Each step is one instruction per vector.
    """
    w = len(vectors)
    quarters = range(0, w, 4)

    def interleave(a: str, b: str, high: int, size: int) -> str:
        order = []
        for q in quarters:
            for i in range(q + high, q + high + 2, size):
                order += [*range(i, i + size), *range(w + i, w + i + size)]
        return g.shuffle(element, w, a, b, order)

    # Per four rows, vector c holds element c of every quarter, the four rows side by side.
    groups: list[list[str]] = []
    for four in quarters:
        a, b, c, d = (vectors[four + n] for n in range(4))
        halves = [(interleave(a, b, h, 1), interleave(c, d, h, 1)) for h in (0, 2)]
        groups.append([interleave(ab, cd, x, 2) for ab, cd in halves for x in (0, 2)])

    def quarter(a: str, b: str, parts: tuple[int, ...]) -> str:
        half = len(parts) // 2
        order = [4 * p + i + (w if n >= half else 0) for n, p in enumerate(parts) for i in range(4)]
        return g.shuffle(element, w, a, b, order)

    out = [""] * w
    for column in range(4):
        if w == 8:
            for block in range(2):
                out[4 * block + column] = quarter(groups[0][column], groups[1][column], (block, block))
            continue
        for parity in range(2):
            low = quarter(groups[0][column], groups[1][column], (parity, parity + 2, parity, parity + 2))
            high = quarter(groups[2][column], groups[3][column], (parity, parity + 2, parity, parity + 2))
            for block in range(2):
                out[4 * (parity + 2 * block) + column] = quarter(
                    low, high, (block, block + 2, block, block + 2)
                )
    return out
