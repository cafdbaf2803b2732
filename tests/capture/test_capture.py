"""Capture: names, sources, externs, sizes; that nothing is lost and the FX graph is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import joint_graph, joint_graph_and_inputs, traced

from headrace.compiler.capture import TABLE, capture, externs
from headrace.ir.evaluate import evaluate
from headrace.ir.graph import Graph
from headrace.ir.ops import Extern, Input, Item, Scatter, Size, View
from headrace.ir.size import text
from headrace.ir.text import print_graph
from headrace.ir.verify import verify


def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    first, second = (F.silu(x @ w.T) * 0.5).topk(3, -1)[0].chunk(2, 0)
    return F.softmax(torch.cat([first, second], -1), -1)


ARGS = (torch.randn(4, 8), torch.randn(6, 8))


@pytest.mark.parametrize("decomposed", [False, True])
def test_every_fx_tensor_has_one_node_of_its_name_and_type(decomposed: bool) -> None:
    module = traced(layer, ARGS, decomposed=decomposed)
    captured = capture(module)
    verify(captured.graph)
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and node.users:
            found = captured.graph[captured.by_fx[node.name]]
            assert found.fx == node.name
            assert found.type is not None
            assert found.type.static == tuple(value.shape)
            assert found.type.dtype.to_torch() == value.dtype
    assert len({node.fx for node in captured.graph if node.fx}) == len([n for n in captured.graph if n.fx])


def test_capturing_leaves_the_fx_graph_alone() -> None:
    module, inputs = joint_graph_and_inputs(layer, *ARGS)
    code = module.code
    metas = [dict(node.meta) for node in module.graph.nodes]
    before = module(*inputs.values())
    capture(module)
    module.recompile()
    assert module.code == code
    assert [dict(node.meta) for node in module.graph.nodes] == metas
    assert torch.equal(module(*inputs.values())[0], before[0])


def test_outputs_are_in_order_and_may_repeat() -> None:
    module = traced(lambda x: (x + 1, x, x + 1), ARGS[:1])
    graph = capture(module).graph
    assert len(graph.outputs) == 3
    assert isinstance(graph[graph.outputs[1]].op, Input)


def test_intermediate_nodes_have_no_fx_value() -> None:
    graph = capture(traced(lambda x: x.softmax(-1), ARGS[:1])).graph
    (last,) = (graph[name] for name in graph.outputs)
    assert last.fx == last.name
    inner = [node for node in graph if node.fx is None]
    assert inner
    assert all(node.name.startswith(f"{last.name}.") for node in inner)


def test_the_users_source_line_is_kept() -> None:
    graph = capture(joint_graph(layer, *ARGS)).graph
    sources = {node.source for node in graph if not isinstance(node.op, Input)}
    assert any(
        source.startswith("capture/test_capture.py:") and source.endswith(" in layer") for source in sources
    )


def test_an_unknown_op_keeps_its_results_apart() -> None:
    graph = capture(traced(lambda x: x.topk(2, -1), ARGS[:1])).graph
    (topk,) = (node for node in graph if isinstance(node.op, Extern))
    assert topk.type is None
    items = [node for node in graph if isinstance(node.op, Item)]
    assert [item.op.at for item in items] == [0, 1]
    assert [str(item.type) for item in items] == ["f32[4, 2]", "i64[4, 2]"]


def test_a_known_op_with_unknown_arguments_stays_whole() -> None:
    """An attention that must also return its log-sum-exp, an index along two axes, a cast across layouts."""
    q = torch.randn(1, 2, 4, 8)
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    graph = capture(traced(lambda q: flash(q, q, q), (q,))).graph
    assert [node.op.target for node in graph if isinstance(node.op, Extern)] == [str(flash.default)]
    assert len([node for node in graph if isinstance(node.op, Item)]) == 2


def test_values_of_unmodelled_types_stay_outside() -> None:
    module = traced(lambda x: torch.view_as_real(torch.view_as_complex(x.view(4, 4, 2)) * 2) + 1, ARGS[:1])
    graph = capture(module).graph
    verify(graph)
    assert any(isinstance(node.op, Extern) and node.type is None for node in graph)
    (found,) = evaluate(graph, {_input(graph): ARGS[0]}, externs(module))
    torch.testing.assert_close(found.float(), ARGS[0].view(4, 4, 2) * 2 + 1)


def _input(graph: Graph) -> str:
    (name,) = (node.name for node in graph if isinstance(node.op, Input))
    return name


def test_mutation_of_an_input_stays_an_extern_at_the_end() -> None:
    class Counter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(2, 5))
            self.register_buffer("count", torch.tensor(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache.index_copy_(1, torch.arange(2) + self.count, x)
            self.count.add_(2)
            return self.cache * 2

    module, inputs = joint_graph_and_inputs(Counter(), torch.ones(2, 2))
    graph = capture(module).graph
    verify(graph)
    assert any(isinstance(node.op, Scatter) for node in graph)
    copies = [node for node in graph if isinstance(node.op, Extern)]
    assert {node.op.target for node in copies} == {"aten.copy_.default"}
    before = {
        name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }
    values = evaluate(graph, inputs, externs(module))
    assert all(torch.equal(torch.as_tensor(before[name]), torch.as_tensor(inputs[name])) for name in inputs)
    assert any(
        value.shape == (2, 5) and value[:, 1:3].eq(2).all() and value[:, 3:].eq(0).all() for value in values
    )


def test_readers_of_a_mutated_tensor_read_what_was_written() -> None:
    """In a graph that is not functional: directly by name, which is all that a functionalized graph needs."""
    module = torch.fx.symbolic_trace(lambda x: x)
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = ARGS[0]
    for target, args in (
        (torch.ops.aten.neg.default, (x,)),
        (torch.ops.aten.add_.Scalar, (x, 1)),
        (torch.ops.aten.exp.default, (x,)),
    ):
        node = graph.call_function(target, args)
        node.meta["val"] = ARGS[0]
    graph.output((*list(graph.nodes)[1:],))
    module = torch.fx.GraphModule(module, graph)
    neg, add, exp = evaluate(capture(module).graph, {"x": ARGS[0]}, externs(module))
    torch.testing.assert_close(neg.float(), -ARGS[0])
    torch.testing.assert_close(add.float(), ARGS[0] + 1)
    torch.testing.assert_close(exp.float(), (ARGS[0] + 1).exp())


def test_symbolic_sizes_are_never_turned_into_numbers() -> None:
    """Every size stays the symbol: one graph serves all of them."""

    def heads(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        y = x.view(batch, length, 4, -1).transpose(1, 2)[:, :, -1:]
        return y.mean((0, 1)) * length + torch.arange(length)[:, None, None].sum() + n

    module, inputs = joint_graph_and_inputs(heads, torch.randn(3, 5, 8), torch.tensor(2.0), dynamic=True)
    graph = capture(module).graph
    verify(graph)
    assert not [node for node in graph if isinstance(node.op, Extern)]
    sizes = {text(node.op.expr) for node in graph if isinstance(node.op, Size)}
    assert len({size for size in sizes if size.startswith("s") and size.isalnum()}) == 3
    (found,) = evaluate(graph, inputs)
    x, n = (value for value in inputs.values() if isinstance(value, torch.Tensor))
    torch.testing.assert_close(found, heads(x.double(), n.double()))


def test_grouped_heads_read_the_key_head_by_division() -> None:
    """expand and reshape of the keys compose to `d1 // group` (see also tests/ir/test_index.py)."""
    from headrace.ir.index import compose

    def repeat(k: torch.Tensor) -> torch.Tensor:
        return k[:, :, None].expand(-1, -1, 3, -1, -1).reshape(k.shape[0], -1, *k.shape[2:])

    graph = capture(traced(repeat, (torch.randn(2, 3, 5, 4),), decomposed=True)).graph
    node = graph[graph.outputs[0]]
    index = node.op.index
    while isinstance((source := graph.operands(node)[0]).op, View):
        index = compose(source.op.index, index, graph[graph.outputs[0]].type.shape)
        node = source
    assert ", ".join(map(text, index)) == "d0, d1 // 3, d2, d3"


def test_arguments_that_a_pass_has_named_mean_the_same() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        total = torch.full_like(x, 3.0) + x.sum(-1, keepdim=True) * x.amax(0) - x.mean(0)
        return total[1:3].softmax(-1).transpose(0, 1).clamp(max=0.5)

    module = traced(step, (torch.randn(4, 8),))
    wanted = print_graph(capture(module).graph, notes=False)
    for node in module.graph.nodes:
        if node.op == "call_function":
            names = [argument.name for argument in node.target._schema.arguments]
            node.kwargs = dict(zip(names[1:], node.args[1:], strict=False)) | node.kwargs
            node.args = node.args[:1]
    assert print_graph(capture(module).graph, notes=False) == wanted


def test_rounding_is_where_eager_rounds() -> None:
    """In bfloat16: arithmetic ends in a cast, products and bias round once, moving does not round."""
    x, w, b = torch.randn(4, 8).bfloat16(), torch.randn(6, 8).bfloat16(), torch.randn(6).bfloat16()

    def step(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :6] > 0, F.linear(x, w, b) * 2, x[:, :6])

    module = traced(step, (x, w, b), decomposed=True)
    lines = print_graph(capture(module).graph, notes=False)
    assert "f32[4, 6] = contract" in lines
    assert "{expr=cast:bf16(add(x0, x1))}" in lines
    assert "{expr=cast:bf16(mul(x0, 2))}" in lines
    assert "{expr=where(x0, x1, x2)}" in lines
    names = dict(
        zip([n.name for n in capture(module).graph if isinstance(n.op, Input)], (x, w, b), strict=True)
    )
    assert torch.equal(evaluate(capture(module).graph, names, exact=False)[0], step(x, w, b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("number", [-10000.0, 0.1, 1e30])
def test_a_number_is_compared_in_the_type_of_the_tensor(number: float, dtype: torch.dtype) -> None:
    """In bfloat16 -10000 is -9984, and a mask of such elements does equal -10000.0."""
    x, alone = torch.full((3,), number).to(dtype), torch.tensor(number)

    def step(x: torch.Tensor, alone: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x == number, x <= number, x > alone, x != alone

    graph = capture(traced(step, (x, alone), decomposed=True)).graph
    names = [node.name for node in graph if isinstance(node.op, Input)]
    wanted = step(x, alone)
    for exact in (False, True):
        given = (x.double(), alone.double()) if exact else (x, alone)
        found = evaluate(graph, dict(zip(names, given, strict=True)), exact=exact)
        assert all(map(torch.equal, found[:2], wanted[:2])), exact
        # The float64 oracle leaves roundings out, that of a tensor's only element among them.
        assert exact or all(map(torch.equal, found, wanted))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.tensor([256.0, 1.0, 9984.0], dtype=torch.bfloat16), torch.tensor([257, 1, 10000])),
        (torch.tensor([256.0, 1.0, 260.0], dtype=torch.bfloat16), torch.tensor(257)),
        (torch.tensor([2048.0, 4.0], dtype=torch.float16), torch.tensor([2049, 4], dtype=torch.int32)),
        (torch.tensor([257, 255]), torch.tensor(256.0, dtype=torch.bfloat16)),
        (torch.tensor([16777216, 16777217]), 16777216.5),
    ],
)
def test_integers_are_compared_with_floats_in_the_type_of_these(x: torch.Tensor, y: Any) -> None:
    def step(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        other = rest[0] if rest else y
        return x == other, x < other, x >= other

    inputs = (x, y) if isinstance(y, torch.Tensor) else (x,)
    graph = capture(traced(step, inputs, decomposed=True)).graph
    names = [node.name for node in graph if isinstance(node.op, Input)]
    found = evaluate(graph, dict(zip(names, inputs, strict=True)), exact=False)
    assert all(map(torch.equal, found, step(*inputs)))


def test_the_table_is_keyed_by_overload() -> None:
    assert all(isinstance(target, torch._ops.OpOverload) for target in TABLE)
    assert all(callable(entry) for entry in TABLE.values())
