"""The edits of a graph that passes rely on: redefinition, and discarding what a rewrite leaves behind."""

from __future__ import annotations

import pytest

from headrace.errors import VerificationError
from headrace.ir.expr import parse
from headrace.ir.ops import Map
from headrace.ir.text import parse_graph, print_graph
from headrace.ir.verify import verify
from headrace.passes.order import Order
from headrace.passes.region import grow

SOURCE = """
x: f32[4] = input()  # fx=x
a: f32[4] = map(x) {expr=exp(x0)}  # fx=a
b: f32[4] = map(a) {expr=neg(x0)}  # fx=b
c: f32[4] = map(a, b) {expr=add(x0, x1)}  # fx=c
d: f32[4] = map(c) {expr=sqrt(x0)}  # fx=d
return d
"""


def test_a_redefined_value_keeps_its_name_and_its_readers() -> None:
    graph = parse_graph(SOURCE)
    graph.redefine("c", Map(parse("sub(x0, x0)")), ["a"])
    verify(graph)
    assert [user.name for user in graph.users("b")] == []
    assert "c: f32[4] = map(a) {expr=sub(x0, x0)}  # fx=c" in print_graph(graph)
    with pytest.raises(VerificationError, match="nothing"):
        graph.redefine("c", Map(parse("x0")), ["nothing"])


def test_discard_removes_chains_that_nothing_reads_and_keeps_the_rest() -> None:
    graph = parse_graph(SOURCE)
    graph.redefine("d", Map(parse("sqrt(x0)")), ["x"])
    graph.discard(["a", "b", "x", "d"])
    assert "a" in graph  # c still reads it, and was not named
    graph.discard(["a", "b", "c"])
    assert [node.name for node in graph] == ["x", "d"]


def test_discard_forgets_replacements_that_a_later_rewrite_swallowed() -> None:
    graph = parse_graph(SOURCE)
    new = graph.add(Map(parse("abs(x0)")), ["x"], graph["b"].type)
    graph.replace("b", new.name)
    assert graph.replaced == {"b": new.name}
    graph.redefine("c", Map(parse("x0")), ["a"])
    graph.discard([new.name])
    assert graph.replaced == {}


def test_order_knows_what_depends_on_what_while_nodes_are_added() -> None:
    graph = parse_graph(SOURCE)
    order = Order(graph)
    assert order.depends("d", ["a"])
    assert not order.depends("a", ["b"])
    new = graph.add(Map(parse("abs(x0)")), ["b"], graph["b"].type)
    assert order.depends(new.name, ["a"])
    assert not order.depends(new.name, ["c"])
    assert order.at("b") < order.at(new.name) < order.at("c")


def test_a_region_ends_where_one_value_leaves_it() -> None:
    graph = parse_graph(SOURCE)
    found = grow(graph, Order(graph), ["x"], lambda node: True, 8)
    assert [region.sink for region in found] == ["a", "c", "d"]
    assert found[1].nodes == {"a", "b", "c"}
    assert [region.sink for region in grow(graph, Order(graph), ["x"], lambda node: True, 2)] == ["a"]
    assert [r.sink for r in grow(graph, Order(graph), ["x"], lambda node: node.name != "b", 8)] == ["a"]
