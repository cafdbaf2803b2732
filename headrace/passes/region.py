"""Growing a region of pointwise nodes behind a value, up to the one node through which all of it leaves."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from headrace.ir.graph import Graph, Node
from headrace.passes.order import Order


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes that read the seeds and are read by nobody outside, except the sink."""

    sink: str
    nodes: frozenset[str]


def grow(
    graph: Graph,
    order: Order,
    seeds: Iterable[str],
    allowed: Callable[[Node], bool],
    limit: int,
    origin: str | None = None,
) -> list[Region]:
    """Every region of at most `limit` nodes with one sink, smallest first.

    `origin` computes the seeds: what depends on another result of it would have to be ready before it.

    Nodes are taken in topological order; the first reader that is not allowed (or that reads a seed on a way
    around the region) ends the growth, since the value that it reads can never be hidden again.
    """
    roots = set(seeds)
    inside = set(roots)
    sources = roots if origin is None else roots | {origin}
    waiting = [(order.at(user.name), user.name) for seed in roots for user in graph.users(seed)]
    heapq.heapify(waiting)
    found: list[Region] = []
    while waiting and len(inside) - len(roots) < limit:
        _, name = heapq.heappop(waiting)
        if name in inside:
            continue
        node = graph[name]
        outside = [operand for operand in node.operands if operand not in inside]
        if not allowed(node) or any(order.depends(operand, sources) for operand in outside):
            break
        inside.add(name)
        users = graph.users(name)
        for user in users:
            heapq.heappush(waiting, (order.at(user.name), user.name))
        hidden = all(
            not graph.is_output(other) and all(user.name in inside for user in graph.users(other))
            for other in inside - {name}
        )
        if hidden and (users or graph.is_output(name)):
            found.append(Region(name, frozenset(inside - roots)))
        if graph.is_output(name):
            break
    return found
