"""Attention, found by its algebra: contract -> map* -> row normalizer -> contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import sympy

from headrace.errors import Unreadable
from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Expr, Ref, call, cast, refs, substitute, walk
from headrace.ir.graph import Graph, Node
from headrace.ir.index import Index, Shape
from headrace.ir.ops import Contract, Kernel, Map, Reduce, Size, View
from headrace.ir.rounding import HALVES, decisive
from headrace.ir.size import ZERO
from headrace.ir.spec import Attention
from headrace.ir.steps import as_steps
from headrace.ir.types import TensorType, dim
from headrace.passes.algebra import number, rounded, strip, tidy
from headrace.passes.base import Pass
from headrace.passes.claim import AUTO, Policy
from headrace.passes.einsum import Einsum
from headrace.passes.extras import Extras
from headrace.passes.heads import HeadOperand, head_operand, split_batch
from headrace.passes.masks import sees_first_key, split_mask
from headrace.passes.normalizer import Matcher, Weights
from headrace.passes.predicates import normalize
from headrace.passes.reading import Access, Reader, typed

_LETTERS = "bhij"
_DEPTH = 64


@dataclass(frozen=True)
class RecogniseAttention(Pass):
    """Two contractions with a normalizer between them become one Attention kernel.

    Found whatever the spelling: scale before or after the product, as factor or divisor, on q, k or both; a
    mask by where, masked_fill, an added tensor or an added where(mask, 0, -inf); softmax with or without a
    maximum, or through log-sum-exp; key and value heads repeated by expand and reshape; batch and heads in
    one dimension or two; casts anywhere. Keys are taken before their heads are repeated.

    rewrite:
        %s = contract(%q, %k3) {equation=abik,abjk->abij} : f32[1, 9, 5, 512]
        %x = map(%s, %p) {where(le(d3, add(d2, x1)), mul(x0, 0.125), -inf)}
        %w = ... softmax of %x along the last dimension
        %o = contract(%w, %v3) {equation=abij,abjk->abik} : bf16[1, 9, 5, 64]
        ->
        %o = kernel(%q, %k, %v, %p) {Attention{heads=[9, 3, 3]; score=mul(s, 0.125);
                                               mask=le(j, add(i, e0)); extras=[e0:i64[]]; ...}}
    """

    name: ClassVar[str] = "recognise_attention"
    claim: Policy = AUTO

    def run(self, graph: Graph) -> None:
        for name in [node.name for node in graph if isinstance(node.op, Contract)]:
            if name not in graph:
                continue
            node = graph[name]  # read afresh: an earlier replacement may have changed what it reads
            assert isinstance(node.op, Contract)
            outline = _outline(graph, node, Einsum.parse(node.op.equation))
            if outline is None:
                continue
            try:
                value = outline.build(self.claim)
            except Unreadable as reason:
                if outline.certain:
                    graph.refuse(node.name, self.name, str(reason))
                continue
            graph.replace(node.name, value)
            graph.discard({node.name, *(each.name for each in outline.between)})
        graph.sweep()


def _outline(graph: Graph, node: Node, eq: Einsum) -> _Outline | None:
    """A contraction as the value product of an attention; None where no earlier product is near."""
    if not eq.inner:
        return None
    for order, (weights, values) in ((eq, node.operands), (eq.swapped(), node.operands[::-1])):
        between = _between(graph, weights)
        if between is None:
            continue
        exponentials = any(isinstance(n.op, Map) and _calls(n.op.expr, "exp") for n in between)
        sums = any(isinstance(n.op, Reduce) and n.op.kind == "sum" for n in between)
        if exponentials and sums:
            return _Outline(graph, node, order, weights, values, between, certain=True)
        if order.batch and any(isinstance(n.op, Map) and _calls(n.op.expr, "sigmoid") for n in between):
            return _Outline(graph, node, order, weights, values, between, certain=False)
    return None


def _between(graph: Graph, name: str) -> list[Node] | None:
    """The nodes from a value up to the nearest contractions, or None where there are none or they are far."""
    seen: set[str] = set()
    waiting, product = [name], False
    found: list[Node] = []
    while waiting and len(found) < _DEPTH:
        node = graph[waiting.pop()]
        if node.name in seen:
            continue
        seen.add(node.name)
        if isinstance(node.op, Contract):
            product = True
        elif isinstance(node.op, (Map, View, Reduce)):
            found.append(node)
            waiting += node.operands
    return found if product else None


def _calls(expr: Expr, fn: str) -> bool:
    return any(isinstance(part, Call) and part.fn == fn for part in walk(expr))


@dataclass(frozen=True, slots=True)
class _Outline:
    """The value product `node`, weights at the left of `eq`; `certain` where softmax is plainly meant."""

    graph: Graph
    node: Node
    eq: Einsum
    weights: str
    values: str
    between: list[Node]
    certain: bool

    def build(self, claim: Policy) -> str:
        """Add the kernel; returns the value that takes the product's place.

        Raises:
            Unreadable: with the reason for the refusal.
        """
        graph, eq = self.graph, self.eq
        if eq.summed or len(eq.inner) != 1 or len(eq.columns) != 1 or len(eq.rows) != 1:
            raise Unreadable(f"{eq.left},{eq.right}->{eq.out} is not weights times values")
        if self.node.fx is None:
            raise Unreadable("FX has no value to put the result in")
        sizes = eq.sizes(typed(graph[self.weights]).shape, typed(graph[self.values]).shape)
        batch, heads = split_batch([sizes[letter] for letter in eq.batch], self.between)
        d_v = sizes[eq.columns]
        domain: Shape = (batch, heads, sizes[eq.rows], sizes[eq.inner])
        at = _letters(eq.batch, sizes, domain) | {eq.rows: _step(2, domain), eq.inner: _step(3, domain)}
        reader = Reader(graph, domain)
        found = Matcher(reader, key=3).match(
            reader.read(self.weights, tuple(at[letter] for letter in eq.left))
        )
        name, scores = _scores(reader, found.scores)
        self._only_reader(scores.node)
        q, k = _queries_and_keys(graph, scores, domain)
        v_domain: Shape = (batch, heads, domain[3], d_v)
        at |= {eq.inner: _step(2, v_domain), eq.columns: _step(3, v_domain)}
        v = head_operand(graph, self.values, tuple(at[letter] for letter in eq.right), v_domain)
        if not (heads.is_Integer and d_v.is_Integer):
            raise Unreadable(
                f"the number of heads {heads} and the value dimension {d_v} must be known numbers"
            )
        if v.scale != 1.0:
            raise Unreadable("the values are scaled on their way")
        spec, extras = self._spec(reader, found, name, (q, k, v), domain, int(d_v))
        reason = claim.attention(spec)
        if reason is not None:
            raise Unreadable(reason)
        kind = TensorType(typed(self.node).dtype, (*domain[:3], d_v))
        made = graph.add(Kernel(spec), (q.name, k.name, v.name, *extras), kind, source=self.node.source)
        return self._result(made, heads)

    def _only_reader(self, scores: str) -> None:
        """Check that nothing but the value product sees scores or weights."""
        seen, waiting = {scores}, [scores]
        while waiting:
            name = waiting.pop()
            if self.graph.is_output(name):
                raise Unreadable(f"the graph returns {name}, which the kernel never writes down")
            for user in self.graph.users(name):
                if user.name == self.node.name or user.name in seen:
                    continue
                if not isinstance(user.op, (Map, View, Reduce)):
                    raise Unreadable(f"the scores have a second reader, {user.name}")
                seen.add(user.name)
                waiting.append(user.name)

    def _spec(
        self,
        reader: Reader,
        found: Weights,
        name: str,
        operands: tuple[HeadOperand, ...],
        domain: Shape,
        d_v: int,
    ) -> tuple[Attention, list[str]]:
        """The Spec, and the operands of its extras."""
        q, k, v = operands
        scale = q.scale * k.scale
        product: Expr = Ref("s") if scale == 1.0 else call("mul", Ref("s"), scale)
        if reader.dtypes[name] in HALVES:
            product = cast(reader.dtypes[name], product)
        strict, loose = (split_mask(found.scores, finite=finite) for finite in (False, True))
        for score, mask in (loose, strict):
            extras = Extras(self.graph, domain, _LETTERS)
            table: dict[str, Expr] = {f"d{at}": Ref(letter) for at, letter in enumerate(_LETTERS)} | {
                name: product
            }
            for each in (score, mask):
                for other, access in reader.accessed(each).items():
                    if other not in table:
                        if isinstance(self.graph[access.node].op, Size):
                            raise Unreadable("the scores depend on a symbolic size")
                        table[other] = Ref(extras.add(access))
            dtypes = {extra.name: extra.dtype for extra, _ in extras.found}
            mask = normalize(substitute(mask, table), dtypes)
            if loose == strict or (sees_first_key(mask) and not _may_be_lowest(score, table)):
                break
        # What the spec says of the dot product is float32: casts that decide nothing have gone, the scale is
        # one factor.
        score = strip(substitute(score, table), dtypes | {"s": DType.F32})
        score = rounded(tidy(_conditions(_factors(score, decisive(score)), dtypes), dtypes))
        d_k = typed(self.graph[q.name]).shape[-1]
        if not d_k.is_Integer:
            raise Unreadable(f"the head dimension {d_k} must be a known number")
        if "s" not in refs(score):
            raise Unreadable("the scores do not depend on the product")
        if "s" in refs(mask):
            raise Unreadable("which keys are visible depends on the scores themselves")
        spec = Attention(
            q=q.dtype, k=k.dtype, v=v.dtype, out=typed(self.node).dtype, heads=q.heads, k_heads=k.heads,
            v_heads=v.heads, d_k=int(d_k), d_v=d_v, score=score, mask=mask, normalizer=found.normalizer,
            safe=found.safe, extras=tuple(extra for extra, _ in extras.found),
        )  # fmt: skip
        return spec, [operand for _, operand in extras.found]

    def _result(self, made: Node, heads: sympy.Expr) -> str:
        """The kernel's value in the shape of the product."""
        eq, shape = self.eq, typed(self.node).shape
        place = {letter: _step(eq.out.index(letter), shape) for letter in eq.out}
        sizes = {letter: shape[eq.out.index(letter)] for letter in eq.out}
        if len(eq.batch) == 1:
            b = maps.floordiv(place[eq.batch], heads, shape)
            h = maps.mod(place[eq.batch], heads, shape)
        else:
            b, h = (place[eq.batch[0]], ZERO) if eq.batch else (ZERO, ZERO)
            for letter in eq.batch[1:]:
                h = sympy.expand(h * sizes[letter] + place[letter])
        index = (b, h, place[eq.rows], place[eq.columns])
        kind = typed(made)
        if index == maps.identity(kind.shape) and kind.shape == shape:
            return made.name
        if as_steps(index, kind.shape, shape) is None:
            raise Unreadable("the result's dimensions are mixed in a way that no view expresses")
        return self.graph.add(
            View(index), (made.name,), TensorType(kind.dtype, shape), source=made.source
        ).name


def _step(at: int, shape: Shape) -> sympy.Expr:
    return ZERO if shape[at] == 1 else dim(at)


def _letters(batch: str, sizes: Mapping[str, sympy.Expr], domain: Shape) -> dict[str, sympy.Expr]:
    """The index of each batch letter over the domain (b, h, ...)."""
    b, h = _step(0, domain), _step(1, domain)
    if len(batch) == 1:
        return {batch: sympy.expand(b * domain[1] + h)}
    found = {batch[0]: b} if batch else {}
    if len(batch) == 2:
        return found | {batch[1]: h}
    pieces = maps.reshape(tuple(sizes[letter] for letter in batch[1:]), (domain[1],)) if batch else ()
    for letter, piece in zip(batch[1:], pieces, strict=True):
        found[letter] = maps.compose((piece,), (h,), domain)[0]
    return found


def _scores(reader: Reader, scores: Expr) -> tuple[str, Access]:
    """The access to the product of queries and keys inside the scores.

    Raises:
        Unreadable: there is none.
    """
    i, j = _step(2, reader.shape), _step(3, reader.shape)
    for name, access in reader.accessed(scores).items():
        op = reader.graph[access.node].op
        if isinstance(op, Contract):
            eq = Einsum.parse(op.equation)
            place = dict(zip(eq.out, access.index, strict=True))
            if len(eq.inner) != 1 or len(eq.rows) != 1 or len(eq.columns) != 1 or eq.summed:
                continue
            if (i, j) in ((place[eq.rows], place[eq.columns]), (place[eq.columns], place[eq.rows])):
                return name, access
    raise Unreadable("the scores contain no product of queries and keys")


def _queries_and_keys(graph: Graph, scores: Access, domain: Shape) -> tuple[HeadOperand, HeadOperand]:
    """The operands of the score product, over (b, h, i, d) and (b, h, j, d)."""
    node = graph[scores.node]
    assert isinstance(node.op, Contract)
    eq = Einsum.parse(node.op.equation)
    queries, keys = node.operands
    place = dict(zip(eq.out, scores.index, strict=True))
    if place[eq.rows] != _step(2, domain) or place[eq.columns] != _step(3, domain):
        eq, queries, keys = eq.swapped(), keys, queries
    sizes = eq.sizes(typed(graph[queries]).shape, typed(graph[keys]).shape)

    def side(name: str, letters: str, own: str, positions: sympy.Expr, *, shared: bool) -> HeadOperand:
        over: Shape = (*domain[:2], positions, sizes[eq.inner])
        at = place | {own: _step(2, over), eq.inner: _step(3, over)}
        index: Index = tuple(at[letter] for letter in letters)
        return head_operand(graph, name, index, over, shared=shared)

    # A kernel's key heads divide its query heads, so queries that heads have in common are repeated.
    return (
        side(queries, eq.left, eq.rows, domain[2], shared=False),
        side(keys, eq.right, eq.columns, domain[3], shared=True),
    )


def _factors(expr: Expr, exact: frozenset[Call]) -> Expr:
    """Division by a literal as multiplication: div(s, 8.0) -> mul(s, 0.125). Calls of `exact` stay as they
    are."""
    if not isinstance(expr, Call) or expr in exact:
        return expr
    args = tuple(_factors(arg, exact) for arg in expr.args)
    divisor = number(args[1]) if expr.fn == "div" else None
    if divisor:
        return call("mul", args[0], 1.0 / divisor)
    return Call(expr.fn, args)


def _may_be_lowest(score: Expr, table: Mapping[str, Expr]) -> bool:
    """Whether an operand can take a visible score as low as the number that stands for -inf: padding that is
    added as a tensor does.
    """
    read = frozenset().union(*(refs(table[name]) for name in refs(score) if name in table))
    return not read <= {"s", *_LETTERS}


def _conditions(expr: Expr, dtypes: Mapping[str, DType]) -> Expr:
    """The expression with every condition of a `where` as a predicate in normal form."""
    if not isinstance(expr, Call):
        return expr
    args = tuple(_conditions(arg, dtypes) for arg in expr.args)
    if expr.fn == "where":
        args = (normalize(args[0], dtypes), *args[1:])
    return Call(expr.fn, args)
