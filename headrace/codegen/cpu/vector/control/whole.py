"""Loops that sum products of bf16 x and signed bytes w, by whole numbers where x permits it.

Each chunk of x becomes digits once (:mod:`..reduction.digits`); then the rows of w pass by, a few at a time,
with the sums in registers. An iteration that has no digits is summed as :mod:`.contraction` does it.

That is faster by up to a half where w lies in a cache, and where it comes from memory no slower, as long as
the digits of x stay in the first cache (8192 numbers fill half of it); with more of k the usual way is faster
by up to a quarter. How much of k the kernel takes at a time decides, so that whoever tunes that gets the
better one. No line of w is asked for ahead of its turn but the first of the first rows: a request takes one
of the places where lines on their way are kept (a fifth slower in the third cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.vector.analysis import effects
from headrace.codegen.cpu.vector.analysis.access import valid
from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.context import ZERO, Index, Ix, const, is_const_int
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import NONE, Broadcast, Buffer, ExpandDims, Expr, Transpose, Uniform
from headrace.codegen.cpu.vector.loops import quotient, upper
from headrace.codegen.cpu.vector.memory.prefetch import LINE
from headrace.codegen.cpu.vector.memory.transfer import Load
from headrace.codegen.cpu.vector.reduction import digit_sums, digits
from headrace.codegen.cpu.vector.reduction.blocks import (
    Block,
    Term,
    fetch,
    fold,
    row_blocks,
    store_block,
    sweep_axis,
)

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.control.contraction import Loop, Sum

_ROWS = 4  # of w at a time: twice as many drive the digits out of the first cache
_FIRST = 8  # lines of each row
_WORDS, _CHANGES = "<16 x i32>", "<64 x i16>"


def accepts(loop: Loop, expr: Expr, item: Sum) -> bool:
    """Whether a sum of the loop can be written in this way."""
    step = loop.bounds[2]
    counted = loop.kind == "i32" and loop.predicate == "slt" and is_const_int(step) and int(step) > 0
    return counted and digits.factors(loop.g, item.combine, expr, item.axis, loop.s.uses) is not None


def write(loop: Loop, item: int, into: Buffer, init: Expr | None) -> None:
    """Write the loop for this sum alone; its result goes ``into`` a buffer, ``init`` added."""
    _Writer(loop, item, into).write(init)


class _Writer:
    def __init__(self, loop: Loop, item: int, into: Buffer) -> None:
        self.loop, self.item, self.into = loop, item, into
        self.g = loop.g
        self.sum = loop.sums[item]
        self.axis = self.sum.axis
        self.full = loop.shapes[item]
        self.block = self.full[self.axis]
        self.digits = digits.Digits.make(self.g, self.block)
        self.types = [loop.kind, *(t for t, _ in loop.registers.inits)]
        self.settled = self._settled()

    def write(self, init: Expr | None) -> None:
        loop, g = self.loop, self.g
        lo, hi, step = (_wide(self, b) for b in loop.bounds)
        total = quotient(g, g.add(g.smax(g.sub(hi, lo), "0"), str(int(step) - 1)), int(step))
        first = [loop.bounds[0], *(v for _, v in loop.registers.inits)]
        each = digits.CAPACITY // self.block
        if is_const_int(total) and 0 < int(total) <= each:
            self._chunk(total, first, init)
            return
        # Sums of chunks are added in memory.
        zero = Uniform(const("float", 0.0), "float", self.into.shape)
        loop.s.fill(init or zero, self.into, len(self.into.shape) - 1, loop.needed[self.item])

        def chunk(at: str, args: Values) -> Values:
            return self._chunk(g.smin(g.sub(total, at), str(each)), args, self.into)

        g.e.loop("0", total, str(each), list(zip(self.types, first, strict=True)), chunk, barrier=True)

    def _chunk(self, count: str, args: Values, init: Expr | None) -> Values:
        """So many iterations from the carried values on (those at their end)."""
        g = self.g
        self._ask(args)
        after = self._digits(count, args)
        multiplied = g.load("i64", 0, self.digits.count)

        def two() -> Values:
            self._rows(count, args, init, None)
            return []

        def more() -> Values:
            self._rows(count, args, init, g.cmp("eq", multiplied, "4"))
            return []

        g.e.branch(g.cmp("eq", multiplied, "2"), (), two, more)
        return after

    def _enter(self, args: Values) -> tuple[Expr, Expr, Expr, tuple[str, ...]]:
        """One iteration: the product, its factors, and its bounds along the axis."""
        loop = self.loop
        expr = loop.enter(args[0], args[1:])[self.item]
        found = digits.factors(self.g, self.sum.combine, expr, self.axis, loop.s.uses)
        assert found is not None
        loop.s.keep.extend(found)
        return expr, *found, valid(self.g, expr, self.axis) or ()

    def _next(self, args: Values) -> Values:
        loop = self.loop
        return [self.g.add(args[0], loop.bounds[2], loop.kind), *loop.registers.next(args[1:])]

    def _digits(self, count: str, args: Values) -> Values:
        """See to it that the digits are there; the carried values after all iterations."""
        g = self.g
        many = len(args)

        def compare(n: str, carried: Values) -> Values:
            args, (changes, moves, cuts) = carried[:many], carried[many:]
            with self.loop.s.scope():
                x, cut, place = self._read(args)
                cuts = g.op("or", "i8", cuts, self.digits.cut_changed(g, n, cut))
                if place:
                    moves = g.op("or", "i64", moves, self.digits.moved(g, n, place))
                else:
                    for off, value in self._numbers(x):
                        changes = g.op("or", _CHANGES, changes, self.digits.changed(g, n, off, value))
                return [*self._next(args), changes, moves, cuts]

        def keep(n: str, args: Values) -> Values:
            with self.loop.s.scope():
                x, cut, place = self._read(args)
                self.digits.keep_cut(g, n, cut)
                if place:
                    self.digits.keep_place(g, n, place)
                for off, value in self._numbers(x):
                    self.digits.keep(g, n, off, value)
                return self._next(args)

        def renew() -> Values:
            g.e.loop("0", count, "1", start, keep, barrier=True)
            self.digits.renew(g, count)
            return []

        start = list(zip(self.types, args, strict=True))
        inits = [*start, (_CHANGES, "zeroinitializer"), ("i64", "0"), ("i8", "0")]
        *after, changes, moves, cuts = g.e.loop("0", count, "1", inits, compare, barrier=True)
        lanes = g.e.pure(f"icmp ne {_CHANGES} {changes}, zeroinitializer", (changes,))
        bits = g.bitcast("<64 x i1>", lanes, "i64")
        some = g.op("or", "i64", g.op("or", "i64", bits, moves), g.cast("zext", "i8", cuts, "i64"))
        changed = g.e.pure(f"icmp ne i64 {some}, 0", (some,))
        g.e.branch(self.digits.stale(g, count, changed), (), renew, rare=True)
        return after

    def _read(self, args: Values) -> tuple[Expr, str, str]:
        """One iteration: x, whether a mask ends within it, and the address of the first of its numbers where
        that tells them (else "")."""
        g = self.g
        _, x, _, names = self._enter(args)
        cut = g.cmp("slt", upper(g, names, self.block), str(self.block))
        load = _plain(x) if self.settled else None
        if load is None or load.box(g).rest:
            return x, cut, ""
        for d, limits in load.box(g).limits.items():
            short = g.cmp("slt", upper(g, limits, load.shape[d]), str(load.shape[d]))
            cut = g.op("or", "i1", cut, short)
        first = load.pointers.at(g, (ZERO,) * len(load.shape), NONE)
        return x, cut, g.cast("ptrtoint", "ptr", first, "i64")

    def _numbers(self, x: Expr) -> Iterator[tuple[int, str]]:
        """The vectors of x in one iteration, with their places."""
        tag = self.g.tag()
        for off in range(0, self.block, digits.STEP):
            index = self._index((ZERO,) * len(self.full), Ix(None, off, tag))
            yield off, x.eval(self.g, index, self.axis, digits.STEP)

    def _settled(self) -> bool:
        """Whether all programs of a launch may be taken to find the same numbers at one address.

        They may where none writes anything, or waits for another one, before it comes to the loop: as the
        programs of a grid are in no order, all of them may have read x before any has written. To compare the
        numbers as well would drive the digits out of the first cache once per program.
        """
        function = self.loop.lowering.function
        if not function.public:
            return False
        for op in function.body.ops:
            if any(region is self.loop.body for region in op.regions):
                return True
            if not all(effects.repeatable(o) for region in op.regions for o in ttir.walk(region)):
                return False
            if not effects.repeatable(op):
                return False
        return False

    def _ask(self, args: Values) -> None:
        """Ask for the beginning of the first rows of w: memory would be idle until their sums begin."""
        inner = [d for d in range(len(self.full)) if d != self.axis][-1]
        streams = self._streams()
        with self.loop.s.scope():
            load = _source(self._enter(args)[2])
            if load is None:
                return
            for r in range(streams):
                row = [ZERO] * len(self.full)
                row[inner] = Ix(None, r * (self.full[inner] // streams))
                first = load.pointers.at(self.g, tuple(row), self.axis)
                for line in range(_FIRST):
                    fetch(self.g, first, LINE * line)

    def _streams(self) -> int:
        """How many rows of w are read at a time."""
        rows = [n for d, n in enumerate(self.full) if d != self.axis][-1]
        return _ROWS if rows >= 32 else 2 if rows >= 16 else 1

    def _index(self, row: Index, ix: Ix) -> Index:
        return (*row[: self.axis], ix, *row[self.axis + 1 :])

    def _rows(self, count: str, args: Values, init: Expr | None, four: str | None) -> None:
        """All rows, by three digits at every step, and a fourth where ``four`` holds; without it by two, and
        by the lowest where it is not zero."""
        g, loop, axis = self.g, self.loop, self.axis
        lowest, second, third, highest = self.digits.starts(g)
        scale = g.load("float", 0, self.digits.scale)
        limits: Limits = {d if d < axis else d + 1: n for d, n in loop.needed[self.item].items()}
        many = len(args)
        streams = self._streams()
        rest = g.alloca("float", 16 * streams)  # sums of the iterations that have no digits

        def emit(block: Block) -> None:
            size = len(block.rows)
            acc = loop.updates[self.item]
            places = [g.gep("float", rest, str(16 * r)) for r in range(size)]
            for place in places:
                g.store("float", 16, acc.neutral(g), place)

            def body(n: str, carried: Values) -> Values:
                with loop.s.scope():
                    args, sums = carried[:many], carried[many:]
                    expr, _, w, names = self._enter(args)

                    def usual() -> Values:
                        term = Term(expr, loop.update(expr, self.item))
                        before = [g.load("float", 16, place) for place in places]
                        after = sweep_axis(g, [term], axis, block, names, before, 1)
                        for value, place in zip(after, places, strict=True):
                            g.store("float", 16, value, place)
                        return sums

                    def whole() -> Values:
                        if four is None:
                            return self._by_two(n, w, names, block, digit_sums.Merging.of(sums)).values
                        return self._by_three(n, w, names, block, sums, four)

                    out = g.e.branch(self.digits.left_out(g, n), kinds, usual, whole, rare=True)
                    return self._next(args) + out

            if four is None:
                none = ["zeroinitializer"] * size
                merging = digit_sums.Merging([second, third] * size, none, [lowest] * size, "0")
                values, kinds = merging.values, merging.types
            else:
                values = [lowest, second, third, highest] * size
                kinds = [_WORDS] * len(values)
            inits = list(zip([*self.types, *kinds], [*args, *values], strict=True))
            sums = g.e.loop("0", count, "1", inits, body, barrier=True)[many:]
            if four is None:
                sums = digit_sums.finish(g, self.digits, digit_sums.Merging.of(sums))
            each = [sums[r : r + len(sums) // size] for r in range(0, len(sums), len(sums) // size)]
            totals = []
            for parts, place in zip(each, places, strict=True):
                other = g.e.here(f"load <16 x float>, ptr {place}, align 64")
                totals.append(self.digits.total(g, parts, scale, other))
            vector = fold(g, acc, totals, 1, size)
            store_block(g, self.sum.combine, vector, block, axis, self.into, init)

        row_blocks(g, self.full, axis, limits, 1, streams, emit, spread=True)

    def _steps(self, n: str, w: Expr, names: tuple[str, ...], block: Block) -> Iterator[tuple[str, Values]]:
        """The steps of an iteration that no mask cuts short: where in x each begins, and the bytes of every
        row."""
        g, tag = self.g, self.g.tag()
        for off in range(0, self.block, digits.STEP):
            with g.knowing([(name, tag) for name in names]):
                index = Ix(None, off, tag)
                rows = [w.eval(g, self._index(row, index), self.axis, digits.STEP) for row in block.rows]
            yield g.add(g.mul(n, str(self.block)), str(off)), [digit_sums.flipped(g, row) for row in rows]

    def _by_two(
        self, n: str, w: Expr, names: tuple[str, ...], block: Block, state: digit_sums.Merging
    ) -> digit_sums.Merging:
        """The sums of a block of rows after one more iteration."""
        for at, rows in self._steps(n, w, names, block):
            state = digit_sums.add_two(self.g, self.digits, at, rows, state)
        return state

    def _by_three(
        self, n: str, w: Expr, names: tuple[str, ...], block: Block, sums: Values, four: str
    ) -> Values:
        """The same, with all digits but a fourth multiplied everywhere."""
        for at, rows in self._steps(n, w, names, block):
            sums = digit_sums.add_three(self.g, self.digits, at, rows, sums, four)
        return sums


def _source(w: Expr) -> Load | None:
    """The load that w is, if it is one."""
    w = w.resolved()
    return w if isinstance(w, Load) else None


def _plain(x: Expr) -> Load | None:
    """The load whose elements x is, if it is of one."""
    x = x.resolved()
    while isinstance(x, ExpandDims | Broadcast | Transpose):
        x = x.operands[0].resolved()
    return x if isinstance(x, Load) else None


def _wide(writer: _Writer, value: str) -> str:
    """A bound of the loop as an i64."""
    return value if is_const_int(value) else writer.g.cast("sext", writer.loop.kind, value, "i64")
