"""Integer expressions over sizes and indices: the functions they use, their text, and how to read it back.

Sizes come from torch's symbolic shapes, so floor division and remainder are torch's own `FloorDiv` and `Mod`.
They are built unevaluated here: `headrace.ir.index` simplifies them by ranges, and much faster.

Text is Python's: `64*d1 + d2`, `d1 // 3`, `d1 % 3`, `Max(s0, 2)`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache

import sympy

from headrace import upstream
from headrace.errors import GraphSyntaxError

torch_functions = upstream.fetch("torch.utils._sympy.functions")
FloorDiv = torch_functions.FloorDiv
Mod = torch_functions.Mod

ZERO = sympy.Integer(0)
ONE = sympy.Integer(1)

_NAMED = ("PythonMod", "CleanDiv", "CeilDiv", "Max", "Min", "PowByNatural")
_TOKEN = re.compile(r"\s*(\d+|[A-Za-z_]\w*|//|\*\*|[-+*%(),])")


def floordiv(x: sympy.Expr, y: sympy.Expr) -> sympy.Expr:
    """x // y without simplification beyond numbers."""
    if x.is_Integer and y.is_Integer:
        return sympy.Integer(int(x) // int(y))
    return x if y == 1 else FloorDiv(x, y, evaluate=False)


def mod(x: sympy.Expr, y: sympy.Expr) -> sympy.Expr:
    """x % y without simplification beyond numbers."""
    if x.is_Integer and y.is_Integer:
        return sympy.Integer(int(x) % int(y))
    return ZERO if y == 1 else Mod(x, y, evaluate=False)


@cache
def symbol(name: str) -> sympy.Symbol:
    """The symbol of a name: `d<number>` is an index, `s...` a size (positive), anything else an integer."""
    if re.fullmatch(r"d\d+", name):
        return sympy.Symbol(name, integer=True, nonnegative=True)
    if name.startswith("s"):
        return sympy.Symbol(name, integer=True, positive=True)
    return sympy.Symbol(name, integer=True)


@lru_cache(maxsize=4096)
def position(expr: sympy.Expr) -> int | None:
    """i for the index symbol d_i, None for anything else."""
    name = expr.name if expr.is_Symbol else ""
    return int(name[1:]) if name[:1] == "d" and name[1:].isdigit() else None


@lru_cache(maxsize=65536)
def quotient(whole: sympy.Expr, part: sympy.Expr) -> sympy.Expr | None:
    """whole / part where that is an integer for certain, else None."""
    if part == 1:
        return whole
    if part.is_Integer:
        coefficient, rest = whole.as_coeff_Mul()
        if coefficient.is_Integer and int(coefficient) % int(part) == 0:
            return sympy.Integer(int(coefficient) // int(part)) * rest
        return None
    ratio = whole / part
    number, rest = ratio.as_coeff_Mul()
    if not number.is_Integer:
        return None
    for factor in sympy.Mul.make_args(rest):
        if factor.is_Pow and not (factor.exp.is_Integer and factor.exp > 0):
            return None
    return ratio


def rebuild(expr: sympy.Expr, leaf: Callable[[sympy.Symbol], sympy.Expr]) -> sympy.Expr:
    """The expression with every symbol replaced by `leaf(symbol)`, functions left unevaluated."""
    if expr.is_Symbol:
        return leaf(expr)
    if not expr.args:
        return expr
    args = [rebuild(arg, leaf) for arg in expr.args]
    if isinstance(expr, FloorDiv):
        return floordiv(*args)
    if isinstance(expr, Mod):
        return mod(*args)
    return expr.func(*args)


@lru_cache(maxsize=65536)
def text(expr: sympy.Expr) -> str:
    """The text form; `parse(text(e)) == e` for symbols with the assumptions that `symbol` gives them."""
    return _text(expr, 0)


def _text(expr: sympy.Expr, outer: int) -> str:
    """Print; `outer` is the binding strength around it: 0 none, 1 sum, 2 product, 3 beside // or %."""
    if expr.is_Integer or expr.is_Symbol:
        done = str(expr)
        return f"({done})" if done.startswith("-") and outer > 1 else done
    if isinstance(expr, (FloorDiv, Mod)) and not isinstance(expr, torch_functions.CleanDiv):
        sign = "%" if isinstance(expr, Mod) else "//"
        done = f"{_text(expr.args[0], 3)} {sign} {_text(expr.args[1], 3)}"
        return f"({done})" if outer > 1 else done
    if expr.is_Add:
        parts = sorted(
            (_text(arg, 1) for arg in expr.args),
            key=lambda part: (part.lstrip("-")[:1].isdigit() and part.lstrip("-").isdigit(), part),
        )
        done = " + ".join(parts).replace("+ -", "- ")
        return f"({done})" if outer > 1 else done
    if expr.is_Mul:
        coefficient, rest = expr.as_coeff_Mul()
        factors = sorted(_text(factor, 2) for factor in sympy.Mul.make_args(rest))
        done = "*".join(factors)
        if coefficient == -1:
            done = f"-{done}"
        elif coefficient != 1:
            done = f"{coefficient}*{done}"
        return f"({done})" if outer > 2 or (outer == 2 and coefficient != 1) else done
    if expr.is_Pow:
        return f"{_text(expr.base, 3)}**{_text(expr.exp, 3)}"
    return f"{type(expr).__name__}({', '.join(_text(arg, 0) for arg in expr.args)})"


@lru_cache(maxsize=65536)
def parse(source: str) -> sympy.Expr:
    """Read what `text` writes.

    Raises:
        GraphSyntaxError: the text is not an integer expression.
    """
    tokens, at = [], 0
    while at < len(source.rstrip()):
        match = _TOKEN.match(source, at)
        if match is None:
            raise GraphSyntaxError(f"cannot read {source[at:]!r} at column {at + 1} of the size {source!r}")
        tokens.append(match[1])
        at = match.end()
    reader = _Reader(tokens, source)
    expr = reader.sum()
    if reader.peek():
        raise GraphSyntaxError(f"unexpected {reader.peek()!r} in the size {source!r}")
    return expr


class _Reader:
    """Recursive descent with Python's precedence of + - * // % ** and calls."""

    def __init__(self, tokens: list[str], source: str) -> None:
        self.tokens: Iterator[str] = iter(tokens)
        self.source = source
        self.token = next(self.tokens, "")

    def peek(self) -> str:
        return self.token

    def take(self, wanted: str = "") -> str:
        token = self.token
        if not token or (wanted and token != wanted):
            raise GraphSyntaxError(
                f"expected {wanted or 'a size'!r}, got {token!r} in the size {self.source!r}"
            )
        self.token = next(self.tokens, "")
        return token

    def sum(self) -> sympy.Expr:
        terms = [self.product()]
        while self.token in ("+", "-"):
            sign = self.take()
            term = self.product()
            terms.append(-term if sign == "-" else term)
        return sympy.Add(*terms) if len(terms) > 1 else terms[0]

    def product(self) -> sympy.Expr:
        value = self.power()
        while self.token in ("*", "//", "%"):
            sign = self.take()
            right = self.power()
            value = value * right if sign == "*" else (floordiv if sign == "//" else mod)(value, right)
        return value

    def power(self) -> sympy.Expr:
        if self.token == "-":
            self.take()
            return -self.power()
        value = self.atom()
        if self.token == "**":
            self.take()
            value = value ** self.power()
        return value

    def atom(self) -> sympy.Expr:
        token = self.take()
        if token == "(":
            value = self.sum()
            self.take(")")
            return value
        if token.isdigit():
            return sympy.Integer(int(token))
        if self.token == "(" and token in _NAMED:
            self.take()
            args = [self.sum()]
            while self.token == ",":
                self.take()
                args.append(self.sum())
            self.take(")")
            return getattr(torch_functions, token)(*args)
        if re.fullmatch(r"[A-Za-z_]\w*", token) and self.token != "(":
            return symbol(token)
        raise GraphSyntaxError(f"unexpected {token!r} in the size {self.source!r}")
