"""The text form of graphs, ops, types and sizes: everything printed is read back equal."""

from __future__ import annotations

from dataclasses import fields

import pytest

from headrace.errors import GraphSyntaxError
from headrace.ir.dtype import DType
from headrace.ir.expr import parse as scalar
from headrace.ir.graph import Graph
from headrace.ir.ops import (
    REDUCE_KINDS,
    SCAN_KINDS,
    Contract,
    Extern,
    Gather,
    Input,
    Item,
    Kernel,
    Map,
    Op,
    Reduce,
    Scan,
    Scatter,
    Size,
    View,
)
from headrace.ir.size import parse as size
from headrace.ir.size import text as size_text
from headrace.ir.spec import Attention, Extra, Gemm, Output, Reduction, Rows, Weight
from headrace.ir.text import OPS, parse_graph, parse_op, print_graph, print_op
from headrace.ir.types import TensorType

BF16 = DType.BF16
GEMM = Gemm(
    BF16,
    (Weight("w0", BF16, 64, 32), Weight("w1", BF16, 64, 32, "kn")),
    (
        Output(BF16, scalar("mul(mul(acc_w0, sigmoid(acc_w0)), add(acc_w1, r))")),
        Output(DType.F32, scalar("acc_w0")),
    ),
    (Extra("r", BF16, "mn"),),
)
ATTENTION = Attention(
    BF16, BF16, BF16, BF16, 9, 3, 3, 64, 64,
    score=scalar("mul(s, 0.125)"), mask=scalar("le(j, add(i, p))"), safe=True,
    extras=(Extra("p", DType.I64, ""),),
)  # fmt: skip
ROWS = Rows(
    (Extra("x", BF16, "rn"), Extra("w", BF16, "n")),
    (Reduction("s", "sum", scalar("mul(x, x)")),),
    (Output(BF16, scalar("mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)")),),
)

SAMPLES: list[Op] = [
    Input(),
    Size(size("2*s0 + 1")),
    View(tuple(map(size, ("0", "d1 // 3", "d1 % 3", "64*d2 + d3", "-d0 + s0 - 1", "(d0 + s1) // s0")))),
    View(()),
    Map(scalar("cast:bf16(where(lt(d1, x0), -inf, mul(x1, -0.125)))")),
    *(Reduce(kind, (0, 2)) for kind in REDUCE_KINDS),
    Reduce("sum", ()),
    Contract("abik,abjk->abij"),
    *(Scan(kind, 1, reverse) for kind in SCAN_KINDS for reverse in (False, True)),
    Gather(1),
    Scatter(2),
    Scatter(0, True),
    Extern("aten.cat.default"),
    Extern('odd "name" {with; brackets}'),
    Kernel(GEMM),
    Kernel(ATTENTION),
    Kernel(ROWS),
    Item(3),
]


@pytest.mark.parametrize("op", SAMPLES, ids=print_op)
def test_op_is_read_back(op: Op) -> None:
    text = print_op(op)
    assert parse_op(op.mnemonic, text[2:-1]) == op


def test_samples_cover_every_op_and_attribute() -> None:
    assert {type(op) for op in SAMPLES} == set(OPS.values())
    printed = " ".join(op.mnemonic + print_op(op) for op in SAMPLES)
    for mnemonic, op in OPS.items():
        for field in fields(op):
            assert f"{mnemonic} {{" in printed
            assert f"{field.name}=" in printed


def test_attributes_with_a_default_may_be_left_out() -> None:
    assert parse_op("scatter", "axis=1") == Scatter(1)
    assert parse_op("scan", "kind=sum; axis=0") == Scan("sum", 0)


GRAPH = """\
x: bf16[s0, 32] = input()  # fx=arg0_1
w: bf16[64, 32] = input()
v: bf16[32, 64] = view(w) {index=[d1, d0]}  # fx=permute @ models/llama.py:12 in forward
mm: bf16[s0, 64] = contract(x, v) {equation=mk,kn->mn}  # fx=mm @ models/llama.py:12 in forward
mm.0: f32[s0] = reduce(mm) {kind=sum; axes=[1]}  # @ models/llama.py:13 in forward
topk: _ = extern(mm) {target=aten.topk.default}  # fx=topk
values: bf16[s0, 2] = item(topk) {at=0}
return mm.0, values
replaced mm by mm
refused mm: attention: the scores have a second reader: map_1
"""


def test_graph_is_read_back_with_notes() -> None:
    graph = parse_graph(GRAPH)
    assert print_graph(graph) == GRAPH
    assert graph["mm"].fx == "mm"
    assert graph["mm.0"].fx is None
    assert graph["v"].source == "models/llama.py:12 in forward"
    assert graph.replaced == {"mm": "mm"}
    assert graph.refusals[0].reason == "the scores have a second reader: map_1"


def test_graph_without_notes_has_only_the_mathematics() -> None:
    text = print_graph(parse_graph(GRAPH), notes=False)
    assert "#" not in text
    assert "replaced" not in text
    assert "refused" not in text
    assert print_graph(parse_graph(text)) == text


def test_blank_lines_comments_and_indentation_do_not_matter() -> None:
    spaced = "# a comment\n\n" + "\n".join("    " + line for line in GRAPH.splitlines())
    assert print_graph(parse_graph(spaced)) == GRAPH


def test_an_empty_graph_is_read_back() -> None:
    assert print_graph(parse_graph(print_graph(Graph()))) == "return\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("y: f32[2] = map(x) {expr=neg(x0)}", "'x' is not defined before"),
        ("y: f32[2] = frobnicate()", "'frobnicate' is no op; known: input"),
        ("y: f33[2] = input()", "no tensor type"),
        ("y: f32[2 = input()", "expected `name: type"),
        ("y: f32[2] = map() {expr=neg(x0}", "expected"),
        ("y: f32[2] = map() {}", "map needs its attributes expr"),
        ("y: f32[2] = map() {exp=1}", "map has no attribute 'exp'"),
        ("y: f32[2] = map() {expr=1; expr=2}", "given twice"),
        ("y: f32[2] = view() {index=[d0 +]}", "expected"),
        ("y: _ = kernel() {spec=Gemm{x=bf16}}", "cannot read"),
        ("return z", "'z' is not defined before"),
        ("nonsense", "expected `name: type"),
    ],
)
def test_errors_name_line_and_column(line: str, says: str) -> None:
    with pytest.raises(GraphSyntaxError, match=r"line 2, column 3: ") as caught:
        parse_graph(f"k: f32[3] = input()\n  {line}\n")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["0", "s0", "s0*s1", "2*s0 + 1", "-d0 + 4", "d0 // 3", "(d0 // s0) % 4", "64*(d1 % 3) + d2",
     "(2*d0 + d1) // (s0 + 1)",
     "s0**2", "Max(2, s0)", "d0 % (s0*s1)", "u0 // 2", "5*(s0 // 2)"],
)  # fmt: skip
def test_size_text_is_canonical(text: str) -> None:
    assert size_text(size(text)) == text


@pytest.mark.parametrize("text", ["", "1 +", "s0 s1", "(s0", "s0 ? 1", "f(s0)", "d0 //"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(GraphSyntaxError):
        size(text)


@pytest.mark.parametrize("text", ["f32[]", "bf16[1, s0, 576]", "b8[2*s0 + 1]", "i64[s0 // 2]"])
def test_type_is_read_back(text: str) -> None:
    assert str(TensorType.parse(text)) == text
