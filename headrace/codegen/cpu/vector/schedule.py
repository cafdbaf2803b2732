"""Which shared sub-expressions become tiles in memory, and the loops that fill them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from headrace.codegen.cpu.vector.analysis.access import quiet_outside, valid, vector_dim
from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.context import Context, Index, Ix, stored
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
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
from headrace.codegen.cpu.vector.lanes.elementwise import COSTS, Elementwise
from headrace.codegen.cpu.vector.loops import lanes, rows
from headrace.codegen.cpu.vector.memory.transfer import Load

# Costs are compared with small numbers; a tree of shared operands may have more nodes than fit a word.
_VERY_COSTLY = 1000


class Tee(Expr):
    """A tile that is computed by the loop that first needs it and stored on the way."""

    in_place = True
    writes = True

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
        self.turned: dict[int, object] = {}  # packed left operands by expression: see dot/turned.py
        self.upcoming: object = None  # what the loop that is being written reads next: see dot/upcoming.py
        self._journal: list[tuple[Expr, Expr | None]] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Tiles put into memory inside are forgotten outside: that code may not have run. Who remembers one
        all the same is told so (see ``Expr.gone``)."""
        mark = len(self._journal)
        packed_before, upcoming = dict(self.turned), self.upcoming
        try:
            yield
        finally:
            self.turned, self.upcoming = packed_before, upcoming
            while len(self._journal) > mark:
                expr, before = self._journal.pop()
                if expr.forward is not None:
                    expr.forward.gone = True
                expr.forward = before

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Like :meth:`scope`, but only where what is inside fails."""
        mark = len(self._journal)
        try:
            yield
        except VectorDeclined:
            while len(self._journal) > mark:
                expr, before = self._journal.pop()
                expr.forward = before
            raise

    def _forward(self, expr: Expr, to: Expr) -> None:
        self._journal.append((expr, expr.forward))
        expr.forward = to

    def cost(self, expr: Expr, known: dict[int, int] | None = None) -> int:
        """Rough cost of evaluating an expression once per element. ``known`` holds costs found before, or
        shared operands would be visited once per path to them."""
        known = {} if known is None else known
        expr = expr.resolved()
        if isinstance(expr, Buffer):
            return 0
        if expr.uid not in known:
            own = COSTS.get(expr.op, 0) if isinstance(expr, Elementwise) else 0
            known[expr.uid] = min(own + sum(self.cost(o, known) for o in expr.operands), _VERY_COSTLY)
        return known[expr.uid]

    def unroll(self, expr: Expr) -> int:
        """How many vectors of an expression to compute side by side: long computations fill the pipes
        alone."""
        return 4 if self.cost(expr) < 8 else 2

    def _shared(self, top: Expr) -> tuple[list[Expr], list[Expr]]:
        """(to be put in memory first, to be stored by the loop over ``top`` itself)."""
        first: list[Expr] = []
        fused: list[Expr] = []
        seen: set[int] = set()
        known: dict[int, int] = {}

        def visit(e: Expr, direct: bool, own: bool) -> None:
            """``direct``: computed once per element of ``top``; ``own``: at the same position."""
            e = e.resolved()
            if e.uid in seen or not e.varies:
                return
            seen.add(e.uid)
            if isinstance(e, Elementwise) and e.element != "ptr":
                heavy = self.cost(e, known) >= 8
                if heavy and not direct:
                    first.append(e)
                    return
                if heavy and own and self.uses.get(e.uid, 1) > 1 and e.shape == top.shape:
                    fused.append(e)
            for o in e.operands:
                stretched = isinstance(e, Broadcast) and o.shape != e.shape
                if not isinstance(e, Load):
                    once = direct and not stretched and not isinstance(e, Transpose | ExpandDims)
                    visit(o, once, own and once and (e.in_place or isinstance(e, Broadcast)))

        visit(top, True, True)
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
            # What is the same along a dimension is computed once for all of it, and would be stored once.
            repeated = len(e.varies) < sum(n > 1 for n in e.shape)
            if e.element == "i1" or repeated:
                continue
            source = e.twin()
            self.keep.append(source)
            strides = packed(e.shape, vector_dim(self.g, e.shape, [e]))
            buffer = Buffer(self.g.alloca(e.element, numel(e.shape)), e.shape, e.element, strides)
            self._forward(e, Tee(source, buffer))
            made.append((e, buffer))
        self.g.tees += len(made)
        return made

    def untee(self, made: Sequence[tuple[Expr, Buffer]], limits: Limits) -> None:
        """From now on these tiles are read from memory, where they are valid up to ``limits``."""
        self.g.tees -= len(made)
        for e, buffer in made:
            tee = e.forward
            assert isinstance(tee, Tee)
            # Bounds are those of the loop that filled it; the source knows the value beyond them.
            source = tee.operands[0]
            same = {d: n for d, n in limits.items() if set(n) <= set(valid(self.g, source, d) or ())}
            filled = Buffer(
                buffer.pointer, buffer.shape, buffer.element, buffer.strides, limits, source, frozenset(same)
            )
            self._forward(e, filled)
            self.keep.append(tee)

    def materialise(
        self,
        expr: Expr,
        into: Buffer | None = None,
        fast: int | None = None,
        needed: Limits | None = None,
        final: bool = False,
    ) -> Buffer:
        """Compute a tile into memory, up to what is needed of it; later uses read it from there.

        ``fast`` is the dimension to make contiguous; without it, the one along which ``expr`` is best
        computed. ``needed`` replaces the bounds that the demand analysis gives for ``expr``. With ``final``
        no later use may read global memory on behalf of ``expr``.
        """
        g = self.g
        expr = expr.resolved()
        ready = isinstance(expr, Buffer) and (expr.source is None or not final)
        if isinstance(expr, Buffer) and ready and into is None and (fast is None or expr.strides[fast] == 1):
            return expr
        made = self.tee([e for e in self.prepare(expr) if e is not expr])
        element = expr.element
        kind = stored(element)
        if into is None:
            inner = vector_dim(g, expr.shape, [expr]) if fast is None else fast
            buffer = Buffer(g.alloca(kind, numel(expr.shape)), expr.shape, kind, packed(expr.shape, inner))
        else:
            buffer = into
        limits: Limits = dict(self.demand.get(expr.uid, {}) if needed is None else needed)
        demanded = dict(limits)
        sourced = False
        for d in range(len(expr.shape)):
            if into is None and d not in limits:
                names = valid(g, expr, d)
                if names and (not final or quiet_outside(g, expr, d)):
                    limits[d] = names
                    sourced = True
        dim = vector_dim(g, expr.shape, [expr, buffer])
        self.fill(expr, buffer, dim, limits)
        self.untee(made, limits)
        result: Expr = buffer
        if into is None:
            source = expr.twin()
            self.keep.append(source)
            if kind != element:  # beyond the bounds as well a condition is asked for as what memory holds
                source = Elementwise("arith.extui", (source,), expr.shape, kind, {})
                self.keep.append(source)
            kept = {d: n for d, n in limits.items() if d not in demanded} if sourced else {}
            buffer = Buffer(
                buffer.pointer, buffer.shape, kind, buffer.strides, kept, source if kept else None
            )
            result = buffer
            if element == "i1":
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
