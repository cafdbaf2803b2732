"""Emit: what the passes replaced in the IR graph becomes nodes of the FX graph that it was captured from.

Only the values named in `graph.replaced` change; everything else stays the node that it was. A kernel becomes
one operator call, a view over an operand a few ATen views, sizes stay symbolic. Nothing needs to be left
over: the whole graph may become one operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from headrace import upstream
from headrace.compiler.materialise import Materialiser
from headrace.compiler.reorder import Snapshot, reorder, repropagate, value_of
from headrace.errors import EmitError
from headrace.ir.graph import Graph

_COPIED_META = (
    "stack_trace", "nn_module_stack", "source_fn_stack", "original_aten", "from_node", "seq_nr", "torch_fn",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Emission:
    """What emitting did.

    Attributes:
        kernels: (FX node name, Spec text) of each operator call, in graph order.
        renamed: the FX values that were replaced, and the names of the nodes that now compute them.
        origin: the operator call behind each of those nodes (a result of several, or a view, has another
            name).
    """

    kernels: tuple[tuple[str, str], ...]
    renamed: dict[str, str]
    origin: dict[str, str]


def emit(ir: Graph, graph: fx.Graph) -> Emission:
    """Rewrite `graph` in place as `ir.replaced` says. On any failure it is left exactly as it was.

    Raises:
        EmitError: a value cannot be expressed in FX, its type would change, or the order would be circular.
    """
    snapshot = Snapshot(graph)
    try:
        return _emit(ir, graph, snapshot)
    except Exception:
        snapshot.restore()
        raise


def _emit(ir: Graph, graph: fx.Graph, snapshot: Snapshot) -> Emission:
    old = {node.name: node for node in graph.nodes}
    needed = [name for name in _needed(ir, old) if ir[ir.replaced[name]].fx != name]
    if not needed:
        return Emission((), {}, {})
    materialiser = Materialiser(ir, graph, old)
    with graph.inserting_before(_output(graph)):
        new = {name: materialiser.value(ir.replaced[name]) for name in needed}
    for name, node in new.items():
        _same_type(name, old[name], node)
        if node in materialiser.made:
            node.meta |= {key: old[name].meta[key] for key in _COPIED_META if key in old[name].meta}
    made = frozenset(materialiser.made)
    moved: set[fx.Node] = set()
    for name, node in new.items():
        below = _between(old[name], node, snapshot.position)
        old[name].replace_all_uses_with(
            node, delete_user_cb=lambda user, below=below: user not in made and user not in below
        )
        if not _same_strides(old[name], node):
            node.meta["headrace_promised"] = value_of(old[name])
            moved.add(node)
    reorder(graph, snapshot.position)
    repropagate(graph, moved, made)
    graph.lint()
    _erase_dead(graph, [old[name] for name in needed] + list(made))
    calls = tuple(
        (node.name, str(node.args[-1])) for node in graph.nodes if node in made and node.meta.get("headrace")
    )
    renamed = {name: node.name for name, node in new.items()}
    return Emission(calls, renamed, {node.name: _call_behind(node).name for node in new.values()})


def _call_behind(node: fx.Node) -> fx.Node:
    """The operator call that a new value comes from, through views and the choice of a result."""
    while not node.meta.get("headrace") and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _output(graph: fx.Graph) -> fx.Node:
    found: fx.Node = next(node for node in reversed(graph.nodes) if node.op == "output")
    return found


def _needed(ir: Graph, old: dict[str, fx.Node]) -> list[str]:
    """The replaced FX values that the rewritten graph still reads, in graph order."""
    found: set[str] = set()
    seen: set[tuple[fx.Node, bool]] = set()
    # (node, whether the old node itself is read): what a new value is built from is read as it was.
    queue = [(node, False) for node in old.values() if node.op == "output" or _has_effect(node)]
    while queue:
        node, as_it_was = queue.pop()
        if (node, as_it_was) in seen:
            continue
        seen.add((node, as_it_was))
        if as_it_was or node.name not in ir.replaced:
            queue += [(above, False) for above in node.all_input_nodes]
            continue
        found.add(node.name)
        queue += [(above, True) for above in _boundary(ir, ir.replaced[node.name], old)]
    return [name for name in old if name in found]


def _boundary(ir: Graph, name: str, old: dict[str, fx.Node]) -> Iterator[fx.Node]:
    """The FX nodes from which an IR value is computed."""
    stack, seen = [name], set()
    while stack:
        current = ir[stack.pop()]
        if current.name in seen:
            continue
        seen.add(current.name)
        if current.fx is not None and current.fx in old:
            yield old[current.fx]
        else:
            stack += current.operands


def _between(old: fx.Node, new: fx.Node, position: dict[fx.Node, int]) -> set[fx.Node]:
    """`new` and those of its ancestors that may depend on `old`: what comes after it, and what is new."""
    first = position[old]
    found: set[fx.Node] = {new}
    queue = [new]
    while queue:
        for node in queue.pop().all_input_nodes:
            if node not in found and position.get(node, first + 1) > first:
                found.add(node)
                queue.append(node)
    return found


def _same_type(name: str, old: fx.Node, new: fx.Node) -> None:
    before, after = value_of(old), value_of(new)
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        if type(before) is not type(after):
            raise EmitError(f"{name} is {type(before).__name__} but would become {type(after).__name__}")
        return
    if before.dtype != after.dtype or before.device != after.device or before.dim() != after.dim():
        raise EmitError(f"{name} is {_describe(before)} but would become {_describe(after)}")
    for one, other in zip(before.shape, after.shape, strict=True):
        if not upstream.statically_true(one == other):
            raise EmitError(f"{name} is {_describe(before)} but would become {_describe(after)}")


def _describe(value: torch.Tensor) -> str:
    return f"{value.dtype} {tuple(value.shape)} on {value.device}"


def _same_strides(old: fx.Node, new: fx.Node) -> bool:
    before, after = value_of(old), value_of(new)
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return True
    return all(
        upstream.statically_true(extent == 1) or upstream.statically_true(one == other)
        for extent, one, other in zip(before.shape, before.stride(), after.stride(), strict=True)
    )


def _erase_dead(graph: fx.Graph, roots: list[fx.Node]) -> None:
    """Erase what the replaced values alone were computed from."""
    candidates = set(roots)
    queue = list(roots)
    while queue:
        for above in queue.pop().all_input_nodes:
            if above not in candidates:
                candidates.add(above)
                queue.append(above)
    for node in reversed(list(graph.nodes)):
        if node in candidates and not node.users and not _has_effect(node):
            graph.erase_node(node)


def _has_effect(node: fx.Node) -> bool:
    """Whether a node matters beyond its value. SDPA does not, though its dropout could draw numbers."""
    return bool(node.is_impure(impure_random=False))
