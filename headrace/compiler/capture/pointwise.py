"""Pointwise ops: each is a formula over its operands, in the expression language of `headrace.ir.expr`.

A formula computes in at least float32; the builder adds the cast to the dtype of the FX value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx

from headrace.compiler.capture.builder import Builder, Operand, Scalar, Shape, Unmodelled, literal, typed
from headrace.compiler.capture.views import identity
from headrace.ir.dtype import DType
from headrace.ir.expr import Const, Expr, Ref, call, cast, parse, substitute
from headrace.ir.graph import Node
from headrace.ir.rounding import HALVES
from headrace.ir.types import TensorType, dim

aten = torch.ops.aten
prims = torch.ops.prims

Entry = Callable[..., Node]
_WIDE = (DType.I16, DType.I32, DType.I64)  # 16-bit floats hold every number of a byte


def result_type(b: Builder) -> TensorType:
    if b.result is None:
        raise Unmodelled
    return b.result


def formula(text: str, *defaults: Scalar) -> Entry:
    """An entry computing `text` over x0, x1, ...; `defaults` stand for trailing arguments left out."""
    expr = parse(text)
    arity = 1 + max(int(node.name[1:]) for node in _refs(expr))

    def entry(b: Builder, *operands: Operand) -> Node:
        missing = arity - len(operands)
        if (
            missing < 0
            or missing > len(defaults)
            or any(x is None or isinstance(x, (str, list)) for x in operands)
        ):
            raise Unmodelled
        given = [*operands, *defaults[len(defaults) - missing :]]
        return compute(b, expr, given)

    return entry


def compute(b: Builder, expr: Expr, operands: Sequence[Operand]) -> Node:
    """The formula over operands, of which integers are rounded where torch promotes them to 16-bit floats."""
    dtype = result_type(b).dtype
    if dtype in HALVES:
        names = [f"x{at}" for at, x in enumerate(operands) if isinstance(x, Node) and typed(x).dtype in _WIDE]
        expr = substitute(expr, {name: cast(dtype, Ref(name)) for name in names}) if names else expr
    return b.map(expr, operands, dtype, result_type(b).shape)


def _refs(expr: Expr) -> list[Ref]:
    from headrace.ir.expr import walk

    return [node for node in walk(expr) if isinstance(node, Ref)]


def add(b: Builder, x: Operand, y: Operand, *, alpha: Scalar = 1) -> Node:
    return compute(b, call("add", Ref("x0"), _scaled(Ref("x1"), alpha)), [x, y])


def sub(b: Builder, x: Operand, y: Operand, *, alpha: Scalar = 1) -> Node:
    return compute(b, call("sub", Ref("x0"), _scaled(Ref("x1"), alpha)), [x, y])


def rsub(b: Builder, x: Operand, y: Operand, alpha: Scalar = 1) -> Node:
    return compute(b, call("sub", Ref("x1"), _scaled(Ref("x0"), alpha)), [x, y])


def _scaled(expr: Expr, alpha: Scalar) -> Expr:
    if isinstance(alpha, sympy.Expr):
        raise Unmodelled
    return expr if alpha == 1 else call("mul", expr, alpha)


def div_mode(b: Builder, x: Operand, y: Operand, *, rounding_mode: str | None = None) -> Node:
    floating = any(
        isinstance(v, float) or (isinstance(v, Node) and typed(v).dtype.is_floating) for v in (x, y)
    )
    if rounding_mode is None:
        return compute(b, parse("div(x0, x1)"), [x, y])
    if rounding_mode == "floor":
        # Not floor(x / y), since the quotient itself may round up to a whole number.
        return compute(b, parse("floordiv(x0, x1)"), [x, y])
    if not floating:
        raise Unmodelled
    # Eager truncates the rounded quotient, but keeps that of a number in float32.
    dtype = result_type(b).dtype
    rounds = dtype in HALVES and isinstance(y, Node) and bool(typed(y).rank)
    quotient = f"cast:{dtype.value}(div(x0, x1))" if rounds else "div(x0, x1)"
    return compute(b, parse(f"where(lt({quotient}, 0), ceil({quotient}), floor({quotient}))"), [x, y])


def addcmul(b: Builder, x: Operand, y: Operand, z: Operand, *, value: Scalar = 1) -> Node:
    return compute(b, call("add", Ref("x0"), _scaled(parse("mul(x1, x2)"), value)), [x, y, z])


def addcdiv(b: Builder, x: Operand, y: Operand, z: Operand, *, value: Scalar = 1) -> Node:
    return compute(b, call("add", Ref("x0"), _scaled(parse("div(x1, x2)"), value)), [x, y, z])


def gelu(b: Builder, x: Node, *, approximate: str = "none") -> Node:
    if approximate == "tanh":
        inner = "mul(0.7978845608028654, add(x0, mul(0.044715, mul(mul(x0, x0), x0))))"
        return compute(b, parse(f"mul(mul(0.5, x0), add(1.0, tanh({inner})))"), [x])
    return compute(b, parse("mul(mul(0.5, x0), add(1.0, erf(mul(x0, 0.7071067811865476))))"), [x])


def remainder(b: Builder, x: Operand, y: Operand) -> Node:
    """x mod y; eager rounds a number to the type of the tensor."""
    dtype = result_type(b).dtype
    x, y = (_in_type(v, dtype) for v in (x, y))
    return compute(b, parse("mod(x0, x1)"), [x, y])


def _in_type(x: Operand, dtype: DType) -> Operand:
    if isinstance(x, (bool, int, float)) and dtype in HALVES:
        return float(torch.tensor(x, dtype=dtype.to_torch()).item())
    return x


def clamp(b: Builder, x: Node, low: Operand | None = None, high: Operand | None = None) -> Node:
    expr: Expr = Ref("x0")
    operands: list[Operand] = [x]
    for fn, limit in (("maximum", low), ("minimum", high)):
        if limit is not None:
            expr = call(fn, expr, Ref(f"x{len(operands)}"))
            operands.append(limit)
    return compute(b, expr, operands)


def log_sigmoid(b: Builder, x: Node) -> tuple[Node, None]:
    dtype = b.results[0].dtype if b.results and b.results[0] is not None else typed(x).dtype
    return b.map(parse("sub(minimum(x0, 0.0), log1p(exp(neg(abs(x0)))))"), [x], dtype), None


def comparison(fn: str) -> Entry:
    """x < y and its like, in the one type that torch promotes both to.

    A number, a tensor of integers, and a tensor without dimensions, is rounded to that type before it is
    compared: in bfloat16, where -10000 is -9984, such an element does equal -10000.0.
    """

    def entry(b: Builder, x: Operand, y: Operand) -> Node:
        sides: list[Expr] = [Ref("x0"), Ref("x1")]
        one, other = (_example(arg) for arg in (*b.fx.args, *b.fx.kwargs.values()))
        common = torch.result_type(one, other)
        if common.is_floating_point:
            sides = [_rounded(side, f"x{at}", common) for at, side in enumerate((x, y))]
        return compute(b, call(fn, *sides), [x, y])

    return entry


def _example(argument: object) -> Any:
    """A tensor or a number of the type of an FX argument."""
    value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
    return 1 if isinstance(value, torch.SymInt) else value


def _rounded(x: Operand, name: str, dtype: torch.dtype) -> Expr:
    """An operand as an expression in a floating type."""
    if isinstance(x, (int, float)):
        value = float(torch.tensor(x, dtype=dtype).item())
        return Const(x if x == value else value)
    if isinstance(x, Node):
        own = typed(x).dtype
        if own.to_torch() == dtype or (own.is_floating and own.itemsize < dtype.itemsize):
            return Ref(name)
    return cast(DType.from_torch(dtype), Ref(name))


def logical(fn: str) -> Entry:
    """and, or, not on truth values; other types are compared with zero first."""

    def entry(b: Builder, *operands: Operand) -> Node:
        args = []
        for at, x in enumerate(operands):
            if not isinstance(x, Node):
                raise Unmodelled
            truth = typed(x).dtype is DType.BOOL
            args.append(Ref(f"x{at}") if truth else call("ne", Ref(f"x{at}"), 0))
        return compute(b, call(fn, *args), operands)

    return entry


def bitwise(fn: str) -> Entry:
    """Bitwise on booleans is logical; on integers it is not modelled."""

    def entry(b: Builder, *operands: Operand) -> Node:
        kinds = [
            typed(x).dtype is DType.BOOL if isinstance(x, Node) else isinstance(x, bool) for x in operands
        ]
        if not all(kinds):
            raise Unmodelled
        return compute(b, call(fn, *(Ref(f"x{at}") for at in range(len(operands)))), operands)

    return entry


def masked_fill(b: Builder, x: Node, mask: Node, value: Operand) -> Node:
    if isinstance(value, (bool, int, float)):
        return compute(b, call("where", Ref("x0"), literal(value, typed(x).dtype), Ref("x1")), [mask, x])
    return compute(b, parse("where(x0, x1, x2)"), [mask, value, x])


def fill(b: Builder, *args: object, **_: object) -> Node:
    """full, full_like, new_full, scalar_tensor: one value everywhere, the last positional argument."""
    value = args[-1]
    return constant(b, value)


def constant(b: Builder, value: object) -> Node:
    dtype = result_type(b).dtype
    if isinstance(value, (bool, int, float)):
        return b.map(literal(value, dtype), [], dtype, result_type(b).shape)
    if isinstance(value, (sympy.Expr, Node)):
        return compute(b, Ref("x0"), [value])
    raise Unmodelled


def zeros(b: Builder, *_: object, **__: object) -> Node:
    return constant(b, 0)


def ones(b: Builder, *_: object, **__: object) -> Node:
    return constant(b, 1)


def iota(b: Builder, _: Scalar, *, start: Scalar = 0, step: Scalar = 1, **__: object) -> Node:
    return arange(b, start, None, step)


def arange_to(b: Builder, _: Scalar, **__: object) -> Node:
    return arange(b, 0, None, 1)


def arange(b: Builder, start: Scalar, _: object, step: Scalar = 1, **__: object) -> Node:
    """start + step*d0; symbolic starts and steps become `size` operands."""
    expr: Expr = Ref("d0")
    operands: list[Operand] = []
    for fn, value, neutral in (("mul", step, 1), ("add", start, 0)):
        if isinstance(value, sympy.Integer):
            value = int(value)
        if value == neutral and isinstance(value, int):
            continue
        if isinstance(value, sympy.Expr):
            expr = call(fn, expr, Ref(f"x{len(operands)}"))
            operands.append(value)
        else:
            expr = call(fn, expr, value)
    return compute(b, expr, operands)


def triangle(fn: str) -> Entry:
    """tril and triu: keep where row - column >= -diagonal (tril) or <= -diagonal (triu)."""

    def entry(b: Builder, x: Node, diagonal: Scalar = 0) -> Node:
        shape: Shape = typed(x).shape
        row, column = Ref(str(dim(len(shape) - 2))), Ref(str(dim(len(shape) - 1)))
        keep = call(fn, call("sub", column, row), Ref("x1"))
        return compute(b, call("where", keep, Ref("x0"), literal(0, typed(x).dtype)), [x, diagonal])

    return entry


def dropout(b: Builder, x: Node, p: float, train: bool) -> Node:
    if train and p:
        raise Unmodelled
    return identity(b, x)


def _both(name: str, text: str, *defaults: Scalar) -> dict[object, Entry]:
    """The Tensor and the Scalar overload of a binary op."""
    packet = getattr(aten, name)
    return {
        getattr(packet, overload): formula(text, *defaults)
        for overload in packet.overloads()
        if overload in ("Tensor", "Scalar")
    }


_UNARY = {
    "neg": "neg(x0)", "abs": "abs(x0)", "exp": "exp(x0)", "exp2": "exp2(x0)", "expm1": "expm1(x0)",
    "log": "log(x0)", "log2": "log2(x0)", "log1p": "log1p(x0)", "sqrt": "sqrt(x0)", "rsqrt": "rsqrt(x0)",
    "reciprocal": "reciprocal(x0)", "sin": "sin(x0)", "cos": "cos(x0)", "tanh": "tanh(x0)",
    "erf": "erf(x0)", "sigmoid": "sigmoid(x0)",
    "relu": "relu(x0)", "floor": "floor(x0)", "ceil": "ceil(x0)", "square": "mul(x0, x0)",
    "trunc": "where(lt(x0, 0), ceil(x0), floor(x0))", "silu": "mul(x0, sigmoid(x0))",
    "mish": "mul(x0, tanh(log1p(exp(x0))))", "isnan": "ne(x0, x0)", "isinf": "eq(abs(x0), inf)",
    "relu6": "minimum(maximum(x0, 0.0), 6.0)",
    "hardsigmoid": "div(minimum(maximum(add(x0, 3.0), 0.0), 6.0), 6.0)",
    "hardswish": "div(mul(x0, minimum(maximum(add(x0, 3.0), 0.0), 6.0)), 6.0)",
}  # fmt: skip

_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")

TABLE: Mapping[object, Callable[..., Node | tuple[Node | None, ...]]] = {
    **{getattr(aten, name).default: formula(text) for name, text in _UNARY.items()},
    **{
        getattr(getattr(aten, name), kind): comparison(name)
        for name in _COMPARISONS
        for kind in ("Tensor", "Scalar")
    },
    **_both("mul", "mul(x0, x1)"),
    **_both("div", "div(x0, x1)"),
    aten.remainder.Tensor: remainder,
    aten.remainder.Scalar: remainder,
    aten.add.Tensor: add,
    aten.add.Scalar: add,
    aten.sub.Tensor: sub,
    aten.sub.Scalar: sub,
    aten.rsub.Tensor: rsub,
    aten.rsub.Scalar: rsub,
    aten.div.Tensor_mode: div_mode,
    aten.div.Scalar_mode: div_mode,
    aten.floor_divide.default: formula("floordiv(x0, x1)"),
    aten.true_divide.Tensor: formula("div(x0, x1)"),
    aten.pow.Tensor_Scalar: formula("pow(x0, x1)"),
    aten.pow.Tensor_Tensor: formula("pow(x0, x1)"),
    aten.pow.Scalar: formula("pow(x0, x1)"),
    aten.maximum.default: formula("maximum(x0, x1)"),
    aten.minimum.default: formula("minimum(x0, x1)"),
    aten.where.self: formula("where(x0, x1, x2)"),
    aten.where.ScalarOther: formula("where(x0, x1, x2)"),
    aten.where.ScalarSelf: formula("where(x0, x1, x2)"),
    aten.where.Scalar: formula("where(x0, x1, x2)"),
    aten.addcmul.default: addcmul,
    aten.addcdiv.default: addcdiv,
    aten.lerp.Scalar: formula("add(x0, mul(x2, sub(x1, x0)))"),
    aten.lerp.Tensor: formula("add(x0, mul(x2, sub(x1, x0)))"),
    aten.gelu.default: gelu,
    aten.clamp.default: clamp,
    aten.clamp.Tensor: clamp,
    aten.clamp_min.default: formula("maximum(x0, x1)"),
    aten.clamp_max.default: formula("minimum(x0, x1)"),
    aten.clamp_min.Tensor: formula("maximum(x0, x1)"),
    aten.clamp_max.Tensor: formula("minimum(x0, x1)"),
    aten.hardtanh.default: formula("minimum(maximum(x0, x1), x2)", -1, 1),
    aten.leaky_relu.default: formula("where(gt(x0, 0), x0, mul(x0, x1))", 0.01),
    aten.elu.default: formula("where(gt(x0, 0), mul(x0, x2), mul(expm1(mul(x0, x3)), mul(x1, x2)))", 1, 1, 1),
    aten.softplus.default: formula("where(gt(mul(x0, x1), x2), x0, div(log1p(exp(mul(x0, x1))), x1))", 1, 20),
    aten.log_sigmoid_forward.default: log_sigmoid,
    aten.logical_and.default: logical("and"),
    aten.logical_or.default: logical("or"),
    aten.logical_not.default: logical("not"),
    aten.logical_xor.default: formula("ne(ne(x0, 0), ne(x1, 0))"),
    aten.bitwise_and.Tensor: bitwise("and"),
    aten.bitwise_or.Tensor: bitwise("or"),
    aten.bitwise_not.default: bitwise("not"),
    aten.bitwise_xor.Tensor: bitwise("ne"),
    aten.masked_fill.Scalar: masked_fill,
    aten.masked_fill.Tensor: masked_fill,
    aten.full.default: fill,
    aten.full_like.default: fill,
    aten.scalar_tensor.default: fill,
    aten.new_full.default: fill,
    aten.zeros.default: zeros,
    aten.zeros_like.default: zeros,
    aten.new_zeros.default: zeros,
    aten.ones.default: ones,
    aten.ones_like.default: ones,
    aten.new_ones.default: ones,
    prims.iota.default: iota,
    aten.arange.default: arange_to,
    aten.arange.start: arange,
    aten.arange.start_step: arange,
    aten.tril.default: triangle("le"),
    aten.triu.default: triangle("ge"),
    aten.dropout.default: dropout,
}
