"""FX graphs for tests: what capture sees of a small function, without compiling anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx


class _Seen(Exception):
    """Carries the graph out of Inductor before it generates code."""


def joint_graph(fn: Callable[..., object], *args: torch.Tensor, dynamic: bool | None = False) -> fx.GraphModule:
    """The functional ATen graph that Inductor's joint-graph pre-pass hook gets for `fn(*args)` (inference).

    `fn` may be a module. Nothing is compiled: the hook stops Inductor.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass

    seen: list[fx.GraphModule] = []

    class Stop(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            module = graph.owning_module
            assert module is not None
            seen.append(fx.GraphModule(module, fx.Graph()))
            kept: dict[fx.Node, fx.Node] = {}
            copy = fx.Graph()
            output = copy.graph_copy(graph, kept)
            copy.output(output)
            seen[-1] = fx.GraphModule(module, copy)
            raise _Seen

        def uuid(self) -> None:
            return None

    torch._dynamo.reset()
    compiled = torch.compile(fn, dynamic=dynamic, options={"joint_custom_pre_pass": Stop()})
    try:
        with torch.no_grad():
            compiled(*args)
    except Exception:
        if not seen:
            raise
    return seen[0]


@functools.lru_cache(maxsize=1)
def _decompositions() -> dict[torch._ops.OperatorBase, Callable[..., object]]:
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def traced(
    fn: Callable[..., object], args: Sequence[torch.Tensor], *, decomposed: bool = False, symbolic: bool = False
) -> fx.GraphModule:
    """A functional ATen graph by make_fx, with or without Inductor's decompositions, static or symbolic."""

    def call(*given: torch.Tensor) -> object:
        return fn(*given)

    with torch.no_grad():
        return make_fx(
            torch.func.functionalize(call),
            decomposition_table=_decompositions() if decomposed else None,
            tracing_mode="symbolic" if symbolic else "fake",
            _allow_non_fake_inputs=True,
        )(*args)
