"""AMX products of bf16 (sums in f32) and of signed bytes (sums in i32).

Up to 2 x 2 tiles of sums stay in registers over the whole of k. A left tile is 16 rows of 16 words as they
lie in memory; a right tile is 16 x 16 words of a packed panel. ::

    for j in columns, step 32:
        P[k', 32] = words of b[:, j : j + 32]
        for i in rows, step 32:
            sums = c[i : i + 32, j : j + 32]
            for k' step 16: sums += R[i : i + 32, k' : k' + 16] * P[k' : k' + 16]

With at most 32 rows and b contiguous along k the operands change roles, c^T += b^T a^T: b, which is large, is
then read by tile loads from where it lies, and only a is packed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from headrace.codegen.cpu.amx import BYTES, ROWS, WORDS
from headrace.codegen.cpu.vector.context import SIZES, Context, Ix, is_const_int, vector_type
from headrace.codegen.cpu.vector.dot import pack, panels, tiles
from headrace.codegen.cpu.vector.dot.place import place_of
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.dot.squares import transpose
from headrace.codegen.cpu.vector.dot.words import Source
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr
from headrace.codegen.cpu.vector.reduction.blocks import is_zero
from headrace.codegen.cpu.vector.schedule import numel

_SWAP_ROWS = 32
_LEFT, _RIGHT = 4, 6  # the first tile of each operand; sums are tiles 0 to 3


@dataclass(frozen=True)
class Rows:
    """Words R[r, k'] in memory; ``stride`` bytes from row to row."""

    pointer: str
    stride: str


def accepts(p: Product) -> bool:
    """True for bf16 or bytes in whole tiles, unless there are few rows that are better summed in place."""
    if len(p.c.shape) != 2 or p.a.element != p.b.element:
        return False
    kinds = {"bfloat": ("float", p.machine.amx_bf16), "i8": ("i32", p.machine.amx_int8)}
    total, has = kinds.get(p.a.element, ("", False))
    depth = BYTES // SIZES[p.a.element]
    return has and p.c.element == total and p.n % 16 == 0 and p.k % depth == 0 and p.m >= 4 and not p.few_rows


def lower(p: Product) -> Expr:
    """Write the product; the buffer that holds the result."""
    g, s = p.g, p.s
    for operand in (p.a, p.b, p.c):
        s.prepare(operand, fuse=False)
    per = 4 // SIZES[p.a.element]
    if p.m < ROWS:
        p = dataclasses.replace(p, a=_padded(p))
    left, right = panels.source(p, p.a, per, 0), panels.source(p, p.b, per, 1)
    words = _round_up(g, panels.extent(p, per), WORDS)
    if right.along_k and p.m <= _SWAP_ROWS and left.along_k:
        return _swapped(p, left, right, words)
    height = max(p.m, ROWS)
    count = _round_up(g, p.rows, ROWS * _tiles(height))
    rows = _rows(p, left, p.rows, direct=False)
    into = p.buffer()
    sums = into
    if p.m < ROWS or into.strides[1] != 1:
        shape = (height, p.n)
        sums = Buffer(g.alloca(p.c.element, numel(shape)), shape, p.c.element)
    before = None
    if not is_zero(p.c, g):
        before = p.c.resolved()
        whole = isinstance(before, Buffer) and before.source is None and before.strides[1] == 1
        if not whole or p.m < ROWS:
            before = Buffer(sums.pointer, p.c.shape, p.c.element, sums.strides)
            s.materialise(p.c, into=before)
    assert before is None or isinstance(before, Buffer)
    start = _memory(before) if before is not None else None
    _multiply(p, rows, count, height, right, p.columns, p.n, words, start, _memory(sums))
    if sums is not into:
        made = Buffer(sums.pointer, p.c.shape, p.c.element, sums.strides)
        if p.into is None:
            return made
        s.materialise(made, into=into)
    return Buffer(into.pointer, into.shape, into.element, into.strides)


def _padded(p: Product) -> Buffer:
    """a with rows enough for a tile; what the others hold does not matter."""
    shape = (ROWS, p.k)
    padded = Buffer(p.g.alloca(p.a.element, numel(shape)), shape, p.a.element)
    p.s.materialise(p.a, into=Buffer(padded.pointer, p.a.shape, p.a.element))
    p.s.keep.append(padded)
    return padded


def _swapped(p: Product, left: Source, right: Source, words: str) -> Expr:
    """c^T += b^T a^T, then transposed into place."""
    g = p.g
    width = max(p.m, ROWS)
    rows = _rows(p, right, p.columns, direct=True)
    turned = Buffer(g.alloca(p.c.element, p.n * width), (p.n, width), p.c.element)
    count = _round_up(g, p.columns, ROWS * _tiles(p.n))
    _multiply(p, rows, count, p.n, left, str(width), width, words, None, _memory(turned))
    into = p.buffer()
    nothing = is_zero(p.c, g)
    add = "add" if p.c.element == "i32" else "fadd"
    vt = vector_type(p.c.element, 16)

    def block(j: str, _: Values) -> Values:
        for i in range(0, width, 16):
            vectors = [turned.eval(g, (Ix(j, r), Ix(None, i)), 1, 16) for r in range(16)]
            for r, vector in enumerate(transpose(g, vectors, p.c.element)):
                if i + r < p.m:
                    at = (Ix(None, i + r), Ix(j, 0))
                    value = vector if nothing else g.op(add, vt, p.c.eval(g, at, 1, 16), vector)
                    into.put(g, at, 1, 16, value)
        return []

    g.e.loop("0", _round_up(g, p.columns, 16), "16", (), block)
    return Buffer(into.pointer, into.shape, into.element, into.strides)


def _multiply(
    p: Product,
    rows: Rows,
    count: str,
    height: int,
    right: Source,
    columns: str,
    width: int,
    words: str,
    start: Rows | None,
    sums: Rows,
) -> None:
    """sums[0:count, 0:columns] = start + R * words of ``right``, for ``height`` x ``width`` sums in all."""
    g = p.g
    down, along = _tiles(height), _tiles(width)
    panel = g.alloca("i32", 16 * along * (p.k // right.per))
    multiply = tiles.multiply_int8 if p.c.element == "i32" else tiles.multiply_bf16
    places = [(r, c) for r in range(down) for c in range(along)]

    def strip(j: str, _: Values) -> Values:
        pack.panel(g, right, j, 16 * along, panel)
        _clear_rest(p, right, panel, 16 * along, words)

        def block(i: str, _: Values) -> Values:
            for r, c in places:
                if start is None:
                    tiles.zero(g, 2 * r + c)
                else:
                    tiles.load(g, 2 * r + c, _at(g, start, i, 16 * r, j, 16 * c), start.stride)

            def step(k: str, _: Values) -> Values:
                here = g.gep("i32", panel, g.mul(k, str(16 * along)))
                for c in range(along):
                    tiles.load(g, _RIGHT + c, g.gep("i32", here, str(16 * c)), str(64 * along))
                for r in range(down):
                    tiles.load(g, _LEFT + r, _at(g, rows, i, 16 * r, k, 0), rows.stride)
                for r, c in places:
                    multiply(g, 2 * r + c, _LEFT + r, _RIGHT + c)
                return []

            g.e.loop("0", words, "16", (), step)
            for r, c in places:
                tiles.store(g, 2 * r + c, _at(g, sums, i, 16 * r, j, 16 * c), sums.stride)
            return []

        g.e.loop("0", count, str(16 * down), (), block)
        return []

    g.e.loop("0", _round_up(g, columns, 16 * along), str(16 * along), (), strip)


def _rows(p: Product, x: Source, count: str, direct: bool) -> Rows:
    """An operand as rows of words: where it lies if tiles can be loaded from there, else packed."""
    g = p.g
    tile = x.x.resolved()
    rows = max(x.x.shape[0], ROWS)
    there = isinstance(tile, Buffer) and tile.source is None and tile.strides[1] == 1
    if there and isinstance(tile, Buffer) and tile.shape[0] >= ROWS:
        return Rows(tile.pointer, str(tile.strides[0] * SIZES[tile.element]))
    k = x.x.shape[1] // x.per
    packed = Buffer(g.alloca("i32", rows * k), (rows, k), "i32")

    def pack_them() -> Values:
        pack.rows(g, x, count, packed)
        return [packed.pointer, str(4 * k)]

    found = _in_place(g, x.x) if direct else None
    if found is None or found[0] == "false":
        return Rows(*pack_them())
    whole, place = found
    if whole == "true":
        return place
    return Rows(*g.e.branch(whole, ("ptr", "i64"), lambda: [place.pointer, place.stride], pack_them))


def _in_place(g: Context, x: Expr) -> tuple[str, Rows] | None:
    """Where x[r, k] lies in memory, and the condition that none of it is masked off; None if it does not lie
    in rows."""
    place = place_of(g, x)
    if place is None or place.strides[1] != "1" or x.shape[0] < ROWS:
        return None
    whole = "true"
    for size, names in zip(x.shape, place.bounds, strict=True):
        for name in names:
            enough = g.cmp("sle", str(size), name)
            whole = enough if whole == "true" else g.op("and", "i1", whole, enough)
    return whole, Rows(place.pointer, g.mul(place.strides[0], str(place.size)))


def _clear_rest(p: Product, source: Source, panel: str, width: int, words: str) -> None:
    """Zeros in the rows of a panel that were not packed because k is bounded."""
    g = p.g
    if not source.bounds:
        return
    first = panels.extent(p, source.per)

    def row(k: str, _: Values) -> Values:
        at = g.gep("i32", panel, g.mul(k, str(width)))
        for lane in range(0, width, 16):
            g.store("i32", 16, "zeroinitializer", g.gep("i32", at, str(lane)))
        return []

    g.e.loop(first, words, "1", (), row)


def _memory(tile: Buffer) -> Rows:
    return Rows(tile.pointer, str(4 * tile.strides[0]))


def _at(g: Context, rows: Rows, i: str, r: int, word: str, more: int) -> str:
    """Address of row i + r, word ``word`` + ``more``."""
    at = g.gep("i8", rows.pointer, g.mul(g.add(i, str(r)), rows.stride))
    return g.gep("i32", at, g.add(word, str(more)))


def _tiles(size: int) -> int:
    return 2 if size >= 32 else 1


def _round_up(g: Context, value: str, step: int) -> str:
    if is_const_int(value):
        return str(-(-int(value) // step) * step)
    return g.floor_to(g.add(value, str(step - 1)), step)
