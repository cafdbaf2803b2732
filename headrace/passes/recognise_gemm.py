"""Contractions become Gemm kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from headrace.errors import Unreadable
from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Ref
from headrace.ir.graph import Graph, Node
from headrace.ir.index import Index, Shape
from headrace.ir.ops import Contract, Kernel, View
from headrace.ir.size import ZERO
from headrace.ir.spec import Gemm, Output, Weight
from headrace.ir.types import TensorType, dim
from headrace.passes.base import Pass
from headrace.passes.claim import AUTO, Policy
from headrace.passes.einsum import Einsum
from headrace.passes.epilogue import absorb
from headrace.passes.order import Order
from headrace.passes.reading import Access, emittable, operand, typed


@dataclass(frozen=True)
class RecogniseGemm(Pass):
    """Every contraction that is a matrix product, one weight each.

    Leading dimensions of x are one M; leading dimensions that both operands share are one batch. A weight
    that is stored `[N, K]` and read through a transposition is taken as it is stored.

    rewrite:
        %w_t = view(%w) {index=[d1, d0]} : bf16[576, 1536]
        %y = contract(%x, %w_t) {equation=mk,kn->mn} : bf16[5, 1536]
        ->
        %y = kernel(%x, %w) {Gemm{x=bf16; weights=[w0:bf16[1536,576]nk]; outputs=[bf16 = acc_w0]; ...}}
    """

    name: ClassVar[str] = "recognise_gemm"
    claim: Policy = AUTO

    def run(self, graph: Graph) -> None:
        order = Order(graph)
        for name in [node.name for node in graph if isinstance(node.op, Contract)]:
            if name not in graph:
                continue
            node = graph[name]
            assert isinstance(node.op, Contract)
            try:
                kernel = _kernel(graph, node, node.op, self.claim)
            except Unreadable as reason:
                graph.refuse(node.name, self.name, str(reason))
                continue
            order.place(kernel, order.at(node.name))
            result = _result(graph, node, node.op, kernel)
            order.place(result, order.at(node.name))
            graph.replace(node.name, result)
            if node.fx is None and absorb(graph, order, graph[kernel], 24) is None:
                graph.replace(result, node.name)
                graph.refuse(node.name, self.name, "FX has no value to put the product in")
            graph.discard({node.name, result, kernel})
        graph.sweep()


def _kernel(graph: Graph, node: Node, op: Contract, claim: Policy) -> str:
    """A kernel node for a contraction.

    Raises:
        Unreadable: with the reason for the refusal.
    """
    eq = Einsum.parse(op.equation)
    x, w = node.operands
    if eq.summed:
        raise Unreadable(f"{op.equation} sums one operand alone")
    if not eq.columns:
        eq, x, w = eq.swapped(), w, x
    if not eq.inner or not eq.columns:
        raise Unreadable(f"{op.equation} is no matrix product")
    sizes = eq.sizes(typed(graph[x]).shape, typed(graph[w]).shape)
    dtypes = (typed(graph[x]).dtype, typed(graph[w]).dtype, typed(node).dtype)
    if not all(dtype.is_floating for dtype in dtypes):
        raise Unreadable("integer products stay with PyTorch")
    if DType.F64 in dtypes:
        raise Unreadable("float32 accumulators would lose float64's precision")
    if dtypes[0] != dtypes[1]:
        raise Unreadable(f"operands of two element types, {dtypes[0].value} and {dtypes[1].value}")

    def extent(letters: str) -> sympy.Expr:
        return sympy.Mul(*(sizes[letter] for letter in letters))

    n, k = extent(eq.columns), extent(eq.inner)
    if not (n.is_Integer and k.is_Integer):
        raise Unreadable(f"N = {n} and K = {k} must be known numbers")
    lead = _lead(eq, sizes)
    x_name = _flat(graph, x, eq.left, (*lead, eq.rows, eq.inner), sizes)
    w_name, layout = _weight(graph, w, eq, sizes)
    spec = Gemm(
        x=dtypes[0],
        weights=(Weight("w0", dtypes[1], int(n), int(k), layout),),
        outputs=(Output(dtypes[2], Ref("acc_w0")),),
        batched=bool(lead),
    )
    reason = claim.gemm(spec)
    if reason is not None:
        raise Unreadable(reason)
    shape = (*map(extent, lead), extent(eq.rows), n)
    return graph.add(Kernel(spec), (x_name, w_name), TensorType(dtypes[2], shape), source=node.source).name


def _lead(eq: Einsum, sizes: dict[str, sympy.Expr]) -> tuple[str, ...]:
    """The group of batch letters, if any: a batch of one is none."""
    batch = "".join(letter for letter in eq.batch if sizes[letter] != 1)
    return (batch,) if batch else ()


def _flat(
    graph: Graph, name: str, letters: str, groups: tuple[str, ...], sizes: dict[str, sympy.Expr]
) -> str:
    """A value with one dimension for each group of letters, of an operand whose dimensions are `letters`."""
    shape, index = _grouped(letters, groups, sizes)
    if typed(graph[name]).shape == shape and index == maps.identity(shape) and emittable(graph, graph[name]):
        return name
    found = operand(graph, Access(name, index), shape) or _through(graph, name, index, shape)
    if found is None:
        raise Unreadable(f"{name} has no value in FX that could be handed over")
    return found


def _through(graph: Graph, name: str, index: Index, shape: Shape) -> str | None:
    """The same elements, taken from further up a chain of views."""
    node = graph[name]
    while isinstance(node.op, View):
        index = maps.compose(node.op.index, index, shape)
        node = graph[node.operands[0]]
        found = operand(graph, Access(node.name, index), shape)
        if found is not None:
            return found
    return None


def _grouped(letters: str, groups: tuple[str, ...], sizes: dict[str, sympy.Expr]) -> tuple[Shape, Index]:
    """The shape with one dimension per group, and each letter's index over it; letters in no group read 0."""
    shape = tuple(sympy.Mul(*(sizes[letter] for letter in group)) for group in groups)
    of: dict[str, sympy.Expr] = dict.fromkeys(letters, ZERO)
    for at, group in enumerate(groups):
        if len(group) == 1:
            of[group] = maps.identity(shape)[at]
            continue
        pieces = maps.reshape(tuple(sizes[letter] for letter in group), (shape[at],))
        for letter, piece in zip(group, pieces, strict=True):
            moved = maps.compose((piece,), (dim(at),), shape)[0] if piece.free_symbols else piece
            of[letter] = moved
    return shape, tuple(of[letter] for letter in letters)


def _weight(graph: Graph, name: str, eq: Einsum, sizes: dict[str, sympy.Expr]) -> tuple[str, str]:
    """The weight operand and its layout: as it is stored, where views only transpose or split it."""
    lead = _lead(eq, sizes)
    shape, index = _grouped(eq.right, (*lead, eq.columns, eq.inner), sizes)
    swap = {dim(len(lead)): dim(len(lead) + 1), dim(len(lead) + 1): dim(len(lead))}
    flipped = (*shape[:-2], shape[-1], shape[-2])
    node = graph[name]
    chain = [(node, index)]
    while isinstance(node.op, View):
        index = maps.compose(node.op.index, index, shape)
        node = graph[node.operands[0]]
        chain.append((node, index))
    for node, index in reversed(chain):
        # The last stored dimension is the contiguous one: it says which layout costs no copy.
        across = bool(index) and dim(len(lead)) in index[-1].free_symbols
        over = tuple(expr.xreplace(swap) for expr in index) if across else index
        found = operand(graph, Access(node.name, over), flipped if across else shape)
        if found is not None:
            return found, "kn" if across else "nk"
    raise Unreadable(f"{name} has no value in FX that could be handed over")


def _result(graph: Graph, node: Node, op: Contract, kernel: str) -> str:
    """The kernel's value in the shape of the contraction: itself, or a view of it."""
    eq = Einsum.parse(op.equation)
    if not eq.columns:
        eq = eq.swapped()
    shape = typed(node).shape
    sizes = dict(zip(eq.out, shape, strict=True))
    index: list[sympy.Expr] = []
    for group in (*_lead(eq, sizes), eq.rows, eq.columns):
        positions = [eq.out.index(letter) for letter in group]
        flat: sympy.Expr = ZERO
        for at in positions:
            step = dim(at) if shape[at] != 1 else ZERO
            flat = flat * sizes[eq.out[at]] + step
        index.append(sympy.expand(flat))
    kind = typed(graph[kernel])
    if kind.shape == shape and tuple(index) == maps.identity(shape):
        return kernel
    return graph.add(View(tuple(index)), (kernel,), TensorType(kind.dtype, shape), source=node.source).name
