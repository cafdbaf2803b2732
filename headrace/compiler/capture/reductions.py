"""Reductions, scans, and the normalizers that are made of them (softmax, layer norm, RMS norm).

Normalizers are taken apart into reductions and maps with float32 between, which is what eager's fused
kernels compute; float64 stays float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from headrace.compiler.capture.builder import Builder, Operand, Unmodelled, typed
from headrace.compiler.capture.pointwise import result_type
from headrace.compiler.capture.views import axis_of
from headrace.ir.dtype import DType
from headrace.ir.expr import parse
from headrace.ir.graph import Node
from headrace.ir.ops import Scan
from headrace.ir.size import ZERO
from headrace.ir.types import TensorType

aten = torch.ops.aten
Axes = Sequence[int] | int | None


def wide(dtype: DType) -> DType:
    """The type that a kernel accumulates in."""
    return dtype if dtype is DType.F64 else DType.F32


def axes_of(x: Node, axes: Axes) -> tuple[int, ...]:
    """Sorted axes from the front; None or an empty list means all."""
    if axes is None or axes == []:
        return tuple(range(typed(x).rank))
    chosen = [axes] if isinstance(axes, int) else list(axes)
    if not typed(x).rank:
        return ()
    return tuple(sorted(axis_of(x, axis) for axis in chosen))


def extent(x: Node, axes: Sequence[int]) -> Operand:
    """The number of elements that a reduction over axes sees: an int where static."""
    count = math.prod((typed(x).shape[axis] for axis in axes), start=1)
    return count if isinstance(count, int) else int(count) if count.is_Integer else count


def finish(b: Builder, x: Node) -> Node:
    """Bring a reduced value to the result's type and shape (keepdim)."""
    result = result_type(b)
    if typed(x).dtype != result.dtype:
        x = b.cast(x, result.dtype)
    return x if typed(x).shape == result.shape else b.reshape(x, result.shape)


def reducer(kind: str) -> Callable[..., Node]:
    """sum, prod, amax, amin, any, all over axes; `keepdim` shows in the result's shape."""

    def entry(b: Builder, x: Node, axes: Axes = None, *_: object, **__: object) -> Node:
        dtype = result_type(b).dtype
        if (
            kind in ("sum", "prod")
            and typed(x).dtype != dtype
            and not (dtype.is_floating and typed(x).dtype.is_floating)
        ):
            x = b.cast(x, dtype)
        if kind in ("any", "all") and typed(x).dtype is not DType.BOOL:
            x = b.map(parse("ne(x0, 0)"), [x])
        # any and all of uint8 are uint8 in torch; the reduction itself is boolean.
        kept = DType.BOOL if kind in ("any", "all") else dtype
        return finish(b, b.reduce(kind, x, axes_of(x, axes), kept))

    return entry


def whole(kind: str) -> Callable[..., Node]:
    """The overload without axes: over everything."""
    entry = reducer(kind)
    return lambda b, x, **_: entry(b, x)


def mean(b: Builder, x: Node, axes: Axes = None, *_: object, **__: object) -> Node:
    chosen = axes_of(x, axes)
    if not typed(x).dtype.is_floating:
        x = b.cast(x, wide(result_type(b).dtype))
    total = b.reduce("sum", x, chosen, wide(typed(x).dtype))
    return finish(b, b.map(parse("div(x0, x1)"), [total, extent(x, chosen)], result_type(b).dtype))


def best_index(kind: str) -> Callable[..., Node]:
    def entry(b: Builder, x: Node, axis: int | None = None, keep: bool = False) -> Node:
        if axis is None:
            x = b.reshape(x, (math.prod(typed(x).shape, start=ZERO + 1),))
        return finish(b, b.reduce(kind, x, axes_of(x, 0 if axis is None else axis), DType.I64))

    return entry


def _moments(b: Builder, x: Node, axes: Sequence[int], correction: float) -> tuple[Node, Node]:
    """(mean, variance) without the reduced axes, in the accumulating type."""
    dtype = wide(typed(x).dtype)
    count = extent(x, axes)
    centre = b.map(parse("div(x0, x1)"), [b.reduce("sum", x, axes, dtype), count])
    apart = b.map(parse("sub(x0, x1)"), [x, b.spread(centre, axes, typed(x).shape)])
    squares = b.reduce("sum", b.map(parse("mul(x0, x0)"), [apart]), axes)
    if isinstance(count, int):
        return centre, b.map(parse("div(x0, x1)"), [squares, float(max(count - correction, 0))])
    return centre, b.map(parse("div(x0, maximum(sub(x1, x2), 0))"), [squares, count, float(correction)])


def _correction(unbiased: object, correction: object) -> float:
    if correction is not None:
        return float(correction)  # type: ignore[arg-type]  # the schema says a number
    return 1.0 if unbiased is None or unbiased else 0.0


def variance(root: bool, with_mean: bool) -> Callable[..., Node | tuple[Node, ...]]:
    """var, std, var_mean, std_mean in their `.default`, `.dim` and `.correction` overloads."""

    def entry(b: Builder, x: Node, *args: object, **kwargs: object) -> Node | tuple[Node, ...]:
        overload = str(b.fx.target).rpartition(".")[2]
        axes: Axes = None
        unbiased: object = None
        if overload == "default":
            unbiased = args[0] if args else kwargs.get("unbiased")
        else:
            given: Any = args[0] if args else kwargs.get("dim")
            axes = given  # the schema says a list of ints
            unbiased = args[1] if len(args) > 1 and overload == "dim" else kwargs.get("unbiased")
        chosen = axes_of(x, axes)
        centre, spread = _moments(b, x, chosen, _correction(unbiased, kwargs.get("correction")))
        if root:
            spread = b.map(parse("sqrt(x0)"), [spread])
        if not with_mean:
            return finish(b, spread)
        return tuple(_as(b, value, result) for value, result in zip((spread, centre), b.results, strict=True))

    return entry


def _as(b: Builder, x: Node, wanted: TensorType | None) -> Node:
    if wanted is None:
        raise Unmodelled
    x = b.cast(x, wanted.dtype)
    return x if typed(x).shape == wanted.shape else b.reshape(x, wanted.shape)


def softmax(b: Builder, x: Node, axis: int, *_: object, **__: object) -> Node:
    """exp(x - max) / sum(exp(x - max))."""
    if result_type(b).dtype is DType.F64:
        x = b.cast(x, DType.F64)
    return weights(b, x, axis, safe=False, dtype=result_type(b).dtype)


def safe_softmax(b: Builder, x: Node, axis: int, *_: object, **__: object) -> Node:
    return weights(b, x, axis, safe=True, dtype=result_type(b).dtype)


def weights(b: Builder, x: Node, axis: int, *, safe: bool, dtype: DType) -> Node:
    """Softmax along an axis; with `safe`, a row of nothing but -inf gives zeros instead of NaN."""
    axis = axis_of(x, axis)
    if not typed(x).rank:
        raise Unmodelled
    peak = b.reduce("max", x, [axis], keep=True)
    exps = b.map(parse("exp(sub(x0, x1))"), [x, peak])
    total = b.reduce("sum", exps, [axis], keep=True)
    if safe:
        return b.map(parse("where(eq(x2, -inf), 0.0, div(x0, x1))"), [exps, total, peak], dtype)
    return b.map(parse("div(x0, x1)"), [exps, total], dtype)


def log_softmax(b: Builder, x: Node, axis: int, *_: object, **__: object) -> Node:
    """x - max - log(sum(exp(x - max)))."""
    axis = axis_of(x, axis)
    if not typed(x).rank:
        raise Unmodelled
    if result_type(b).dtype is DType.F64:
        x = b.cast(x, DType.F64)
    apart = b.map(parse("sub(x0, x1)"), [x, b.reduce("max", x, [axis], keep=True)])
    total = b.reduce("sum", b.map(parse("exp(x0)"), [apart]), [axis], keep=True)
    return b.map(parse("sub(x0, log(x1))"), [apart, total], result_type(b).dtype)


def logsumexp(b: Builder, x: Node, axes: Axes, keep: bool = False) -> Node:
    chosen = axes_of(x, axes)
    peak = b.map(parse("where(eq(abs(x0), inf), 0.0, x0)"), [b.reduce("max", x, chosen)])
    exps = b.map(parse("exp(sub(x0, x1))"), [x, b.spread(peak, chosen, typed(x).shape)])
    return finish(
        b, b.map(parse("add(log(x0), x1)"), [b.reduce("sum", exps, chosen), peak], result_type(b).dtype)
    )


def native_layer_norm(
    b: Builder, x: Node, shape: Sequence[object], weight: Node | None, bias: Node | None, eps: float
) -> tuple[Node, Node, Node]:
    axes = range(typed(x).rank - len(shape), typed(x).rank)
    centre, spread = _moments(b, x, axes, 0.0)
    inverse = b.map(parse("rsqrt(add(x0, x1))"), [spread, eps])
    rows = [b.spread(value, axes, typed(x).shape) for value in (centre, inverse)]
    text, operands = "mul(sub(x0, x1), x2)", [x, *rows]
    for fn, parameter in (("mul", weight), ("add", bias)):
        if parameter is not None:
            text = f"{fn}({text}, x{len(operands)})"
            operands.append(parameter)
    y = b.map(parse(text), operands, typed(x).dtype)
    found = [result or typed(x) for result in (*b.results, None, None, None)][:3]
    return (
        y,
        _as(b, centre, found[1]) if b.results else centre,
        _as(b, inverse, found[2]) if b.results else inverse,
    )


def layer_norm(
    b: Builder, x: Node, shape: Sequence[object], weight: Node | None = None, bias: Node | None = None,
    eps: float = 1e-5, *_: object,
) -> Node:  # fmt: skip
    return native_layer_norm(b, x, shape, weight, bias, eps)[0]


def rms_norm(
    b: Builder, x: Node, shape: Sequence[object], weight: Node | None = None, eps: float | None = None
) -> Node:
    return _rms_norm(b, x, shape, weight, eps)[0]


def _rms_norm(
    b: Builder, x: Node, shape: Sequence[object], weight: Node | None, eps: float | None
) -> tuple[Node, Node]:
    axes = range(typed(x).rank - len(shape), typed(x).rank)
    dtype = wide(typed(x).dtype)
    if eps is None:
        # The epsilon of the type that eager computes in.
        eps = torch.finfo(dtype.to_torch()).eps
    squares = b.map(parse("mul(x0, x0)"), [b.cast(x, dtype)])
    centre = b.map(parse("div(x0, x1)"), [b.reduce("sum", squares, axes), extent(x, axes)])
    inverse = b.map(parse("rsqrt(add(x0, x1))"), [centre, eps])
    operands = [x, b.spread(inverse, axes, typed(x).shape)]
    text = "mul(x0, x1)" if weight is None else "mul(mul(x0, x1), x2)"
    return b.map(parse(text), [*operands, *([] if weight is None else [weight])], typed(x).dtype), inverse


def fused_rms_norm(
    b: Builder, x: Node, shape: Sequence[object], weight: Node | None, eps: float | None
) -> tuple[Node, Node]:
    y, inverse = _rms_norm(b, x, shape, weight, eps)
    return y, _as(b, inverse, b.results[1])


def scan(kind: str) -> Callable[..., Node]:
    """An inclusive scan in the result's type."""

    def entry(b: Builder, x: Node, axis: int, *_: object, **__: object) -> Node:
        result = result_type(b)
        if not result.rank:
            return b.cast(x, result.dtype)
        if typed(x).dtype != result.dtype:
            x = b.cast(x, result.dtype)
        return b.add(Scan(kind, axis_of(x, axis)), [x], result)

    return entry


TABLE: Mapping[object, Callable[..., Node | tuple[Node | None, ...]]] = {
    aten.sum.default: whole("sum"),
    aten.sum.dim_IntList: reducer("sum"),
    aten.prod.default: whole("prod"),
    aten.prod.dim_int: reducer("prod"),
    aten.amax.default: reducer("max"),
    aten.amin.default: reducer("min"),
    aten.max.default: whole("max"),
    aten.min.default: whole("min"),
    aten.any.default: whole("any"),
    aten.any.dim: reducer("any"),
    aten.any.dims: reducer("any"),
    aten.all.default: whole("all"),
    aten.all.dim: reducer("all"),
    aten.all.dims: reducer("all"),
    aten.argmax.default: best_index("argmax"),
    aten.argmin.default: best_index("argmin"),
    aten.mean.default: mean,
    aten.mean.dim: mean,
    **{
        overload: variance(root, with_mean)
        for packet, root, with_mean in (
            (aten.var, False, False), (aten.std, True, False), 
            (aten.var_mean, False, True), (aten.std_mean, True, True),
        )
        for overload in (packet.default, packet.dim, packet.correction)
    },
    aten._softmax.default: softmax,
    aten.softmax.int: softmax,
    aten._safe_softmax.default: safe_softmax,
    aten._log_softmax.default: log_softmax,
    aten.log_softmax.int: log_softmax,
    aten.logsumexp.default: logsumexp,
    aten.native_layer_norm.default: native_layer_norm,
    aten.layer_norm.default: layer_norm,
    aten._fused_rms_norm.default: fused_rms_norm,
    aten.rms_norm.default: rms_norm,
    aten.cumsum.default: scan("sum"),
    aten.cumprod.default: scan("prod"),
}  # fmt: skip
