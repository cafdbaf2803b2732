"""Absorbing pointwise readers into a Gemm: shared by recognition and by the pass `fuse_epilogue`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import sympy

from headrace.errors import Unreadable
from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Expr, Ref, cast, refs, substitute
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import Item, Kernel, Map, View
from headrace.ir.spec import Gemm, Output
from headrace.ir.types import TensorType
from headrace.passes.algebra import tidy
from headrace.passes.extras import Extras
from headrace.passes.order import Order
from headrace.passes.reading import Reader, emittable, rename, typed
from headrace.passes.region import Region, grow

MAX_NODES_OF_EXPRESSION = 160


def outputs_of(graph: Graph, kernel: Node) -> dict[int, str]:
    """The value of each output that something reads, by its position."""
    assert isinstance(kernel.op, Kernel)
    if kernel.type is not None:
        return {0: kernel.name}
    return {user.op.at: user.name for user in graph.users(kernel.name) if isinstance(user.op, Item)}


def absorb(graph: Graph, order: Order, kernel: Node, limit: int) -> str | None:
    """Take the largest fusable region behind a Gemm into it; returns the new kernel's name, or None.

    Tried first for all outputs together (a gate), then for each alone.
    """
    assert isinstance(kernel.op, Kernel)
    assert isinstance(kernel.op.spec, Gemm)
    values = outputs_of(graph, kernel)
    groups: list[tuple[int, ...]] = [tuple(sorted(values))] if len(values) > 1 else []
    for seeds in [*groups, *((at,) for at in sorted(values))]:
        regions = grow(graph, order, [values[at] for at in seeds], _pointwise, limit, kernel.name)
        for region in reversed(regions):
            if not _worthwhile(graph, graph[region.sink]):
                continue
            try:
                return _fuse(graph, order, kernel, values, seeds, region)
            except Unreadable as reason:
                graph.refuse(region.sink, "fuse_epilogue", str(reason))
    return None


def _pointwise(node: Node) -> bool:
    return isinstance(node.op, (Map, View)) and node.type is not None and node.type.dtype is not DType.F64


def _worthwhile(graph: Graph, sink: Node) -> bool:
    """A sink is a floating value that FX has, made by more than a widening cast (which is its reader's)."""
    if not isinstance(sink.op, Map) or sink.fx is None or not typed(sink).dtype.is_floating:
        return False
    if typed(sink).dtype is DType.F64:
        return False
    expr = sink.op.expr
    return not (isinstance(expr, Call) and expr.fn == "cast:f32" and expr.args == (Ref("x0"),))


def _fuse(
    graph: Graph, order: Order, kernel: Node, values: dict[int, str], seeds: tuple[int, ...], region: Region
) -> str:
    """Rebuild a kernel with the region's sink in place of the outputs `seeds`."""
    assert isinstance(kernel.op, Kernel)
    assert isinstance(kernel.op.spec, Gemm)
    spec = kernel.op.spec
    sink = graph[region.sink]
    kind = typed(sink)
    seed_names = {values[at]: at for at in seeds}
    product = typed(graph[values[seeds[0]]]).shape
    if any(typed(graph[name]).shape != product for name in seed_names):
        raise Unreadable("outputs of unequal width meet in one expression")
    if len(kind.shape) < 1 or kind.shape[-1] != product[-1]:
        raise Unreadable("the expression's rows are not the product's")
    if sympy.expand(sympy.Mul(*kind.shape) - sympy.Mul(*product)) != 0:
        raise Unreadable("the expression repeats the product along other dimensions")
    if spec.weights[0].n == 0:
        raise Unreadable("an empty product")

    def stop(node: Node) -> bool:
        if node.name in seed_names:
            return True
        return node.name not in region.nodes and not isinstance(node.op, View) and emittable(graph, node)

    # Read over the product's own domain (b, m, n): the sink at the place where a reshape puts it.
    reader = Reader(graph, product, stop)
    expr = reader.read(sink.name, maps.reshape(kind.shape, product))
    first = 1 + len(spec.weights)
    extras = Extras(
        graph,
        product,
        "bmn" if spec.batched else "mn",
        tuple(zip(spec.extras, kernel.operands[first:], strict=True)),
    )
    table: dict[str, Expr] = {}
    names: dict[str, str] = {}
    for name, access in reader.accessed(expr).items():
        if access.node in seed_names:
            if access.index != maps.identity(product):
                raise Unreadable("the product is read at other places than its own")
            output = spec.outputs[seed_names[access.node]]
            table[name] = cast(output.dtype, output.expr) if output.dtype.itemsize < 4 else output.expr
        else:
            names[name] = extras.add(access)
    if any(name.startswith("d") and name[1:].isdigit() for name in refs(expr)):
        raise Unreadable("the expression depends on an index")
    dtypes = {f"acc_{w.name}": DType.F32 for w in spec.weights}
    dtypes |= {extra.name: extra.dtype for extra, _ in extras.found}
    done = tidy(substitute(rename(expr, names), table), dtypes)
    if sum(1 for _ in str(done).split("(")) > MAX_NODES_OF_EXPRESSION:
        raise Unreadable("the expression is too long for one kernel")
    if not any(f"acc_{w.name}" in refs(done) for w in spec.weights):
        raise Unreadable("the expression does not depend on the product")
    if isinstance(done, Call) and done.fn == f"cast:{kind.dtype.value}":
        done = done.args[0]
    outputs = tuple(
        Output(kind.dtype, done) if at == seeds[0] else output
        for at, output in enumerate(spec.outputs)
        if at == seeds[0] or at not in seeds
    )
    fused = replace(spec, outputs=outputs, extras=tuple(extra for extra, _ in extras.found))
    operands = [*kernel.operands[:first], *(name for _, name in extras.found)]
    at = order.at(sink.name)
    kept = {
        old: new
        for new, old in enumerate(at for at in range(len(spec.outputs)) if at == seeds[0] or at not in seeds)
    }
    made = add_kernel(graph, fused, operands, product[:-1], sink.source)
    order.place(made.name, at)
    results = results_of(graph, made, fused)
    for old, name in values.items():
        if old not in seeds:
            graph.replace(name, results[kept[old]])
    value = results[kept[seeds[0]]]
    if kind.shape != product:
        value = graph.add(View(maps.reshape(product, kind.shape)), (value,), kind, source=sink.source).name
    order.place(value, at)
    graph.replace(sink.name, value)
    graph.discard({*region.nodes, *values.values(), kernel.name})
    return made.name


def add_kernel(
    graph: Graph, spec: Gemm, operands: Iterable[str], lead: tuple[object, ...], source: str
) -> Node:
    """A Gemm kernel node: typed where it has one output."""
    if len(spec.outputs) == 1:
        kind = TensorType.of(spec.outputs[0].dtype, *lead, spec.columns(spec.outputs[0]))
        return graph.add(Kernel(spec), operands, kind, source=source)
    node = graph.add(Kernel(spec), operands, None, source=source)
    for at, output in enumerate(spec.outputs):
        kind = TensorType.of(output.dtype, *lead, spec.columns(output))
        graph.add(Item(at), (node.name,), kind, source=source)
    return node


def results_of(graph: Graph, kernel: Node, spec: Gemm) -> list[str]:
    """The value of every output, in order."""
    values = outputs_of(graph, kernel)
    return [values[at] for at in range(len(spec.outputs))]
