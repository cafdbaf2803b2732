"""The rules of the IR, one function each. `verify` holds before and after every pass.

A rule takes a graph and a node and returns what is wrong, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import networkx
import sympy

from headrace.errors import VerificationError
from headrace.ir import index as maps
from headrace.ir import size as sizes
from headrace.ir.dtype import DType
from headrace.ir.expr import refs
from headrace.ir.graph import Graph, Node
from headrace.ir.infer import expr_dtype
from headrace.ir.ops import (
    REDUCE_KINDS,
    SCAN_KINDS,
    Contract,
    Extern,
    Gather,
    Input,
    Item,
    Kernel,
    Map,
    Reduce,
    Scan,
    Scatter,
    Size,
    View,
)
from headrace.ir.spec import Attention, Gemm, Rows
from headrace.ir.spec.operand import Extra
from headrace.ir.types import TensorType

Rule = Callable[[Graph, Node], "str | None"]
_INTEGERS = (DType.I64, DType.I32)
_ARITY = {Input: 0, Size: 0, View: 1, Reduce: 1, Contract: 2, Scan: 1, Gather: 2, Scatter: 3, Item: 1}


def verify(graph: Graph) -> None:
    """Check every rule on every node.

    Raises:
        VerificationError: names the rule, the node and its source line.
    """
    if not networkx.is_directed_acyclic_graph(graph.dag):
        raise VerificationError(f"rule acyclic: {networkx.find_cycle(graph.dag)} is a cycle")
    for name in [*graph.outputs, *graph.replaced.values()]:
        if name not in graph:
            raise VerificationError(f"rule outputs_exist: {name} is an output or a replacement, but no node")
    seen: dict[str, str] = {}
    for node in graph:
        for rule in RULES:
            wrong = rule(graph, node)
            if wrong:
                at = f" ({node.source})" if node.source else ""
                raise VerificationError(f"rule {rule.__name__}: {node.name}: {wrong}{at}")
        if node.fx is not None and seen.setdefault(node.fx, node.name) != node.name:
            raise VerificationError(
                f"rule one_node_per_fx: {node.name} and {seen[node.fx]} both claim fx={node.fx}"
            )


def _types(graph: Graph, node: Node) -> list[TensorType]:
    return [type_ for type_ in (operand.type for operand in graph.operands(node)) if type_ is not None]


def operand_count(graph: Graph, node: Node) -> str | None:
    """Ops of a fixed arity have it."""
    wanted = _ARITY.get(type(node.op))
    return None if wanted in (None, len(node.operands)) else f"{len(node.operands)} operand(s), not {wanted}"


def operands_are_tensors(graph: Graph, node: Node) -> str | None:
    """Only `item` reads a tuple, and `extern` whatever FX gave it."""
    if isinstance(node.op, (Item, Extern)):
        return None
    bare = [operand.name for operand in graph.operands(node) if operand.type is None]
    return f"{bare[0]} has no tensor type" if bare else None


def has_type(graph: Graph, node: Node) -> str | None:
    """Every modelled op has a tensor type; a kernel of several results has none and is read by `item`."""
    if isinstance(node.op, (Input, Extern, Item)):
        return None
    if isinstance(node.op, Kernel):
        several = len(node.op.spec.output_dtypes) > 1
        if several != (node.type is None):
            return "a kernel has a type exactly when it has one result"
        return None
    return "has no tensor type" if node.type is None else None


def item_reads_tuple(graph: Graph, node: Node) -> str | None:
    """`item` reads a result that exists of a node that has several."""
    if not isinstance(node.op, Item):
        return None
    (of,) = graph.operands(node)
    if of.type is not None or not isinstance(of.op, (Extern, Kernel, Input)):
        return f"{of.name} is a single tensor"
    if isinstance(of.op, Kernel) and not 0 <= node.op.at < len(of.op.spec.output_dtypes):
        return f"{of.name} has no result {node.op.at}"
    return None


def size_type(graph: Graph, node: Node) -> str | None:
    """A size is an i64 scalar."""
    if isinstance(node.op, Size) and node.type != TensorType(DType.I64, ()):
        return f"a size is i64[], not {node.type}"
    return None


def view_shape(graph: Graph, node: Node) -> str | None:
    """A view keeps the dtype, has one index per operand dimension, over its own dimensions and sizes."""
    if not isinstance(node.op, View) or node.type is None:
        return None
    (of,) = _types(graph, node)
    if of.dtype != node.type.dtype:
        return f"changes {of.dtype.value} to {node.type.dtype.value}"
    if len(node.op.index) != of.rank:
        return f"{len(node.op.index)} index expression(s) for rank {of.rank}"
    for expr in node.op.index:
        for symbol in expr.free_symbols:
            at = maps.position(symbol)
            if at is not None and at >= node.type.rank:
                return f"reads {symbol}, but has rank {node.type.rank}"
    return None


def view_bounds(graph: Graph, node: Node) -> str | None:
    """Where sizes are numbers, every index stays inside the operand."""
    if not isinstance(node.op, View) or node.type is None:
        return None
    (of,) = _types(graph, node)
    shape = node.type.static
    if shape is None or of.static is None or 0 in shape:
        return None
    for expr, extent in zip(node.op.index, of.shape, strict=True):
        low, high = maps.bounds(expr, node.type.shape)
        if low.is_Integer and high.is_Integer and not (low >= 0 and high < extent):
            return f"index {sizes.text(expr)} spans {low}..{high} of a dimension of size {extent}"
    return None


def map_reads(graph: Graph, node: Node) -> str | None:
    """A map reads its operands `x0`, ... and its indices `d0`, ..., all operands having its shape."""
    if not isinstance(node.op, Map) or node.type is None:
        return None
    known = {f"x{at}" for at in range(len(node.operands))} | {f"d{at}" for at in range(node.type.rank)}
    unknown = refs(node.op.expr) - known
    if unknown:
        return f"reads {sorted(unknown)[0]}, which is no operand and no index"
    for name, type_ in zip(node.operands, _types(graph, node), strict=True):
        if type_.shape != node.type.shape:
            return f"operand {name} is {type_}, not of shape {node.type}"
    return None


def map_dtype(graph: Graph, node: Node) -> str | None:
    """A map's dtype is its expression's."""
    if not isinstance(node.op, Map) or node.type is None:
        return None
    found = expr_dtype(node.op.expr, {f"x{at}": type_.dtype for at, type_ in enumerate(_types(graph, node))})
    return (
        None
        if found == node.type.dtype
        else f"the expression is {found.value}, the node {node.type.dtype.value}"
    )


def reduce_shape(graph: Graph, node: Node) -> str | None:
    """A reduction has a known kind and drops sorted axes that exist."""
    if not isinstance(node.op, Reduce) or node.type is None:
        return None
    (of,) = _types(graph, node)
    axes = node.op.axes
    if node.op.kind not in REDUCE_KINDS:
        return f"kind {node.op.kind!r} is none of {', '.join(REDUCE_KINDS)}"
    if list(axes) != sorted(set(axes)) or not all(0 <= axis < of.rank for axis in axes):
        return f"axes {list(axes)} are not sorted axes of {of}"
    if node.op.kind in ("argmax", "argmin") and len(axes) != 1:
        return f"{node.op.kind} has one axis"
    return _shape(node, tuple(extent for at, extent in enumerate(of.shape) if at not in axes))


def reduce_dtype(graph: Graph, node: Node) -> str | None:
    """max and min keep the dtype; any and all are boolean, argmax and argmin i64; sums keep the kind."""
    if not isinstance(node.op, Reduce) or node.type is None:
        return None
    (of,) = _types(graph, node)
    wanted = {"any": DType.BOOL, "all": DType.BOOL, "argmax": DType.I64, "argmin": DType.I64}.get(
        node.op.kind
    )
    if node.op.kind in ("max", "min"):
        wanted = of.dtype
    if wanted is not None and node.type.dtype != wanted:
        return f"{node.op.kind} of {of.dtype.value} is {wanted.value}, not {node.type.dtype.value}"
    if wanted is None and of.dtype.is_floating != node.type.dtype.is_floating:
        return f"{node.op.kind} of {of.dtype.value} cannot be {node.type.dtype.value}"
    return None


def contract_shape(graph: Graph, node: Node) -> str | None:
    """An einsum: a letter per dimension, one size per letter, no letter invented, none twice in a term."""
    if not isinstance(node.op, Contract) or node.type is None:
        return None
    left, arrow, out = node.op.equation.partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != 2 or any(len(set(term)) != len(term) for term in (*terms, out)):
        return f"equation {node.op.equation!r} is not of the form ab,bc->ac"
    found: dict[str, sympy.Expr] = {}
    for term, type_ in zip(terms, _types(graph, node), strict=True):
        if len(term) != type_.rank:
            return f"term {term!r} names {len(term)} dimension(s) of {type_}"
        for letter, extent in zip(term, type_.shape, strict=True):
            if found.setdefault(letter, extent) != extent:
                return f"letter {letter!r} is both {found[letter]} and {extent}"
    if not set(out) <= set(found):
        return f"equation {node.op.equation!r} invents a letter"
    return _shape(node, tuple(found[letter] for letter in out))


def scan_shape(graph: Graph, node: Node) -> str | None:
    """A scan has a known kind, an axis that exists, and its operand's type."""
    if not isinstance(node.op, Scan) or node.type is None:
        return None
    (of,) = _types(graph, node)
    if node.op.kind not in SCAN_KINDS or not 0 <= node.op.axis < of.rank:
        return f"{node.op.kind} along axis {node.op.axis} of {of}"
    return None if of == node.type else f"is {node.type} of an operand {of}"


def gather_shape(graph: Graph, node: Node) -> str | None:
    """A gather puts the index's dimensions in the place of one axis."""
    if not isinstance(node.op, Gather) or node.type is None:
        return None
    of, index = _types(graph, node)
    axis = node.op.axis
    if index.dtype not in _INTEGERS or not 0 <= axis < of.rank:
        return f"index {index} along axis {axis} of {of}"
    if of.dtype != node.type.dtype:
        return f"changes {of.dtype.value} to {node.type.dtype.value}"
    return _shape(node, (*of.shape[:axis], *index.shape, *of.shape[axis + 1 :]))


def scatter_shape(graph: Graph, node: Node) -> str | None:
    """A scatter has its target's type; its values have the shape that a gather would have."""
    if not isinstance(node.op, Scatter) or node.type is None:
        return None
    of, index, values = _types(graph, node)
    axis = node.op.axis
    if index.dtype not in _INTEGERS or not 0 <= axis < of.rank:
        return f"index {index} along axis {axis} of {of}"
    if of != node.type or values.dtype != of.dtype:
        return f"{node.type} of a target {of} and values {values}"
    wanted = (*of.shape[:axis], *index.shape, *of.shape[axis + 1 :])
    return (
        None if values.shape == wanted else f"values {values} are not of shape {TensorType(of.dtype, wanted)}"
    )


def kernel_operands(graph: Graph, node: Node) -> str | None:
    """A kernel's operands are those of its Spec: number, dtypes, ranks and the sizes that the Spec fixes."""
    if not isinstance(node.op, Kernel):
        return None
    spec = node.op.spec
    wanted = _spec_operands(spec)
    given = _types(graph, node)
    if len(given) != len(wanted):
        return f"{len(given)} operand(s) for a {spec.kind} of {len(wanted)}"
    for name, type_, (dtype, rank, fixed) in zip(node.operands, given, wanted, strict=True):
        if type_.dtype != dtype:
            return f"operand {name} is {type_}, the Spec says {dtype.value}"
        if rank is not None and type_.rank != rank:
            return f"operand {name} is {type_}, the Spec says rank {rank}"
        for at, extent in fixed.items():
            if type_.shape[at] != extent:
                return f"operand {name} is {type_}, the Spec says {extent} at dimension {at}"
    return None


def kernel_result(graph: Graph, node: Node) -> str | None:
    """A kernel's result has the Spec's dtype and shape."""
    at = node.op.at if isinstance(node.op, Item) else 0
    of = graph.operands(node)[0] if isinstance(node.op, Item) else node
    if not isinstance(of.op, Kernel) or node.type is None:
        return None
    spec = of.op.spec
    if node.type.dtype != spec.output_dtypes[at]:
        return f"is {node.type}, the Spec says {spec.output_dtypes[at].value}"
    # output_shapes only takes dimensions apart and puts them together, so sympy sizes do as well as ints.
    shapes = [type_.shape for type_ in _types(graph, of)]
    return _shape(node, tuple(map(sympy.sympify, spec.output_shapes(shapes)[at])))


def _spec_operands(spec: Attention | Gemm | Rows) -> list[tuple[DType, int | None, dict[int, int]]]:
    """(dtype, rank, sizes that are fixed) of each operand; rank None where the Spec leaves it open."""

    def extras(found: Sequence[Extra]) -> list[tuple[DType, int | None, dict[int, int]]]:
        return [(extra.dtype, len(extra.dims), {}) for extra in found]

    match spec:
        case Gemm():
            lead = int(spec.batched)
            weights = [
                (w.dtype, 2 + lead, {-2: w.n, -1: w.k} if w.layout == "nk" else {-2: w.k, -1: w.n})
                for w in spec.weights
            ]
            return [(spec.x, 2 + lead, {-1: spec.k}), *weights, *extras(spec.extras)]
        case Attention():
            return [
                (spec.q, 4, {1: spec.heads, 3: spec.d_k}),
                (spec.k, 4, {1: spec.k_heads, 3: spec.d_k}),
                (spec.v, 4, {1: spec.v_heads, 3: spec.d_v}),
                *extras(spec.extras),
            ]
        case Rows():
            return [(e.dtype, None if "r" in e.dims else len(e.dims), {}) for e in spec.inputs]


def _shape(node: Node, wanted: tuple[sympy.Expr, ...]) -> str | None:
    assert node.type is not None
    if node.type.shape == wanted:
        return None
    return f"is {node.type}, its operands give {TensorType(node.type.dtype, wanted)}"


RULES: tuple[Rule, ...] = (
    operand_count, operands_are_tensors, has_type, item_reads_tuple, size_type, view_shape, view_bounds,
    map_reads, map_dtype, reduce_shape, reduce_dtype, contract_shape, scan_shape, gather_shape, scatter_shape,
    kernel_operands, kernel_result,
)  # fmt: skip
