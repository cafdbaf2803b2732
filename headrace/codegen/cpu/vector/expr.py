"""Lazy tensor expressions.

An :class:`Expr` is a tensor (or a scalar, shape ``()``) that has not been computed. ``eval(g, index, dim,
width)`` writes the code for ``width`` consecutive elements along ``dim`` starting at ``index`` (``width`` 0:
one element) and returns the SSA name. Tiles are never held in registers as a whole: loops over an expression
ask for one vector at a time, and equal requests are answered with the same name.

``out`` asks for the value of an expression *outside* the valid range of dimension ``out``: every load whose
mask bounds that dimension answers with its ``other`` value. See ``analysis/masks.py``.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

from headrace.codegen.cpu.vector.context import ZERO, Context, Index, const, text, vector_type
from headrace.codegen.cpu.vector.errors import VectorDeclined

Shape = tuple[int, ...]
NONE = -1
# Identities for memo keys, which outlive the objects (`id` would be given out again). Never in the generated
# text: two processes that count differently write the same code.
_NUMBERS = itertools.count()


class Expr:
    """Base of all lazy values."""

    in_place = False  # whether each element is made of the operands' elements at the same position
    writes = False  # whether ``eval`` stores what it computes

    def __init__(
        self, shape: Shape, element: str, varies: frozenset[int], operands: Sequence[Expr] = ()
    ) -> None:
        self.shape = shape
        self.element = element
        self.varies = varies
        self.operands: tuple[Expr, ...] = tuple(operands)
        self.forward: Expr | None = None
        self.gone = False  # it stands for memory that was written in a branch which has been left
        self.depth: int = 1 + max((o.depth for o in self.operands), default=0)
        self.uid = next(_NUMBERS)

    def twin(self) -> Expr:
        """The same computation as an expression of its own, which follows no ``forward``."""
        other = copy.copy(self)
        other.uid = next(_NUMBERS)
        other.forward = None
        return other

    def resolved(self) -> Expr:
        """The expression that stands for this one now (a buffer once it has been materialised)."""
        expr = self
        while expr.forward is not None:
            expr = expr.forward
        return expr

    def eval(self, g: Context, index: Index, dim: int, width: int, out: int = NONE) -> str:
        """SSA name of ``width`` elements along ``dim`` from ``index`` on; one element when ``width`` is 0."""
        self = self.resolved()
        if self.gone:
            raise VectorDeclined("a tile is read outside of the branch that wrote it")
        if width and dim not in self.varies:
            return g.splat(self.element, self.eval(g, index, NONE, 0, out), width)
        if out not in self.varies:
            out = NONE
        index = tuple(ix if d in self.varies else ZERO for d, ix in enumerate(index))
        key = (self.uid, index, dim, width, out, g.facts)
        for frame in reversed(g.e.frames):
            found = frame.memo.get(key)
            if found is not None:
                return found
        name = self.compute(g, index, dim, width, out)
        level = g.e.depth(name) if name.startswith("%") else g.e.level
        g.e.frames[level].memo[key] = name
        return name

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        """What ``eval`` writes the first time it is asked."""
        raise AssertionError(type(self).__name__)

    def down(self, position: int, dim: int) -> int:
        """Dimension ``dim`` of this expression as a dimension of operand ``position``; NONE if it has
        none."""
        return dim

    def scalar(self, g: Context) -> str:
        """The value of an expression that does not vary at all."""
        return self.eval(g, (ZERO,) * len(self.shape), NONE, 0)


def writing(expr: Expr) -> bool:
    """Whether evaluating an expression stores something, which must then be stored at every position."""
    seen: set[int] = set()
    pending = [expr]
    while pending:
        found = pending.pop().resolved()
        if found.writes:
            return True
        if found.uid not in seen:
            seen.add(found.uid)
            pending += found.operands
    return False


class Scalar(Expr):
    """A scalar that already has an SSA name (or is a constant)."""

    def __init__(self, name: str, element: str) -> None:
        super().__init__((), element, frozenset())
        self.name = name

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        return self.name


class Uniform(Expr):
    """One scalar seen as a tensor: ``tt.splat`` and splat constants."""

    def __init__(self, name: str, element: str, shape: Shape) -> None:
        super().__init__(shape, element, frozenset())
        self.name = name

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        return self.name

    def down(self, position: int, dim: int) -> int:
        return NONE


class Range(Expr):
    """``tt.make_range``: start + i."""

    def __init__(self, start: int, size: int) -> None:
        super().__init__((size,), "i32", frozenset({0} if size > 1 else ()))
        self.start = start

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        ix = index[0]
        off = ix.off + self.start
        if ix.base is None:
            if width == 0:
                return const("i32", off)
            return g.iota("i32", width, off)
        base = g.cast("trunc", "i64", ix.base, "i32")
        if width == 0:
            return g.add(base, str(off), "i32")
        return g.op("add", vector_type("i32", width), g.splat("i32", base, width), g.iota("i32", width, off))


class ExpandDims(Expr):
    """Insert a dimension of size one at ``axis``."""

    def __init__(self, source: Expr, axis: int) -> None:
        shape = (*source.shape[:axis], 1, *source.shape[axis:])
        varies = frozenset(d if d < axis else d + 1 for d in source.varies)
        super().__init__(shape, source.element, varies, (source,))
        self.axis = axis

    def down(self, position: int, dim: int) -> int:
        return NONE if dim in (NONE, self.axis) else dim if dim < self.axis else dim - 1

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        inner = (*index[: self.axis], *index[self.axis + 1 :])
        return self.operands[0].eval(g, inner, self.down(0, dim), width, self.down(0, out))


class Broadcast(Expr):
    """Stretch dimensions of size one."""

    def __init__(self, source: Expr, shape: Shape) -> None:
        super().__init__(shape, source.element, source.varies, (source,))

    def down(self, position: int, dim: int) -> int:
        return dim if dim in self.varies else NONE

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        return self.operands[0].eval(g, index, dim, width, out)


class Transpose(Expr):
    """Permute dimensions: result dimension d is source dimension ``order[d]``."""

    def __init__(self, source: Expr, order: tuple[int, ...]) -> None:
        shape = tuple(source.shape[o] for o in order)
        varies = frozenset(d for d, o in enumerate(order) if o in source.varies)
        super().__init__(shape, source.element, varies, (source,))
        self.order = order

    def down(self, position: int, dim: int) -> int:
        return NONE if dim == NONE else self.order[dim]

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        inner = [ZERO] * len(index)
        for d, o in enumerate(self.order):
            inner[o] = index[d]
        return self.operands[0].eval(g, tuple(inner), self.down(0, dim), width, self.down(0, out))


class Buffer(Expr):
    """A tile in memory of our own. Beyond ``limits`` its content is undefined and ``source`` is asked
    instead.

    ``limits`` maps a dimension to the SSA names of the bounds up to which it was filled; along the dimensions
    in ``constant`` the source no longer varies beyond them.
    """

    def __init__(
        self,
        pointer: str,
        shape: Shape,
        element: str,
        strides: tuple[int, ...] | None = None,
        limits: dict[int, tuple[str, ...]] | None = None,
        source: Expr | None = None,
        constant: frozenset[int] | None = None,
    ) -> None:
        super().__init__(shape, element, frozenset(d for d, n in enumerate(shape) if n > 1))
        self.pointer = pointer
        self.strides = strides if strides is not None else packed(shape)
        self.limits = limits or {}
        self.source = source
        self.constant = frozenset(self.limits) if constant is None else constant

    def address(self, g: Context, index: Index) -> str:
        """Pointer to the element at ``index``."""
        offset = 0
        pointer = self.pointer
        for ix, stride in zip(index, self.strides, strict=True):
            offset += ix.off * stride
            if ix.base is not None:
                pointer = g.gep(self.element, pointer, g.mul(ix.base, str(stride)))
        return g.gep(self.element, pointer, str(offset))

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        if out != NONE and out in self.constant and self.source is not None:
            return self.source.eval(g, index, dim, width, out)
        if width and self.strides[dim] != 1:
            value = self._strided(g, index, dim, width)
        else:
            value = g.load(self.element, width, self.address(g, index))
        for d, names in self.limits.items():
            for limit in names:
                if self.source is None or (limit, index[d].tag) in g.facts:
                    continue
                outside = self.source.eval(g, index, dim, width, d if d in self.constant else NONE)
                left = g.sub(limit, g.index(index[d]))
                if width and d == dim:
                    cond, ct = g.lanes_below(left, width), vector_type("i1", width)
                else:
                    cond, ct = g.cmp("sgt", left, "0"), "i1"
                value = g.select(ct, cond, vector_type(self.element, width), value, outside)
        return value

    def put(self, g: Context, index: Index, dim: int, width: int, value: str) -> None:
        """Write ``width`` elements along ``dim``."""
        if not width or self.strides[dim] == 1:
            g.store(self.element, width, value, self.address(g, index))
            return
        vt = vector_type(self.element, width)
        for lane in range(width):
            at = (*index[:dim], index[dim].plus(lane), *index[dim + 1 :])
            one = g.e.pure(f"extractelement {vt} {value}, i64 {lane}", (value,))
            g.store(self.element, 0, one, self.address(g, at))

    def _strided(self, g: Context, index: Index, dim: int, width: int) -> str:
        vt = vector_type(self.element, width)
        value = "poison"
        for lane in range(width):
            at = (*index[:dim], index[dim].plus(lane), *index[dim + 1 :])
            one = g.load(self.element, 0, self.address(g, at))
            value = g.e.pure(
                f"insertelement {vt} {value}, {text(self.element)} {one}, i64 {lane}", (value, one)
            )
        return value

    def view(self, shape: Shape) -> Buffer:
        """The same memory under another shape of the same size (row-major buffers only)."""
        return Buffer(self.pointer, shape, self.element)


class Summed(Expr):
    """A tile that stands for its sum over ``axis``: only that reduction may use it, and gets ``total``."""

    def __init__(self, total: Expr, shape: Shape, axis: int) -> None:
        super().__init__(shape, total.element, frozenset(range(len(shape))), (total,))
        self.total = total
        self.axis = axis


def unrepeated(expr: Expr) -> Expr:
    """What ``expr`` only repeats: kept in memory, that is each element once."""
    expr = expr.resolved()
    while isinstance(expr, Broadcast | ExpandDims):
        expr = expr.operands[0].resolved()
    return expr


def packed(shape: Shape, fast: int | None = None) -> tuple[int, ...]:
    """Strides of a dense tile: row-major, with dimension ``fast`` moved to the innermost place."""
    order = [d for d in range(len(shape)) if d != fast] + ([fast] if fast is not None else [])
    strides = [1] * len(shape)
    step = 1
    for d in reversed(order):
        strides[d] = step
        step *= shape[d]
    return tuple(strides)
