"""Matrix products and scaled dot-product attention, as `contract` nodes and the maps around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from headrace.compiler.capture.builder import Builder, Scalar, Unmodelled, broadcast_shape, typed
from headrace.compiler.capture.pointwise import result_type
from headrace.compiler.capture.reductions import weights, wide
from headrace.ir.dtype import DType
from headrace.ir.expr import Expr, Ref, call, parse
from headrace.ir.graph import Node
from headrace.ir.index import floordiv
from headrace.ir.size import ONE
from headrace.ir.types import dim

aten = torch.ops.aten

_BATCH = "abcdefgh"


def mm(b: Builder, x: Node, y: Node) -> Node:
    return b.contract("mk,kn->mn", x, y, result_type(b).dtype)


def bmm(b: Builder, x: Node, y: Node) -> Node:
    return b.contract("bmk,bkn->bmn", x, y, result_type(b).dtype)


def mv(b: Builder, x: Node, y: Node) -> Node:
    return b.contract("mk,k->m", x, y, result_type(b).dtype)


def dot(b: Builder, x: Node, y: Node) -> Node:
    return b.contract("k,k->", x, y, result_type(b).dtype)


def accumulate(equation: str) -> Callable[..., Node]:
    """beta*c + alpha*(x @ y), rounded once; beta 0 ignores c, as eager does."""

    def entry(b: Builder, c: Node, x: Node, y: Node, *, beta: Scalar = 1, alpha: Scalar = 1) -> Node:
        product = b.contract(
            equation, x, y, wide(result_type(b).dtype) if result_type(b).dtype.is_floating else DType.I64
        )
        expr: Expr = Ref("x0") if alpha == 1 else call("mul", Ref("x0"), alpha)
        if beta == 0:
            return b.map(expr, [product], result_type(b).dtype)
        bias: Expr = Ref("x1") if beta == 1 else call("mul", Ref("x1"), beta)
        return b.map(call("add", expr, bias), [product, c], result_type(b).dtype, result_type(b).shape)

    return entry


def linear(b: Builder, x: Node, weight: Node, bias: Node | None = None) -> Node:
    lead = _BATCH[: typed(x).rank - 1]
    if typed(weight).rank != 2:
        raise Unmodelled
    equation = f"{lead}k,nk->{lead}n"
    if bias is None:
        return b.contract(equation, x, weight, result_type(b).dtype)
    product = b.contract(equation, x, weight, wide(result_type(b).dtype))
    return b.map(parse("add(x0, x1)"), [product, bias], result_type(b).dtype)


def matmul(b: Builder, x: Node, y: Node) -> Node:
    """torch.matmul of any ranks: batch dimensions broadcast."""
    dtype = result_type(b).dtype
    rx, ry = typed(x).rank, typed(y).rank
    if rx == 1 and ry == 1:
        return dot(b, x, y)
    if rx == 1:
        x = b.reshape(x, (ONE, *typed(x).shape))
    if ry == 1:
        y = b.reshape(y, (*typed(y).shape, ONE))
    product = batched(b, x, y, "mk,kn->mn", dtype)
    return (
        product if typed(product).shape == result_type(b).shape else b.reshape(product, result_type(b).shape)
    )


def batched(b: Builder, x: Node, y: Node, equation: str, dtype: DType) -> Node:
    """A product of the last two dimensions with every earlier dimension a (broadcast) batch."""
    left, _, out = equation.partition("->")
    lead = broadcast_shape([typed(x).shape[:-2], typed(y).shape[:-2]])
    letters = _BATCH[: len(lead)]
    if len(lead) > len(_BATCH):
        raise Unmodelled
    x = b.broadcast(x, (*lead, *typed(x).shape[-2:]))
    y = b.broadcast(y, (*lead, *typed(y).shape[-2:]))
    first, second = left.split(",")
    return b.contract(f"{letters}{first},{letters}{second}->{letters}{out}", x, y, dtype)


# Attention


def attend(
    b: Builder,
    q: Node,
    k: Node,
    v: Node,
    mask: Node | None,
    causal: bool,
    scale: float | None,
    dropout: float,
) -> Node:
    """softmax(scale * q k^T + mask) v, with float32 between, rounded once.

    A row of nothing but -inf gives zeros, as in every eager implementation: whether a mask hides its keys
    or infinite queries and keys make its scores. `causal` is aligned top left: key j is visible to query i
    where j <= i.
    """
    if dropout or not typed(q).dtype.is_floating:
        raise Unmodelled
    size = typed(q).shape[-1]
    if scale is None and size.is_Integer:
        scale = 1.0 / math.sqrt(int(size))
    if typed(q).rank >= 3:
        k, v = _repeat_heads(b, k, q), _repeat_heads(b, v, q)
    dtype = wide(typed(q).dtype)
    score = batched(b, q, k, "ik,jk->ij", dtype)
    rank = typed(score).rank
    operands = [score]
    expr: Expr
    if scale is None:
        expr = call("div", Ref("x0"), call("sqrt", Ref("x1")))
        operands.append(b.size(size))
    else:
        expr = call("mul", Ref("x0"), scale)
    if causal:
        expr = call(
            "where", call("le", Ref(str(dim(rank - 1))), Ref(str(dim(rank - 2)))), expr, float("-inf")
        )
    if mask is not None:
        bias = Ref(f"x{len(operands)}")
        operands.append(mask)
        if typed(mask).dtype is DType.BOOL:
            expr = call("where", bias, expr, float("-inf"))
        else:
            expr = call("add", expr, bias)
    shape = broadcast_shape([typed(operand).shape for operand in operands])
    score = b.map(expr, operands, dtype, shape)
    p = weights(b, score, -1, safe=True, dtype=dtype)
    return batched(b, p, v, "ij,jk->ik", typed(q).dtype)


def _repeat_heads(b: Builder, x: Node, q: Node) -> Node:
    """Every key head for its group of query heads: head h reads h // group.

    The flash overloads take fewer key heads than query heads without saying so (`enable_gqa` is gone by
    then).
    """
    shape = typed(x).shape
    heads, wanted = shape[-3], typed(q).shape[-3]
    if heads == wanted or heads == 1:
        return x
    if not (heads.is_Integer and wanted.is_Integer) or int(wanted) % int(heads):
        raise Unmodelled
    result = (*shape[:-3], wanted, *shape[-2:])
    index = [dim(at) for at in range(len(shape))]
    index[-3] = floordiv(dim(len(shape) - 3), wanted / heads, result)
    return b.view(x, index, result)


def sdpa(
    b: Builder, q: Node, k: Node, v: Node, mask: Node | None = None, dropout: float = 0.0,
    causal: bool = False, *, attn_mask: Node | None = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Node:  # fmt: skip
    out = attend(
        b, q, k, v, mask if attn_mask is None else attn_mask, causal or is_causal, scale, dropout or dropout_p
    )
    return out


def flash_cpu(
    b: Builder, q: Node, k: Node, v: Node, dropout: float = 0.0, causal: bool = False,
    *, dropout_p: float = 0.0, is_causal: bool = False, attn_mask: Node | None = None,
    scale: float | None = None,
) -> tuple[Node | None, ...]:  # fmt: skip
    return (attend(b, q, k, v, attn_mask, causal or is_causal, scale, dropout or dropout_p), None)


def flash(
    b: Builder, q: Node, k: Node, v: Node, dropout: float = 0.0, causal: bool = False, debug: bool = False,
    *, dropout_p: float = 0.0, is_causal: bool = False, return_debug_mask: bool = False,
    scale: float | None = None,
) -> tuple[Node | None, ...]:  # fmt: skip
    if debug or return_debug_mask:
        raise Unmodelled
    out = attend(b, q, k, v, None, causal or is_causal, scale, dropout or dropout_p)
    return (out, *(None for _ in b.results[1:]))


def biased(
    b: Builder, q: Node, k: Node, v: Node, bias: Node | None = None, logsumexp: bool = False,
    dropout: float = 0.0, causal: bool = False, *_: object, attn_bias: Node | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **__: object,
) -> tuple[Node | None, ...]:  # fmt: skip
    """The memory-efficient and cuDNN overloads, which share their leading arguments."""
    out = attend(
        b, q, k, v, bias if attn_bias is None else attn_bias, causal or is_causal, scale, dropout or dropout_p
    )
    return (out, *(None for _ in b.results[1:]))


def math_variant(
    b: Builder, q: Node, k: Node, v: Node, mask: Node | None = None, dropout: float = 0.0,
    causal: bool = False, dropout_mask: Node | None = None, *, attn_mask: Node | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> tuple[Node | None, ...]:  # fmt: skip
    if dropout_mask is not None:
        raise Unmodelled
    mask = mask if attn_mask is None else attn_mask
    return (attend(b, q, k, v, mask, causal or is_causal, scale, dropout or dropout_p), None)


TABLE: Mapping[object, Callable[..., Node | tuple[Node | None, ...]]] = {
    aten.mm.default: mm,
    aten.bmm.default: bmm,
    aten.mv.default: mv,
    aten.dot.default: dot,
    aten.addmm.default: accumulate("mk,kn->mn"),
    aten.addmv.default: accumulate("mk,k->m"),
    aten.baddbmm.default: accumulate("bmk,bkn->bmn"),
    aten.linear.default: linear,
    aten.matmul.default: matmul,
    aten.scaled_dot_product_attention.default: sdpa,
    aten._scaled_dot_product_flash_attention_for_cpu.default: flash_cpu,
    aten._scaled_dot_product_flash_attention.default: flash,
    aten._scaled_dot_product_efficient_attention.default: biased,
    aten._scaled_dot_product_cudnn_attention.default: biased,
    aten._scaled_dot_product_attention_math.default: math_variant,
    aten._scaled_dot_product_attention_math_for_mps.default: math_variant,
}
