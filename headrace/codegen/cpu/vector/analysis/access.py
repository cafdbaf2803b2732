"""What an expression reads: which dimension suits vectors, and where masks make it constant."""

from __future__ import annotations

from collections.abc import Sequence

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


def valid(
    g: Context, expr: Expr, dim: int, known: dict[tuple[int, int], tuple[str, ...] | None] | None = None
) -> tuple[str, ...] | None:
    """Bounds beyond which ``expr`` no longer varies along ``dim`` (``eval(..., out=dim)`` gives its
    value there).

    ``()`` if it does not vary at all, None if there is no such bound. ``known`` holds what was found on the
    way, or shared operands would be visited once per path to them.
    """
    expr = expr.resolved()
    if dim == NONE or dim not in expr.varies:
        return ()
    known = {} if known is None else known
    key = (expr.uid, dim)
    if key not in known:
        known[key] = _valid(g, expr, dim, known)
    return known[key]


def _valid(
    g: Context, expr: Expr, dim: int, known: dict[tuple[int, int], tuple[str, ...] | None]
) -> tuple[str, ...] | None:
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
        names = valid(g, o, expr.down(k, dim), known) or ()
        if not names and expr.down(k, dim) in o.resolved().varies:
            return None
        if names:
            common = tuple(n for n in common if n in names) if common else names
            if not common:
                return None
    return common or None


def quiet_outside(g: Context, expr: Expr, dim: int, known: dict[tuple[int, int], bool] | None = None) -> bool:
    """True if the value beyond the bound of ``dim`` can be had without reading global memory. ``known``: see
    :func:`valid`."""
    expr = expr.resolved()
    known = {} if known is None else known
    key = (expr.uid, dim)
    if key not in known:
        known[key] = _quiet_outside(g, expr, dim, known)
    return known[key]


def _quiet_outside(g: Context, expr: Expr, dim: int, known: dict[tuple[int, int], bool]) -> bool:
    if isinstance(expr, Load):
        other = expr.other is None or quiet_outside(g, expr.other, NONE, known)
        return other and dim != NONE and dim in expr.box(g).limits
    if isinstance(expr, Buffer):
        return expr.source is None or quiet_outside(g, expr.source, dim, known)
    return all(
        quiet_outside(g, o, expr.down(k, dim) if dim in expr.varies else NONE, known)
        for k, o in enumerate(expr.operands)
    )


# Zero where their first operand is, and where all are.
_KEEP_ZERO = frozenset({
    "arith.extf", "arith.truncf", "tt.fp_to_fp", "arith.extsi", "arith.extui", "arith.trunci", "arith.sitofp",
    "arith.uitofp", "arith.shli", "arith.shrsi", "arith.shrui",
})  # fmt: skip
_ZERO_OF_ZEROS = frozenset({"arith.mulf", "arith.addf", "arith.muli", "arith.addi", "arith.subi"})


def zero_beyond(g: Context, expr: Expr, dim: int, known: dict[tuple[int, int], bool] | None = None) -> bool:
    """True if ``expr`` is the constant zero beyond its bound along ``dim``, as its form tells. ``known``: see
    :func:`valid`."""
    expr = expr.resolved()
    known = {} if known is None else known
    key = (expr.uid, dim)
    if key not in known:
        known[key] = _zero_beyond(g, expr, dim, known)
    return known[key]


def _zero_beyond(g: Context, expr: Expr, dim: int, known: dict[tuple[int, int], bool]) -> bool:
    if isinstance(expr, Scalar | Uniform):
        return expr.name == const(expr.element, 0)
    if dim == NONE or dim not in expr.varies:
        return False
    if isinstance(expr, Load):
        zero = expr.other is None or zero_beyond(g, expr.other, NONE, known)
        return zero and dim in expr.box(g).limits
    if isinstance(expr, Buffer):
        beyond = expr.source is not None and dim in expr.constant
        return beyond and expr.source is not None and zero_beyond(g, expr.source, dim, known)
    if isinstance(expr, ExpandDims | Broadcast | Transpose):
        return zero_beyond(g, expr.operands[0], expr.down(0, dim), known)
    if isinstance(expr, Elementwise) and expr.op in _KEEP_ZERO:
        return zero_beyond(g, expr.operands[0], dim, known)
    if isinstance(expr, Elementwise) and expr.op in _ZERO_OF_ZEROS:
        return all(zero_beyond(g, o, dim, known) for o in expr.operands)
    return False
