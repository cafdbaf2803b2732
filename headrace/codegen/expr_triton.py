"""Scalar expressions as Triton text.

`render` gives every sub-expression a kind (bool, int or float) and writes Triton that computes what
`ir.expr.evaluate` computes, under these rules:

- Floating arithmetic is float32. Casts to floating types inside an expression are dropped (float32 keeps
  more than the bfloat16 or float16 that eager PyTorch rounded to); the one rounding left is that of the
  store. What a jump reads (`ir.rounding`) is computed as eager computes it instead: casts round, quotients
  and roots are exact to the last bit, and no product melts into a sum. `round` always rounds.
- Casts to integer types truncate, casts to `b8` compare with zero.
- `maximum`, `minimum` and `relu` propagate NaN; `floordiv` and `mod` floor, for integers too.
- An index is int64 to torch and int32 here: arithmetic on it stays int32 only while it surely fits, so that
  no mask wraps which eager PyTorch computes exactly.
- Integers and booleans become float32 where they meet a float, and under every function that yields floats.

Text of this module is the only kind of expression text that templates accept (`Code`, checked in
`render.py`). Functions that Triton's language lacks come from `headrace.codegen.functions`, imported as
`hr` in every kernel.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from headrace.errors import RenderError
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Const, Expr, Ref, conversion
from headrace.ir.rounding import HALVES, decisive, jumps, operand

_F32_MAX = 3.4028234663852886e38
_F32_TINY = 2.0**-126
# Indices are below 2^31 by so much that neighbouring ones can be computed in int32 as well.
LARGEST_INDEX = (1 << 31) - (1 << 24)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


class Code(str):
    """Triton text made by this module from an expression or an address."""

    __slots__ = ()


class Kind(enum.StrEnum):
    """What a value is made of."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"

    @classmethod
    def of(cls, dtype: DType) -> Kind:
        if dtype is DType.BOOL:
            return cls.BOOL
        return cls.FLOAT if dtype.is_floating else cls.INT


@dataclass(frozen=True, slots=True)
class Value:
    """Triton text with its kind.

    `const` where it is a literal, `natural` where it is an integer known >= 0, `most` where it is int64 to
    torch and int32 in the kernel: its largest magnitude. `factors` where it is a product of floats, `peak`
    where it is the maximum of what it may be subtracted from.
    """

    text: str
    kind: Kind
    const: bool | int | float | None = None
    natural: bool = False
    most: int | None = None
    factors: tuple[str, str] | None = None
    peak: bool = False

    @property
    def code(self) -> Code:
        text = self.text
        return Code(text[1:-1] if _enclosed(text) else text)


def name(
    text: str, kind: Kind, *, natural: bool = False, index: str = "", most: int | None = None,
    peak: bool = False,
) -> Value:  # fmt: skip
    """A variable of a template, e.g. `name("i", Kind.INT, index="[:, None]", most=LARGEST_INDEX)`."""
    if not _NAME.match(text) or index not in ("", "[:, None]", "[None, :]"):
        raise RenderError(f"{text}{index} is no variable of a template")
    return Value(text + index, kind, natural=natural, most=most, peak=peak)


def literal(value: bool | int | float) -> Value:
    """A number as Triton reads it; floats beyond float32 become infinities, below its normal range zero."""
    if isinstance(value, bool):
        return Value(str(value), Kind.BOOL, value)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise RenderError(f"integer {value} does not fit 64 bits")
        return Value(str(value) if value >= 0 else f"({value})", Kind.INT, value, natural=value >= 0)
    if math.isnan(value):
        return Value('float("nan")', Kind.FLOAT, value)
    if abs(value) > _F32_MAX:
        return Value(
            'float("inf")' if value > 0 else 'float("-inf")', Kind.FLOAT, math.copysign(math.inf, value)
        )
    if abs(value) < _F32_TINY:
        value = 0.0
    return Value(repr(value) if value >= 0 else f"({value!r})", Kind.FLOAT, value)


def render(expr: Expr, env: Mapping[str, Value], *, decides: bool = False) -> Value:
    """Triton text of an expression over the named values of `env`. `decides`: a jump reads it later.

    Raises:
        RenderError: the expression reads a name that `env` lacks.
    """
    return _render(expr, env, decisive(expr), decides)


def _render(expr: Expr, env: Mapping[str, Value], decisive: frozenset[Call], decides: bool) -> Value:
    if isinstance(expr, Const):
        return literal(expr.value)
    if isinstance(expr, Ref):
        if expr.name not in env:
            raise RenderError(
                f"expression reads {expr.name!r}; a template here offers {', '.join(sorted(env))}"
            )
        return env[expr.name]
    decides = decides or expr in decisive
    args = [
        _render(operand(expr, at), env, decisive, decides or jumps(expr, at)) for at in range(len(expr.args))
    ]
    return _call(expr, args, decides)


def as_float(value: Value) -> Value:
    """The value in float32."""
    if value.kind is Kind.FLOAT:
        return value
    if value.const is not None:
        return literal(float(value.const))
    return Value(f"{value.text}.to(tl.float32)", Kind.FLOAT)


def rounded_product(value: Value) -> Value:
    """A product that no compiler contracts with the difference it stands in: x y - m in one rounding is not
    zero for m = max(x y), but what the rounding of m lost, which exp may not hold once products pass 2^30.
    """
    if value.factors is None:
        return value
    left, right = value.factors
    return Value(f"tl.fma({left}, {right}, 0.0)", Kind.FLOAT)


def as_bool(value: Value) -> Value:
    if value.kind is Kind.BOOL:
        return value
    if value.const is not None:
        return literal(bool(value.const))
    return Value(f"({value.text} != 0)", Kind.BOOL)


def _as_int(value: Value, dtype: str = "int32") -> Value:
    if value.const is not None:
        if isinstance(value.const, float) and not math.isfinite(value.const):
            raise RenderError(f"{value.const} cast to an integer has no value")
        return literal(int(value.const))
    return Value(f"{value.text}.to(tl.{dtype})", Kind.INT, natural=value.kind is Kind.BOOL)


_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
# The largest magnitude that integer arithmetic gives, of its operands'.
_LARGEST: Mapping[str, Callable[[list[int]], int]] = {
    "add": sum, "sub": sum, "mul": math.prod, "maximum": max, "minimum": max, "floordiv": max, "mod": max,
    "neg": max, "abs": max, "relu": max, "where": max, "pow": lambda sizes: 1 << 31,
}  # fmt: skip
# Of booleans, torch's sum and maximum are "or": never 2.
_OF_BOOLEANS = {"add": "or", "maximum": "or", "mul": "and", "minimum": "and"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_UNARY = {
    "exp": "tl.exp", "exp2": "tl.exp2", "log": "tl.log", "log2": "tl.log2", "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt", "sin": "tl.sin", "cos": "tl.cos", "erf": "tl.erf", "sigmoid": "tl.sigmoid",
    "expm1": "hr.expm1", "log1p": "hr.log1p", "tanh": "hr.tanh",
}  # fmt: skip


_TO_THE_LAST_BIT = frozenset({"div", "reciprocal", "sqrt"})


def _call(expr: Call, args: list[Value], decides: bool) -> Value:
    fn = expr.fn
    if (converted := conversion(expr)) is not None:
        kind, dtype = converted
        return _cast(dtype, args[0], rounds=decides or kind == "round")
    if fn in _LARGEST and any(arg.most is not None for arg in args):
        args, most = _fitting(fn, args)
        return replace(_applied(expr, args, decides), most=most)
    return _applied(expr, args, decides)


def _fitting(fn: str, args: list[Value]) -> tuple[list[Value], int | None]:
    """Operands of integer arithmetic on an index, in int64 unless the result surely fits int32; its magnitude
    then."""
    if any(arg.kind is Kind.FLOAT for arg in args):
        return args, None
    sizes = [1 if arg.kind is Kind.BOOL else arg.most for arg in args if arg.const is None]
    sizes += [abs(int(arg.const)) for arg in args if arg.const is not None]
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes) and (most := _LARGEST[fn](known)) < 1 << 31:
        return args, most
    wide = [
        arg if arg.most is None else Value(f"{arg.text}.to(tl.int64)", Kind.INT, natural=arg.natural)
        for arg in args
    ]
    return wide, None


def _applied(expr: Call, args: list[Value], decides: bool) -> Value:
    fn = expr.fn
    if decides and fn in _TO_THE_LAST_BIT:
        return _to_the_last_bit(fn, [as_float(arg) for arg in args])
    if fn in _OF_BOOLEANS and all(arg.kind is Kind.BOOL for arg in args):
        return _logic(_OF_BOOLEANS[fn], args[0], args[1])
    if fn in _UNARY:
        return Value(f"{_UNARY[fn]}({_tensor(as_float(args[0]))})", Kind.FLOAT)
    if fn == "div":
        left, right = as_float(args[0]), as_float(args[1])
        return Value(f"({left.text} / {right.text})", Kind.FLOAT)
    if fn in ("add", "sub", "mul"):
        left, right = _arithmetic(args)
        if isinstance(left.const, int) and isinstance(right.const, int):
            return literal(_folded(fn, left.const, right.const))
        natural = fn != "sub" and left.natural and right.natural
        if fn != "mul" and (decides or (fn == "sub" and right.peak)):
            left, right = rounded_product(left), rounded_product(right)
        factors = (left.text, right.text) if fn == "mul" and left.kind is Kind.FLOAT else None
        return Value(f"({left.text} {_INFIX[fn]} {right.text})", left.kind, natural=natural, factors=factors)
    if fn in ("maximum", "minimum"):
        left, right = _arithmetic(args)
        nan = ", propagate_nan=tl.PropagateNan.ALL" if left.kind is Kind.FLOAT else ""
        return Value(f"tl.{fn}({left.text}, {right.text}{nan})", left.kind)
    if fn in _COMPARE:
        left, right = _same_kind(args)
        return Value(f"({left.text} {_COMPARE[fn]} {right.text})", Kind.BOOL)
    if fn in ("and", "or"):
        return _logic(fn, as_bool(args[0]), as_bool(args[1]))
    if fn == "not":
        value = as_bool(args[0])
        return literal(not value.const) if value.const is not None else Value(f"(~{value.text})", Kind.BOOL)
    if fn == "where":
        return _where(args)
    if fn in ("floordiv", "mod"):
        return _floor_division(fn, args)
    if fn == "pow":
        return _power(args)
    return _sign_and_round(fn, args[0])


def _to_the_last_bit(fn: str, args: list[Value]) -> Value:
    """Where a GPU's usual instruction is an approximation: torch's kernels do not take it."""
    if fn == "sqrt":
        return Value(f"tl.sqrt_rn({_tensor(args[0])})", Kind.FLOAT)
    left, right = args if fn == "div" else (literal(1.0), args[0])
    return Value(f"tl.div_rn({left.code}, {right.code})", Kind.FLOAT)


def _sign_and_round(fn: str, value: Value) -> Value:
    value = _as_int(value) if value.kind is Kind.BOOL else value
    if fn == "neg":
        return literal(-value.const) if value.const is not None else Value(f"(-{value.text})", value.kind)
    if fn == "abs":
        return Value(f"tl.abs({_tensor(value)})", value.kind, natural=value.kind is Kind.INT)
    if fn == "relu":
        zero, nan = ("0.0", ", propagate_nan=tl.PropagateNan.ALL") if value.kind is Kind.FLOAT else ("0", "")
        return Value(f"tl.maximum({_tensor(value)}, {zero}{nan})", value.kind, natural=value.kind is Kind.INT)
    if fn == "reciprocal":
        return Value(f"(1.0 / {as_float(value).text})", Kind.FLOAT)
    if fn in ("floor", "ceil"):
        return value if value.kind is Kind.INT else Value(f"tl.{fn}({_tensor(value)})", Kind.FLOAT)
    raise RenderError(f"function {fn!r} has no Triton form")


def _cast(dtype: DType, value: Value, *, rounds: bool) -> Value:
    if dtype.is_floating:
        value = as_float(value)
        if not rounds or dtype not in HALVES:
            return value
        text = value.text if value.const is None else _tensor(value)
        return Value(f"{text}.to(tl.{dtype.triton}).to(tl.float32)", Kind.FLOAT)
    if dtype is DType.BOOL:
        return as_bool(value)
    return _as_int(value, dtype.triton)


def _logic(fn: str, left: Value, right: Value) -> Value:
    for one, other in ((left, right), (right, left)):
        if one.const is not None:
            return other if bool(one.const) is (fn == "and") else literal(fn == "or")
    return Value(f"({left.text} {'&' if fn == 'and' else '|'} {right.text})", Kind.BOOL)


def _where(args: list[Value]) -> Value:
    chosen = as_bool(args[0])
    yes, no = _same_kind(args[1:])
    if chosen.const is not None:
        return yes if chosen.const else no
    return Value(
        f"tl.where({chosen.code}, {yes.code}, {no.code})", yes.kind, natural=yes.natural and no.natural,
        peak=yes.peak or no.peak,
    )  # fmt: skip


def _floor_division(fn: str, args: list[Value]) -> Value:
    left, right = _arithmetic(args)
    if left.kind is Kind.FLOAT:
        return Value(
            f"hr.{'floor_divide' if fn == 'floordiv' else 'remainder'}({left.text}, {right.text})", Kind.FLOAT
        )
    if left.natural and right.natural:
        return Value(
            f"({left.text} {'//' if fn == 'floordiv' else '%'} {right.text})", Kind.INT, natural=True
        )
    return Value(
        f"hr.{'floor_divide_int' if fn == 'floordiv' else 'remainder_int'}({left.text}, {right.text})",
        Kind.INT,
    )


def _power(args: list[Value]) -> Value:
    base, exponent = args
    whole = exponent.const
    if base.kind is not Kind.FLOAT and not (
        base.kind is Kind.INT and isinstance(whole, int) and 0 <= whole <= 8
    ):
        base = as_float(base)
    if whole is not None and math.isfinite(whole) and whole == int(whole) and 1 <= abs(whole) <= 8:
        product = Value(f"hr.power_{abs(int(whole))}({_tensor(base)})", base.kind)
        return product if whole > 0 else Value(f"(1.0 / {product.text})", Kind.FLOAT)
    if whole == 0.5:
        return Value(f"tl.sqrt({_tensor(as_float(base))})", Kind.FLOAT)
    if whole == -0.5:
        return Value(f"tl.rsqrt({_tensor(as_float(base))})", Kind.FLOAT)
    return Value(f"hr.power({as_float(base).text}, {as_float(exponent).text})", Kind.FLOAT)


def _arithmetic(args: list[Value]) -> tuple[Value, Value]:
    """Both as floats when one is, else both as integers."""
    left, right = args
    if Kind.FLOAT in (left.kind, right.kind):
        return as_float(left), as_float(right)
    left, right = (_as_int(value) if value.kind is Kind.BOOL else value for value in args)
    return _beside(left, right), _beside(right, left)


def _same_kind(args: list[Value]) -> tuple[Value, Value]:
    if args[0].kind is args[1].kind and args[0].kind is not Kind.INT:
        return args[0], args[1]
    return _arithmetic(args)


def _beside(value: Value, other: Value) -> Value:
    """An integer in int64 where it meets a literal that int32 does not hold, which Triton would refuse."""
    if not isinstance(other.const, int) or -(1 << 31) <= other.const < 1 << 31 or value.const is not None:
        return value
    return replace(value, text=f"{value.text}.to(tl.int64)", most=None)


def _folded(fn: str, left: int, right: int) -> int:
    """Arithmetic of two literals, which wraps in int64 as torch's does."""
    exact = left + right if fn == "add" else left - right if fn == "sub" else left * right
    return (exact + (1 << 63)) % (1 << 64) - (1 << 63)


def _tensor(value: Value) -> str:
    """Text that is a tensor even where the value is a literal: Triton's functions take no Python numbers."""
    if value.const is None:
        return str(value.code)
    return f"tl.full([], {value.code}, tl.{'float32' if value.kind is Kind.FLOAT else 'int32'})"


def _enclosed(text: str) -> bool:
    """True where one pair of parentheses encloses everything."""
    if not text.startswith("("):
        return False
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at == len(text) - 1
    return False


def filled(value: Value, shape: str) -> Code:
    """The value's text, a literal as a filled tensor of `shape` (text such as `[BLOCK_N]`)."""
    if value.const is None:
        return value.code
    return Code(f"tl.full({shape}, {as_float(value).code}, tl.float32)")


def conjunction(values: list[str]) -> Code:
    """`a & b & c` of texts that are each atomic or parenthesised; empty text when there is nothing to
    test."""
    return Code(" & ".join(values))


def total(terms: list[str]) -> Code:
    """`a + b + c`, the address of an element."""
    return Code(" + ".join(terms))
