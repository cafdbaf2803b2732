"""Putting a rewritten FX graph in order: a stable topological sort, and fake values that are true again."""

from __future__ import annotations

import heapq
from typing import Any

import torch
from torch import fx

from headrace import upstream
from headrace.errors import EmitError

aten = torch.ops.aten

# What reads its operand's memory rather than its elements.
_BY_STRIDES = frozenset({aten.as_strided.default, aten.as_strided_scatter.default})


def value_of(node: fx.Node) -> Any:
    """The fake value that tracing recorded for a node, or None."""
    return node.meta.get("val")


class Snapshot:
    """What a graph looked like: order, arguments and metadata of every node."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._nodes = list(graph.nodes)
        self._saved = {node: (node.args, node.kwargs, dict(node.meta)) for node in self._nodes}
        self.position = {node: at for at, node in enumerate(self._nodes)}

    def restore(self) -> None:
        """Make the graph what it was. Only nodes that did not exist then may have been added or erased."""
        for node, (args, kwargs, meta) in self._saved.items():
            node.args, node.kwargs = args, kwargs
            node.meta.clear()
            node.meta.update(meta)
        for node in reversed(list(self._graph.nodes)):
            if node not in self._saved:
                self._graph.erase_node(node)
        _arrange(self._graph, self._nodes)


def reorder(graph: fx.Graph, position: dict[fx.Node, int]) -> None:
    """Sort topologically; old nodes keep their order, new ones come right after their last operand.

    Raises:
        EmitError: nodes wait for one another, or a node would move past a write that it came before.
    """
    nodes = list(graph.nodes)
    placeholders = [position[node] for node in nodes if node.op == "placeholder" and node in position]
    first = max(placeholders, default=0)
    rank: dict[fx.Node, tuple[int, int]] = {}
    for at, node in enumerate(nodes):
        if node in position:
            rank[node] = (position[node], 0)
        else:
            above = max((rank[operand][0] for operand in node.all_input_nodes), default=first)
            rank[node] = (max(above, first), at + 1)
    waiting = {node: len(node.all_input_nodes) for node in nodes}
    ready = [(rank[node], at, node) for at, node in enumerate(nodes) if not waiting[node]]
    heapq.heapify(ready)
    number = {node: at for at, node in enumerate(nodes)}
    order: list[fx.Node] = []
    while ready:
        _, _, node = heapq.heappop(ready)
        order.append(node)
        for user in node.users:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, (rank[user], number[user], user))
    if len(order) != len(nodes):
        stuck = [node.name for node in nodes if waiting[node]][:4]
        raise EmitError(f"the rewritten graph is circular at {', '.join(stuck)}")
    _check_writes(order, position)
    _arrange(graph, order)


def _check_writes(order: list[fx.Node], position: dict[fx.Node, int]) -> None:
    """A node that came before a write must still come before it: functional graphs end in such writes."""
    latest_write = -1
    for node in order:
        at = position.get(node)
        if at is None or node.op in ("placeholder", "output"):
            continue
        if at < latest_write:
            raise EmitError(f"{node.name} would move past a write to an input")
        if node.op == "call_function" and getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            latest_write = max(latest_write, at)


def _arrange(graph: fx.Graph, order: list[fx.Node]) -> None:
    cursor = graph._root
    for node in order:
        if cursor.next is not node:
            cursor.append(node)
        cursor = node


def repropagate(graph: fx.Graph, moved: set[fx.Node], made: frozenset[fx.Node]) -> None:
    """Recompute fake values below nodes whose strides changed; keep `view` legal and outputs' strides as
    promised.
    """
    if not moved:
        return
    mode = upstream.fake_mode_of([value_of(node) for node in graph.nodes])
    changed = set(moved)
    for node in list(graph.nodes):
        if node.op == "output":
            _keep_output_strides(graph, node, changed, mode)
        elif node.op == "call_function" and node not in made and changed.intersection(node.all_input_nodes):
            before = value_of(node)
            if node.target in _BY_STRIDES:
                raise EmitError(f"{node.name} addresses memory by strides, which changed")
            try:
                after = _run(node, mode)
            except (RuntimeError, ValueError):
                if node.target is not aten.view.default:
                    raise
                with graph.inserting_before(node):
                    copy = _insert(
                        graph, mode, aten.clone.default, node.args[0], memory_format=torch.contiguous_format
                    )
                node.update_arg(0, copy)
                after = _run(node, mode)
            if _layout(after) != _layout(before):
                node.meta["headrace_before"] = before
                changed.add(node)
            node.meta["val"] = after
    for node in graph.nodes:
        node.meta.pop("headrace_before", None)
        node.meta.pop("headrace_promised", None)


def _layout(value: Any) -> list[tuple[str, ...]]:
    """Strides as text, of every tensor in a value; dimensions of size 1 have none that matters."""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return [
        tuple(
            "" if upstream.statically_true(n == 1) else str(s)
            for n, s in zip(p.shape, p.stride(), strict=True)
        )
        for p in parts
        if isinstance(p, torch.Tensor)
    ]


def _run(node: fx.Node, mode: Any) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), value_of)
    if mode is None:
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function's target is callable
    with mode:
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function's target is callable


def _insert(graph: fx.Graph, mode: Any, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    node = graph.call_function(target, args, kwargs)
    node.meta["val"] = _run(node, mode)
    return node


def _keep_output_strides(graph: fx.Graph, output: fx.Node, changed: set[fx.Node], mode: Any) -> None:
    """Copy outputs back into the strides that they had; a caller may rely on them."""
    for node in [node for node in output.all_input_nodes if node in changed]:
        before = node.meta.get("headrace_before", node.meta.get("headrace_promised"))
        if before is None or _layout(before) == _layout(value_of(node)):
            continue
        order = sorted(range(before.dim()), key=lambda at: _hint(before.stride()[at]), reverse=True)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        with graph.inserting_before(output):
            permuted = _insert(graph, mode, aten.permute.default, node, order)
            copied = _insert(graph, mode, aten.clone.default, permuted, memory_format=torch.contiguous_format)
            restored = _insert(graph, mode, aten.permute.default, copied, inverse)
        output.replace_input_with(node, restored)


def _hint(size: Any) -> int:
    """A likely value of a size, for ordering only."""
    if isinstance(size, torch.SymInt):
        hint = size.node.hint
        return int(hint) if hint is not None else 1 << 30
    return int(size)
