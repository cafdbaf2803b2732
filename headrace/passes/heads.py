"""The operands of an attention as tensors of (batch, head, position, feature), heads not repeated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sympy
from torch.utils._sympy.functions import FloorDiv

from headrace.errors import Unreadable
from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Expr, Ref, substitute
from headrace.ir.graph import Graph, Node
from headrace.ir.index import Index, Shape
from headrace.ir.ops import Map, View
from headrace.ir.size import ONE, ZERO
from headrace.ir.types import dim
from headrace.passes.algebra import number, strip, tidy
from headrace.passes.reading import Access, operand, typed


@dataclass(frozen=True, slots=True)
class HeadOperand:
    """A value of shape (B, heads, positions, features), times `scale`."""

    name: str
    heads: int
    dtype: DType
    scale: float


def split_batch(sizes: Sequence[sympy.Expr], interior: Iterable[Node]) -> tuple[sympy.Expr, sympy.Expr]:
    """(batch, heads) of the batch dimensions of a product.

    One dimension may hold both: then a four-dimensional value between the products tells them apart.
    """
    if not sizes:
        return ONE, ONE
    if len(sizes) > 1:
        return sizes[0], sympy.Mul(*sizes[1:])
    for node in interior:
        shape = node.type.shape if node.type is not None else ()
        if len(shape) == 4 and shape[0] * shape[1] == sizes[0]:
            return shape[0], shape[1]
    return (ONE, sizes[0]) if sizes[0].is_Integer else (sizes[0], ONE)


def head_operand(graph: Graph, name: str, index: Index, domain: Shape, *, shared: bool = True) -> HeadOperand:
    """The value that element `index` of `name` comes from, over the domain (batch, head, position, feature).

    Looks through views, casts that widen and constant factors, as far up as a tensor of that form is found:
    so the keys before their heads are repeated, the queries before they are scaled. Without `shared` the
    value has every head, also where several are equal.

    Raises:
        Unreadable: no value of FX has, or can be viewed in, that form.
    """
    found: HeadOperand | None = None
    scale = 1.0
    node = graph[name]
    while True:
        here = _as_heads(graph, node, index, domain, shared)
        if here is not None:
            found = HeadOperand(here[0], here[1], typed(node).dtype, scale)
        if isinstance(node.op, View):
            index = maps.compose(node.op.index, index, domain)
        elif (factor := _factor(graph, node)) is not None:
            scale *= factor
        else:
            break
        node = graph[node.operands[0]]
    if found is None:
        raise Unreadable(f"{name} is no tensor of batch, head, position and feature")
    return found


def _factor(graph: Graph, node: Node) -> float | None:
    """c where a map is c times its operand, up to roundings that lose nothing the operand has."""
    if not isinstance(node.op, Map) or not node.operands:
        return None
    source = typed(graph[node.operands[0]]).dtype
    if not source.is_floating or source.itemsize > typed(node).dtype.itemsize:
        return None
    values: dict[str, Expr] = {}
    for at, name in enumerate(node.operands[1:], start=1):
        constant = _literal(graph, name)
        if constant is None:
            return None
        values[f"x{at}"] = constant
    expr = tidy(strip(substitute(node.op.expr, values), {"x0": source}), {"x0": source})
    if expr == Ref("x0"):
        return 1.0
    if isinstance(expr, Call) and expr.fn in ("mul", "div") and expr.args[0] == Ref("x0"):
        factor = number(expr.args[1])
        if factor:
            return factor if expr.fn == "mul" else 1.0 / factor
    return None


def _literal(graph: Graph, name: str) -> Expr | None:
    """The literal that every element of a value is, where it is one."""
    node = graph[name]
    while isinstance(node.op, View):
        node = graph[node.operands[0]]
    if isinstance(node.op, Map) and not node.operands and number(strip(node.op.expr, {})) is not None:
        return strip(node.op.expr, {})
    return None


def _as_heads(graph: Graph, node: Node, index: Index, domain: Shape, shared: bool) -> tuple[str, int] | None:
    """(operand, its number of heads) where a value can be handed over as (B, heads, position, feature)."""
    if node.type is None or node.type.rank != len(index) or not domain[1].is_Integer:
        return None
    heads = int(domain[1])
    group = _group(index, heads) if shared else 1
    if group is None or heads % group:
        return None
    kept = heads // group
    head: sympy.Expr = dim(1) if kept > 1 else ZERO
    short = tuple(_ungroup(expr, group, head) for expr in index)
    shape = (domain[0], sympy.Integer(kept), *domain[2:])
    name = operand(graph, Access(node.name, short), shape)
    return None if name is None else (name, kept)


def _group(index: Index, heads: int) -> int | None:
    """How many consecutive heads read the same element: the g of head // g."""
    divisors = set()
    for expr in index:
        for part in sympy.preorder_traversal(expr):
            if isinstance(part, FloorDiv) and part.args[0] == dim(1) and part.args[1].is_Integer:
                divisors.add(int(part.args[1]))
    plain = any(dim(1) in _without_division(expr).free_symbols for expr in index)
    if plain:
        return 1
    if not divisors:
        return heads
    smallest = min(divisors)
    return smallest if all(divisor % smallest == 0 for divisor in divisors) else None


def _without_division(expr: sympy.Expr) -> sympy.Expr:
    return expr.replace(lambda part: isinstance(part, FloorDiv) and part.args[0] == dim(1), lambda part: ZERO)


def _ungroup(expr: sympy.Expr, group: int, head: sympy.Expr) -> sympy.Expr:
    """The index over key heads: head // group becomes head."""
    if group == 1 or dim(1) not in expr.free_symbols:
        return expr

    def shorter(part: sympy.Expr) -> sympy.Expr:
        rest = int(part.args[1]) // group
        return head if rest == 1 else FloorDiv(head, sympy.Integer(rest))

    return expr.replace(lambda part: isinstance(part, FloorDiv) and part.args[0] == dim(1), shorter)
