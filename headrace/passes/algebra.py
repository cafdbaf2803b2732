"""One normal form of scalar expressions, so that a pattern is matched once however it was written.

`tidy` applies rules until none fires. Each rule is an identity of real arithmetic that also keeps NaN and
infinities where PyTorch puts them; what it may change is the last bit, but of what a jump reads
(`headrace.ir.rounding`). Matching and Specs use the tidy form; the FX graph keeps its own spelling wherever
nothing is claimed.

    div(x, add(exp(neg(x)), 1))   ->  mul(x, sigmoid(x))        silu
    pow(x, 2)                     ->  mul(x, x)
    div(x, sqrt(y))               ->  mul(x, rsqrt(y))
    mul(mul(x, 0.5), 0.25)        ->  mul(x, 0.125)
    cast:f32(x), x:bf16           ->  x                         kernels hold float32 anyway
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from headrace.ir.dtype import DType
from headrace.ir.expr import COMMUTATIVE, Call, Const, Expr, call, conversion, fold
from headrace.ir.infer import expr_dtype
from headrace.ir.rounding import jumps, without

Dtypes = Mapping[str, DType]


def is_float(expr: Expr, dtypes: Dtypes) -> bool:
    """Whether an expression yields floating numbers."""
    return expr_dtype(expr, dtypes).is_floating


def number(expr: Expr) -> float | None:
    """The value of a numeric literal, else None."""
    if isinstance(expr, Const) and not isinstance(expr.value, bool):
        return float(expr.value)
    return None


def strip(expr: Expr, dtypes: Dtypes) -> Expr:
    """Without the casts between floating types that kernels leave out; those that decide stay."""
    return without(expr, lambda each: is_float(each.args[0], dtypes))


def bare(expr: Expr, dtypes: Dtypes) -> Expr:
    """Without any rounding, those that decide or are asked for included. For matching, not for Specs."""
    if not isinstance(expr, Call):
        return expr
    done = Call(expr.fn, tuple(bare(arg, dtypes) for arg in expr.args))
    found = conversion(done)
    rounds = found is not None and found[1].is_floating and is_float(done.args[0], dtypes)
    return done.args[0] if rounds else done


def tidy(expr: Expr, dtypes: Dtypes) -> Expr:
    """The normal form. `dtypes` types the references; unknown ones are indices."""
    return _Tidy(dtypes).run(expr)


class _Tidy:
    """One bottom-up walk with a memo, so that shared subtrees cost once."""

    def __init__(self, dtypes: Dtypes) -> None:
        self.dtypes = dtypes
        self.memo: dict[tuple[Expr, bool], Expr] = {}

    def run(self, expr: Expr, decides: bool = False) -> Expr:
        if not isinstance(expr, Call):
            return expr
        done = self.memo.get((expr, decides))
        if done is None:
            args = (self.run(arg, decides or jumps(expr, at)) for at, arg in enumerate(expr.args))
            done = self._apply(Call(expr.fn, tuple(args)), decides)
            self.memo[expr, decides] = done
        return done

    def _apply(self, expr: Expr, decides: bool) -> Expr:
        if not isinstance(expr, Call):
            return expr
        if expr.fn.startswith("cast:"):
            return self._cast(expr)
        flat = fold(expr) if any(isinstance(arg, Const) for arg in expr.args) or expr.fn == "neg" else expr
        if not isinstance(flat, Call):
            return flat
        new = _rewrite(flat, decides and is_float(flat, self.dtypes))
        return self.run(new, decides) if new is not None else flat

    def _cast(self, expr: Call) -> Expr:
        (arg,) = expr.args
        to = DType(expr.fn[5:])
        if isinstance(arg, Const):
            return _cast_literal(arg, to) or expr
        was = expr_dtype(arg, self.dtypes)
        widens = to.is_floating and was.is_floating and was.itemsize < to.itemsize
        return arg if was == to or widens else expr


def _cast_literal(literal: Const, to: DType) -> Const | None:
    """The literal after a cast, where every element type agrees on its value."""
    value = literal.value
    if isinstance(value, bool):
        return literal if to is DType.BOOL else None
    if to.is_floating and (to in (DType.F32, DType.F64) or value in (0, 1, math.inf, -math.inf)):
        return Const(float(value))
    return literal if to is DType.I64 and isinstance(value, int) else None


@lru_cache(maxsize=65536)
def _rewrite(expr: Call, to_the_last_bit: bool) -> Expr | None:
    """The first rule that fires at the root, its result not yet tidy; None when none does."""
    for rule in EXACT if to_the_last_bit else RULES:
        new = rule(expr)
        if new is not None and new != expr:
            return new
    return None


def _literal_right(e: Call) -> Expr | None:
    """add(2, x) -> add(x, 2)."""
    if e.fn in COMMUTATIVE and isinstance(e.args[0], Const) and not isinstance(e.args[1], Const):
        return Call(e.fn, (e.args[1], e.args[0]))
    return None


def _literals(e: Call) -> Expr | None:
    """add(2, 3) -> 5: arithmetic on literals, and mul(mul(x, 2), 3) -> mul(x, 6)."""
    if e.fn not in ("add", "sub", "mul"):
        return None
    x, y = e.args
    b = number(y)
    if b is None:
        return None
    a = number(x)
    if a is not None:
        assert isinstance(x, Const)
        assert isinstance(y, Const)
        value = {"add": x.value + y.value, "sub": x.value - y.value, "mul": x.value * y.value}[e.fn]
        return Const(value)
    inner = number(x.args[1]) if isinstance(x, Call) and x.fn == e.fn == "mul" else None
    # Kernels hold float32: a product beyond its normal range would make infinities and zeros of its own.
    if inner is not None and 2.0**-126 <= abs(inner * b) < 2.0**127:
        assert isinstance(x, Call)
        assert isinstance(x.args[1], Const)
        assert isinstance(y, Const)
        product = x.args[1].value * y.value  # of whole numbers, a whole number: an index stays one
        if isinstance(product, float) or abs(product) < 1 << 63:
            return call("mul", x.args[0], product)
    if e.fn == "mul" and b == -1:
        return call("neg", x)
    return None


def rounded(expr: Expr) -> Expr:
    """The expression with factors rounded to 12 digits (far below float32): one constant, one spelling."""
    if not isinstance(expr, Call):
        return expr
    args = tuple(rounded(arg) for arg in expr.args)
    if expr.fn == "mul" and isinstance(args[1], Const) and isinstance(args[1].value, float):
        return call("mul", args[0], float(f"{args[1].value:.12g}"))
    return Call(expr.fn, args)


def _power(e: Call) -> Expr | None:
    """pow(x, 2) -> mul(x, x), pow(x, 0.5) -> sqrt(x), pow(x, -0.5) -> rsqrt(x), ..."""
    if e.fn != "pow":
        return None
    x, n = e.args[0], number(e.args[1])
    named = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    if n == 2:
        return call("mul", x, x)
    if n == 3:
        return call("mul", call("mul", x, x), x)
    if n == 1:
        return x
    return call(named[n], x) if n in named else None


def _reciprocal(e: Call) -> Expr | None:
    """div(1, x) -> reciprocal(x), reciprocal(sqrt(x)) -> rsqrt(x), div(x, sqrt(y)) -> mul(x, rsqrt(y))."""
    if e.fn == "div":
        x, y = e.args
        if number(x) == 1:
            return call("reciprocal", y)
        if isinstance(y, Call) and y.fn == "sqrt" and number(y.args[0]) is None:
            return call("mul", x, call("rsqrt", y.args[0]))
        if isinstance(y, Call) and y.fn == "reciprocal":
            return call("mul", x, y.args[0])
    if e.fn == "reciprocal" and isinstance(e.args[0], Call) and e.args[0].fn == "sqrt":
        return call("rsqrt", e.args[0].args[0])
    if e.fn == "mul":
        for x, y in (e.args, e.args[::-1]):
            if isinstance(y, Call) and y.fn == "reciprocal":
                return call("div", x, y.args[0])
    return None


def _logistic(x: Expr) -> Expr | None:
    """z where x is add(exp(neg(z)), 1)."""
    if isinstance(x, Call) and x.fn == "add" and number(x.args[1]) == 1:
        inner = x.args[0]
        if isinstance(inner, Call) and inner.fn == "exp" and isinstance(inner.args[0], Call):
            return inner.args[0].args[0] if inner.args[0].fn == "neg" else None
    return None


def _sigmoid(e: Call) -> Expr | None:
    """reciprocal(1 + exp(-x)) -> sigmoid(x), div(x, 1 + exp(-x)) -> mul(x, sigmoid(x))."""
    if e.fn == "reciprocal" and (z := _logistic(e.args[0])) is not None:
        return call("sigmoid", z)
    if e.fn == "div" and (z := _logistic(e.args[1])) is not None:
        return call("mul", e.args[0], call("sigmoid", z))
    return None


def _signs(e: Call) -> Expr | None:
    """add(x, neg(y)) -> sub(x, y), sub(x, neg(y)) -> add(x, y), sub(x, c) -> add(x, -c)."""
    if e.fn == "add":
        for x, y in (e.args, e.args[::-1]):
            if isinstance(y, Call) and y.fn == "neg":
                return call("sub", x, y.args[0])
    if e.fn == "sub":
        x, y = e.args
        if isinstance(y, Call) and y.fn == "neg":
            return call("add", x, y.args[0])
        if isinstance(y, Const) and not isinstance(y.value, bool):
            return call("add", x, Const(-y.value))
        if number(x) == 0:
            return call("neg", y)
    return None


def _relu(e: Call) -> Expr | None:
    """maximum(x, 0) -> relu(x)."""
    return call("relu", e.args[0]) if e.fn == "maximum" and number(e.args[1]) == 0 else None


def _choice(e: Call) -> Expr | None:
    """where(true, x, y) -> x, where(not(c), x, y) -> where(c, y, x)."""
    if e.fn != "where":
        return None
    c, x, y = e.args
    if isinstance(c, Const):
        return x if c.value else y
    if x == y:
        return x
    return call("where", c.args[0], y, x) if isinstance(c, Call) and c.fn == "not" else None


RULES: tuple[Callable[[Call], Expr | None], ...] = (
    _literal_right, _literals, _power, _sigmoid, _reciprocal, _signs, _relu, _choice,
)  # fmt: skip
EXACT = (_literal_right, _power, _signs, _relu, _choice)


def terms(expr: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    """The signed terms of a sum: x + (y - z) is [(1, x), (1, y), (-1, z)]."""
    if isinstance(expr, Call):
        if expr.fn in ("add", "sub"):
            x, y = expr.args
            return terms(x, sign) + terms(y, sign if expr.fn == "add" else -sign)
        if expr.fn == "neg":
            return terms(expr.args[0], -sign)
    return [(sign, expr)]


def total(parts: list[tuple[int, Expr]]) -> Expr:
    """The sum of signed terms, in order; 0.0 for none."""
    result: Expr | None = None
    for sign, term in parts:
        if result is None:
            result = term if sign > 0 else call("neg", term)
        else:
            result = call("add" if sign > 0 else "sub", result, term)
    return Const(0.0) if result is None else result
