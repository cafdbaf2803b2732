"""Ops that move no data: each is an index map over its operand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import sympy
import torch

from headrace.compiler.capture.builder import Builder, Shape, Unmodelled, typed
from headrace.ir import index as maps
from headrace.ir.graph import Node
from headrace.ir.size import ONE, ZERO
from headrace.ir.types import dim

aten = torch.ops.aten


def result_shape(b: Builder) -> Shape:
    if b.result is None:
        raise Unmodelled
    return b.result.shape


def axis_of(x: Node, axis: int) -> int:
    """A dimension counted from the front."""
    return axis % max(typed(x).rank, 1)


def identity(b: Builder, x: Node, *_: object, **__: object) -> Node:
    return b.view(x, maps.identity(typed(x).shape), typed(x).shape)


def reshape(b: Builder, x: Node, *_: object, **__: object) -> Node:
    """Any op that keeps the row-major order of elements; the new shape is the result's."""
    return b.reshape(x, result_shape(b))


def permute(b: Builder, x: Node, dims: Sequence[int]) -> Node:
    order = [axis_of(x, axis) for axis in dims]
    index = [dim(order.index(at)) for at in range(len(order))]
    return b.view(x, index, tuple(typed(x).shape[at] for at in order))


def transpose(b: Builder, x: Node, first: int = -1, second: int = -2) -> Node:
    order = list(range(typed(x).rank))
    if not order:
        return identity(b, x)
    first, second = axis_of(x, first), axis_of(x, second)
    order[first], order[second] = order[second], order[first]
    return permute(b, x, order)


def transpose_matrix(b: Builder, x: Node) -> Node:
    return transpose(b, x, 0, 1) if typed(x).rank == 2 else identity(b, x)


def expand(b: Builder, x: Node, *_: object, **__: object) -> Node:
    return b.broadcast(x, result_shape(b)) if typed(x).shape != result_shape(b) else identity(b, x)


def unsqueeze(b: Builder, x: Node, axis: int) -> Node:
    rank = typed(x).rank
    axis %= rank + 1
    old = typed(x).shape
    return b.view(x, [dim(at + (at >= axis)) for at in range(rank)], (*old[:axis], ONE, *old[axis:]))


def slice_(
    b: Builder,
    x: Node,
    axis: int = 0,
    start: sympy.Expr | int | None = None,
    end: sympy.Expr | int | None = None,
    step: sympy.Expr | int = 1,
) -> Node:
    shape = result_shape(b)
    axis = axis_of(x, axis)
    index = [dim(at) for at in range(len(shape))]
    index[axis] = dim(axis) * sympy.sympify(step) + first_of(typed(x).shape[axis], start)
    return b.view(x, index, shape)


def first_of(extent: sympy.Expr, start: sympy.Expr | int | None) -> sympy.Expr:
    """Where a slice starts: from the end where negative, then clamped at 0; past the end it is empty."""
    first = ZERO if start is None else sympy.sympify(start)
    if first.is_nonnegative:
        return first
    if first.is_negative and (first + extent).is_nonnegative:
        return first + extent
    if first.is_negative and (first + extent).is_negative:
        return ZERO
    raise Unmodelled


def select(b: Builder, x: Node, axis: int, at: sympy.Expr | int) -> Node:
    axis = axis_of(x, axis)
    index = [dim(k - (k > axis)) for k in range(typed(x).rank)]
    index[axis] = first_of(typed(x).shape[axis], at)
    return b.view(x, index, result_shape(b))


def flip(b: Builder, x: Node, axes: Sequence[int]) -> Node:
    flipped = {axis_of(x, axis) for axis in axes}
    shape = typed(x).shape
    index = [shape[at] - 1 - dim(at) if at in flipped else dim(at) for at in range(len(shape))]
    return b.view(x, index, shape)


def repeat(b: Builder, x: Node, _: Sequence[object]) -> Node:
    shape = result_shape(b)
    old = typed(x).shape
    lead = len(shape) - len(old)
    return b.view(x, [maps.mod(dim(lead + at), extent, shape) for at, extent in enumerate(old)], shape)


def diagonal(b: Builder, x: Node, offset: int = 0, first: int = 0, second: int = 1) -> Node:
    shape = result_shape(b)
    first, second = axis_of(x, first), axis_of(x, second)
    rest = iter(range(len(shape) - 1))
    last = dim(len(shape) - 1)
    index = [
        last + max(-offset, 0) if at == first else last + max(offset, 0) if at == second else dim(next(rest))
        for at in range(typed(x).rank)
    ]
    return b.view(x, index, shape)


def pieces(b: Builder, x: Node, _: object, axis: int = 0) -> tuple[Node, ...]:
    """split, split_with_sizes, chunk: consecutive slices along an axis."""
    axis = axis_of(x, axis)
    start: sympy.Expr = ZERO
    found = []
    for result in b.results:
        if result is None:
            raise Unmodelled
        index = [dim(at) + (start if at == axis else ZERO) for at in range(result.rank)]
        found.append(b.view(x, index, result.shape))
        start = start + result.shape[axis]
    return tuple(found)


def unbind(b: Builder, x: Node, axis: int = 0) -> tuple[Node, ...]:
    axis = axis_of(x, axis)
    found = []
    for at, result in enumerate(b.results):
        if result is None:
            raise Unmodelled
        index = [dim(k - (k > axis)) for k in range(typed(x).rank)]
        index[axis] = sympy.Integer(at)
        found.append(b.view(x, index, result.shape))
    return tuple(found)


TABLE: Mapping[object, Callable[..., Node | tuple[Node, ...]]] = {
    aten.view.default: reshape,
    aten.reshape.default: reshape,
    aten._unsafe_view.default: reshape,
    aten._reshape_copy.default: reshape,
    aten.view_copy.default: reshape,
    aten.flatten.using_ints: reshape,
    aten.unflatten.int: reshape,
    aten.squeeze.default: reshape,
    aten.squeeze.dim: reshape,
    aten.squeeze.dims: reshape,
    aten.squeeze_copy.dim: reshape,
    aten.unsqueeze.default: unsqueeze,
    aten.unsqueeze_copy.default: unsqueeze,
    aten.permute.default: permute,
    aten.permute_copy.default: permute,
    aten.transpose.int: transpose,
    aten.transpose_copy.int: transpose,
    aten.t.default: transpose_matrix,
    aten.t_copy.default: transpose_matrix,
    aten.mT.default: transpose,
    aten.adjoint.default: transpose,
    aten.expand.default: expand,
    aten.expand_copy.default: expand,
    aten.slice.Tensor: slice_,
    aten.slice_copy.Tensor: slice_,
    aten.select.int: select,
    aten.select_copy.int: select,
    aten.flip.default: flip,
    torch.ops.prims.rev.default: flip,
    aten.repeat.default: repeat,
    aten.diagonal.default: diagonal,
    aten.diagonal_copy.default: diagonal,
    aten.split.Tensor: pieces,
    aten.split_with_sizes.default: pieces,
    aten.unbind.int: unbind,
    aten.clone.default: identity,
    aten.contiguous.default: identity,
    aten.alias.default: identity,
    aten.detach.default: identity,
    aten.lift_fresh_copy.default: identity,
    torch.ops.prims.view_of.default: identity,
}
