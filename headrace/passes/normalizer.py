"""Recognising a row normalizer: how weights come from scores, however softmax was written.

Softmax does not change when every score of a row moves by the same finite amount, so a maximum along the keys
and a literal cancel. Any other term that does not depend on the key stays in the score, since it may be -inf:
a mask of whole rows. What is left to check is that the sum in the denominator runs over the very weights in
the numerator.

    div(exp(sub(x, max(x))), sum(exp(sub(x, max(x)))))       safe softmax, as PyTorch computes it
    div(exp(x), sum(exp(x)))                                  without a stabilizer
    exp(sub(x, add(log(sum(exp(sub(x, m)))), m)))             through log-sum-exp
    where(eq(max(x), -inf), 0, softmax(x))                    zeros where every key is hidden
    sigmoid(x)                                                sigmoid attention
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.errors import Unreadable
from headrace.ir.expr import Call, Const, Expr, Ref, call
from headrace.ir.index import Index
from headrace.ir.ops import Extern, Reduce
from headrace.ir.size import ZERO
from headrace.ir.spec import Denominator, Normalizer, Stabilizer, Weighting
from headrace.ir.types import dim
from headrace.passes.algebra import bare, number, strip, terms, tidy, total
from headrace.passes.reading import Reader, typed

SOFTMAX = Normalizer()
SIGMOID = Normalizer(Weighting.SIGMOID, Denominator.NONE, Stabilizer.NONE)
_HIDDEN = Const(-math.inf)


@dataclass(frozen=True, slots=True)
class Weights:
    """weights = normalizer(scores); `safe` where rows without a visible key give zeros."""

    normalizer: Normalizer
    scores: Expr
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Matcher:
    """Matches expressions of one reader against the normalizers along dimension `key` of its domain."""

    reader: Reader
    key: int

    def match(self, weights: Expr) -> Weights:
        """How `weights` come from scores.

        Raises:
            Unreadable: with what is missing.
        """
        weights = self._plain(weights)
        for access in self.reader.accessed(weights).values():
            op = self.reader.graph[access.node].op
            if isinstance(op, Extern) and any(word in op.target for word in ("rand", "bernoulli", "dropout")):
                raise Unreadable("the weights pass through dropout")
        if isinstance(weights, Call) and weights.fn == "where":
            return self._guarded(weights)
        if isinstance(weights, Call) and weights.fn == "sigmoid":
            return Weights(SIGMOID, weights.args[0])
        if isinstance(weights, Call) and weights.fn == "div":
            return self._quotient(weights.args[0], weights.args[1])
        if isinstance(weights, Call) and weights.fn == "exp":
            return self._logarithmic(weights.args[0])
        if isinstance(weights, Call) and weights.fn == "mul":
            raise Unreadable("the weights are changed after they were normalized")
        raise Unreadable("the scores are not normalized along the keys")

    def _plain(self, expr: Expr) -> Expr:
        """Tidy, without roundings that do not decide; where(m, exp(x), 0) as exp(where(m, x, -inf))."""
        return _hide(tidy(strip(expr, self.reader.dtypes), self.reader.dtypes))

    def reduced(self, expr: Expr, kind: str) -> Expr | None:
        """The row that `expr` reduces along the key dimension, as an expression over the domain."""
        if not isinstance(expr, Ref) or expr.name not in self.reader.accesses:
            return None
        access = self.reader.accesses[expr.name]
        node = self.reader.graph[access.node]
        if (
            not isinstance(node.op, Reduce)
            or node.op.kind != kind
            or len(node.op.axes) != 1
            or access.reads(self.key)
        ):
            return None
        source = self.reader.graph[node.operands[0]]
        axis = node.op.axes[0]
        extent = self.reader.shape[self.key]
        if typed(source).shape[axis] != extent:
            return None
        step = ZERO if extent == 1 else dim(self.key)
        index: Index = (*access.index[:axis], step, *access.index[axis:])
        return self._plain(self.reader.read(source.name, index))

    def _quotient(self, weight: Expr, denominator: Expr) -> Weights:
        row = self.reduced(denominator, "sum")
        if row is None:
            raise Unreadable("the denominator is not the sum over the keys")
        if not (isinstance(weight, Call) and weight.fn == "exp"):
            raise Unreadable("the weights are neither exponentials nor sigmoids")
        if row != weight:
            raise Unreadable("the denominator sums something else than the weights")
        return Weights(SOFTMAX, self._varying(weight.args[0]))

    def _logarithmic(self, exponent: Expr) -> Weights:
        """exp(x - log(sum(exp(y)))) with x = y up to what cancels."""
        parts = terms(exponent)
        for sign, part in parts:
            if sign < 0 and isinstance(part, Call) and part.fn == "log":
                row = self.reduced(part.args[0], "sum")
                if row is None or not (isinstance(row, Call) and row.fn == "exp"):
                    continue
                rest = [each for each in parts if each != (sign, part)]
                if sorted(map(str, rest)) == sorted(map(str, terms(row.args[0]))):
                    return Weights(SOFTMAX, self._varying(row.args[0]))
        raise Unreadable("exponentials without a sum over the keys")

    def _varying(self, exponent: Expr) -> Expr:
        """Without the terms that cancel: finite literals, and the maxima of rows."""
        return total([part for part in terms(exponent) if not self._cancels(*part)])

    def _cancels(self, sign: int, term: Expr) -> bool:
        return _is_finite(term) or (sign < 0 and self.reduced(self._unguarded(term), "max") is not None)

    def _guarded(self, weights: Call) -> Weights:
        """where(row is hidden, 0, softmax), or where(visible, sigmoid, 0)."""
        condition, yes, no = weights.args
        if number(no) == 0 and not (isinstance(condition, Call) and condition.fn == "eq"):
            hidden, inner = call("not", condition), yes
        elif number(yes) == 0:
            hidden, inner = condition, no
        else:
            raise Unreadable("the weights are chosen by a condition")
        if self.reader.varies(hidden, self.key):
            if isinstance(inner, Call) and inner.fn == "sigmoid":
                return Weights(SIGMOID, call("where", hidden, _HIDDEN, inner.args[0]))
            raise Unreadable("weights are masked after they were normalized")
        found = self.match(inner)
        if found.normalizer is SOFTMAX and self._all_hidden(hidden, found.scores):
            return Weights(found.normalizer, found.scores, safe=True)
        raise Unreadable("rows are zeroed by a condition other than: every score is -inf")

    def _all_hidden(self, condition: Expr, scores: Expr) -> bool:
        """Whether a condition says that every score of the row is -inf."""
        if isinstance(condition, Call) and condition.fn == "not":
            row = self.reduced(condition.args[0], "any")
            if isinstance(row, Call) and row.fn == "not":
                return self._compares(row.args[0], "eq", scores)
            return self._compares(row, "ne", scores)
        if isinstance(condition, Call) and condition.fn == "eq" and condition.args[1] == _HIDDEN:
            row = self.reduced(condition.args[0], "max")
            # A row without its maximum is NaN where every score is -inf, so only literals may be left out.
            return row is not None and self._same(
                total([p for p in terms(row) if not _is_finite(p[1])]), scores
            )
        return self._compares(self.reduced(condition, "all"), "eq", scores)

    def _compares(self, row: Expr | None, fn: str, scores: Expr) -> bool:
        """Whether a row says of each score that it is -inf, or is not."""
        return (
            isinstance(row, Call)
            and row.fn == fn
            and row.args[1] == _HIDDEN
            and self._same(row.args[0], scores)
        )

    def _unguarded(self, term: Expr) -> Expr:
        """m of where(eq(abs(m), inf), 0, m): log-sum-exp does not subtract a maximum that is infinite."""
        if isinstance(term, Call) and term.fn == "where":
            condition, zero, m = term.args
            if number(zero) == 0 and isinstance(condition, Call) and condition.fn == "eq":
                size, infinite = condition.args
                if infinite == Const(math.inf) and self._same(size, call("abs", m)):
                    return m
        return term

    def _same(self, x: Expr, y: Expr) -> bool:
        """Equal but for roundings and spelling, which a comparison with infinity leaves in what it reads."""
        x, y = (tidy(bare(each, self.reader.dtypes), self.reader.dtypes) for each in (x, y))
        return x == y


def _is_finite(term: Expr) -> bool:
    value = number(term)
    return value is not None and math.isfinite(value)


def _hide(expr: Expr) -> Expr:
    if not isinstance(expr, Call):
        return expr
    args = tuple(_hide(arg) for arg in expr.args)
    if expr.fn == "where":
        c, x, y = args
        if isinstance(x, Call) and x.fn == "exp" and number(y) == 0:
            return call("exp", call("where", c, x.args[0], _HIDDEN))
        if isinstance(y, Call) and y.fn == "exp" and number(x) == 0:
            return call("exp", call("where", c, _HIDDEN, y.args[0]))
    return Call(expr.fn, args)
