"""The pass that headrace adds to Inductor's: capture, passes, emit. It never makes a compilation fail."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import fx

import headrace
from headrace import upstream
from headrace.compiler.capture import capture
from headrace.compiler.emit import Emission, emit
from headrace.compiler.notices import warn_once
from headrace.compiler.options import Options
from headrace.compiler.records import Claim, GraphRecord, Unclaimed
from headrace.ir.graph import Graph
from headrace.ir.ops import Extern, Item, Kernel
from headrace.passes.unify import Unify, sites

log = logging.getLogger(__name__)


class Pipeline(Protocol):
    """Passes in order; `headrace.passes.pipeline.Pipeline` is one."""

    def run(self, graph: Graph) -> None: ...


@functools.lru_cache(maxsize=1)
def sources_digest() -> str:
    """A hash of every module that can change what is rewritten, and into what."""
    root = Path(headrace.__file__).parent
    hasher = hashlib.sha256(headrace.__version__.encode())
    for part in ("ir", "passes", "compiler", "codegen"):
        for path in sorted((root / part).rglob("*.py")):
            hasher.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def fingerprint(options: Options, licences: str = "") -> str:
    """What Inductor's caches must know about our pass. Schedules are not in it: graphs do not carry them.

    `licences` is the digest of what a calibration permits: calibrating again makes other graphs.
    """
    return f"headrace/{sources_digest()[:32]}/{options.fingerprint};licences={licences}"


class Rewriting:
    """Rewrites inference graphs; leaves graphs with a backward as they are.

    Attributes:
        record: what happened so far, or None while no graph was seen (then a cache answered).
    """

    def __init__(self, key: str, options: Options, pipeline: Callable[[Options], Pipeline]) -> None:
        self._key = key
        self._options = options
        self._pipeline = pipeline
        self.record: GraphRecord | None = None

    def __call__(self, graph: fx.Graph) -> None:
        nodes = len(graph.nodes)
        if has_backward(graph):
            self._add(
                GraphRecord(self._key, "training", nodes, note="a graph with a backward is left to Inductor")
            )
            return
        started = time.perf_counter()
        try:
            found = rewrite(graph, self._pipeline(self._options), self._options)
        except Exception as error:
            if self._options.strict:
                raise
            note = f"{type(error).__name__}: {error}"
            warn_once(
                f"rewrite:{type(error).__name__}:{error}",
                f"headrace could not rewrite a graph, which goes to Inductor as it is: {note}",
                error,
            )
            found = GraphRecord("", nodes=nodes, note=f"not rewritten: {note}")
        self._add(replace(found, key=self._key, seconds=time.perf_counter() - started))

    def _add(self, found: GraphRecord) -> None:
        if self.record is None:
            self.record = found
            return
        # A graph with subgraphs (cond, while_loop, checkpointing) is seen once per subgraph.
        before = self.record
        self.record = replace(
            before,
            nodes=before.nodes + found.nodes,
            claims=before.claims + found.claims,
            unclaimed=before.unclaimed + found.unclaimed,
            note=before.note or found.note,
            seconds=before.seconds + found.seconds,
        )


def inductor_pass(rewriting: Rewriting, identity: str) -> Any:
    """`rewriting` as a pass that takes part in Inductor's cache keys under `identity`."""
    base: Any = upstream.custom_graph_pass()

    class HeadracePass(base):  # type: ignore[misc]  # a private base class is untyped
        def __call__(self, graph: fx.Graph) -> None:
            rewriting(graph)

        def uuid(self) -> str:
            return identity

    return HeadracePass()


def has_backward(graph: fx.Graph) -> bool:
    """Whether a graph is a training step's joint graph, by the names that AOTAutograd gives its inputs."""
    return any(
        node.op == "placeholder" and node.name.startswith(("tangents_", "primals_")) for node in graph.nodes
    )


def rewrite(graph: fx.Graph, pipeline: Pipeline, options: Options) -> GraphRecord:
    """Rewrite a functional ATen graph in place and say what was done.

    Raises:
        HeadraceError: the graph cannot be rewritten; it is then exactly as it was.
    """
    nodes = len(graph.nodes)
    module = graph.owning_module or fx.GraphModule({}, graph)
    captured = capture(module)
    dump = _Dump(options.dump, strict=options.strict)
    dump.write("captured", captured.graph)
    pipeline.run(captured.graph)
    dump.write("rewritten", captured.graph)
    sources = {node.fx: node.source for node in captured.graph if node.fx is not None}
    emission = emit(captured.graph, graph)
    return GraphRecord(
        "", "inference", nodes, _claims(emission, sources, _notes(captured.graph, graph)),
        _unclaimed(captured.graph),
        note="" if emission.kernels else "no kernel was claimed",
    )  # fmt: skip


def _notes(ir: Graph, graph: fx.Graph) -> dict[str, tuple[str, str]]:
    """(attention site, what passes say of it) by the FX node of a kernel."""
    refused = {refusal.node: refusal.reason for refusal in ir.refusals if refusal.by == Unify.name}
    named = {site.node: site.name for site in sites(ir)}
    found = {}
    for node in graph.nodes:
        name = node.meta.get("headrace_node")
        if name is not None and name in ir:
            found[node.name] = (named.get(name, ""), ir.remarks.get(name) or refused.get(name, ""))
    return found


def _claims(
    emission: Emission, sources: dict[str, str], notes: dict[str, tuple[str, str]]
) -> tuple[Claim, ...]:
    by_node: dict[str, list[str]] = {}
    for old, new in emission.renamed.items():
        by_node.setdefault(emission.origin.get(new, new), []).append(old)
    return tuple(
        Claim(
            name, text.partition("{")[0], text, tuple(by_node.get(name, ())),
            next((sources[old] for old in by_node.get(name, ()) if sources.get(old)), ""),
            *notes.get(name, ("", "")),
        )
        for name, text in emission.kernels
    )  # fmt: skip


def _unclaimed(graph: Graph) -> tuple[Unclaimed, ...]:
    found: dict[str, Unclaimed] = {}
    for refusal in graph.refusals:
        if refusal.node not in graph or refusal.node in found:
            continue
        node = graph[refusal.node]
        if isinstance(node.op, (Kernel, Item)) or (node.fx in graph.replaced):
            continue
        op = node.op.target if isinstance(node.op, Extern) else node.op.mnemonic
        found[refusal.node] = Unclaimed(
            node.fx or node.name, op, f"{refusal.by}: {refusal.reason}", node.source
        )
    return tuple(found.values())


class _Dump:
    """Writes graphs as text into a folder, numbered in the order of compilation. Where that fails a warning
    says so, and graphs are compiled all the same.
    """

    def __init__(self, folder: str | None, *, strict: bool) -> None:
        self._folder = None if folder is None else Path(folder).expanduser()
        self._strict = strict

    def write(self, what: str, graph: Graph) -> None:
        if self._folder is None:
            return
        from headrace.ir.text import print_graph

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            number = sum(1 for _ in self._folder.glob(f"*-{what}.ir"))
            (self._folder / f"{number:03d}-{what}.ir").write_text(print_graph(graph), encoding="utf-8")
        except OSError as error:
            if self._strict:
                raise
            warn_once(
                f"dump:{self._folder}",
                f"headrace cannot write graphs into {self._folder} ({error.strerror}); dump does nothing",
                error,
            )
