"""Interval arithmetic over scalar expressions: what a value surely stays within.

An interval holds for every number that an expression can take. A NaN is in no interval: it makes a row NaN
under every stabilizer alike, so nothing has to be proven about it. Where nothing is known the interval is
everything; precision is lost, never soundness. Rounding to 16 bits widens by its relative step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace.ir.expr import PREDICATES, Call, Const, Expr, Ref

# Relative widening by a cast: half a step of the mantissa, rounded up.
_STEP = {
    "cast:bf16": 2.0**-8, "cast:f16": 2.0**-10, "cast:f32": 2.0**-23, "cast:f64": 0.0,
    "round:bf16": 2.0**-8, "round:f16": 2.0**-10,
}  # fmt: skip
_F16_LARGEST = 65504.0
_SLACK = 1e-6  # of functions that kernels compute in float32


@dataclass(frozen=True, slots=True)
class Interval:
    """[low, high], ends included."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def union(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def widened(self, relative: float) -> Interval:
        """By a share of the larger end; of each where one is open."""
        if math.isfinite(self.magnitude):
            slack = relative * self.magnitude
            return Interval(self.low - slack, self.high + slack)
        low, high = (relative * abs(end) if math.isfinite(end) else 0.0 for end in (self.low, self.high))
        return Interval(self.low - low, self.high + high)


ANYTHING = Interval()
UNIT = Interval(0.0, 1.0)
SIGNED_UNIT = Interval(-1.0, 1.0)


def bounds(expr: Expr, env: Mapping[str, Interval]) -> Interval:
    """The interval of an expression; names that `env` does not have may be anything."""
    if isinstance(expr, Const):
        value = float(expr.value)
        return ANYTHING if math.isnan(value) else Interval(value, value)
    if isinstance(expr, Ref):
        return env.get(expr.name, ANYTHING)
    args = [bounds(arg, env) for arg in expr.args]
    if expr.fn == "mul" and expr.args[0] == expr.args[1]:
        return _square(args[0])
    return _apply(expr, args)


def _apply(expr: Call, args: list[Interval]) -> Interval:
    if expr.fn in PREDICATES:
        return UNIT
    if expr.fn in _STEP:
        found = args[0].widened(_STEP[expr.fn])
        if expr.fn in ("cast:f16", "round:f16") and found.magnitude > _F16_LARGEST:
            return ANYTHING
        return found
    rule = _RULES.get(expr.fn)
    return ANYTHING if rule is None else rule(*args)


def _square(x: Interval) -> Interval:
    return Interval(
        0.0 if x.low <= 0 <= x.high else min(x.low**2, x.high**2), _product(x.magnitude, x.magnitude)
    )


def _sum(a: float, b: float, otherwise: float) -> float:
    found = a + b
    return otherwise if math.isnan(found) else found


def _product(a: float, b: float) -> float:
    """Zero times infinity is zero: the product of all finite values, which is what an open end stands for."""
    return 0.0 if 0.0 in (a, b) else a * b


def _add(x: Interval, y: Interval) -> Interval:
    return Interval(_sum(x.low, y.low, -math.inf), _sum(x.high, y.high, math.inf)).widened(_SLACK)


def _neg(x: Interval) -> Interval:
    return Interval(-x.high, -x.low)


def _mul(x: Interval, y: Interval) -> Interval:
    corners = [_product(a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    return Interval(min(corners), max(corners)).widened(_SLACK)


def _reciprocal(x: Interval) -> Interval:
    if x.low <= 0.0 <= x.high:
        return ANYTHING
    return Interval(1.0 / x.high, 1.0 / x.low).widened(_SLACK)


def _where(condition: Interval, x: Interval, y: Interval) -> Interval:
    return x.union(y)


def _abs(x: Interval) -> Interval:
    return Interval(0.0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high)), x.magnitude)


def _monotone(f: Callable[[float], float], within: Interval = ANYTHING) -> Callable[[Interval], Interval]:
    """The rule of a function that never falls, on the part of its argument where it is defined."""

    def rule(x: Interval) -> Interval:
        low, high = max(x.low, within.low), min(x.high, within.high)
        if low > high:
            return ANYTHING
        return Interval(f(low), f(high)).widened(_SLACK)

    return rule


def _exp(x: float) -> float:
    return math.exp(x) if x < 700.0 else math.inf


def _sqrt(x: float) -> float:
    return math.sqrt(x) if math.isfinite(x) else x


def _rsqrt(x: Interval) -> Interval:
    root = _monotone(_sqrt, Interval(0.0, math.inf))(x)
    return Interval(0.0, math.inf) if root.low <= 0.0 else _reciprocal(root)


_POSITIVE = Interval(0.0, math.inf)
_RULES: Mapping[str, Callable[..., Interval]] = {
    "add": _add,
    "sub": lambda x, y: _add(x, _neg(y)),
    "mul": _mul,
    "div": lambda x, y: _mul(x, _reciprocal(y)),
    "neg": _neg,
    "abs": _abs,
    "reciprocal": _reciprocal,
    "where": _where,
    "maximum": lambda x, y: Interval(max(x.low, y.low), max(x.high, y.high)),
    "minimum": lambda x, y: Interval(min(x.low, y.low), min(x.high, y.high)),
    "relu": lambda x: Interval(max(x.low, 0.0), max(x.high, 0.0)),
    "tanh": _monotone(math.tanh),
    "erf": _monotone(math.erf),
    "sigmoid": lambda x: UNIT,
    "sin": lambda x: SIGNED_UNIT,
    "cos": lambda x: SIGNED_UNIT,
    "exp": _monotone(_exp),
    "sqrt": _monotone(_sqrt, _POSITIVE),
    "rsqrt": _rsqrt,
}
