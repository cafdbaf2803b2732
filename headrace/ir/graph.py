"""Graph: a DAG of nodes on networkx. One node, one value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import networkx

from headrace.errors import VerificationError
from headrace.ir.ops import Op
from headrace.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Node:
    """One value.

    Attributes:
        name: unique in its graph.
        op: what computes it.
        operands: the names of the values it reads, in the op's order.
        type: its tensor type, or None where the value is a tuple (read by `item`) or not a tensor.
        fx: the FX node that has exactly this value, where there is one. Capture sets it, passes never do:
            a value without it exists in the IR only and must be emitted before anything outside can read it.
        source: the user's source line, for diagnostics (`file:line in function`).
    """

    name: str
    op: Op
    operands: tuple[str, ...]
    type: TensorType | None
    fx: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pass left a node alone: `matmul_3: attention: the scores have a second reader`."""

    node: str
    by: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.by}: {self.reason}"


class Graph:
    """Nodes in a topological order, with named outputs.

    Passes use `add`, `replace` and `sweep`. `replaced` remembers which FX values now come from which node:
    it is what emitting reads. Everything else in the FX graph stays as it was.

    `modules` has the path of the module that computed an FX value, where capture knows it, and `remarks` what
    passes say of kernels, by node; neither is part of the text form.
    """

    def __init__(self) -> None:
        self._dag = networkx.DiGraph()
        self.outputs: tuple[str, ...] = ()
        self.replaced: dict[str, str] = {}
        self.refusals: list[Refusal] = []
        self.modules: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        self._fresh = 0

    def __getitem__(self, name: str) -> Node:
        node: Node = self._dag.nodes[name]["node"]
        return node

    def __contains__(self, name: object) -> bool:
        return name in self._dag

    def __len__(self) -> int:
        return len(self._dag)

    def __iter__(self) -> Iterator[Node]:
        """Nodes in a topological order that keeps insertion order where it can."""
        order = {name: at for at, name in enumerate(self._dag)}
        for name in networkx.lexicographical_topological_sort(self._dag, key=order.__getitem__):
            yield self[name]

    @property
    def dag(self) -> networkx.DiGraph:
        """The underlying DAG over node names, for networkx's algorithms. Read only."""
        return self._dag

    def operands(self, node: Node) -> tuple[Node, ...]:
        return tuple(self[name] for name in node.operands)

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read a value (each once); a graph output counts in `is_output`, not here."""
        return tuple(self[user] for user in self._dag.successors(name))

    def is_output(self, name: str) -> bool:
        return name in self.outputs

    def fresh_name(self, stem: str) -> str:
        """An unused name that starts with `stem`."""
        if stem not in self._dag:
            return stem
        while f"{stem}_{self._fresh}" in self._dag:
            self._fresh += 1
        return f"{stem}_{self._fresh}"

    def add(
        self,
        op: Op,
        operands: Iterable[str] = (),
        type: TensorType | None = None,
        *,
        name: str | None = None,
        fx: str | None = None,
        source: str = "",
    ) -> Node:
        """Append a node; operands must exist."""
        node = Node(name or self.fresh_name(op.mnemonic), op, tuple(operands), type, fx, source)
        if node.name in self._dag:
            raise VerificationError(f"a node named {node.name} exists already")
        for operand in node.operands:
            if operand not in self._dag:
                raise VerificationError(f"{node.name} reads {operand}, which does not exist")
        self._dag.add_node(node.name, node=node)
        self._dag.add_edges_from((operand, node.name) for operand in node.operands)
        return node

    def replace(self, old: str, new: str) -> None:
        """Let every reader of `old` read `new` (and remember it for emitting, if `old` is an FX value).

        Readers that `new` itself depends on keep reading `old`; that is what makes x -> f(x) possible.

        Raises:
            VerificationError: the types differ.
        """
        if old == new:
            return
        if self[old].type != self[new].type:
            raise VerificationError(f"cannot replace {old}: {self[old].type} by {new}: {self[new].type}")
        below = self._above([new])
        for user in self.users(old):
            if user.name not in below:
                self._rewire(user, old, new)
        self.outputs = tuple(new if name == old else name for name in self.outputs)
        fx = self[old].fx
        if fx is not None:
            self.replaced[fx] = new
        for key, value in self.replaced.items():
            if value == old:
                self.replaced[key] = new

    def _above(self, roots: Iterable[str]) -> set[str]:
        """Nodes and all that they depend on, in one walk (networkx.ancestors is ten times slower)."""
        seen = set(roots)
        waiting = list(seen)
        while waiting:
            for name in self._dag.predecessors(waiting.pop()):
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return seen

    def _rewire(self, user: Node, old: str, new: str) -> None:
        node = replace(user, operands=tuple(new if name == old else name for name in user.operands))
        self._dag.nodes[user.name]["node"] = node
        self._dag.remove_edge(old, user.name)
        self._dag.add_edge(new, user.name)

    def redefine(self, name: str, op: Op, operands: Iterable[str]) -> None:
        """Give a value another definition of the same meaning: name, type and FX value stay.

        Raises:
            VerificationError: an operand does not exist.
        """
        node = replace(self[name], op=op, operands=tuple(operands))
        for operand in node.operands:
            if operand not in self._dag:
                raise VerificationError(f"{name} reads {operand}, which does not exist")
        for operand in set(self[name].operands) - set(node.operands):
            self._dag.remove_edge(operand, name)
        self._dag.add_edges_from((operand, name) for operand in node.operands)
        self._dag.nodes[name]["node"] = node

    def sweep(self) -> int:
        """Remove nodes that no output, emitted value or `extern` needs; returns how many. Inputs stay."""
        roots = [*self.outputs, *self.replaced.values()]
        roots += [name for name in self._dag if self[name].op.mnemonic in ("input", "extern")]
        keep = self._above(roots)
        dead = [name for name in self._dag if name not in keep]
        self._dag.remove_nodes_from(dead)
        return len(dead)

    def discard(self, names: Iterable[str]) -> None:
        """Remove those of `names` that no other node and no output reads, as a rewrite leaves them behind.

        A value that an earlier rewrite put in an FX value's place goes too: whatever read it is gone.
        """
        keep = set(self.outputs)
        waiting = {name for name in names if name in self._dag and name not in keep}
        waiting = {name for name in waiting if self[name].op.mnemonic not in ("input", "extern")}
        gone: set[str] = set()
        while found := [name for name in waiting if not self._dag.succ[name]]:
            self._dag.remove_nodes_from(found)
            gone.update(found)
            waiting.difference_update(found)
        if gone:
            self.replaced = {fx: name for fx, name in self.replaced.items() if name not in gone}

    def refuse(self, node: str, what: str, why: str) -> None:
        """Record that `what` (a pass's name) declined `node`, and why."""
        self.refusals.append(Refusal(node, what, why))
