"""Casts, and which of them the program asks for as a rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import fx

from headrace.compiler.capture.builder import Builder, Unmodelled, typed
from headrace.compiler.capture.pointwise import compute, result_type
from headrace.compiler.capture.views import identity
from headrace.ir.expr import Ref, call
from headrace.ir.graph import Node
from headrace.ir.rounding import HALVES

aten = torch.ops.aten
prims = torch.ops.prims


def convert(b: Builder, x: Node, dtype: torch.dtype | None = None, *_: object, **kwargs: object) -> Node:
    """Casts. A cast to the same type is the identity; moving between devices or layouts is not modelled.

    A rounding is one that the program asks for where it wrote the cast and computes on in a wider type.
    """
    wanted = b.fx.meta["val"]
    given = b.fx.all_input_nodes[0].meta["val"]
    if wanted.device != given.device or wanted.layout != given.layout:
        raise Unmodelled
    if result_type(b).dtype == typed(x).dtype:
        return identity(b, x)
    if result_type(b).dtype in HALVES and typed(x).dtype.is_floating and is_asked_for(b.fx):
        return compute(b, call(f"round:{result_type(b).dtype.value}", Ref("x0")), [x])
    return compute(b, Ref("x0"), [x])


def is_asked_for(node: fx.Node) -> bool:
    """Whether the program wrote a cast, which no decomposition made, and reads its value in a wider type."""
    return _is_written(node) and _read_in_wider_type(node)


def _is_written(node: fx.Node) -> bool:
    return str(node.meta.get("original_aten")) in _WRITTEN_CASTS


def _read_in_wider_type(node: fx.Node) -> bool:
    """Whether floating numbers of a wider type are made of a value, through what moves or chooses it.

    Not by what a decomposition does inside of an operator, whose result is no wider.
    """
    itemsize = node.meta["val"].dtype.itemsize
    seen, waiting = {node}, [node]
    while waiting:
        for user in waiting.pop().users:
            value = user.meta.get("val")
            if not user.users or not isinstance(value, torch.Tensor) or not value.is_floating_point():
                continue
            if value.dtype.itemsize > itemsize and (user.target not in TABLE or _is_written(user)):
                return True
            if user.target in _KEEPING and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


# Operators that a cast in a program becomes, by name; nodes that were never decomposed name none.
_WRITTEN_CASTS = ("None", "aten._to_copy.default", "aten.to.dtype", "prims.convert_element_type.default")
# What gives elements of its operand as they are, or with another sign.
_KEEPING = frozenset(
    {
        aten.neg.default, aten.abs.default, aten.clone.default, aten.where.self, aten.cat.default,
        aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.permute.default,
        aten.expand.default, aten.transpose.int, aten.slice.Tensor, aten.select.int, aten.squeeze.dim,
        aten.squeeze.dims, aten.unsqueeze.default, aten.maximum.default, aten.minimum.default,
        aten.amax.default, aten.amin.default, aten.relu.default, aten.index_select.default,
    }
)  # fmt: skip

TABLE: Mapping[object, Callable[..., Node]] = {
    aten._to_copy.default: convert,
    aten.to.dtype: convert,
    prims.convert_element_type.default: convert,
}
