"""Positions in a topological order, kept while a pass adds nodes, so that dependence is a short question."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.ir.graph import Graph, Node


class Order:
    """Where each node stands. A node comes after every node that it reads."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._at: dict[str, float] = {node.name: float(at) for at, node in enumerate(graph)}

    def at(self, name: str) -> float:
        """The position of a node; one that was added since stands just behind what it reads."""
        if name not in self._at:
            reads = self._graph[name].operands
            self._at[name] = max((self.at(operand) for operand in reads), default=-1.0) + 1e-6
        return self._at[name]

    def place(self, name: str, at: float) -> None:
        """Say where a new node stands: at the place of the node that it replaces."""
        self._at[name] = at

    def sorted(self, nodes: Iterable[Node]) -> list[Node]:
        """Nodes in order."""
        return sorted(nodes, key=lambda node: self.at(node.name))

    def depends(self, name: str, on: Iterable[str]) -> bool:
        """Whether `name` is one of `on` or reads one of them, however indirectly."""
        targets = set(on)
        first = min((self.at(target) for target in targets), default=0.0)
        seen, waiting = {name}, [name]
        while waiting:
            current = waiting.pop()
            if current in targets:
                return True
            for operand in self._graph[current].operands:
                if operand not in seen and self.at(operand) >= first:
                    seen.add(operand)
                    waiting.append(operand)
        return False
