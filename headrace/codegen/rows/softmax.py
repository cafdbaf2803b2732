"""The softmax pair within a Rows, recognised by its algebra, so that any reference exponent will do.

    m = max(e),    s = sum(exp(e - m))        e: any pointwise expression of inputs, the same in both

What is made of m and s may not depend on which c stands for m, as long as s = sum(exp(e - c)). So every
expression gets a weight, under m -> m + d and s -> s exp(-d): it is invariant, or it shifts by k d (m by 1,
log(s) and e - m by -1), or it scales by exp(k d) (s and exp(e - m) by -1). Softmax exp(e - m) / s,
log-softmax (e - m) - log(s) and log-sum-exp m + log(s) come out invariant; an output that shows m does not,
and then the reductions are computed as written.

`where(|m| = inf, 0, m)`, which torch.logsumexp subtracts so that a row of -inf gives -inf, counts as m.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, call, refs
from headrace.ir.rounding import decided, without
from headrace.ir.spec import Reduction, Rows

LOG2_E = math.log2(math.e)


@dataclass(frozen=True, slots=True)
class Pair:
    """The two reductions of a softmax.

    Attributes:
        top, total: names of m and s.
        score: e, without roundings in between (kernels compute in float32).
        safe: an infinite m is not subtracted in s: -inf gives s = 0, inf gives s = inf, instead of NaN.
        inverse: the name under which outputs read 1 / s.
    """

    top: str
    total: str
    score: Expr
    safe: bool
    inverse: str


@dataclass(frozen=True, slots=True)
class _Weight:
    """How a value answers to d: it shifts by `shift` d or scales by exp(`scale` d); both zero: not at all."""

    shift: int = 0
    scale: int = 0

    @property
    def invariant(self) -> bool:
        return not self.shift and not self.scale


_NONE = _Weight()


def pair_of(spec: Rows) -> Pair | None:
    """The softmax pair of a Rows whose outputs and other reductions are invariant, else None."""
    for total in spec.reductions:
        found = _candidate(spec, total)
        if found is None:
            continue
        weights: dict[str, _Weight] = {found.top: _Weight(shift=1), found.total: _Weight(scale=-1)}
        for reduction in spec.reductions:
            if reduction.name in weights:
                continue
            weight = _reduced(reduction.kind, _weight(reduction.expr, weights))
            if weight is None:
                break
            weights[reduction.name] = weight
        else:
            if _decides(spec, found):
                return None
            if all((w := _weight(o.expr, weights)) is not None and w.invariant for o in spec.outputs):
                return found
    return None


def _decides(spec: Rows, pair: Pair) -> bool:
    """Whether a jump reads what the pair computes from scores that it does not round as their expression
    says."""
    exact = all(r.expr == plain(r.expr) for r in spec.reductions if r.name in (pair.top, pair.total))
    return not exact and not rows_decided(spec).isdisjoint((pair.top, pair.total))


def rows_decided(spec: Rows) -> frozenset[str]:
    """The inputs and reductions that a jump reads: they are computed with their roundings."""
    return decided((o.expr for o in spec.outputs), [(r.name, r.expr) for r in spec.reductions])


def rewritten(expr: Expr, pair: Pair, varying: frozenset[str]) -> Expr:
    """The expression in cheaper arithmetic: exp(e - m) as 2^((e - m) log2 e), one reciprocal per row.

    exp costs its range reduction where 2^x is nearly free; (e - m) is exact or of relative error 2^-24, so is
    the product, and the weight's error is at most |e - m| 2^-23 exp(e - m) < 2^-24. `varying`: names that
    differ along the row.
    """
    if not isinstance(expr, Call):
        return expr
    args = tuple(rewritten(arg, pair, varying) for arg in expr.args)
    differences = [call("sub", pair.score, base) for base in (Ref(pair.top), _safe(pair.top))]
    if expr.fn == "exp" and plain(expr.args[0]) in differences:
        return call("exp2", call("mul", args[0], LOG2_E))
    if expr.fn == "div" and args[1] == Ref(pair.total) and refs(expr.args[0]) & varying:
        return call("mul", args[0], Ref(pair.inverse))
    return Call(expr.fn, args)


def _candidate(spec: Rows, total: Reduction) -> Pair | None:
    weight = plain(total.expr)
    if total.kind != "sum" or not isinstance(weight, Call) or weight.fn != "exp":
        return None
    difference = weight.args[0]
    if not isinstance(difference, Call) or difference.fn != "sub":
        return None
    score, base = difference.args
    if refs(score) & {r.name for r in spec.reductions}:
        return None  # one pass yields m and s, so what e reads has to be known before it
    for top in spec.reductions:
        if top.kind == "max" and plain(top.expr) == score and base in (Ref(top.name), _safe(top.name)):
            known = {e.name for e in spec.inputs} | {r.name for r in spec.reductions} | {"count"}
            inverse = "inverse"
            while inverse in known:
                inverse += "_"
            return Pair(top.name, total.name, score, base != Ref(top.name), inverse)
    return None


def _safe(name: str) -> Expr:
    return call("where", call("eq", call("abs", Ref(name)), Const(math.inf)), Const(0.0), Ref(name))


def plain(expr: Expr) -> Expr:
    """Without casts between floating types, which kernels do not make but where they decide."""
    return without(expr, lambda each: True)


def _reduced(kind: str, weight: _Weight | None) -> _Weight | None:
    """The weight of a reduction, from the weight of what it reduces."""
    if weight is None or weight.invariant:
        return weight
    if (kind == "sum" and not weight.shift) or (kind in ("max", "min") and not weight.scale):
        return weight
    return None


def _weight(expr: Expr, names: Mapping[str, _Weight]) -> _Weight | None:
    """The weight of an expression; None where it answers to d in another way."""
    if isinstance(expr, Ref):
        return names.get(expr.name, _NONE)
    if isinstance(expr, Const):
        return _NONE
    for name, weight in names.items():
        if weight == _Weight(shift=1) and expr == _safe(name):
            return weight
    found = [_weight(arg, names) for arg in expr.args]
    weights = [weight for weight in found if weight is not None]
    if len(weights) < len(found):
        return None
    if all(weight.invariant for weight in weights):
        return _NONE
    return _of_call(expr.fn, weights)


def _of_call(fn: str, weights: list[_Weight]) -> _Weight | None:
    """The weight of a function of arguments of which one at least is not invariant."""
    first, last = weights[0], weights[-1]
    scales, shifts = any(w.scale for w in weights), any(w.shift for w in weights)
    if fn.startswith("cast:") and DType(fn.removeprefix("cast:")).is_floating:
        return first
    if fn == "exp" and not scales:
        return _Weight(scale=first.shift)
    if fn == "log" and not shifts:
        return _Weight(shift=first.scale)
    if fn in ("add", "sub") and not scales:
        return _Weight(shift=first.shift + (last.shift if fn == "add" else -last.shift))
    if fn in ("mul", "div") and not shifts:
        return _Weight(scale=first.scale + (last.scale if fn == "mul" else -last.scale))
    if fn == "neg":
        return _Weight(-first.shift, first.scale)
    if fn == "reciprocal" and not shifts:
        return _Weight(scale=-first.scale)
    if fn in ("add", "sub", "maximum", "minimum") and first == last:
        return first
    if fn == "where" and first.invariant and weights[1] == last:
        return last
    return None
