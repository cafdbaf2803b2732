"""What an expression reads: which dimension suits vectors, and where masks make it constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeAlias, TypeVar

from headrace.codegen.cpu.vector.context import Context, const
from headrace.codegen.cpu.vector.expr import (
    NONE,
    Broadcast,
    Buffer,
    ExpandDims,
    Expr,
    Scalar,
    Shape,
    Transpose,
    Uniform,
)
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.lanes.select import Select
from headrace.codegen.cpu.vector.memory.transfer import Load, Pointers

_STRIDED = 24


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


_T = TypeVar("_T")


def _each_once(
    find: Callable[[Context, Expr, int, Callable[[Expr, int], _T]], _T],
) -> Callable[[Context, Expr, int], _T]:
    """An analysis of an expression and its operands that looks at each of them once: shared operands would be
    visited once per path to them. ``find`` gets itself, for operands, as its last argument."""

    @wraps(find)
    def start(g: Context, expr: Expr, dim: int) -> _T:
        known: dict[tuple[int, int], _T] = {}

        def again(expr: Expr, dim: int) -> _T:
            expr = expr.resolved()
            key = (expr.uid, dim)
            if key not in known:
                known[key] = find(g, expr, dim, again)
            return known[key]

        return again(expr, dim)

    return start


Bounds: TypeAlias = tuple[str, ...] | None


@_each_once
def valid(g: Context, expr: Expr, dim: int, again: Callable[[Expr, int], Bounds]) -> Bounds:
    """Bounds beyond which ``expr`` no longer varies along ``dim`` (``eval(..., out=dim)`` gives its
    value there).

    ``()`` if it does not vary at all, None if there is no such bound.
    """
    if dim == NONE or dim not in expr.varies:
        return ()
    if isinstance(expr, Load):
        if expr.other is not None and dim in expr.other.varies:
            return None
        return expr.box(g).limits.get(dim)
    if isinstance(expr, Buffer):
        return expr.limits.get(dim) if expr.source is not None and dim in expr.constant else None
    if isinstance(expr, Select) and dim in expr.box(g).limits:
        names = expr.box(g).limits[dim]
        return names if dim not in expr.operands[2].varies else None
    if not expr.operands:
        return None
    common: tuple[str, ...] = ()
    for k, o in enumerate(expr.operands):
        names = again(o, expr.down(k, dim)) or ()
        if not names and expr.down(k, dim) in o.resolved().varies:
            return None
        if names:
            common = tuple(n for n in common if n in names) if common else names
            if not common:
                return None
    return common or None


@_each_once
def quiet_outside(g: Context, expr: Expr, dim: int, again: Callable[[Expr, int], bool]) -> bool:
    """True if the value beyond the bound of ``dim`` can be had without reading global memory."""
    if isinstance(expr, Load):
        other = expr.other is None or again(expr.other, NONE)
        return other and dim != NONE and dim in expr.box(g).limits
    if isinstance(expr, Buffer):
        return expr.source is None or again(expr.source, dim)
    return all(
        again(o, expr.down(k, dim) if dim in expr.varies else NONE) for k, o in enumerate(expr.operands)
    )


# Zero where their first operand is, and where all are.
_KEEP_ZERO = frozenset({
    "arith.extf", "arith.truncf", "tt.fp_to_fp", "arith.extsi", "arith.extui", "arith.trunci", "arith.sitofp",
    "arith.uitofp", "arith.shli", "arith.shrsi", "arith.shrui",
})  # fmt: skip
_ZERO_OF_ZEROS = frozenset({"arith.mulf", "arith.addf", "arith.muli", "arith.addi", "arith.subi"})


@_each_once
def zero_beyond(g: Context, expr: Expr, dim: int, again: Callable[[Expr, int], bool]) -> bool:
    """True if ``expr`` is the constant zero beyond its bound along ``dim``, as its form tells."""
    if isinstance(expr, Scalar | Uniform):
        return expr.name == const(expr.element, 0)
    if dim == NONE or dim not in expr.varies:
        return False
    if isinstance(expr, Load):
        return dim in expr.box(g).limits and (expr.other is None or again(expr.other, NONE))
    if isinstance(expr, Buffer):
        return expr.source is not None and dim in expr.constant and again(expr.source, dim)
    if isinstance(expr, ExpandDims | Broadcast | Transpose):
        return again(expr.operands[0], expr.down(0, dim))
    if isinstance(expr, Elementwise) and expr.op in _KEEP_ZERO:
        return again(expr.operands[0], dim)
    if isinstance(expr, Elementwise) and expr.op in _ZERO_OF_ZEROS:
        return all(again(o, dim) for o in expr.operands)
    return False
