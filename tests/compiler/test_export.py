"""`headrace.optimize`: the same passes without Dynamo; the result saves, loads and runs elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compiler_modules import LlamaBlock
from torch.export import Dim

import headrace
from headrace.compiler.export import optimize_with_record
from headrace.compiler.operators import is_operator
from headrace.errors import UnknownOption


@pytest.fixture(scope="module")
def block() -> torch.nn.Module:
    torch.manual_seed(0)
    return LlamaBlock().eval()


def exported(block: torch.nn.Module, **keywords: object) -> torch.export.ExportedProgram:
    return torch.export.export(block, (torch.randn(1, 6, 32),), **keywords)


def test_an_optimized_program_computes_the_same(block: torch.nn.Module) -> None:
    program = exported(block)
    before = str(program.graph)
    optimized, record = optimize_with_record(program, {"claim": "all"})
    assert str(program.graph) == before
    kinds = {claim.kind for claim in record.claims}
    assert kinds == {"Attention", "Gemm", "Rows"}
    assert sum(is_operator(node.target) for node in optimized.graph.nodes) == len(record.claims)
    x = torch.randn(1, 6, 32)
    with torch.no_grad():
        torch.testing.assert_close(optimized.module()(x), block(x), atol=1e-5, rtol=1e-4)


def test_symbolic_sizes_survive(block: torch.nn.Module) -> None:
    program = exported(block, dynamic_shapes={"x": {1: Dim("t", min=2, max=64)}})
    optimized = headrace.optimize(program, {"claim": "all"})
    with torch.no_grad():
        for length in (2, 9, 40):
            x = torch.randn(1, length, 32)
            torch.testing.assert_close(optimized.module()(x), block(x), atol=1e-5, rtol=1e-4)


def test_a_result_that_is_a_kernel_keeps_the_signature_true() -> None:
    program = torch.export.export(torch.nn.Linear(16, 16), (torch.randn(3, 16),))
    optimized = headrace.optimize(program, {"claim": "all"})
    (output,) = optimized.graph_signature.user_outputs
    assert output in {node.name for node in optimized.graph.nodes}


def test_a_saved_program_runs_in_another_process(block: torch.nn.Module, tmp_path: Path) -> None:
    x = torch.randn(1, 6, 32)
    headrace.save(headrace.optimize(exported(block), {"claim": "all"}), tmp_path / "block.pt2")
    with torch.no_grad():
        torch.save((x, block(x)), tmp_path / "want.pt")
    program = (
        "import sys, torch, headrace\n"
        "x, want = torch.load(sys.argv[2])\n"
        "with torch.no_grad():\n"
        "    got = headrace.load(sys.argv[1]).module()(x)\n"
        "torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "block.pt2"), str(tmp_path / "want.pt")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_mistake_raises() -> None:
    program = torch.export.export(torch.nn.Linear(4, 4), (torch.randn(3, 4),))
    with pytest.raises(UnknownOption, match="did you mean 'claim'"):
        headrace.optimize(program, {"claims": "all"})


def test_a_program_for_another_target_is_left_alone(block: torch.nn.Module) -> None:
    program, record = optimize_with_record(exported(block), {"target": "cuda"})
    assert (record.kind, len(record.claims)) == ("delegated", 0)
    assert "target=cuda" in record.note
    assert not any(is_operator(node.target) for node in program.graph.nodes)
    x = torch.randn(1, 6, 32)
    torch.testing.assert_close(program.module()(x), block(x))
