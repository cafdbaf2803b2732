"""Scalar expressions: what happens to one element, in a text form that is an interface.

An expression is a tree of three nodes, immutable and hashable:

    Ref("x")                      x              a named scalar (an input element, an index, an accumulator)
    Const(0.125)                  0.125          a Python bool, int or float
    Call("mul", (a, b))           mul(a, b)      one of FUNCTIONS below
    Call("cast:bf16", (a,))       cast:bf16(a)   rounding to an element type
    Call("round:bf16", (a,))      round:bf16(a)  the same, where the program asks for the rounding itself

`parse(str(e)) == e` for every expression. `evaluate` runs one on torch tensors (the float64 oracle);
`codegen` renders one as Triton. The same language serves Gemm epilogues, attention score and mask
expressions, and Rows programs, so a recogniser only has to build it and a template only has to print it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from headrace.errors import ExprSyntaxError
from headrace.ir.dtype import DType

if TYPE_CHECKING:
    import torch

# name -> number of arguments. Comparisons and logic yield booleans; `where` is (condition, yes, no).
# `maximum`/`minimum` propagate NaN as torch.maximum does; `div` is true division, `floordiv`/`mod` floor.
FUNCTIONS: Mapping[str, int] = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "floordiv": 2, "mod": 2, "pow": 2, "maximum": 2, "minimum": 2,
    "neg": 1, "abs": 1, "exp": 1, "exp2": 1, "expm1": 1, "log": 1, "log2": 1, "log1p": 1, "sqrt": 1,
    "rsqrt": 1, "reciprocal": 1, "sin": 1, "cos": 1, "tanh": 1, "erf": 1, "sigmoid": 1, "relu": 1,
    "floor": 1, "ceil": 1,
    "lt": 2, "le": 2, "gt": 2, "ge": 2, "eq": 2, "ne": 2, "and": 2, "or": 2, "not": 1, "where": 3,
}  # fmt: skip
# Functions whose result is floating even where every argument is an integer.
LEAVES_INTEGERS = frozenset(
    {
        "div", "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos",
        "tanh", "erf", "sigmoid",
    }
)  # fmt: skip
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
PREDICATES = COMPARISONS | {"and", "or", "not"}
# What may stand before the colon of a conversion, and the element types behind it.
CONVERSIONS: Mapping[str, frozenset[str]] = {
    "cast": frozenset(dtype.value for dtype in DType),
    "round": frozenset({DType.BF16.value, DType.F16.value}),
}
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "and", "or"})


@dataclass(frozen=True, slots=True)
class Ref:
    """A scalar by name: `[a-z][a-z0-9_]*`."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Const:
    """A literal; `inf`, `-inf` and `nan` are written by name."""

    value: bool | int | float

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        return repr(self.value)

    def _key(self) -> tuple[str, str]:
        return (type(self.value).__name__, repr(self.value))

    def __eq__(self, other: object) -> bool:
        # By type and text: 1, 1.0 and True are different literals, and nan equals itself.
        return isinstance(other, Const) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True, slots=True)
class Call:
    """A function of FUNCTIONS, `cast:<dtype>` or `round:<dtype>`, applied to expressions."""

    fn: str
    args: tuple[Expr, ...]

    def __post_init__(self) -> None:
        kind, _, dtype = self.fn.rpartition(":")
        arity = 1 if kind in CONVERSIONS else FUNCTIONS.get(self.fn)
        if arity is None:
            raise ExprSyntaxError(f"unknown function {self.fn!r}")
        if arity != len(self.args):
            raise ExprSyntaxError(f"{self.fn} takes {arity} argument(s), not {len(self.args)}")
        if kind and dtype not in CONVERSIONS[kind]:
            raise ExprSyntaxError(f"{self.fn} names no element type")

    def __str__(self) -> str:
        return f"{self.fn}({', '.join(map(str, self.args))})"


Expr = Ref | Const | Call


def call(fn: str, *args: Expr | bool | int | float) -> Expr:
    """Build a Call, lifting Python numbers to Const."""
    return Call(fn, tuple(a if isinstance(a, (Ref, Const, Call)) else Const(a) for a in args))


def cast(dtype: DType, arg: Expr) -> Expr:
    return Call(f"cast:{dtype.value}", (arg,))


def conversion(expr: Expr) -> tuple[str, DType] | None:
    """("cast" or "round", the element type) of a conversion, else None."""
    if not isinstance(expr, Call) or ":" not in expr.fn:
        return None
    kind, _, dtype = expr.fn.partition(":")
    return kind, DType(dtype)


def walk(expr: Expr) -> Iterator[Expr]:
    """Every node of the tree, parents before children."""
    yield expr
    if isinstance(expr, Call):
        for arg in expr.args:
            yield from walk(arg)


def refs(expr: Expr) -> frozenset[str]:
    """The names an expression reads."""
    return frozenset(node.name for node in walk(expr) if isinstance(node, Ref))


def substitute(expr: Expr, values: Mapping[str, Expr]) -> Expr:
    """Replace references by expressions; names not in `values` stay."""
    if isinstance(expr, Ref):
        return values.get(expr.name, expr)
    if isinstance(expr, Call):
        return Call(expr.fn, tuple(substitute(arg, values) for arg in expr.args))
    return expr


_TOKEN = re.compile(
    r"\s*(?:(-?(?:inf|nan)\b)|(-?\d+(?:\.\d*)?(?:e[+-]?\d+)?)|((?:cast|round):[a-z0-9]+|[a-z][a-z0-9_]*)|([(),]))"
)


def parse(text: str) -> Expr:
    """The expression of a text.

    Raises:
        ExprSyntaxError: with the column at which the text stops making sense.
    """
    tokens: list[tuple[str, int]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExprSyntaxError(f"cannot read {text[at : at + 12]!r} at column {at + 1} of {text!r}")
        tokens.append((match.group().strip(), at))
        at = match.end()
    expr, rest = _parse(tokens, 0, text)
    if rest != len(tokens):
        raise ExprSyntaxError(f"unexpected {tokens[rest][0]!r} at column {tokens[rest][1] + 1} of {text!r}")
    return expr


def _parse(tokens: list[tuple[str, int]], at: int, text: str) -> tuple[Expr, int]:
    if at >= len(tokens):
        raise ExprSyntaxError(f"{text!r} ends in the middle of an expression")
    token, column = tokens[at]
    at += 1
    if token in ("true", "false"):
        return Const(token == "true"), at
    if re.fullmatch(r"-?(inf|nan)", token):
        return Const(float(token)), at
    if re.fullmatch(r"-?\d+", token):
        return Const(int(token)), at
    if token[0] in "-0123456789":
        return Const(float(token)), at
    if token in "(),":
        raise ExprSyntaxError(f"unexpected {token!r} at column {column + 1} of {text!r}")
    if at < len(tokens) and tokens[at][0] == "(":
        args: list[Expr] = []
        at += 1
        while True:
            arg, at = _parse(tokens, at, text)
            args.append(arg)
            if at >= len(tokens) or tokens[at][0] not in ",)":
                raise ExprSyntaxError(f"expected ',' or ')' after argument {len(args)} of {token}: {text!r}")
            at += 1
            if tokens[at - 1][0] == ")":
                return Call(token, tuple(args)), at
    return Ref(token), at


def evaluate(expr: Expr, env: Mapping[str, torch.Tensor], *, exact: bool = True) -> torch.Tensor:
    """Run an expression on tensors, with torch's broadcasting.

    With `exact`, casts to floating types are skipped (`round` is not) and integers become float64 where a
    function leaves the integers: given float64 tensors, the value is what real arithmetic gives (the float64
    oracle). Without, each cast rounds as eager PyTorch would, and nothing else does: 16-bit values are lifted
    to float32 before any function reads them.
    """
    import torch

    if isinstance(expr, Ref):
        return env[expr.name]
    if isinstance(expr, Const):
        if isinstance(expr.value, float):
            return torch.tensor(expr.value, dtype=torch.float64)
        return torch.tensor(expr.value)
    args = [evaluate(arg, env, exact=exact) for arg in expr.args]
    if (converted := conversion(expr)) is not None:
        kind, dtype = converted
        if exact and kind == "cast" and dtype.is_floating:
            return args[0] if args[0].dtype.is_floating_point else args[0].to(torch.float64)
        rounded = args[0].to(dtype.to_torch())
        return rounded.to(torch.float64) if exact and kind == "round" else rounded
    if not exact:
        args = [arg.float() if arg.dtype in (torch.bfloat16, torch.float16) else arg for arg in args]
    elif expr.fn in LEAVES_INTEGERS:
        args = [arg if arg.dtype.is_floating_point else arg.double() for arg in args]
    return _torch_functions()[expr.fn](*args)


@lru_cache(maxsize=1)
def _torch_functions() -> Mapping[str, Callable[..., torch.Tensor]]:
    import torch

    named: dict[str, Callable[..., torch.Tensor]] = {}
    named |= {"where": torch.where, "div": torch.true_divide}
    named |= {"not": torch.logical_not, "and": torch.logical_and, "or": torch.logical_or, "neg": torch.neg}
    named |= {"mod": torch.remainder, "floordiv": torch.floor_divide}
    return {fn: named.get(fn) or getattr(torch, fn) for fn in FUNCTIONS}


def fold(expr: Expr) -> Expr:
    """Fold what is constant and drop what does nothing (x+0, x*1, neg(neg(x))); never reorders rounding.

    The value stays, the type that `infer` gives may not: `add(x, 0)` of a bf16 x is f32, x is not.
    """
    if not isinstance(expr, Call):
        return expr
    args = tuple(fold(arg) for arg in expr.args)
    match expr.fn, args:
        case ("add" | "sub", (x, Const(value=v))) if v == 0 and not isinstance(v, bool):
            return x
        case ("add", (Const(value=v), x)) if v == 0 and not isinstance(v, bool):
            return x
        case ("mul" | "div", (x, Const(value=v))) if v == 1 and not isinstance(v, bool):
            return x
        case ("mul", (Const(value=v), x)) if v == 1 and not isinstance(v, bool):
            return x
        case ("neg", (Call(fn="neg", args=(x,)),)):
            return x
        case ("neg", (Const(value=v),)) if not isinstance(v, bool):
            return Const(-v)
        case ("sqrt", (Const(value=v),)) if not isinstance(v, bool) and v >= 0:
            return Const(math.sqrt(v))
        case ("and", (Const(value=True), x)) | ("and", (x, Const(value=True))):
            return x
    return Call(expr.fn, args)
