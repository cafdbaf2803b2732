"""The whole pipeline on a small Llama, its text form, and the reasons for what stays."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.compiler.capture import capture, externs
from headrace.errors import PassSyntaxError
from headrace.ir.device import Backend
from headrace.ir.evaluate import evaluate
from headrace.ir.graph import Graph
from headrace.ir.ops import Contract, Extern, Gather, Map, Reduce, Scan, Scatter
from headrace.ir.spec import Attention, Gemm
from headrace.ir.text import parse_graph, print_graph
from headrace.ir.verify import verify
from headrace.passes.base import Pass
from headrace.passes.claim import Policy
from headrace.passes.fuse_epilogue import FuseEpilogue
from headrace.passes.pipeline import PASSES, Pipeline, parse_pass
from tests.capture.graphs import joint_graph_and_inputs
from tests.passes.harness import check_emittable, same, specs

LAYERS, WIDTH, HEADS, KV_HEADS, HIDDEN, WORDS, LENGTH = 2, 64, 4, 2, 96, 128, 32
SIZE = WIDTH // HEADS


class Norm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * y.to(x.dtype)


class Layer(torch.nn.Module):
    """A decoder layer as Hugging Face writes it, over a static cache."""

    def __init__(self) -> None:
        super().__init__()
        linear = torch.nn.Linear
        self.q, self.o = linear(WIDTH, WIDTH, bias=False), linear(WIDTH, WIDTH, bias=False)
        self.k, self.v = (linear(WIDTH, KV_HEADS * SIZE, bias=False) for _ in range(2))
        self.gate, self.up = (linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = linear(HIDDEN, WIDTH, bias=False)
        self.first, self.second = Norm(), Norm()

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        low, high = x[..., : SIZE // 2], x[..., SIZE // 2 :]
        return x * cos + torch.cat((-high, low), -1) * sin

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, at: Tensor, mask: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, rows, _ = x.shape
        y = self.first(x)
        q, k, v = (p(y).view(batch, rows, -1, SIZE).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        keys, values = keys.index_copy(2, at, k), values.index_copy(2, at, v)
        group = HEADS // KV_HEADS
        wide = [
            t[:, :, None].expand(-1, -1, group, -1, -1).reshape(batch, HEADS, LENGTH, SIZE)
            for t in (keys, values)
        ]
        out = F.scaled_dot_product_attention(q, *wide, attn_mask=mask)
        x = x + self.o(out.transpose(1, 2).reshape(batch, rows, -1))
        y = self.second(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), keys, values


class Llama(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()

    def forward(self, ids: Tensor, past: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        x = self.words(ids)
        at = torch.arange(ids.shape[1]) + past
        mask = (torch.arange(LENGTH) <= at[:, None])[None, None]
        angle = at[:, None].float() / 10.0 ** torch.arange(SIZE // 2)
        angle = torch.cat((angle, angle), -1)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        new: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            x, keys, values = layer(x, *caches[2 * number : 2 * number + 2], at, mask, cos, sin)
            new += [keys, values]
        return F.linear(self.norm(x), self.words.weight), *new


Inputs = dict[str, Tensor | int]


def llama(rows: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Graph, torch.fx.GraphModule, Inputs]:
    """A graph of its own of the model's step, the FX graph behind it, and values for its inputs."""
    text, module, inputs = traced(rows, dtype)
    return parse_graph(text), module, inputs


@functools.lru_cache(maxsize=8)
def traced(rows: int, dtype: torch.dtype) -> tuple[str, torch.fx.GraphModule, Inputs]:
    model = Llama().to(dtype).eval()
    caches = [torch.randn(1, KV_HEADS, LENGTH, SIZE, dtype=dtype) for _ in range(2 * LAYERS)]
    module, inputs = joint_graph_and_inputs(
        model, torch.arange(rows)[None] % WORDS, torch.tensor(5), *caches, dynamic=False
    )
    return print_graph(capture(module).graph), module, inputs


@pytest.mark.parametrize("rows", [1, 5], ids=["decode", "prefill"])
def test_a_llama_is_attention_gemm_and_rows(rows: int) -> None:
    graph, module, inputs = llama(rows)
    before = parse_graph(print_graph(graph))
    Pipeline.default(Policy.of("auto")).run(graph, lambda _, seen: verify(seen))
    check_emittable(graph)

    found = Counter(str(spec) for spec in specs(graph))
    kinds = Counter(spec.kind for spec in specs(graph))
    assert kinds == {"Attention": LAYERS, "Gemm": 4 * LAYERS + 1, "Rows": 2 * LAYERS + 1}
    # One text for every layer: three kinds of norms, projections, attention, ... are compiled once.
    assert sorted(found.values()) == sorted([2 * LAYERS + 1, LAYERS, LAYERS, LAYERS, LAYERS, LAYERS, 1])
    assert not [node for node in graph if isinstance(node.op, (Contract, Reduce))]

    (attention,) = {spec for spec in specs(graph) if isinstance(spec, Attention)}
    assert (attention.heads, attention.k_heads, attention.v_heads) == (HEADS, KV_HEADS, KV_HEADS)
    assert str(attention.mask) == ("le(j, e0)" if rows == 1 else "le(j, add(i, e0))")
    assert [str(extra) for extra in attention.extras] == ["e0:i64[]"]

    gemms = {spec for spec in specs(graph) if isinstance(spec, Gemm)}
    shapes = {
        tuple(w.n for w in spec.weights): [str(o.expr) for o in spec.outputs]
        for spec in gemms
        if spec.k == WIDTH
    }
    assert shapes[WIDTH, KV_HEADS * SIZE, KV_HEADS * SIZE] == ["acc_w0", "acc_w1", "acc_w2"]
    assert shapes[HIDDEN, HIDDEN] == [
        "mul(cast:bf16(mul(cast:bf16(acc_w0), sigmoid(cast:bf16(acc_w0)))), cast:bf16(acc_w1))"
    ]
    assert shapes[WIDTH,] == ["add(e0, cast:bf16(acc_w0))"]
    assert shapes[WORDS,] == ["acc_w0"]
    assert [str(o.expr) for spec in gemms if spec.k == HIDDEN for o in spec.outputs] == [
        "add(e0, cast:bf16(acc_w0))"
    ]

    same(evaluate(before, inputs, externs(module)), evaluate(graph, inputs, externs(module)))


def test_everything_that_stays_has_a_reason() -> None:
    graph, _, _ = llama(1)
    Pipeline.default(Policy.of("auto")).run(graph)
    told = {refusal.node: refusal.reason for refusal in graph.refusals}
    computing = (Map, Reduce, Contract, Scan, Gather, Scatter, Extern)
    assert all(told.get(node.name) for node in graph if isinstance(node.op, computing))
    reasons = Counter(told.values())
    assert reasons["scatter: a cache update, which Inductor reinplaces"] == 2 * LAYERS
    assert reasons["extern: aten.cat is fused into its readers by Inductor"] >= 2 * LAYERS
    assert any("rotary" in reason for reason in reasons)


@pytest.mark.parametrize("claim", ["none", "attention", "gemm", "rows", "attention+gemm", "auto", "all"])
def test_any_claim_keeps_the_meaning(claim: str) -> None:
    graph, module, inputs = llama(3, torch.float32)
    before = parse_graph(print_graph(graph))
    policy = Policy.of(claim)
    Pipeline.default(policy).run(graph, lambda _, seen: verify(seen))
    check_emittable(graph)
    assert {spec.kind.lower() for spec in specs(graph)} == set(policy.kinds)
    same(evaluate(before, inputs, externs(module)), evaluate(graph, inputs, externs(module)))


def test_running_the_pipeline_again_changes_nothing() -> None:
    graph, _, _ = llama(2)
    Pipeline.default().run(graph)
    first = sorted(map(str, specs(graph)))
    Pipeline.default().run(graph)
    assert sorted(map(str, specs(graph))) == first


def test_passes_print_what_differs_from_the_defaults_and_parse_back() -> None:
    assert str(FuseEpilogue()) == "fuse_epilogue"
    assert str(FuseEpilogue(max_ops=8)) == "fuse_epilogue{max_ops=8}"
    for pipeline in (
        Pipeline.default(),
        Pipeline.default(Policy.of("all")),
        Pipeline.default(Policy.of("gemm+rows")),
    ):
        assert Pipeline.parse(str(pipeline)) == pipeline
    cuda = Pipeline.default(Policy.of("auto", Backend.CUDA))
    assert "claim=auto@cuda" in str(cuda)
    assert Pipeline.parse(str(cuda)) == cuda
    assert {parse_pass(name).name for name in PASSES} == set(PASSES)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fuse_everything", "no pass 'fuse_everything'"),
        ("fuse_epilogue{max=8}", "has no option 'max'"),
        ("fuse_epilogue{max_ops=many}", "takes a number"),
        ("recognise_gemm{claim=matmul}", "'matmul' can be claimed"),
        ("canonicalize{max_ops=1}", "has no option"),
    ],
)
def test_a_text_that_means_nothing_names_what_is_known(text: str, complaint: str) -> None:
    with pytest.raises(PassSyntaxError, match=complaint):
        parse_pass(text)


def test_a_watcher_sees_the_graph_after_each_pass() -> None:
    graph, _, _ = llama(1)
    seen: list[tuple[str, int]] = []

    def watch(each: Pass, now: Graph) -> None:
        seen.append((each.name, len(now)))

    Pipeline.default().run(graph, watch)
    assert [name for name, _ in seen] == [each.name for each in Pipeline.default().passes]
    assert seen[0][1] > seen[-1][1]


@pytest.mark.parametrize("text", ["auto", "all", "none", "attention", "attention+rows", "auto@hip"])
def test_policies_print_and_parse_back(text: str) -> None:
    assert str(Policy.parse(text)) == text
