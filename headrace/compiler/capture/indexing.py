"""Reads and writes at computed positions along one axis: `gather` and `scatter`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from headrace.compiler.capture.builder import Builder, Unmodelled, typed
from headrace.compiler.capture.pointwise import result_type
from headrace.compiler.capture.views import axis_of
from headrace.ir.dtype import DType
from headrace.ir.graph import Node
from headrace.ir.ops import Gather, Scatter
from headrace.ir.types import TensorType

aten = torch.ops.aten


def gather(b: Builder, x: Node, index: Node, axis: int) -> Node:
    old, where = typed(x), typed(index)
    if where.dtype not in (DType.I64, DType.I32):
        raise Unmodelled
    shape = (*old.shape[:axis], *where.shape, *old.shape[axis + 1 :])
    return b.add(Gather(axis), [x, index], TensorType(old.dtype, shape))


def embedding(b: Builder, weight: Node, index: Node, *_: object, **__: object) -> Node:
    return gather(b, weight, index, 0)


def index_select(b: Builder, x: Node, axis: int, index: Node) -> Node:
    if typed(index).rank != 1 or not typed(x).rank:
        raise Unmodelled
    return gather(b, x, index, axis_of(x, axis))


def single(indices: Sequence[Node | None]) -> tuple[int, Node]:
    """(axis, index) of an advanced index along exactly one axis."""
    found = [(at, index) for at, index in enumerate(indices) if index is not None]
    if len(found) != 1:
        raise Unmodelled
    return found[0]


def index(b: Builder, x: Node, indices: Sequence[Node | None]) -> Node:
    axis, where = single(indices)
    return gather(b, x, where, axis)


def scatter(b: Builder, x: Node, axis: int, index: Node, values: Node, accumulate: bool) -> Node:
    if typed(index).dtype not in (DType.I64, DType.I32) or typed(values).dtype != typed(x).dtype:
        raise Unmodelled
    shape = typed(x).shape
    wanted = (*shape[:axis], *typed(index).shape, *shape[axis + 1 :])
    return b.add(Scatter(axis, accumulate), [x, index, b.broadcast(values, wanted)], result_type(b))


def index_put(
    b: Builder, x: Node, indices: Sequence[Node | None], values: Node, accumulate: bool = False
) -> Node:
    axis, where = single(indices)
    return scatter(b, x, axis, where, values, accumulate)


def index_copy(b: Builder, x: Node, axis: int, index: Node, values: Node) -> Node:
    if typed(index).rank != 1 or not typed(x).rank:
        raise Unmodelled
    return scatter(b, x, axis_of(x, axis), index, values, False)


def index_add(b: Builder, x: Node, axis: int, index: Node, values: Node, *, alpha: float = 1) -> Node:
    if typed(index).rank != 1 or not typed(x).rank or alpha != 1:
        raise Unmodelled
    return scatter(b, x, axis_of(x, axis), index, values, True)


TABLE: Mapping[object, Callable[..., Node]] = {
    aten.embedding.default: embedding,
    aten.index_select.default: index_select,
    aten.index.Tensor: index,
    aten._unsafe_index.Tensor: index,
    aten.index_put.default: index_put,
    aten._unsafe_index_put.default: index_put,
    aten.index_copy.default: index_copy,
    aten.index_add.default: index_add,
}
