"""Words: what one multiply-accumulate takes along k, and operands seen as words.

One f32, two bf16 or four bytes that are neighbours along k.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.analysis.access import valid
from headrace.codegen.cpu.vector.context import Context, Ix, text
from headrace.codegen.cpu.vector.expr import Expr
from headrace.codegen.cpu.vector.loops import upper
from headrace.codegen.cpu.vector.reduction.accumulate import direct


@dataclass(frozen=True)
class Source:
    """An operand x[r, k] to be packed, ``per`` elements to a word; ``along_k``: contiguous along k, else r.

    ``bounds`` are the bounds of k up to which words are made, exclusive-or ``flip``.
    """

    x: Expr
    per: int
    along_k: bool
    bounds: tuple[str, ...] = ()
    flip: str = "0"

    @property
    def word(self) -> str:
        """Element type of the packed tile."""
        return self.x.element if self.per == 1 else "i32"

    def sure_rows(self, g: Context) -> tuple[str, ...]:
        """Bounds of r below which no mask has to be tested."""
        return valid(g, self.x, 0) or ()

    def depth(self, g: Context) -> str:
        """How many elements along k are packed."""
        return upper(g, self.bounds, self.x.shape[1])

    def words(self, g: Context, r: Ix, k: Ix, width: int) -> str:
        """``width`` words at row r from element k on: along k', or along r."""
        if self.along_k:
            return self.flipped(g, self._neighbours(g, r, k, width), width)
        parts = [self.x.eval(g, (r, k.plus(n)), 0, width) for n in range(self.per)]
        return self.flipped(g, self.merged(g, parts, width), width)

    def flipped(self, g: Context, words: str, width: int) -> str:
        """Words as they are stored."""
        if self.flip == "0":
            return words
        return g.op("xor", f"<{width} x {self.word}>", words, g.splat(self.word, self.flip, width))

    def merged(self, g: Context, parts: list[str], width: int) -> str:
        """Words along r: the elements of ``per`` vectors merged, by pairs."""
        element, bits = text(self.x.element), 32 // self.per
        order = [lane + width * n for lane in range(width) for n in (0, 1)]
        while len(parts) > 1:
            merged = [
                g.shuffle(element, width, a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
            wider = self.word if len(merged) == 1 else f"i{2 * bits}"
            parts = [g.bitcast(f"<{2 * width} x {element}>", x, f"<{width} x {wider}>") for x in merged]
            element, bits = wider, 2 * bits
        return parts[0]

    def _neighbours(self, g: Context, r: Ix, k: Ix, width: int) -> str:
        """Words along k': one read, or what is computed joined from vectors of the usual width."""
        size, element = width * self.per, text(self.x.element)
        part = size if direct(self.x, 1) else min(size, g.machine.lanes)
        values = [self.x.eval(g, (r, k.plus(n)), 1, part) for n in range(0, size, part)]
        while len(values) > 1:
            values = [
                g.shuffle(element, part, a, b, range(2 * part))
                for a, b in zip(values[::2], values[1::2], strict=True)
            ]
            part *= 2
        return g.bitcast(f"<{size} x {element}>", values[0], f"<{width} x {self.word}>")


def word_index(g: Context, k: Ix, per: int) -> Ix:
    """Index in words of the element index ``k``, a multiple of ``per``."""
    if per == 1:
        return k
    base = None if k.base is None else g.e.pure(f"lshr i64 {k.base}, {per.bit_length() - 1}", (k.base,))
    return Ix(base, k.off // per, k.tag)
