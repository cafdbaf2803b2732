"""Taking scores apart into a score expression and a predicate of visible keys."""

from __future__ import annotations

import math

from headrace.ir.expr import Call, Const, Expr, Ref, call
from headrace.passes.algebra import number

_SEEN = Const(True)
_SMALLEST_FACTOR = 2.0**-6


def split_mask(scores: Expr, *, finite: bool) -> tuple[Expr, Expr]:
    """(score, mask) such that the scores are the score where the mask holds and -inf elsewhere.

        where(m, x, -inf)             ->  x, m
        add(x, where(m, 0, -inf))     ->  x, m
        mul(where(m, x, -inf), 0.5)   ->  mul(x, 0.5), m

    With `finite`, the lowest number of a type counts as -inf. That is the same only for rows that have a
    visible key: with none, eager PyTorch then weighs all keys alike.
    """
    if not isinstance(scores, Call):
        return scores, _SEEN
    if scores.fn == "where":
        c, x, y = scores.args
        if _hides(y, finite):
            inner, mask = split_mask(x, finite=finite)
            return inner, conjunction(c, mask)
        if _hides(x, finite):
            inner, mask = split_mask(y, finite=finite)
            return inner, conjunction(call("not", c), mask)
    if scores.fn == "add":
        (x, mask_x), (y, mask_y) = (split_mask(arg, finite=finite) for arg in scores.args)
        mask = conjunction(mask_x, mask_y)
        if number(y) == 0:
            return x, mask
        return (y if number(x) == 0 else call("add", x, y)), mask
    if scores.fn == "sub":
        inner, mask = split_mask(scores.args[0], finite=finite)
        return call("sub", inner, scores.args[1]), mask
    if scores.fn in ("mul", "div"):
        factor = number(scores.args[1])
        if factor is not None and 0 < factor < math.inf:
            # The lowest number times something small is no number that hides.
            kept = (factor if scores.fn == "mul" else 1 / factor) >= _SMALLEST_FACTOR
            inner, mask = split_mask(scores.args[0], finite=finite and kept)
            return call(scores.fn, inner, scores.args[1]), mask
    return scores, _SEEN


def _hides(value: Expr, finite: bool) -> bool:
    v = number(value)
    return v is not None and (v == -math.inf or (finite and (v <= -1e9 or v == -65504.0)))


def conjunction(x: Expr, y: Expr) -> Expr:
    """x and y, without what is always true."""
    if x == _SEEN:
        return y
    return x if y == _SEEN else call("and", x, y)


def sees_first_key(mask: Expr) -> bool:
    """Whether every row sees key 0 for certain: a conjunction of `le(j, i + c)` with c >= 0."""
    if mask == _SEEN:
        return True
    if not isinstance(mask, Call):
        return False
    if mask.fn == "and":
        return all(map(sees_first_key, mask.args))
    if mask.fn != "le" or mask.args[0] != Ref("j"):
        return False
    bound = mask.args[1]
    if isinstance(bound, Call) and bound.fn == "add" and _not_negative(bound.args[1]):
        bound = bound.args[0]
    return bound == Ref("i") or _not_negative(bound)


def _not_negative(bound: Expr) -> bool:
    value = number(bound)
    return value is not None and value >= 0
