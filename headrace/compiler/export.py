"""`headrace.optimize`: the same passes on an ExportedProgram, without Dynamo; and saving and loading the
result.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch.export import ExportedProgram

from headrace.compiler import operators, resolve  # noqa: F401  (a loaded program calls the operators)
from headrace.compiler.options import read
from headrace.compiler.records import GraphRecord
from headrace.compiler.rewrite import rewrite
from headrace.compiler.scopes import RUNTIME

log = logging.getLogger(__name__)
File = str | os.PathLike[str] | IO[bytes]


def optimize(program: ExportedProgram, options: Mapping[str, Any] | None = None) -> ExportedProgram:
    """An equal program in which regions are kernels. The given program is not changed.

    It is for inference: gradients do not flow through kernels. Failures raise, there is nothing to fall back
    to. Where no kernel may run (the option `target`, `HEADRACE_CPU_ENGINE=off`) the program is only
    decomposed, as `torch.compile` leaves such graphs to Inductor.

    Args:
        program: what torch.export gave, in any of its dialects.
        options: as for torch.compile, see `headrace.Options`.

    Raises:
        UnknownOption: naming the nearest known key.
        HeadraceError: the graph cannot be rewritten.
    """
    return optimize_with_record(program, options)[0]


def optimize_with_record(
    program: ExportedProgram, options: Mapping[str, Any] | None = None
) -> tuple[ExportedProgram, GraphRecord]:
    """`optimize`, and the record of what was claimed and what was not."""
    chosen = read(None, options, base=resolve.default_options())
    RUNTIME.use(chosen)
    functional = program.run_decompositions()
    graph = functional.graph_module.graph
    why_not = resolve.why_delegate(
        chosen, [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
    )
    if why_not is not None:
        log.info("no kernels in an exported program: %s", why_not)
        return functional, GraphRecord("", "delegated", len(graph.nodes), note=why_not)
    before = [node.name for node in _results(graph)]
    record = rewrite(graph, resolve.default_pipeline(chosen), chosen)
    for old, node in zip(before, _results(graph), strict=True):
        if old != node.name:
            functional.graph_signature.replace_all_uses(old, node.name)
    functional.graph_module.recompile()
    functional.validate()
    return functional, record


def save(program: ExportedProgram, file: File) -> None:
    """Write an optimized program; `load` reads it, in a process that has headrace installed."""
    torch.export.save(program, file)


def load(file: File) -> ExportedProgram:
    """Read a program written by `save`. (`torch.export.load` alone does not know headrace's operators.)"""
    return torch.export.load(file)


def _results(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    return [result for result in output.args[0] if isinstance(result, torch.fx.Node)]
