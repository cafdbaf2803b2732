"""Emitting: what was replaced changes, everything else stays, and a failure leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sympy
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from headrace.compiler import resolve
from headrace.compiler.capture import Captured, capture
from headrace.compiler.decisions import Choice, Resolver
from headrace.compiler.emit import emit
from headrace.compiler.operators import is_operator
from headrace.compiler.scopes import RUNTIME
from headrace.errors import EmitError
from headrace.ir.dtype import DType
from headrace.ir.expr import Expr, Ref, call
from headrace.ir.ops import Item, Kernel, Size
from headrace.ir.spec import Attention, Extra, Gemm, Output, Reduction, Rows, Weight
from headrace.ir.types import TensorType

F32 = DType.F32


def traced(
    function: Callable[..., Any], *inputs: Any, symbolic: bool = False
) -> tuple[fx.GraphModule, Captured]:
    module = make_fx(function, tracing_mode="symbolic" if symbolic else "fake")(*inputs)
    return module, capture(module)


def gemm(n: int, k: int, expr: Expr | None = None, extras: tuple[Extra, ...] = ()) -> Gemm:
    output = Output(F32, expr if expr is not None else Ref("acc_w0"))
    return Gemm(F32, (Weight("w0", F32, n, k, "kn"),), (output,), extras)


def claim(captured: Captured, spec: Any, operands: tuple[str, ...], fx_name: str) -> None:
    """Replace the FX value `fx_name` by a one-output kernel of the FX values `operands`."""
    graph = captured.graph
    old = graph[captured.by_fx[fx_name]]
    names = tuple(captured.by_fx[name] for name in operands)
    graph.replace(old.name, graph.add(Kernel(spec), names, old.type).name)
    graph.sweep()


def names(module: fx.GraphModule, what: str = "call_function") -> list[str]:
    return [node.name for node in module.graph.nodes if node.op == what]


def named(module: fx.GraphModule, target: str) -> str:
    """The name of the last node whose target reads like `target`."""
    return [node.name for node in module.graph.nodes if target in str(node.target)][-1]


def run(module: fx.GraphModule, *inputs: torch.Tensor) -> Any:
    module.recompile()
    return module(*inputs)


@pytest.fixture(autouse=True)
def library() -> Iterator[None]:
    """Specs run by the float64 evaluator."""
    from headrace.ir.device import Backend, Device
    from headrace.ir.evaluate import evaluate_spec
    from headrace.ir.evidence import Rung
    from headrace.ir.schedule import LIBRARY

    def build(spec: Any, schedule: object, device: object) -> Any:
        def kernel(inputs: Any) -> Any:
            made = evaluate_spec(spec, inputs)
            rounded = tuple(
                value.to(dtype.to_torch()) for value, dtype in zip(made, spec.output_dtypes, strict=True)
            )
            return rounded if len(rounded) > 1 else rounded[0]

        return kernel

    host = Device("a CPU", Backend.CPU, "x86_64", 1)
    resolver = Resolver(lambda *_: Choice(LIBRARY, Rung.DEFAULT, "evaluator"), build, lambda tensor: host)
    RUNTIME.resolve_by(lambda options: resolver)
    yield
    RUNTIME.resolve_by(resolve.make_resolver)


def test_a_whole_graph_becomes_one_operator() -> None:
    x, w, b = torch.randn(3, 4), torch.randn(4, 5), torch.randn(5)
    module, captured = traced(lambda x, w, b: torch.relu(torch.addmm(b, x, w)), x, w, b)
    spec = gemm(5, 4, call("relu", call("add", Ref("acc_w0"), Ref("b"))), (Extra("b", F32, "n"),))
    claim(captured, spec, ("x_1", "w_1", "b_1"), named(module, "relu"))
    emission = emit(captured.graph, module.graph)
    assert len(names(module)) == 1
    assert [text for _, text in emission.kernels] == [str(spec)]
    torch.testing.assert_close(run(module, x, w, b), torch.relu(torch.addmm(b, x, w)))


def test_a_size_becomes_a_number_on_the_device_of_the_kernel_that_reads_it() -> None:
    """The first tensor of the graph is a scalar on the CPU, the product is elsewhere."""
    x, w = torch.empty(3, 4, device="meta"), torch.empty(4, 5, device="meta")
    module, captured = traced(lambda s, x, w: (s * 2, x @ w + 3), torch.ones(()), x, w)
    graph = captured.graph
    size = graph.add(Size(sympy.Integer(3)), (), TensorType(DType.I64, ()))
    spec = gemm(5, 4, call("add", Ref("acc_w0"), Ref("m")), (Extra("m", DType.I64, ""),))
    old = graph[captured.by_fx[named(module, "add")]]
    operands = (captured.by_fx["x_1"], captured.by_fx["w_1"], size.name)
    graph.replace(old.name, graph.add(Kernel(spec), operands, old.type).name)
    graph.sweep()
    assert len(emit(graph, module.graph).kernels) == 1
    (made,) = (node for node in module.graph.nodes if is_operator(node.target))
    assert [operand.meta["val"].device.type for operand in made.args[:-1]] == ["meta"] * 3


def test_nothing_claimed_changes_nothing() -> None:
    module, captured = traced(lambda x: torch.relu(x) + 1, torch.randn(3))
    before = str(module.graph)
    assert emit(captured.graph, module.graph).kernels == ()
    assert str(module.graph) == before


def test_a_value_may_be_replaced_by_a_function_of_itself() -> None:
    x, w = torch.randn(4, 4), torch.randn(4, 4)
    module, captured = traced(lambda x, w: torch.relu(x) * 2 + w, x, w)
    relu = named(module, "relu")
    claim(captured, gemm(4, 4), (relu, "w_1"), relu)
    emit(captured.graph, module.graph)
    assert relu in names(module)
    torch.testing.assert_close(run(module, x, w), (torch.relu(x) @ w) * 2 + w)


def test_siblings_whose_operands_come_late_are_put_in_order() -> None:
    x, w, v = torch.randn(3, 4), torch.randn(4, 4), torch.randn(4, 4)

    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        first = torch.relu(x @ w)
        return first + x @ (v * 2)

    module, captured = traced(function, x, w, v)
    one, two = (node for node in names(module) if node.startswith("mm"))
    late = named(module, "mul")
    graph = captured.graph
    spec = Gemm(
        F32,
        (Weight("w0", F32, 4, 4, "kn"), Weight("w1", F32, 4, 4, "kn")),
        (Output(F32, Ref("acc_w0")), Output(F32, Ref("acc_w1"))),
    )
    kernel = graph.add(Kernel(spec), [captured.by_fx[name] for name in ("x_1", "w_1", late)])
    for at, name in enumerate((one, two)):
        old = graph[captured.by_fx[name]]
        graph.replace(old.name, graph.add(Item(at), (kernel.name,), old.type).name)
    graph.sweep()
    emission = emit(graph, module.graph)
    module.graph.lint()
    assert len(emission.kernels) == 1
    assert set(emission.renamed) == {one, two}
    assert emission.origin[emission.renamed[one]] == emission.kernels[0][0]
    torch.testing.assert_close(run(module, x, w, v), function(x, w, v))


@pytest.mark.parametrize("shape", [(5, 3), (3, 4, 1)])
def test_another_type_is_refused_and_leaves_the_graph_as_it_was(shape: tuple[int, ...]) -> None:
    x, w = torch.randn(3, 4), torch.randn(4, 5)
    module, captured = traced(lambda x, w: torch.relu(x @ w), x, w)
    before = str(module.graph)
    metas = {node.name: dict(node.meta) for node in module.graph.nodes}
    graph = captured.graph
    wrong = graph.add(
        Kernel(gemm(7, 4)), [captured.by_fx["x_1"], captured.by_fx["w_1"]], TensorType.of(F32, *shape)
    )
    graph.replaced[named(module, "mm")] = wrong.name
    with pytest.raises(EmitError, match="would become"):
        emit(graph, module.graph)
    assert str(module.graph) == before
    assert {node.name: dict(node.meta) for node in module.graph.nodes} == metas
    torch.testing.assert_close(run(module, x, w), torch.relu(x @ w))


def attention_spec(heads: int, width: int) -> Attention:
    return Attention(F32, F32, F32, F32, heads, heads, heads, width, width)


def test_other_strides_reach_only_as_far_as_they_must() -> None:
    q, k, v = (torch.randn(2, 3, 5, 8) for _ in range(3))

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return out, out.view(6, 5, 8)

    module, captured = traced(function, q, k, v)
    result = [name for name in names(module) if list(meta(module, name).shape) == [2, 3, 5, 8]][-1]
    claim(captured, attention_spec(3, 8), ("q_1", "k_1", "v_1"), result)
    emit(captured.graph, module.graph)
    module.graph.lint()
    got, want = run(module, q, k, v), function(q, k, v)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)
        assert one.stride() == other.stride()


def meta(module: fx.GraphModule, name: str) -> torch.Tensor:
    return next(node.meta["val"] for node in module.graph.nodes if node.name == name)


def test_writes_to_inputs_stay_last() -> None:
    cache, x, w = torch.zeros(3, 4), torch.randn(3, 4), torch.randn(4, 4)

    def function(cache: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        old = cache @ w
        torch.ops.aten.copy_.default(cache, x)
        return old

    module, captured = traced(function, cache, x, w)
    claim(captured, gemm(4, 4), ("cache_1", "w_1"), named(module, "aten.mm"))
    emit(captured.graph, module.graph)
    kinds = [is_operator(node.target) for node in module.graph.nodes if node.op == "call_function"]
    assert kinds == [True, False]
    cache += 1
    torch.testing.assert_close(run(module, cache, x, w), torch.ones(3, 4) @ w)
    torch.testing.assert_close(cache, x)


def test_symbolic_sizes_stay_symbolic() -> None:
    x = torch.randn(6, 4)
    module, captured = traced(lambda x: (x * 2).softmax(-1), x, symbolic=True)
    spec = Rows(
        (Extra("x", F32, "rn"),),
        (
            Reduction("m", "max", Ref("x")),
            Reduction("s", "sum", call("exp", call("sub", Ref("x"), Ref("m")))),
        ),
        (Output(F32, call("div", call("exp", call("sub", Ref("x"), Ref("m"))), Ref("s"))),),
    )
    claim(captured, spec, (named(module, "mul"),), named(module, "softmax"))
    emission = emit(captured.graph, module.graph)
    sizes = meta(module, emission.kernels[0][0]).shape
    assert all(isinstance(size, torch.SymInt) and size.node.expr.is_Symbol for size in sizes)
    for rows, columns in ((6, 4), (2, 9), (7, 3)):
        x = torch.randn(rows, columns)
        torch.testing.assert_close(run(module, x), (x * 2).softmax(-1))
