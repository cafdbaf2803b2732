"""Which keys a mask lets be read: its conjuncts that bound j, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, call, refs
from headrace.ir.spec import Extra

_MOST_KEYS = (1 << 31) - 1  # kernels count them in int32


@dataclass(frozen=True, slots=True)
class Bounds:
    """Keys j with lower <= j < upper for every expression; `rest` is what the bounds leave of the mask."""

    lower: tuple[Expr, ...]
    upper: tuple[Expr, ...]
    rest: tuple[Expr, ...]


def conjuncts(mask: Expr) -> tuple[Expr, ...]:
    """The operands of nested `and`, left to right; none for `true`."""
    if isinstance(mask, Call) and mask.fn == "and":
        return conjuncts(mask.args[0]) + conjuncts(mask.args[1])
    return () if mask == Const(True) else (mask,)


def bounds(mask: Expr, extras: tuple[Extra, ...]) -> Bounds:
    """Split a mask into bounds of j and the rest. `j <= e` is `j < e + 1`; e must be an integer
    expression, an extra in it may be as large as its type allows."""
    floating = {extra.name for extra in extras if extra.dtype.is_floating or extra.dtype is DType.BOOL}
    lower: list[Expr] = []
    upper: list[Expr] = []
    rest: list[Expr] = []
    flip = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
    for part in conjuncts(mask):
        fn, e = "", None
        if isinstance(part, Call) and part.fn in flip:
            if part.args[0] == Ref("j"):
                fn, e = part.fn, part.args[1]
            elif part.args[1] == Ref("j"):
                fn, e = flip[part.fn], part.args[0]
        if e is None or "j" in refs(e) or refs(e) & floating or not _integral(e):
            rest.append(part)
        elif fn in ("lt", "le"):
            upper.append(e if fn == "lt" else _after(e, extras))
        else:
            lower.append(e if fn == "ge" else _after(e, extras))
    return Bounds(tuple(lower), tuple(upper), tuple(rest))


def _after(expr: Expr, extras: tuple[Extra, ...]) -> Expr:
    """The least j > e, or one beyond all keys: e + 1 of the largest integer would be the smallest."""
    if refs(expr) & {extra.name for extra in extras}:
        expr = call("minimum", expr, _MOST_KEYS - 1)
    return call("add", expr, 1)


def _integral(expr: Expr) -> bool:
    """True where the expression is an integer for integer names."""
    if isinstance(expr, Const):
        return isinstance(expr.value, int) and not isinstance(expr.value, bool)
    if isinstance(expr, Call):
        kinds = {"add", "sub", "mul", "maximum", "minimum", "floordiv", "mod", "neg", "cast:i64", "cast:i32"}
        return expr.fn in kinds and all(_integral(arg) for arg in expr.args)
    return True


def rises(expr: Expr) -> bool:
    """True where the expression surely does not fall as i grows."""
    if "i" not in refs(expr) or expr == Ref("i"):
        return True
    if isinstance(expr, Call) and expr.fn in ("add", "maximum", "minimum"):
        return all(rises(arg) for arg in expr.args)
    return (
        isinstance(expr, Call) and expr.fn == "sub" and rises(expr.args[0]) and "i" not in refs(expr.args[1])
    )
