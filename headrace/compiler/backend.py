"""The torch.compile backend: `torch.compile(model, backend="headrace", options={...})`.

Inductor compiles every graph; headrace adds one pass to Inductor's, which replaces the regions that it
claims by operators. Inductor's caches stay in use. What goes wrong inside headrace costs a warning and the
claims of one graph, never the compilation: plain Inductor compiles the graph then, and where Inductor has no
C++ compiler the rewritten graph is interpreted.
"""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import fx

from headrace import upstream
from headrace.compiler import licences, lowering, resolve
from headrace.compiler.freeze import REGISTRY, Guard
from headrace.compiler.notices import warn_once
from headrace.compiler.options import Options, read
from headrace.compiler.records import GraphRecord, RecordStore, graph_key
from headrace.compiler.rewrite import Pipeline, Rewriting, fingerprint, inductor_pass
from headrace.compiler.scopes import HERE, RUNTIME, Scope
from headrace.configuration import current
from headrace.errors import HeadraceError

log = logging.getLogger(__name__)

_SLOT = "joint_custom_pre_pass"


def backend(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compile a Dynamo graph. `mode` and `options` are what the user gave to torch.compile.

    Raises:
        UnknownOption: the user's mistake, at once.
        HeadraceError: anything else, only under `strict`.
    """
    return compile_graph(gm, example_inputs, read(mode, options, base=resolve.default_options()))


def compile_graph(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    pipeline: Callable[[Options], Pipeline] | None = None,
) -> Callable[..., Any]:
    """Compile a Dynamo graph with checked options; `pipeline` makes the passes (tests bring their own)."""
    why_not = resolve.why_delegate(options, example_inputs)
    permitted = licences.load(options)
    identity = fingerprint(options, permitted.digest) if why_not is None else "delegated"
    key = graph_key(gm, example_inputs, identity)
    if why_not is not None:
        log.info("graph %s goes to Inductor untouched: %s", key, why_not)
        records().keep(GraphRecord(key, "delegated", len(gm.graph.nodes), note=why_not))
        return Watched(_inductor(gm, example_inputs, options, []), key)
    scope = RUNTIME.scope(options)
    passes = pipeline or functools.partial(resolve.default_pipeline, licences=permitted)
    rewriting = Rewriting(key, options, passes)
    # A graph of its own: Inductor's first passes change the one that it is given.
    pristine = fx.GraphModule(gm, copy.deepcopy(gm.graph))
    try:
        compiled = _inductor(gm, example_inputs, options, [inductor_pass(rewriting, identity)])
    except Exception as error:
        compiled = _second_try(pristine, example_inputs, options, rewriting, error)
    record = rewriting.record
    if record is None:  # a cache answered
        records().use(key)
    else:
        records().keep(record)
        log.info("graph %s: %d claimed, %d left", key, len(record.claims), len(record.unclaimed))
    return Watched(compiled, key, scope)


def _inductor(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options, ours: list[Any]
) -> Callable[..., Any]:
    """Inductor, with our pass behind the passes that the user or others have put into its slot."""
    patches = dict(options.inductor)
    if ours:
        lowering.install()
        theirs = patches.get(_SLOT)
        listed = upstream.installed_passes(_SLOT) if theirs is None else theirs
        patches[_SLOT] = [*(listed if isinstance(listed, (list, tuple)) else [listed]), *ours]
    compiled: Callable[..., Any] = upstream.compile_fx()(gm, example_inputs, config_patches=patches)
    return compiled


def _second_try(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    options: Options,
    rewriting: Rewriting,
    error: Exception,
) -> Callable[..., Any]:
    """When Inductor failed with our pass: interpret where there is no compiler, else go without the pass."""
    if upstream.is_control_flow(error):
        raise error
    if upstream.lacks_cpp_compiler(error):
        warn_once(
            "no-cpp-compiler",
            "Inductor has no working C++ compiler: headrace's kernels run, and PyTorch's operators for the "
            "rest. Install g++ or set CXX for the speed of generated code",
            error,
        )
        rewriting.record = None
        return interpreted(gm, example_inputs, rewriting)
    if options.strict or rewriting.record is None or not rewriting.record.claims:
        raise error
    first = (str(error).strip().splitlines() or [""])[0]
    warn_once(
        f"inductor:{type(error).__name__}:{first}",
        "Inductor failed on a graph that headrace had rewritten and gets the original "
        f"({type(error).__name__}: {first})",
        error,
    )
    rewriting.record = GraphRecord(
        rewriting.record.key,
        nodes=rewriting.record.nodes,
        note=f"Inductor failed on the rewritten graph: {first}",
    )
    return _inductor(gm, example_inputs, options, [])


def interpreted(
    gm: fx.GraphModule, example_inputs: Sequence[Any], rewriting: Callable[[fx.Graph], None]
) -> Callable[..., Any]:
    """AOTAutograd alone: claimed kernels and, for the rest, PyTorch's operators one by one."""

    def inference(graph_module: fx.GraphModule, _: Sequence[Any]) -> Any:
        rewriting(graph_module.graph)
        graph_module.recompile()
        return upstream.boxed(graph_module.forward)

    def training(graph_module: fx.GraphModule, _: Sequence[Any]) -> Any:
        return upstream.boxed(graph_module.forward)

    compiler = upstream.aot_autograd(
        fw_compiler=training,
        bw_compiler=training,
        inference_compiler=inference,
        decompositions=upstream.decompositions(),
        keep_inference_input_mutations=True,
    )
    compiled: Callable[..., Any] = compiler(gm, example_inputs)
    return compiled


class Watched:
    """A compiled graph that knows its record, runs under the options it was compiled with, and guards frozen
    weights.
    """

    def __init__(self, compiled: Callable[..., Any], key: str, scope: Scope | None = None) -> None:
        self._compiled = compiled
        self._guard: Guard | None = None
        self.key = key
        self.scope = scope

    def __call__(self, *arguments: Any) -> Any:
        guard = self._guard
        if guard is None or guard.revision != REGISTRY.revision:
            guard = self._guard = Guard(arguments)
        guard.check(arguments)
        if _listeners:
            for heard in list(_listeners):
                heard.append(self)
        before = HERE.entered
        HERE.entered = self.scope
        try:
            return self._compiled(*arguments)
        finally:
            HERE.entered = before


_listeners: list[list[Watched]] = []
_listening = threading.Lock()


@contextmanager
def listening() -> Iterator[list[Watched]]:
    """The compiled graphs that run inside, in order."""
    heard: list[Watched] = []
    with _listening:
        _listeners.append(heard)
    try:
        yield heard
    finally:
        with _listening:
            _listeners[:] = [other for other in _listeners if other is not heard]


_RECORDS = RecordStore()


def records() -> RecordStore:
    """Where graph records are kept: this process, and the records folder where it can be written."""
    if _RECORDS.folder is None:
        try:
            _RECORDS.folder = current().records_folder
        except HeadraceError as error:
            log.debug("records stay in memory: %s", error)
    return _RECORDS


def reset() -> None:
    """Called by `torch._dynamo.reset()`: kernels are looked up anew."""
    RUNTIME.forget()


# torch._dynamo.reset() looks for this attribute on a backend.
backend.reset = reset  # type: ignore[attr-defined]  # functions take attributes
