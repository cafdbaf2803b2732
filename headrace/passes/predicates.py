"""Masks as conjunctions of integer bounds, so that a kernel can read off which keys it needs.

    not(ge(sub(j, i), 1))              ->  le(j, i)                   masked_fill with triu(diagonal=1)
lt(j, add(i, add(p, 1)))           ->  le(j, add(i, p))           a static cache
and(gt(j, sub(i, 256)), le(j, i))  ->  and(ge(j, sub(i, 255)), le(j, i))
ne(e0, 0), e0:b8                   ->  e0
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, call, cast, refs
from headrace.ir.infer import expr_dtype

_NEGATED = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
_HOLDS: Mapping[str, Callable[[int, int], bool]] = {
    "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip
_INDICES = frozenset(map(Ref, "bhij"))
_WIDE = frozenset({DType.I32, DType.I64})
Linear = tuple[dict[Expr, int], int]


def normalize(predicate: Expr, dtypes: Mapping[str, DType], key: str = "j") -> Expr:
    """The conjunction in normal form: bounds on `key` first, each as `le(key, e)` or `ge(key, e)`."""
    parts: list[Expr] = []
    for part in _conjuncts(predicate, True, dtypes, key):
        if part == Const(False):
            return part
        if part != Const(True) and part not in parts:
            parts.append(part)
    bounds = [part for part in parts if isinstance(part, Call) and part.args[0] == Ref(key)]
    result: Expr | None = None
    for part in [*bounds, *(part for part in parts if part not in bounds)]:
        result = part if result is None else call("and", result, part)
    return Const(True) if result is None else result


def _conjuncts(p: Expr, positive: bool, dtypes: Mapping[str, DType], key: str) -> list[Expr]:
    """Predicates whose conjunction is `p`, or its negation."""
    if isinstance(p, Const):
        return [Const(bool(p.value) is positive)]
    if isinstance(p, Call):
        if p.fn == "not":
            return _conjuncts(p.args[0], not positive, dtypes, key)
        if p.fn == ("and" if positive else "or"):
            return [part for arg in p.args for part in _conjuncts(arg, positive, dtypes, key)]
        if p.fn == "cast:b8":
            return _conjuncts(call("ne", p.args[0], 0), positive, dtypes, key)
        if p.fn in ("mul", "minimum") and positive and _is_bool(p, dtypes):
            return [part for arg in p.args for part in _conjuncts(arg, True, dtypes, key)]
        if p.fn in _NEGATED:
            return _comparison(p, positive, dtypes, key)
        if p.fn == ("or" if positive else "and"):
            sides = [normalize(arg if positive else call("not", arg), dtypes, key) for arg in p.args]
            if Const(True) in sides:
                return [Const(True)]
            rest = [side for side in sides if side != Const(False)]
            return [call("or", *rest)] if len(rest) == 2 else (rest or [Const(False)])
    return [p if positive else call("not", p)]


def _is_bool(p: Expr, dtypes: Mapping[str, DType]) -> bool:
    return expr_dtype(p, dtypes) is DType.BOOL


def _comparison(p: Call, positive: bool, dtypes: Mapping[str, DType], key: str) -> list[Expr]:
    x, y = p.args
    if p.fn in ("eq", "ne"):
        for side, other in ((x, y), (y, x)):
            if isinstance(other, Const) and other.value in (0, 1) and _is_bool(side, dtypes):
                same = (p.fn == "eq") == bool(other.value)
                return _conjuncts(side, same == positive, dtypes, key)
    integers = not (expr_dtype(x, dtypes).is_floating or expr_dtype(y, dtypes).is_floating)
    if not integers:
        return [p if positive else call("not", p)]
    fn = p.fn if positive else _NEGATED[p.fn]
    return [_bound(fn, x, y, dtypes, key)]


def _bound(fn: str, x: Expr, y: Expr, dtypes: Mapping[str, DType], key: str) -> Expr:
    """A comparison of integers, solved for `key` where it occurs once with coefficient 1 or -1."""
    rest, constant = _linear(call("sub", x, y), dtypes)
    if not rest:
        return Const(_HOLDS[fn](constant, 0))
    if _never_negative(rest, constant) and fn in ("ge", "lt"):
        return Const(fn == "ge")
    if _never_negative({term: -factor for term, factor in rest.items()}, -constant) and fn in ("le", "gt"):
        return Const(fn == "le")
    own = rest.pop(Ref(key), 0)
    if abs(own) != 1 or any(key in refs(term) for term in rest):
        return call(fn, x, y)
    if own == -1:
        fn, rest, constant = _MIRRORED[fn], {term: -factor for term, factor in rest.items()}, -constant
    # key + rest + constant `fn` 0; integers turn strict bounds into loose ones.
    limit = -constant + {"lt": -1, "gt": 1}.get(fn, 0)
    fn = {"lt": "le", "gt": "ge"}.get(fn, fn)
    return call(fn, Ref(key), _sum({term: -factor for term, factor in rest.items()}, limit))


def _never_negative(rest: Mapping[Expr, int], constant: int) -> bool:
    """Whether a sum of indices, which count from zero, cannot fall below zero."""
    return constant >= 0 and all(factor > 0 and term in _INDICES for term, factor in rest.items())


def _linear(e: Expr, dtypes: Mapping[str, DType]) -> Linear:
    """An integer expression as integer multiples of its non-linear parts, plus a constant."""
    if isinstance(e, Const) and isinstance(e.value, (int, bool)):
        return {}, int(e.value)
    if expr_dtype(e, dtypes) not in _WIDE:
        return {cast(DType.I64, e): 1}, 0  # in its own type, e - 1 could wrap around
    if isinstance(e, Call):
        if e.fn in ("add", "sub"):
            (a, c), (b, d) = _linear(e.args[0], dtypes), _linear(e.args[1], dtypes)
            sign = 1 if e.fn == "add" else -1
            merged = dict(a)
            for term, factor in b.items():
                merged[term] = merged.get(term, 0) + sign * factor
            return {term: factor for term, factor in merged.items() if factor}, c + sign * d
        if e.fn == "neg":
            a, c = _linear(e.args[0], dtypes)
            return {term: -factor for term, factor in a.items()}, -c
        if e.fn == "mul" and isinstance(e.args[1], Const) and isinstance(e.args[1].value, int):
            a, c = _linear(e.args[0], dtypes)
            scale = int(e.args[1].value)
            return ({term: factor * scale for term, factor in a.items()} if scale else {}), c * scale
        if e.fn in ("cast:i64", "cast:i32") and expr_dtype(e.args[0], dtypes) in _WIDE:
            return _linear(e.args[0], dtypes)
    return {e: 1}, 0


def _sum(coefficients: dict[Expr, int], constant: int) -> Expr:
    """The canonical text of a linear form: indices, then other names, then the constant."""
    order = sorted(
        coefficients, key=lambda term: (not (isinstance(term, Ref) and term.name in "bhij"), str(term))
    )
    order.sort(key=lambda term: coefficients[term] < 0)
    result: Expr | None = None
    for term in order:
        factor = coefficients[term]
        part = term if abs(factor) == 1 else call("mul", term, abs(factor))
        if result is None:
            result = part if factor > 0 else call("neg", part)
        else:
            result = call("add" if factor > 0 else "sub", result, part)
    if result is None:
        return Const(constant)
    if constant:
        result = call("add" if constant > 0 else "sub", result, abs(constant))
    return result
