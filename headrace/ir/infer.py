"""Type inference: the element type of an expression, and the tensor type of an op from its operands'.

Arithmetic on 16-bit floats yields float32 until a `cast` rounds; functions that only choose or negate
(`where`, `maximum`, `neg`, ...) are exact and keep the type. Literals adapt to what they meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.ir.dtype import DType
from headrace.ir.expr import LEAVES_INTEGERS, PREDICATES, Const, Expr, Ref, conversion

EXACT = frozenset({"where", "maximum", "minimum", "neg", "abs", "relu", "floor", "ceil"})
_INTEGERS = (DType.BOOL, DType.U8, DType.I8, DType.I16, DType.I32, DType.I64)


def promote(a: DType, b: DType) -> DType:
    """The type that holds values of both, as torch promotes tensors of equal rank."""
    if a == b:
        return a
    if a.is_floating and b.is_floating:
        if a.itemsize == b.itemsize:
            return DType.F32
        return max(a, b, key=lambda dtype: dtype.itemsize)
    if a.is_floating or b.is_floating:
        return a if a.is_floating else b
    if {a, b} == {DType.U8, DType.I8}:
        return DType.I16
    return max(a, b, key=_INTEGERS.index)


def expr_dtype(expr: Expr, env: Mapping[str, DType]) -> DType:
    """The element type of an expression; names absent from `env` are indices (i64)."""
    return _infer(expr, env)[0]


def _infer(expr: Expr, env: Mapping[str, DType]) -> tuple[DType, bool]:
    """(type, whether it is only a literal's and gives way)."""
    if isinstance(expr, Ref):
        return env.get(expr.name, DType.I64), False
    if isinstance(expr, Const):
        if isinstance(expr.value, bool):
            return DType.BOOL, True
        return (DType.I64 if isinstance(expr.value, int) else DType.F32), True
    if (converted := conversion(expr)) is not None:
        return converted[1], False
    if expr.fn in PREDICATES:
        return DType.BOOL, False
    dtype, weak = _join([_infer(arg, env) for arg in (expr.args[1:] if expr.fn == "where" else expr.args)])
    if expr.fn in LEAVES_INTEGERS and not dtype.is_floating:
        dtype = DType.F32
    if dtype.is_floating and dtype.itemsize < 4 and expr.fn not in EXACT:
        dtype = DType.F32
    return dtype, weak


def _join(found: Sequence[tuple[DType, bool]]) -> tuple[DType, bool]:
    dtype, weak = found[0]
    for other, other_weak in found[1:]:
        if weak == other_weak:
            dtype = promote(dtype, other)
        elif weak:
            dtype = _adapt(dtype, other)
        else:
            dtype = _adapt(other, dtype)
        weak = weak and other_weak
    return dtype, weak


def _adapt(literal: DType, strong: DType) -> DType:
    """The type where a literal meets a value: the value's, unless the literal is of a higher kind."""
    kinds = [1 + dtype.is_floating if dtype is not DType.BOOL else 0 for dtype in (literal, strong)]
    return literal if kinds[0] > kinds[1] else strong
