"""The algebra of index maps: what a chain of views reads, as one clean expression per dimension.

An index map says which element of x each element of a view shows: y[d0, d1, ...] = x[index[0], index[1],
...]. Maps compose by substitution; `simplify` then uses that every d_i runs over [0, size_i) to drop the
floor divisions and remainders that reshapes bring. A head repeat (expand, then reshape) becomes `d1 // 3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sympy

from headrace.ir import size as sizes
from headrace.ir.size import ONE, ZERO, FloorDiv, Mod, position, quotient
from headrace.ir.steps import Step, as_steps
from headrace.ir.types import dim

__all__ = [
    "Index", "Shape", "Step", "as_steps", "bounds", "compose", "floordiv", "identity", "mod", "position",
    "reshape", "simplify",
]  # fmt: skip

Shape = tuple[sympy.Expr, ...]
Index = tuple[sympy.Expr, ...]


def identity(shape: Sequence[sympy.Expr]) -> Index:
    """The map of a tensor onto itself; dimensions of size 1 read index 0."""
    return tuple(ZERO if extent == 1 else dim(at) for at, extent in enumerate(shape))


def compose(inner: Index, outer: Index, shape: Shape) -> Index:
    """The map of z = y[outer] where y = x[inner]: z = x[compose(inner, outer)]. `shape` is z's."""
    table = {dim(at): expr for at, expr in enumerate(outer)}
    if all(expr in table or expr.is_Integer for expr in inner):
        return tuple(table.get(expr, expr) for expr in inner)
    return tuple(simplify(sizes.rebuild(expr, lambda s: table.get(s, s)), shape) for expr in inner)


def reshape(old: Shape, new: Shape) -> Index:
    """The map of a reshape: row-major order is kept. Equal runs of dimensions map one to one."""
    if any(extent == 0 for extent in (*old, *new)):
        return tuple(ZERO for _ in old)
    index: list[sympy.Expr] = [ZERO] * len(old)
    for ins, outs in _groups(old, new):
        flat: sympy.Expr = ZERO
        stride: sympy.Expr = ONE
        strides = []
        for at in reversed(outs):
            strides.append((at, stride))
            stride = stride * new[at]
        flat = sympy.Add(*(dim(at) * stride for at, stride in strides))
        stride = ONE
        for at in reversed(ins):
            expr = floordiv(flat, stride, new)
            if at != ins[0]:
                expr = mod(expr, old[at], new)
            index[at] = expr
            stride = stride * old[at]
    return tuple(index)


def _groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions (sizes 1 left out) of equal product, as short as can be found."""
    ins = [at for at, extent in enumerate(old) if extent != 1]
    outs = [at for at, extent in enumerate(new) if extent != 1]
    found: list[tuple[list[int], list[int]]] = []
    while ins and outs:
        a, b = [ins.pop(0)], [outs.pop(0)]
        p, q = old[a[0]], new[b[0]]
        while p != q and (ins or outs):
            if outs and (not ins or _divides(q, p)):
                b.append(outs.pop(0))
                q = q * new[b[-1]]
            elif (ins and (not outs or _divides(p, q))) or (p.is_Integer and q.is_Integer and p < q):
                a.append(ins.pop(0))
                p = p * old[a[-1]]
            elif p.is_Integer and q.is_Integer:
                b.append(outs.pop(0))
                q = q * new[b[-1]]
            else:
                a, b, ins, outs = a + ins, b + outs, [], []
                break
        found.append((a, b))
    if found:
        found[-1][0].extend(ins)
        found[-1][1].extend(outs)
    return found


def _divides(part: sympy.Expr, whole: sympy.Expr) -> bool:
    """Whether whole / part is an integer for certain."""
    return quotient(whole, part) is not None


def simplify(expr: sympy.Expr, shape: Shape) -> sympy.Expr:
    """An equal expression without the divisions and remainders that 0 <= d_i < shape[i] makes idle."""
    if expr.is_Integer:
        return expr
    return _simplify(expr, shape)


@lru_cache(maxsize=65536)
def _simplify(expr: sympy.Expr, shape: Shape) -> sympy.Expr:
    if expr.is_Symbol:
        at = position(expr)
        return ZERO if at is not None and at < len(shape) and shape[at] == 1 else expr
    if not expr.args:
        return expr
    args = [_simplify(arg, shape) for arg in expr.args]
    if isinstance(expr, FloorDiv):
        return floordiv(args[0], args[1], shape)
    if isinstance(expr, Mod):
        return mod(args[0], args[1], shape)
    if expr.is_Mul:
        return _recombine(sympy.expand_mul(sympy.Mul(*args)), shape)
    return _recombine(expr.func(*args), shape)


@lru_cache(maxsize=65536)
def floordiv(x: sympy.Expr, y: sympy.Expr, shape: Shape) -> sympy.Expr:
    """x // y, simplified by ranges; y is positive."""
    if y == 1:
        return x
    if isinstance(x, FloorDiv):
        return floordiv(x.args[0], x.args[1] * y, shape)
    if isinstance(x, Mod) and (blocks := quotient(x.args[1], y)) is not None:
        return mod(floordiv(x.args[0], y, shape), blocks, shape)
    whole, rest = _divided(x, y, shape)
    if rest == 0 or _below(rest, y, shape):
        return whole
    # (g*a + r) // (g*b) = a // b where 0 <= r < g.
    for g in _common(rest, y):
        a, r = _split(rest, g)
        if a != 0 and (r == 0 or _below(r, g, shape)):
            b = quotient(y, g)
            assert b is not None
            return whole + floordiv(a, b, shape)
    return whole + sizes.floordiv(rest, y)


@lru_cache(maxsize=65536)
def mod(x: sympy.Expr, y: sympy.Expr, shape: Shape) -> sympy.Expr:
    """x % y, simplified by ranges; y is positive."""
    if y == 1:
        return ZERO
    _, rest = _divided(x, y, shape)
    if rest == 0 or _below(rest, y, shape):
        return rest
    if isinstance(rest, Mod) and _divides(y, rest.args[1]):
        return mod(rest.args[0], y, shape)
    # (g*a + r) % (g*b) = g*(a % b) + r where 0 <= r < g.
    for g in _common(rest, y):
        a, r = _split(rest, g)
        if a != 0 and (r == 0 or _below(r, g, shape)):
            b = quotient(y, g)
            assert b is not None
            return sympy.expand_mul(g * mod(a, b, shape)) + r
    return sizes.mod(rest, y)


def _divided(x: sympy.Expr, y: sympy.Expr, shape: Shape) -> tuple[sympy.Expr, sympy.Expr]:
    """(a, r) with x = y*a + r, as `_split` gives, but for an r that counts back from y: torch's `Mod` is for
    numbers from 0 on, and `s0*s1 - 1` is the last of `s1` numbers, not the one before the first.
    """
    whole, rest = _split(x, y)
    number, _ = rest.as_coeff_Add()
    back = sympy.Integer(int(number) // int(y)) if y.is_Integer else -ONE
    if number < 0 and (y.is_Integer or _below(rest + y, y, shape)):
        return whole + back, rest - back * y
    return whole, rest


def _split(x: sympy.Expr, y: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """(a, r) with x = y*a + r, taking every term that y divides into a."""
    whole, rest = [], []
    for term in sympy.Add.make_args(x):
        part = quotient(term, y)
        if part is None:
            rest.append(term)
        else:
            whole.append(part)
    return sympy.Add(*whole), sympy.Add(*rest)


def _common(x: sympy.Expr, y: sympy.Expr) -> list[sympy.Expr]:
    """Factors of y that divide some term of x, largest number first."""
    found: list[sympy.Expr] = []
    for term in sympy.Add.make_args(x):
        number, rest = term.as_coeff_Mul()
        other, symbolic = y.as_coeff_Mul()
        shared = sympy.Integer(sympy.igcd(int(number), int(other)))
        factors = set(sympy.Mul.make_args(symbolic)) & set(sympy.Mul.make_args(rest))
        candidate = shared * sympy.Mul(
            *(factor for factor in factors if factor.is_Symbol and position(factor) is None)
        )
        if candidate != 1 and candidate not in found:
            found.append(candidate)
    return sorted(found, key=lambda g: (-len(sympy.Mul.make_args(g)), -int(g.as_coeff_Mul()[0])))


def _recombine(expr: sympy.Expr, shape: Shape) -> sympy.Expr:
    """k*y*(x // y) + k*(x % y) = k*x."""
    while expr.is_Add:
        for term in expr.args:
            k, rest = term.as_independent(Mod, as_Add=False)
            if not isinstance(rest, Mod):
                continue
            x, y = rest.args
            high = sympy.expand_mul(k * y * floordiv(x, y, shape))
            if set(sympy.Add.make_args(high)) <= set(expr.args):
                expr = expr - term - high + sympy.expand_mul(k * x)
                break
        else:
            return expr
    return expr


@lru_cache(maxsize=65536)
def _below(x: sympy.Expr, y: sympy.Expr, shape: Shape) -> bool:
    """Whether 0 <= x < y for certain. An empty shape has no elements, so a size counts as at least 1."""
    low, high = bounds(x, shape)
    return _nonnegative(low) and _nonnegative(y - ONE - high)


def bounds(x: sympy.Expr, shape: Shape) -> tuple[sympy.Expr, sympy.Expr]:
    """Bounds of an expression, inclusive, over sizes alone."""
    if x.is_Integer:
        return x, x
    if x.is_Symbol:
        at = position(x)
        return (x, x) if at is None or at >= len(shape) else (ZERO, shape[at] - ONE)
    if isinstance(x, Mod):
        low, high = bounds(x.args[0], shape)
        limit = x.args[1] - ONE
        return ZERO, (high if _nonnegative(low) and _nonnegative(limit - high) else limit)
    if isinstance(x, FloorDiv) and x.args[1].is_Integer:
        low, high = bounds(x.args[0], shape)
        if low.is_Integer and high.is_Integer:
            return sizes.floordiv(low, x.args[1]), sizes.floordiv(high, x.args[1])
        if _nonnegative(low):
            return ZERO, sizes.floordiv(high, x.args[1])
    if isinstance(x, FloorDiv):
        low, high = bounds(x.args[0], shape)
        if _nonnegative(low):
            blocks, rest = _split(high + ONE, x.args[1])
            return ZERO, (blocks - ONE if rest == 0 else sizes.floordiv(high, x.args[1]))
    if x.is_Add:
        found = [bounds(term, shape) for term in x.args]
        return sympy.Add(*(low for low, _ in found)), sympy.Add(*(high for _, high in found))
    if x.is_Mul:
        number, rest = x.as_coeff_Mul()
        found = [bounds(factor, shape) for factor in sympy.Mul.make_args(rest)]
        if all(_nonnegative(low) for low, _ in found):
            low = number * sympy.Mul(*(low for low, _ in found))
            high = number * sympy.Mul(*(high for _, high in found))
            return (low, high) if number > 0 else (high, low)
    return (ZERO if x.is_nonnegative else -sympy.oo), sympy.oo


@lru_cache(maxsize=65536)
def _nonnegative(x: sympy.Expr) -> bool:
    """Whether x >= 0 for certain, over sizes that are at least 1."""
    if x.is_number:
        return bool(x >= 0)
    if x.has(sympy.oo, -sympy.oo):
        return False
    shift = {
        s: s + ONE for s in x.free_symbols if position(s) is None and (s.is_positive or s.name[:1] == "s")
    }
    shifted = sympy.expand(sizes.rebuild(x, lambda s: shift.get(s, s)))
    return all(
        (coefficient := term.as_coeff_Mul())[0] >= 0
        and (coefficient[1] == 1 or bool(coefficient[1].is_nonnegative))
        for term in sympy.Add.make_args(shifted)
    )
