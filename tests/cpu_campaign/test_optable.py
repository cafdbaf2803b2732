"""The page of operations is what the code says, the samples are Triton's IR, and every entry is true."""

from __future__ import annotations

import pathlib
import re

import campaign_runner
import pytest
from campaign_ops import everything, one_each, refused_by
from campaign_runner import Outcome

from headrace.codegen.cpu import optable, target
from headrace.codegen.cpu.lower import lower
from headrace.codegen.cpu.parse import parse
from headrace.errors import UnsupportedTtir

ROOT = pathlib.Path(__file__).parents[2]


def test_the_page_is_what_the_code_says() -> None:
    assert (ROOT / optable.PAGE).read_text() == optable.page(), "run python -m headrace.codegen.cpu.optable"


def test_every_method_of_the_frontends_builder_is_accounted_for() -> None:
    from triton._C.libtriton import ir

    methods = {n.removeprefix("create_") for n in dir(ir.builder) if n.startswith("create_")}
    assert methods == set(optable.BUILDER) | optable.NOT_OPERATIONS
    assert set(optable.BUILDER.values()) | optable.ALSO <= {s.op for s in everything()}


def test_triton_reads_every_sample(tmp_path: pathlib.Path) -> None:
    from triton._C.libtriton import ir

    context = ir.context()
    ir.load_dialects(context)
    path = tmp_path / "sample.mlir"
    for sample in everything():
        path.write_text(sample.text)
        ir.parse_mlir_module(str(path), context)  # raises, with the reason on stderr


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return campaign_runner.run([f"op:{k}" for k in one_each()], tmp_path_factory.mktemp("ops"))


def test_every_operation_runs_alike_in_both_lowerings_or_is_refused_by_name(outcome: Outcome) -> None:
    assert outcome.wrong == []
    assert len(outcome.statuses) == len({s.op for s in everything()})
    assert set(outcome.statuses.values()) <= {"ok", "declined", "refused"}


@pytest.mark.soak
def test_every_sample_runs_alike_in_both_lowerings_or_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    outcome = campaign_runner.run([f"op:{k}" for k in range(len(everything()))], tmp_path)
    assert outcome.wrong == []


def test_a_refusal_names_the_operation_and_the_source_line() -> None:
    refused = set()
    for sample in everything():
        try:
            lower(parse(sample.text), target.host(), "reference")
        except UnsupportedTtir:
            refused.add(sample.op)
            name = re.escape(refused_by(sample))
            here = re.compile(rf"^(.* )?{name}\b.*$", re.M)
            with pytest.raises(UnsupportedTtir, match=rf"^{name} at kernel\.py:7"):
                lower(parse(here.sub(r'\g<0> loc("kernel.py":7:3)', sample.text)), target.host(), "reference")
    assert len(refused) >= 7
