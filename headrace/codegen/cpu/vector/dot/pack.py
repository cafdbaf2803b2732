"""Packing of the operands of a product into tiles of *words* that micro-kernels read in order.

A word is what one multiply-accumulate takes along k: one f32, or two bf16 that are neighbours along k. An
operand is seen as x[r, k], where r is m for the left one and n for the right one. It becomes

* ``rows``: R[r, k'], each row dense along k', for words that are broadcast;
* ``panel``: P[k', r] for as many neighbouring r as a micro-kernel is wide, for words that are read as
  vectors.

An operand that is contiguous along the wrong dimension is transposed in registers, w x w words at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import Context, Ix, is_const_int
from headrace.codegen.cpu.vector.dot.place import Place, place_of
from headrace.codegen.cpu.vector.dot.squares import Squares
from headrace.codegen.cpu.vector.dot.words import Source, word_index
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer
from headrace.codegen.cpu.vector.loops import lanes, upper
from headrace.codegen.cpu.vector.memory.prefetch import LINE

LEAST_SQUARE = 8  # words; see transpose()
_STEPS = 8  # words along k between what is packed and what is prefetched


def rows(g: Context, source: Source, count: str, into: Buffer) -> None:
    """Write the first ``count`` rows (rounded up to whole blocks) of R[r, k'] to ``into``."""
    w = min(g.machine.lanes, source.x.shape[1] // source.per)
    if not source.along_k:
        w = min(w, source.x.shape[0])
        square = Squares(g, source, w)

        def turned(r: str, k: str) -> None:
            kw = word_index(g, Ix(k, 0), source.per)
            for n, vector in enumerate(square.columns(r, k)):
                into.put(g, (Ix(r, n), kw), 1, w, vector)

        _grid(g, count, w, source.depth(g), w * source.per, turned)
        return

    def block(r: Ix) -> None:
        def chunk(at: list[Ix], _: Values, tail: bool) -> Values:
            for k in at:
                into.put(g, (r, word_index(g, k, source.per)), 1, w, source.words(g, r, k, w))
            return []

        lanes(g, source.x.shape[1], w * source.per, source.bounds, (), chunk, 4)

    _blocks(g, source, count, block)


@dataclass(frozen=True)
class Panels:
    """Memory of packed panels P[j][k', 0:width], ``depth`` words along k' each."""

    pointer: str
    width: int
    depth: int

    def at(self, g: Context, word: str, row: str) -> str:
        """The panel that starts at ``row``, a multiple of ``width``, counted from the first one."""
        return g.gep(word, self.pointer, g.mul(row, str(self.depth)))


def columns(g: Context, source: Source, count: str, into: Buffer, known: tuple[str, ...]) -> None:
    """Write the first ``count`` rows (rounded up to vectors) of R[r, k'] to ``into``, which is contiguous
    along r as the source is. Bounds in ``known`` need no test: rows beyond them may be anything."""
    tag = g.tag()
    w = min(g.machine.lanes, source.x.shape[0])

    def along(at: list[Ix], _: Values, tail: bool) -> Values:
        for k in at:

            def chunk(r: str, _: Values, k: Ix = k) -> Values:
                with g.knowing([(name, tag) for name in known]):
                    words = source.words(g, Ix(r, 0, tag), k, w)
                into.put(g, (Ix(r, 0), word_index(g, k, source.per)), 0, w, words)
                return []

            g.e.loop("0", count, str(w), (), chunk)
        return []

    lanes(g, source.x.shape[1], source.per, source.bounds, (), along, 1)


def panel(g: Context, source: Source, first: str, width: int, into: str) -> None:
    """Write P[k', 0:width], made of rows ``first`` to ``first + width``, to the pointer ``into``."""
    depth = source.x.shape[1] // source.per
    panels(g, source, first, str(width), width, Panels(into, width, depth))


def panels(g: Context, source: Source, first: str, rows: str, most: int, into: Panels) -> None:
    """Write the panels that hold rows ``first`` to ``first + rows``, where ``rows`` is at most ``most``."""
    width = into.width
    w = min(g.machine.lanes, width)

    def put(row: str, k: Ix, lane: Ix, vector: str) -> None:
        at = into.at(g, source.word, row)
        at = g.gep(source.word, at, g.add(g.mul(g.index(k), str(width)), g.index(lane)))
        g.e.effect(f"store <{w} x {source.word}> {vector}, ptr {at}, align {min(64, w * 4)}")

    if source.along_k:
        square = Squares(g, source, w)

        def turned(row: str, lane: str, k: str) -> None:
            kw = word_index(g, Ix(k, 0), source.per)
            for n, vector in enumerate(square.columns(g.add(g.add(first, row), lane), k)):
                put(row, kw.plus(n), Ix(lane, 0), vector)

        def one(row: str) -> None:
            step = w * source.per
            _grid(g, str(width), w, source.depth(g), step, lambda lane, k: turned(row, lane, k))

        _each(g, rows, width, one)
        return
    place = place_of(g, source.x)

    def fill(sure: bool) -> None:
        tag = g.tag()
        facts = [(name, tag) for name in source.sure_rows(g)] if sure else []

        def chunk(at: list[Ix], _: Values, tail: bool) -> Values:
            for k in at:

                def across(row: str, k: Ix = k) -> None:
                    start = g.add(first, row)
                    if place is not None and not tail:
                        _ahead(g, place, start, k, width, source.per)
                    for lane in range(0, width, w):
                        words = source.words(g, _at(start, lane, tag), k, w)
                        put(row, word_index(g, k, source.per), Ix(None, lane), words)

                _each(g, rows, width, across)
            return []

        with g.knowing(facts):
            lanes(g, source.x.shape[1], source.per, source.bounds, (), chunk, 2 if most <= width else 1)

    _versions(g, source, g.add(first, str(most)), fill)


def _each(g: Context, rows: str, width: int, body: Callable[[str], None]) -> None:
    """``body`` for each panel of ``width`` rows."""
    if is_const_int(rows) and int(rows) <= width:
        body("0")
        return

    def run(row: str, _: Values) -> Values:
        body(row)
        return []

    g.e.loop("0", rows, str(width), (), run)


def _ahead(g: Context, place: Place, row: str, k: Ix, width: int, per: int) -> None:
    """Prefetch what is packed some steps along k later: every step reads another page of a large matrix.

    Beyond the tile that is what the next iteration of a loop over k packs.
    """
    lines = max(1, width * place.size // LINE)
    for n in range(per):
        for line in range(lines):
            column = g.add(g.index(k), str(_STEPS * per + n))
            at = place.at(g, g.add(row, str(line * LINE // place.size)), column)
            g.e.declare("llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
            g.e.effect(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 3, i32 1)")


def _grid(g: Context, rows: str, step: int, depth: str, deep: int, body: Callable[[str, str], None]) -> None:
    """Run ``body(r, k)`` over blocks of step x deep."""

    def row(r: str, _: Values) -> Values:
        def one(k: str, _: Values) -> Values:
            body(r, k)
            return []

        g.e.loop("0", depth, str(deep), (), one)
        return []

    g.e.loop("0", rows, str(step), (), row)


def _blocks(g: Context, source: Source, count: str, block: Callable[[Ix], None]) -> None:
    """Run ``block`` over rows: without row masks as far as possible, then with them."""
    names = source.sure_rows(g)
    start = "0"
    if names:
        start = g.smin(upper(g, names, source.x.shape[0]), count)
        tag = g.tag()

        def sure(iv: str, _: Values) -> Values:
            with g.knowing([(name, tag) for name in names]):
                block(Ix(iv, 0, tag))
            return []

        g.e.loop("0", start, "1", (), sure)
    if start != count:
        tail = g.tag()

        def masked(iv: str, _: Values) -> Values:
            block(Ix(iv, 0, tail))
            return []

        g.e.loop(start, count, "1", (), masked)


def _versions(g: Context, source: Source, end: str, fill: Callable[[bool], None]) -> None:
    """``fill`` without row masks where all rows below ``end`` are valid, with them elsewhere."""
    names = source.sure_rows(g)
    whole = g.cmp("sle", end, upper(g, names, source.x.shape[0])) if names else "true"
    if whole in ("true", "false"):
        fill(whole == "true")
        return

    def some() -> Values:
        fill(False)
        return []

    def every() -> Values:
        fill(True)
        return []

    g.e.branch(whole, (), every, some)


def _at(first: str, lane: int, tag: int) -> Ix:
    return Ix(None, int(first) + lane, tag) if first.isdigit() else Ix(first, lane, tag)
