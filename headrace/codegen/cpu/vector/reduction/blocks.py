"""Blocks of result rows that are reduced together along the vector, so that operands and read streams
are shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.codegen.cpu.vector.analysis.access import zero_beyond
from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.context import ZERO, Context, Ix, is_const_int, vector_type
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Shape
from headrace.codegen.cpu.vector.loops import lanes, rows, upper
from headrace.codegen.cpu.vector.memory.transfer import Load, fetch_before
from headrace.codegen.cpu.vector.memory.transfer import fetch as bring
from headrace.codegen.cpu.vector.reduction.accumulate import Accumulate
from headrace.codegen.cpu.vector.reduction.combine import Combine, horizontal

Row = list[Ix]
_ORDERED = 8  # vectors along the axis up to which a block is written out row by row
AHEAD = 4096  # bytes; from 4 to 8 KiB is best for narrow weights, nearer ones come too late


@dataclass(frozen=True)
class Block:
    """``m`` x ``n`` result elements, row-major, each with its full index (the reduced dimension is left
    at zero).

    ``spread``: the ``n`` elements are not neighbours.
    """

    rows: tuple[tuple[Ix, ...], ...]
    m: int
    n: int
    spread: bool = False


@dataclass(frozen=True)
class Stream:
    """A load that is read in order along its dimension ``dim``; ``dims`` gives the dimension of the whole for
    each of its own (-1: it is stretched along none of them)."""

    load: Load
    dims: tuple[int, ...]
    dim: int

    def place(self, index: Sequence[Ix]) -> tuple[Ix, ...]:
        """The index into the load for one into the whole."""
        return tuple(index[d] if d >= 0 else ZERO for d in self.dims)


@dataclass(frozen=True)
class Term:
    """One reduction among several that run in the same loops."""

    expr: Expr
    acc: Accumulate


def fetch(g: Context, pointer: str, distance: int) -> None:
    """Bring the line ``distance`` bytes further on into the second cache."""
    bring(g, g.gep("i8", pointer, str(distance)))


def sweep_axis(
    g: Context,
    terms: Sequence[Term],
    axis: int,
    block: Block,
    names: tuple[str, ...],
    values: Values,
    sets: int,
    heavy: bool = False,
    streams: Sequence[Stream] = (),
    lines: Sequence[str] = (),
) -> Values:
    """Run along ``axis`` for a block; ``values`` holds ``sets`` accumulators per row and term, terms
    outermost. What ``streams`` will read soon is fetched into the second cache, and so are ``lines``: where
    the whole sweep is a few vectors, one between two reads, and these then go row by row."""
    count = len(block.rows)
    size = terms[0].expr.shape[axis]
    step = terms[0].acc.step
    hi = upper(g, names, size)
    types = [t.acc.type for t in terms for _ in range(sets * count)]
    chunks = size // step
    ordered = bool(lines) and not names and chunks <= _ORDERED and chunks * step == size
    unroll = sets if heavy else max(sets, 2)
    if ordered:
        unroll = chunks
    else:
        for line in lines:
            bring(g, line)

    def row_by_row(at: list[Ix], carried: Values, _: bool) -> Values:
        carried = list(carried)
        for n in range(block.n):
            for u, ix in enumerate(at):
                for m in range(block.m):
                    r = m * block.n + n
                    index = (*block.rows[r][:axis], ix, *block.rows[r][axis + 1 :])
                    for t, term in enumerate(terms):
                        slot = (t * sets + u % sets) * count + r
                        carried[slot] = term.acc.update(g, term.expr, carried[slot], index, axis, None)
                e = term.acc.combine.element
                for line in share(lines, n * chunks + u, block.n * chunks):
                    carried[slot] = fetch_before(g, line, e, term.acc.width, carried[slot])
        return carried

    def body(at: list[Ix], carried: Values, tail: bool) -> Values:
        carried = list(carried)
        for u, ix in enumerate(at):
            bound = g.lanes_below(g.sub(hi, g.index(ix)), step) if tail else None
            for r, row in enumerate(block.rows):
                index = (*row[:axis], ix, *row[axis + 1 :])
                for t, term in enumerate(terms):
                    slot = (t * sets + u % sets) * count + r
                    carried[slot] = term.acc.update(g, term.expr, carried[slot], index, axis, bound)
        if streams and not tail:
            rows_of = [(*row[:axis], at[0], *row[axis + 1 :]) for row in block.rows]
            for stream in streams:
                for index in dict.fromkeys(stream.place(row) for row in rows_of):
                    fetch(g, stream.load.pointers.at(g, index, stream.dim), AHEAD)
        return carried

    inits = list(zip(types, values, strict=True))
    return lanes(g, size, step, names, inits, row_by_row if ordered else body, unroll)


def share(lines: Sequence[str], part: int, parts: int) -> Sequence[str]:
    """One of equal parts."""
    return lines[part * len(lines) // parts : (part + 1) * len(lines) // parts]


def fold(g: Context, acc: Accumulate, values: Values, sets: int, count: int) -> str:
    """Fold accumulators to one vector with a lane per row (padded to a power of two)."""
    combine = acc.combine
    while sets > 1:
        half = sets // 2
        kept = [combine.apply(g, values[n], values[n + half * count], acc.width) for n in range(half * count)]
        if sets % 2:
            rest = values[2 * half * count :]
            kept[:count] = [
                combine.apply(g, a, b, acc.width) for a, b in zip(kept[:count], rest, strict=True)
            ]
        values, sets = kept, half
    size = 1
    while size < count:
        size *= 2
    padded = [*values, *[values[0]] * (size - count)]
    group = min(acc.width, size)
    parts = [horizontal(g, combine, padded[n : n + group], acc.width) for n in range(0, size, group)]
    while len(parts) > 1:
        # A reduced dimension of few elements: fewer lanes per vector than rows in the block.
        parts = [
            g.shuffle(combine.element, group, a, b, range(2 * group))
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        group *= 2
    return parts[0]


def outside(
    g: Context, expr: Expr, combine: Combine, axis: int, names: tuple[str, ...], row: Sequence[Ix]
) -> str | None:
    """What the elements beyond the bounds contribute to one row: a scalar, or None when nothing."""
    if not names or zeros_outside(g, expr, combine, axis, names, row):
        return None
    e = combine.element
    value = expr.eval(g, tuple(row), -1, 0, axis)
    if value == combine.identity:
        return None
    count = g.sub(str(expr.shape[axis]), upper(g, names, expr.shape[axis]))
    if combine.op == "arith.addf":
        value = g.op("fmul", e, value, g.cast("sitofp", "i64", count, e))
    elif combine.op == "arith.addi":
        value = g.mul(value, count if e == "i64" else g.cast("trunc", "i64", count, e), e)
    return g.select("i1", g.cmp("sgt", count, "0"), e, value, combine.identity)


def zeros_outside(
    g: Context, expr: Expr, combine: Combine, axis: int, names: tuple[str, ...], row: Sequence[Ix]
) -> bool:
    """Whether a sum only adds zeros beyond the bounds, which change nothing but the sign of a zero: see
    :func:`with_zeros`."""
    if not names or combine.op not in ("arith.addf", "arith.addi"):
        return False
    if zero_beyond(g, expr, axis):
        return True
    return expr.eval(g, tuple(row), -1, 0, axis) in ("0x0000000000000000", "0")


def with_zeros(
    g: Context, combine: Combine, value: str, names: tuple[str, ...], size: int, width: int
) -> str:
    """Sums of floats from which zeros beyond the bounds were left out: of nothing else the sum is 0.0, not
    -0.0 with which it began."""
    e = combine.element
    if combine.op != "arith.addf":
        return value
    some = g.cmp("slt", upper(g, names, size), str(size))
    zero = g.select("i1", some, e, "0x0000000000000000", combine.identity)
    return g.op("fadd", vector_type(e, width), value, g.splat(e, zero, width))


def supports_outside(combine: Combine) -> bool:
    """Whether :func:`outside` knows how to combine many equal elements."""
    return combine.op not in ("arith.mulf", "arith.muli", "arith.xori")


def is_zero(expr: Expr, g: Context) -> bool:
    """True for the constant zero tile."""
    expr = expr.resolved()
    return not expr.varies and expr.scalar(g) in ("0x0000000000000000", "0", "0x8000000000000000")


def store_block(
    g: Context, combine: Combine, vector: str, block: Block, axis: int, into: Buffer, init: Expr | None
) -> None:
    """Store a block's results (plus ``init`` at the same place) into a buffer of the result's shape."""
    e = combine.element
    lanes_in = 1
    while lanes_in < len(block.rows):
        lanes_in *= 2
    for m in range(block.m):
        index = tuple(ix for d, ix in enumerate(block.rows[m * block.n]) if d != axis)
        if block.spread:
            for r, row in enumerate(block.rows):
                at = tuple(ix for d, ix in enumerate(row) if d != axis)
                one = g.e.pure(f"extractelement {vector_type(e, lanes_in)} {vector}, i64 {r}", (vector,))
                if init is not None:
                    one = combine.apply(g, init.eval(g, at, -1, 0), one, 0)
                g.store(e, 0, one, into.address(g, at))
            return
        if block.n > 1:
            part = vector
            if lanes_in != block.n:
                part = g.shuffle(e, lanes_in, vector, "poison", range(m * block.n, (m + 1) * block.n))
            width = block.n
        else:
            vt = vector_type(e, lanes_in)
            part = g.e.pure(f"extractelement {vt} {vector}, i64 {m}", (vector,))
            width = 0
        if init is not None:
            part = combine.apply(g, init.eval(g, index, len(index) - 1, width), part, width)
        g.store(e, width, part, into.address(g, index))


def _sizes(limit: str, size: int, block: int, bounded: bool) -> list[int]:
    """Block sizes to run one after the other so that exactly ``limit`` rows are done."""
    block = min(block, size)
    if is_const_int(limit):
        n = int(limit)
        whole = [block] if n >= block else []
        return whole + ([n % block] if n % block else [])
    return [block, 1] if bounded and block > 1 else [block]


def row_blocks(
    g: Context,
    full: Shape,
    axis: int,
    limits: Limits,
    m_block: int,
    n_block: int,
    emit: Callable[[Block], None],
    spread: bool = False,
) -> None:
    """Loop over all result elements in blocks of ``m_block`` x ``n_block`` over the last two result
    dimensions.

    With ``spread`` the rows of a block lie evenly over the whole tile, so that each is a long stream of
    its own.
    """
    others = [d for d in range(len(full)) if d != axis]
    inner = others[-1]
    middle = others[-2] if len(others) > 1 and m_block > 1 else None
    lead = others[:-2] if middle is not None else others[:-1]

    def along(dim: int, block: int, body: Callable[[list[Ix], bool], None]) -> None:
        names = limits.get(dim, ())
        if spread and dim == inner and full[dim] % block == 0:
            whole = g.cmp("eq", upper(g, names, full[dim]), str(full[dim]))
            if whole == "true":
                apart(dim, block, names, body)
            elif whole == "false":
                together(dim, block, names, body)
            else:

                def some() -> Values:
                    together(dim, block, names, body)
                    return []

                def every() -> Values:
                    apart(dim, block, names, body)
                    return []

                g.e.branch(whole, (), every, some)
        else:
            together(dim, block, names, body)

    def apart(dim: int, block: int, names: tuple[str, ...], body: Callable[[list[Ix], bool], None]) -> None:
        distance = full[dim] // block
        tag = g.tag()

        def one(iv: str, _: Values) -> Values:
            with g.knowing([(name, tag) for name in names]):
                body([Ix(iv, r * distance, tag) for r in range(block)], True)
            return []

        g.e.loop("0", str(distance), "1", (), one)

    def together(
        dim: int, block: int, names: tuple[str, ...], body: Callable[[list[Ix], bool], None]
    ) -> None:
        hi = upper(g, names, full[dim])
        start = "0"
        for size in _sizes(hi, full[dim], block, bool(names)):
            end = _floor(g, hi, size, start)
            if end == start:
                continue
            tag = g.tag()

            def run(iv: str, _: Values, size: int = size, tag: int = tag) -> Values:
                base, off = (None, int(iv)) if is_const_int(iv) else (iv, 0)
                with g.knowing([(name, tag) for name in names]):
                    body([Ix(base, off + r, tag) for r in range(size)], False)
                return []

            if is_const_int(start) and is_const_int(end) and int(end) == int(start) + size:
                run(start, [])
            else:
                g.e.loop(start, end, str(size), (), run)
            start = end

    def outer(index: list[Ix]) -> None:
        def blocks(ms: list[Ix] | None, _: bool = False) -> None:
            def finish(ns: list[Ix], scattered: bool) -> None:
                made = []
                for m in ms if ms is not None else [None]:
                    for n in ns:
                        row = list(index)
                        if middle is not None and m is not None:
                            row[middle] = m
                        row[inner] = n
                        made.append(tuple(row))
                emit(Block(tuple(made), len(ms) if ms is not None else 1, len(ns), scattered))

            along(inner, n_block, finish)

        if middle is None:
            blocks(None)
        else:
            along(middle, m_block, blocks)

    rows(g, full, lead, limits, outer)


def _floor(g: Context, hi: str, size: int, start: str) -> str:
    if is_const_int(hi) and is_const_int(start):
        return str(int(start) + (int(hi) - int(start)) // size * size)
    return g.floor_to(hi, size)
