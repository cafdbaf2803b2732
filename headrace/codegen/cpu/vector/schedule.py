"""Loops over tiles, the choice of the vector dimension, and tiles put into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from headrace.codegen.cpu.vector.context import ZERO, Context, Index, Ix
from headrace.codegen.cpu.vector.elementwise import COSTS, Elementwise
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import (
    NONE,
    Broadcast,
    Buffer,
    ExpandDims,
    Expr,
    Shape,
    Transpose,
    packed,
)
from headrace.codegen.cpu.vector.masks import Limits
from headrace.codegen.cpu.vector.memory import Load, Pointers
from headrace.codegen.cpu.vector.select import Select

LaneBody = Callable[[list[Ix], Values, bool], Values]
_STRIDED = 24


def upper(g: Context, names: Sequence[str], size: int) -> str:
    """The smallest of the bounds and the size."""
    value = str(size)
    for name in names:
        value = g.smin(name, value)
    return value


def lanes(
    g: Context,
    size: int,
    width: int,
    names: Sequence[str],
    inits: Sequence[tuple[str, str]],
    body: LaneBody,
    unroll: int,
) -> Values:
    """Run ``body(indices, carried, tail)`` over [0, min(names)) in steps of ``width``, several indices
    at a time.

    Within full vectors the bounds are known facts; the last, partial vector is a call of its own with
    ``tail`` true.
    """
    tag = g.tag()
    facts = [(name, tag) for name in names]
    chunks = size // width
    unroll = min(unroll, chunks)
    if not names and chunks <= (8 if unroll > 2 else 2 * unroll):
        values = [v for _, v in inits]
        for first in range(0, chunks, unroll):
            values = body([Ix(None, (first + u) * width, tag) for u in range(unroll)], values, False)
        return values
    hi = upper(g, names, size)
    types = [t for t, _ in inits]
    values = [v for _, v in inits]

    def run(lo: str, end: str, count: int, carried: Values) -> Values:
        def inner(iv: str, args: Values) -> Values:
            with g.knowing(facts):
                return body([Ix(iv, u * width, tag) for u in range(count)], args, False)

        return g.e.loop(lo, end, str(count * width), list(zip(types, carried, strict=True)), inner)

    start = g.floor_to(hi, width * unroll)
    if start != "0":
        values = run("0", start, unroll, values)
    last = g.floor_to(hi, width)
    if start != last:
        values = run(start, last, 1, values)
    more = g.cmp("slt", last, hi)
    if more == "false":
        return values
    tail = Ix(last, 0, g.tag())

    def partial() -> Values:
        return body([tail], values, True)

    if more == "true":
        return partial()
    return g.e.branch(more, types, partial, lambda: values)


def rows(
    g: Context, shape: Shape, dims: Sequence[int], limits: Limits, body: Callable[[list[Ix]], None]
) -> None:
    """Loop over the dimensions ``dims``, the first outermost; ``body`` gets an index with the others
    left at zero."""
    index = [ZERO] * len(shape)

    def step(k: int) -> None:
        if k == len(dims):
            body(list(index))
            return
        d = dims[k]
        names = limits.get(d, ())
        tag = g.tag()
        if shape[d] == 1 and not names:
            index[d] = Ix(None, 0, tag)
            step(k + 1)
            return

        def inner(iv: str, _: Values) -> Values:
            index[d] = Ix(iv, 0, tag)
            with g.knowing([(name, tag) for name in names]):
                step(k + 1)
            return []

        g.e.loop("0", upper(g, names, shape[d]), "1", (), inner)

    step(0)


def leaves(expr: Expr) -> list[Expr]:
    """Loads and buffers under an expression, each once, with the dimensions they vary in mapped to the
    top."""
    found: list[Expr] = []
    seen: set[int] = set()

    def visit(e: Expr) -> None:
        e = e.resolved()
        if e.uid in seen:
            return
        seen.add(e.uid)
        if isinstance(e, Load | Buffer):
            found.append(e)
        for o in e.operands:
            visit(o)

    visit(expr)
    return found


def _access_cost(g: Context, expr: Expr, dim: int, seen: set[tuple[int, int]]) -> int:
    expr = expr.resolved()
    if dim == NONE or dim not in expr.varies:
        return 0
    if (expr.uid, dim) in seen:
        return 0
    seen.add((expr.uid, dim))
    if isinstance(expr, Load):
        return (0 if expr.pointers.contiguous(dim) else _STRIDED) + (
            _access_cost(g, expr.mask, dim, seen) if expr.mask is not None else 0
        )
    if isinstance(expr, Buffer):
        return 0 if expr.strides[dim] == 1 else _STRIDED
    return sum(_access_cost(g, o, expr.down(k, dim), seen) for k, o in enumerate(expr.operands))


def vector_dim(g: Context, shape: Shape, exprs: Sequence[Expr], target: Pointers | None = None) -> int:
    """The dimension along which most accesses are contiguous; among equals the last with a full vector."""
    best, best_cost = len(shape) - 1, 1 << 30
    for d in reversed(range(len(shape))):
        cost = 4 * g.machine.lanes // min(shape[d], g.machine.lanes)
        for e in exprs:
            cost += _access_cost(g, e, d, set())
        if target is not None and not target.contiguous(d):
            cost += 2 * _STRIDED
        if cost < best_cost:
            best, best_cost = d, cost
    return best


def valid(g: Context, expr: Expr, dim: int) -> tuple[str, ...] | None:
    """Bounds beyond which ``expr`` no longer varies along ``dim`` (``eval(..., out=dim)`` gives its
    value there).

    ``()`` if it does not vary at all, None if there is no such bound.
    """
    expr = expr.resolved()
    if dim == NONE or dim not in expr.varies:
        return ()
    if isinstance(expr, Load):
        if expr.other is not None and dim in expr.other.varies:
            return None
        return expr.box(g).limits.get(dim)
    if isinstance(expr, Buffer):
        return expr.limits.get(dim) if expr.source is not None else None
    if isinstance(expr, Select) and dim in expr.box(g).limits:
        names = expr.box(g).limits[dim]
        return names if dim not in expr.operands[2].varies else None
    if not expr.operands:
        return None
    common: tuple[str, ...] = ()
    for k, o in enumerate(expr.operands):
        names = valid(g, o, expr.down(k, dim)) or ()
        if not names and expr.down(k, dim) in o.resolved().varies:
            return None
        if names:
            common = tuple(n for n in common if n in names) if common else names
            if not common:
                return None
    return common or None


class Tee(Expr):
    """A tile that is computed by the loop that first needs it and stored on the way."""

    def __init__(self, source: Expr, buffer: Buffer) -> None:
        super().__init__(source.shape, source.element, source.varies, (source,))
        self.buffer = buffer

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        value = self.operands[0].eval(g, index, dim, width, out)
        if out == NONE:
            self.buffer.put(g, index, dim, width, value)
        return value


class Scheduler:
    """Decides which shared sub-expressions get a buffer. ``uses`` is filled in by the lowering."""

    def __init__(self, g: Context) -> None:
        self.g = g
        self.uses: dict[int, int] = {}
        self.keep: list[Expr] = []
        self.demand: dict[int, Limits] = {}
        self._journal: list[tuple[Expr, Expr | None]] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Tiles put into memory inside are forgotten outside: that code may not have run."""
        mark = len(self._journal)
        try:
            yield
        finally:
            while len(self._journal) > mark:
                expr, before = self._journal.pop()
                expr.forward = before

    def _forward(self, expr: Expr, to: Expr) -> None:
        self._journal.append((expr, expr.forward))
        expr.forward = to

    def cost(self, expr: Expr) -> int:
        """Rough cost of evaluating an expression once per element."""
        expr = expr.resolved()
        if isinstance(expr, Buffer):
            return 0
        own = COSTS.get(expr.op, 0) if isinstance(expr, Elementwise) else 0
        return own + sum(self.cost(o) for o in expr.operands)

    def unroll(self, expr: Expr) -> int:
        """How many vectors of an expression to compute side by side: long computations fill the pipes
        alone."""
        return 4 if self.cost(expr) < 8 else 2

    def _shared(self, top: Expr) -> tuple[list[Expr], list[Expr]]:
        """(to be put in memory first, to be stored by the loop over ``top`` itself)."""
        first: list[Expr] = []
        fused: list[Expr] = []
        seen: set[int] = set()

        def visit(e: Expr, direct: bool) -> None:
            e = e.resolved()
            if e.uid in seen or not e.varies:
                return
            seen.add(e.uid)
            if isinstance(e, Elementwise) and e.element != "ptr":
                heavy = self.cost(e) >= 8
                if heavy and not direct:
                    first.append(e)
                    return
                if (heavy and e is not top and self.uses.get(e.uid, 1) > 1 and e.shape == top.shape) or (
                    heavy and e is top and self.uses.get(e.uid, 1) > 1
                ):
                    fused.append(e)
            for k, o in enumerate(e.operands):
                stretched = isinstance(e, Broadcast) and o.shape != e.shape
                if not isinstance(e, Load):
                    visit(o, direct and not stretched and not isinstance(e, Transpose | ExpandDims))
                elif k == 0:
                    continue

        visit(top, True)
        return first, fused

    def prepare_needed(self, top: Expr) -> bool:
        """True if :meth:`prepare` would put something into memory."""
        return bool(self._shared(top)[0])

    def prepare(self, top: Expr, fuse: bool = True) -> list[Expr]:
        """Materialise what a loop over ``top`` would compute too often; returns what it should store on
        its way."""
        first, fused = self._shared(top)
        for e in first:
            self.materialise(e)
        return fused if fuse else []

    def tee(self, fused: Sequence[Expr]) -> list[tuple[Expr, Buffer]]:
        """Make the next loop store these; finish with :meth:`untee`."""
        made = []
        for e in fused:
            if e.element == "i1":
                continue
            source = e.twin()
            self.keep.append(source)
            buffer = Buffer(self.g.alloca(e.element, numel(e.shape)), e.shape, e.element)
            self._forward(e, Tee(source, buffer))
            made.append((e, buffer))
        return made

    def untee(self, made: Sequence[tuple[Expr, Buffer]], limits: Limits) -> None:
        """From now on these tiles are read from memory, where they are valid up to ``limits``."""
        for e, buffer in made:
            tee = e.forward
            assert isinstance(tee, Tee)
            # Bounds are those of the loop that filled it; the source knows the value beyond them.
            filled = Buffer(
                buffer.pointer, buffer.shape, buffer.element, buffer.strides, limits, tee.operands[0]
            )
            self._forward(e, filled)
            self.keep.append(tee)

    def materialise(self, expr: Expr, into: Buffer | None = None, fast: int | None = None) -> Buffer:
        """Compute a tile into memory, up to what is needed of it; later uses read it from there.

        ``fast`` is the dimension to make contiguous; without it, the one along which ``expr`` is best
        computed.
        """
        g = self.g
        expr = expr.resolved()
        if isinstance(expr, Buffer) and into is None and (fast is None or expr.strides[fast] == 1):
            return expr
        made = self.tee([e for e in self.prepare(expr) if e is not expr])
        element = expr.element
        stored = "i8" if element == "i1" else element
        if into is None:
            inner = vector_dim(g, expr.shape, [expr]) if fast is None else fast
            buffer = Buffer(
                g.alloca(stored, numel(expr.shape)), expr.shape, stored, packed(expr.shape, inner)
            )
        else:
            buffer = into
        limits: Limits = dict(self.demand.get(expr.uid, {}))
        demanded = dict(limits)
        sourced = False
        for d in range(len(expr.shape)):
            if into is None and d not in limits:
                names = valid(g, expr, d)
                if names:
                    limits[d] = names
                    sourced = True
        dim = vector_dim(g, expr.shape, [expr, buffer])
        self.fill(expr, buffer, dim, limits)
        self.untee(made, limits)
        result: Expr = buffer
        if into is None:
            source = expr.twin()
            self.keep.append(source)
            kept = {d: n for d, n in limits.items() if d not in demanded} if sourced else {}
            buffer = Buffer(
                buffer.pointer, buffer.shape, stored, buffer.strides, kept, source if kept else None
            )
            result = buffer
            if element == "i1":
                if kept:
                    buffer = Buffer(buffer.pointer, buffer.shape, stored, buffer.strides)
                result = Elementwise("arith.trunci", (buffer,), expr.shape, "i1", {})
            self._forward(expr, result)
        return buffer

    def fill(self, expr: Expr, buffer: Buffer, dim: int, limits: Limits) -> None:
        """Loop that writes ``expr`` into ``buffer``."""
        g = self.g
        if not expr.shape:
            raise AssertionError("a scalar has no tile")
        others = [d for d in range(len(expr.shape)) if d != dim]
        width = min(g.machine.lanes, expr.shape[dim])

        def row(index: list[Ix]) -> None:
            def body(at: list[Ix], _: Values, tail: bool) -> Values:
                for ix in at:
                    index[dim] = ix
                    value = expr.eval(g, tuple(index), dim, width)
                    if expr.element == "i1":
                        value = g.cast("zext", f"<{width} x i1>", value, f"<{width} x i8>")
                    buffer.put(g, tuple(index), dim, width, value)
                return []

            lanes(g, expr.shape[dim], width, limits.get(dim, ()), (), body, self.unroll(expr))

        rows(g, expr.shape, others, limits, row)


def numel(shape: Shape) -> int:
    """Number of elements of a tile."""
    n = 1
    for size in shape:
        n *= size
    return n
