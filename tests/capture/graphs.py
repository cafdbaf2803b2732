"""FX graphs for tests: what capture sees of a small function, without compiling anything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx


class _Seen(Exception):
    """Carries the graph out of Inductor before it generates code."""


def joint_graph(
    fn: Callable[..., object], *args: torch.Tensor, dynamic: bool | None = False
) -> fx.GraphModule:
    """The functional ATen graph that Inductor's joint-graph pre-pass hook gets for `fn(*args)` (inference).

    `fn` may be a module. Nothing is compiled: the hook stops Inductor.
    """
    return joint_graph_and_inputs(fn, *args, dynamic=dynamic)[0]


def joint_graph_and_inputs(
    fn: Callable[..., object], *args: torch.Tensor, dynamic: bool | None = False
) -> tuple[fx.GraphModule, dict[str, torch.Tensor | int]]:
    """As `joint_graph`, and the value of every placeholder (parameters and sizes included) by name."""
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.custom_graph_pass import CustomGraphPass

    seen: list[fx.GraphModule] = []
    inputs: list[tuple[torch.Tensor | int, ...]] = []

    class Stop(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            module = graph.owning_module
            assert module is not None
            kept = fx.Graph()
            kept.output(kept.graph_copy(graph, {}))
            seen.append(fx.GraphModule(module, kept))
            raise _Seen

        def uuid(self) -> None:
            return None

    def backend(module: fx.GraphModule, example_inputs: list[torch.Tensor]) -> Callable[..., object]:
        try:
            compile_fx(module, example_inputs, config_patches={"joint_custom_pre_pass": Stop()})
        except Exception:
            if not seen:
                raise

        def run(*given: torch.Tensor | int) -> object:
            # Copies: the module may write to its inputs.
            inputs.append(tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in given))
            return module(*given)

        return run

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(fn, dynamic=dynamic, backend=backend)(*args)
    names = [node.name for node in seen[0].graph.nodes if node.op == "placeholder"]
    return seen[0], dict(zip(names, inputs[0], strict=True))


@functools.lru_cache(maxsize=1)
def _decompositions() -> dict[torch._ops.OperatorBase, Callable[..., object]]:
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def traced(
    fn: Callable[..., object],
    args: Sequence[torch.Tensor],
    *,
    decomposed: bool = False,
    symbolic: bool = False,
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
