"""Reductions along the last dimension, with the pointwise work around them, become Rows kernels."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

import sympy

from headrace.errors import Unreadable
from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Expr, Ref, call, cast, refs, substitute
from headrace.ir.graph import Graph, Node
from headrace.ir.index import Shape
from headrace.ir.infer import expr_dtype
from headrace.ir.ops import Kernel, Map, Reduce, Size, View
from headrace.ir.rounding import decided, is_cast, without
from headrace.ir.spec import Extra, Output, Reduction, Rows
from headrace.ir.types import TensorType, dim
from headrace.passes.algebra import number, tidy
from headrace.passes.base import Pass
from headrace.passes.claim import AUTO, Policy
from headrace.passes.order import Order
from headrace.passes.reading import Access, Reader, emittable, operand, typed
from headrace.passes.region import Region, grow

_KINDS = ("sum", "max", "min", "prod")


@dataclass(frozen=True)
class RecogniseRows(Pass):
    """Softmax, norms and whatever else reduces rows and computes on, grown from the first reduction.

    A region ends where one value leaves it; what only the region reads is drawn in from before the reduction.

    Fields:
        claim: what is taken from Inductor.
        max_ops: the most graph nodes that one kernel absorbs behind its first reduction.

    rewrite:
        %h = map(%x) {mul(x0, x0)} : f32[1, 5, 576]
        %s = reduce(%h) {sum; axes=[2]} : f32[1, 5]
        %r = map(%s) {rsqrt(add(div(x0, 576), 1e-05))}
        %n = map(%x, view of %r) {cast:bf16(mul(x0, x1))}
        %y = map(view of %w, %n) {cast:bf16(mul(x0, x1))} : bf16[1, 5, 576]
        ->
        %y = kernel(%x, %w) {Rows{inputs=[x0:bf16[rn], x1:bf16[n]]; reductions=[r0 = sum(mul(x0, x0))];
               outputs=[bf16 = mul(x1, cast:bf16(mul(x0, rsqrt(add(div(r0, count), 1e-05)))))]; reduced=[]}}
    """

    name: ClassVar[str] = "recognise_rows"
    claim: Policy = AUTO
    max_ops: int = 40

    def run(self, graph: Graph) -> None:
        order = Order(graph)
        settled: dict[str, str] = {}
        for name in [node.name for node in graph if isinstance(node.op, Reduce)]:
            if name not in graph:
                continue
            node = graph[name]  # read afresh: an earlier replacement may have changed what it reads
            assert isinstance(node.op, Reduce)
            try:
                if node.name in settled:
                    raise Unreadable(settled[node.name])
                self._recognise(graph, order, node, node.op, settled)
            except Unreadable as reason:
                graph.refuse(node.name, self.name, str(reason))
        graph.sweep()

    def _recognise(self, graph: Graph, order: Order, node: Node, op: Reduce, settled: dict[str, str]) -> None:
        """Put one kernel in the place of the largest region behind a reduction.

        Where that fails, `settled` notes the reason for the region's other reductions too.

        Raises:
            Unreadable: with the reason for the refusal.
        """
        source = typed(graph[node.operands[0]])
        if op.axes != (source.rank - 1,):
            raise Unreadable(f"reduces dimensions {list(op.axes)} of {source.rank}, not the last alone")
        if op.kind not in _KINDS or not source.dtype.is_floating:
            raise Unreadable(f"{op.kind} of {source.dtype.value} has no row kernel")
        if DType.F64 in (source.dtype, typed(node).dtype):
            raise Unreadable("row kernels do not write f64, and would lose its precision on the way")
        if source.shape[-1] == 1:
            raise Unreadable("rows of one element")
        grown = grow(graph, order, {node.name}, functools.partial(_row_op, graph), self.max_ops)
        regions = [Region(node.name, frozenset()), *grown]
        problem: Unreadable | None = None
        for region in reversed(regions):
            sink = graph[region.sink]
            if sink.fx is None or (isinstance(sink.op, View) and graph[sink.operands[0]].fx is not None):
                continue
            inside = region.nodes | {node.name}
            for nodes in (_drawn_in(graph, inside, self.max_ops), inside):
                try:
                    _replace(graph, order, sink, nodes, source.shape, self.claim)
                except Unreadable as reason:
                    problem = problem or reason
                else:
                    graph.discard(nodes)
                    return
        problem = problem or Unreadable("FX has no value to put the result in")
        settled |= dict.fromkeys(regions[-1].nodes, str(problem))
        raise problem


def _row_op(graph: Graph, node: Node) -> bool:
    if node.type is None or node.type.dtype is DType.F64:
        return False
    if isinstance(node.op, Reduce):
        return node.op.kind in _KINDS and (node.type.dtype.is_floating or _counts(graph, node))
    return isinstance(node.op, (Map, View))


def _counts(graph: Graph, node: Node) -> bool:
    """Whether integers are summed that count what is true: kernels reduce in float32, exact up to 2**24."""
    assert isinstance(node.op, Reduce)
    source = graph[node.operands[0]]
    if node.op.kind != "sum" or not isinstance(source.op, Map):
        return False
    truth = source.op.expr
    while isinstance(truth, Call) and truth.fn.startswith("cast:"):
        truth = truth.args[0]
    dtypes = {f"x{at}": typed(operand).dtype for at, operand in enumerate(graph.operands(source))}
    length = typed(source).shape[-1]
    return expr_dtype(truth, dtypes) is DType.BOOL and bool(length.is_Integer) and length <= 2**24


def _drawn_in(graph: Graph, inside: frozenset[str], limit: int) -> frozenset[str]:
    """The region with the row operations before it that nobody else reads."""
    found = set(inside)
    waiting = [operand for name in inside for operand in graph[name].operands]
    while waiting and len(found) < len(inside) + limit:
        node = graph[waiting.pop()]
        if node.name in found or not _row_op(graph, node) or graph.is_output(node.name):
            continue
        if any(typed(operand).dtype is DType.F64 for operand in graph.operands(node)):
            continue  # kernels take what was made of it instead
        if all(user.name in found for user in graph.users(node.name)):
            found.add(node.name)
            waiting += node.operands
    return frozenset(found)


def _replace(
    graph: Graph, order: Order, sink: Node, nodes: frozenset[str], rows: Shape, claim: Policy
) -> None:
    """Put a kernel in the place of `sink`, computed by `nodes` on rows of the shape `rows`."""
    core = graph[sink.operands[0]] if isinstance(sink.op, View) else sink
    kind = typed(core)
    if not kind.dtype.is_floating or kind.dtype is DType.F64:
        raise Unreadable(f"row kernels do not write {kind.dtype.value}")

    def stop(node: Node) -> bool:
        return node.name not in nodes and not isinstance(node.op, View) and emittable(graph, node)

    reader = Reader(graph, rows, stop)
    full = kind.rank > 0 and kind.shape[-1] == rows[-1]
    result = rows if full else rows[:-1]
    if sympy.expand(sympy.Mul(*kind.shape) - sympy.Mul(*result)) != 0:
        raise Unreadable("the result is no row")
    index = maps.reshape(kind.shape, result)
    writer = _Writer(graph, reader, nodes)
    expr = writer.resolve(reader.read(core.name, index))
    if not full and reader.varies(expr, len(rows) - 1):
        raise Unreadable("the result has other rows than the reduction")
    names = writer.inputs(expr)
    spec = writer.spec(expr, kind.dtype, full, names)
    reason = claim.rows(spec, feeds_kernels=_feeds_kernels(graph, sink.name))
    if reason is not None:
        raise Unreadable(reason)
    operands = [operand for _, operand in names.values()]
    made = graph.add(Kernel(spec), operands, TensorType(kind.dtype, result), source=sink.source)
    value = made.name
    if kind.shape != result:
        value = graph.add(View(maps.reshape(result, kind.shape)), (value,), kind, source=sink.source).name
    if isinstance(sink.op, View):
        value = graph.add(sink.op, (value,), sink.type, source=sink.source).name
    for name in (made.name, value):
        order.place(name, order.at(sink.name))
    graph.replace(sink.name, value)


def _feeds_kernels(graph: Graph, name: str) -> bool:
    """Whether kernels, and nothing else, read a value."""
    users = graph.users(name)
    return (
        bool(users)
        and not graph.is_output(name)
        and all(
            isinstance(user.op, Kernel) or (isinstance(user.op, View) and _feeds_kernels(graph, user.name))
            for user in users
        )
    )


class _Writer:
    """Turns a formula over a matrix of rows into the fields of a Rows Spec."""

    def __init__(self, graph: Graph, reader: Reader, nodes: frozenset[str]) -> None:
        self.graph = graph
        self.reader = reader
        self.nodes = nodes
        self.last = len(reader.shape) - 1
        self.reductions: list[tuple[str, Expr]] = []
        self._memo: dict[str, Expr] = {}

    def resolve(self, expr: Expr) -> Expr:
        """The expression with accesses to reductions as `r0`, `r1`, ..., which are noted in order."""
        table: dict[str, Expr] = {}
        for name, access in self.reader.accessed(expr).items():
            node = self.graph[access.node]
            if isinstance(node.op, Reduce) and access.node in self.nodes:
                table[name] = self._reduction(name, access, node, node.op)
            elif isinstance(node.op, Size):
                if node.op.expr != self.reader.shape[-1]:
                    raise Unreadable(f"the expression depends on the size {node.op.expr}")
                table[name] = Ref("count")
        return tidy(self._mean(substitute(expr, table)), self._dtypes())

    def _dtypes(self) -> dict[str, DType]:
        """Element types of what an expression under construction may read; reductions are float32."""
        return (
            self.reader.dtypes
            | {f"r{at}": DType.F32 for at in range(len(self.reductions))}
            | {"count": DType.F32}
        )

    def _reduction(self, name: str, access: Access, node: Node, op: Reduce) -> Expr:
        if name in self._memo:
            return self._memo[name]
        source = typed(self.graph[node.operands[0]])
        if op.axes != (source.rank - 1,) or source.shape[-1] != self.reader.shape[-1]:
            raise Unreadable(f"{node.name} reduces other rows")
        if access.reads(self.last):
            raise Unreadable(f"{node.name} is read along the row")
        body = self.resolve(self.reader.read(node.operands[0], (*access.index, dim(self.last))))
        if (op.kind, body) not in self.reductions:
            self.reductions.append((op.kind, body))
        found: Expr = Ref(f"r{self.reductions.index((op.kind, body))}")
        kind = typed(node).dtype
        # An extremum has the type already; whether the rounding of a sum decides, `spec` knows.
        exact = kind is DType.F32 or (kind.is_floating and op.kind in ("max", "min"))
        self._memo[name] = found if exact else cast(kind, found)
        return self._memo[name]

    def _mean(self, expr: Expr) -> Expr:
        """A division of a sum by the row's length as `div(r0, count)`."""
        if not isinstance(expr, Call):
            return expr
        args = tuple(self._mean(arg) for arg in expr.args)
        length = self.reader.shape[-1]
        if length.is_Integer and expr.fn in ("div", "mul") and self._is_sum(args[0]):
            factor = number(args[1])
            if factor is not None and factor == (int(length) if expr.fn == "div" else 1 / int(length)):
                return call("div", args[0], Ref("count"))
        return Call(expr.fn, args)

    def _is_sum(self, expr: Expr) -> bool:
        expr = expr.args[0] if isinstance(expr, Call) and is_cast(expr) else expr
        if not isinstance(expr, Ref) or not expr.name.startswith("r"):
            return False
        return self.reductions[int(expr.name[1:])][0] == "sum"

    def inputs(self, expr: Expr) -> dict[str, tuple[Extra, str]]:
        """For each access that remains: the Rows input and the operand that carries it, matrices first."""
        found: dict[str, tuple[str, str]] = {}
        for each in (*(body for _, body in self.reductions), expr):
            if any(name[:1] == "d" and name[1:].isdigit() for name in refs(each)):
                raise Unreadable("the expression depends on an index")
            for name, access in self.reader.accessed(each).items():
                if name not in found:
                    found[name] = self._operand(access)
        ordered = sorted(found, key=lambda name: found[name][0] != "rn")
        if not ordered or found[ordered[0]][0] != "rn":
            raise Unreadable("no operand has the shape of the rows")
        if sum(1 for name in found if found[name][0] == "rn") > 4 or len(found) > 8:
            raise Unreadable("too many operands for one kernel")
        result: dict[str, tuple[Extra, str]] = {}
        for at, name in enumerate(ordered):
            dims, value = found[name]
            result[name] = (Extra(f"x{at}", typed(self.graph[value]).dtype, dims), value)
        return result

    def _operand(self, access: Access) -> tuple[str, str]:
        """(dims, operand): how a value varies over the rows."""
        shape = self.reader.shape
        kind = typed(self.graph[access.node])
        along = access.reads(self.last)
        across = any(access.reads(at) for at in range(self.last))
        if all(extent == 1 for extent in shape[:-1]):
            across = across or kind.rank > along
        if along:
            across = across or self.last == 0
        dims = ("r" if across else "") + ("n" if along else "")
        wanted: Shape = (shape[:-1] if across else ()) + ((shape[-1],) if along else ())
        table = {} if across else {dim(self.last): dim(0)}
        index = tuple(expr.xreplace(table) for expr in access.index)
        value = operand(self.graph, Access(access.node, index), wanted)
        if value is None:
            raise Unreadable(
                f"{access.node} is read at {list(map(str, access.index))}, which is no plain operand"
            )
        return dims, value

    def spec(self, expr: Expr, out: DType, full: bool, names: dict[str, tuple[Extra, str]]) -> Rows:
        """The Spec of what was resolved."""
        table: dict[str, Expr] = {name: Ref(extra.name) for name, (extra, _) in names.items()}
        dtypes = {extra.name: extra.dtype for extra, _ in names.values()}
        dtypes |= {f"r{at}": DType.F32 for at in range(len(self.reductions))} | {"count": DType.F32}
        bodies = {f"r{at}": substitute(body, table) for at, (_, body) in enumerate(self.reductions)}
        done = substitute(expr, table)
        known = decided([done], list(bodies.items()))

        def written(value: Expr, decides: bool = False) -> Expr:
            """Roundings of sums, of which a kernel holds the float32, only where they decide."""
            return tidy(without(value, lambda each: each.args[0] in sums, decides=decides), dtypes)

        sums = set(map(Ref, bodies))
        done = written(done)
        if isinstance(done, Call) and done.fn == f"cast:{out.value}":
            done = done.args[0]
        return Rows(
            inputs=tuple(extra for extra, _ in names.values()),
            reductions=tuple(
                Reduction(name, kind, written(body, name in known))
                for (name, body), (kind, _) in zip(bodies.items(), self.reductions, strict=True)
            ),
            outputs=(Output(out, done),),
            reduced=() if full else (0,),
        )
