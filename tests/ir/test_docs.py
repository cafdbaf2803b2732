"""docs/ir.md says everything that the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from headrace.ir.dtype import DType
from headrace.ir.expr import FUNCTIONS
from headrace.ir.ops import REDUCE_KINDS, SCAN_KINDS
from headrace.ir.schedule import Schedule
from headrace.ir.spec import (
    Attention,
    Denominator,
    Extra,
    Gemm,
    Normalizer,
    Output,
    Reduction,
    Rows,
    Stabilizer,
    Weight,
    Weighting,
)
from headrace.ir.text import OPS, parse_graph, print_graph
from headrace.ir.verify import RULES, verify

PAGE = (Path(__file__).parents[2] / "docs" / "ir.md").read_text()
# Every word in code quotes, blocks left out.
WORDS = {
    word
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    for word in re.findall(r"[\w:]+", span)
}


@pytest.mark.parametrize("mnemonic", OPS)
def test_ops_and_their_attributes_are_in_the_table(mnemonic: str) -> None:
    (row,) = re.findall(rf"^\| `{mnemonic}` \| (.*?) \|", PAGE, flags=re.MULTILINE) or [""]
    assert re.findall(r"`(\w+)`", row) == [field.name for field in fields(OPS[mnemonic])]


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_functions_are_listed(fn: str) -> None:
    assert fn in WORDS


def test_no_function_is_listed_that_does_not_exist() -> None:
    rows = re.findall(r"^\| (?:arithmetic|functions|truth) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    listed = set(re.findall(r"\w+", " ".join(row.replace("(condition, yes, no)", "") for row in rows)))
    assert listed == set(FUNCTIONS)


@pytest.mark.parametrize(
    "kind", [Gemm, Weight, Output, Attention, Normalizer, Rows, Reduction, Extra, Schedule]
)
def test_spec_fields_are_described(kind: type) -> None:
    assert kind.__name__ in WORDS
    for field in fields(kind):
        assert field.name in WORDS, field.name


@pytest.mark.parametrize("choice", [*Weighting, *Denominator, *Stabilizer])
def test_choices_are_named(choice: str) -> None:
    assert str(choice) in WORDS


def test_kinds_and_dtypes_are_named() -> None:
    assert all(kind in PAGE for kind in (*REDUCE_KINDS, *SCAN_KINDS))
    assert all(dtype.value in WORDS for dtype in DType)


def test_rules_are_listed() -> None:
    section = PAGE.split("## Rules")[1].split("## ")[0]
    listed = set(re.findall(r"`(\w+)`", section)) - {"verify"}
    assert listed == {rule.__name__ for rule in RULES} | {"acyclic", "outputs_exist", "one_node_per_fx"}


def test_the_example_is_a_graph() -> None:
    (example,) = re.findall(r"```\n(.*?)```", PAGE, flags=re.DOTALL)
    graph = parse_graph(example)
    verify(graph)
    assert print_graph(graph) == example
