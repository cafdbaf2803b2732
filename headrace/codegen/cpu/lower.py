"""From a TTIR module to the LLVM IR of a kernel with its worker: the vector lowering first, the reference
otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from headrace.codegen.cpu import reference, ttir
from headrace.codegen.cpu.target import CpuTarget
from headrace.codegen.cpu.ttir import Module
from headrace.codegen.cpu.worker import letter_of, worker_ir
from headrace.errors import CpuEngineError, UnsupportedTtir

Engine: TypeAlias = Literal["auto", "vector", "reference"]
ENGINES: tuple[Engine, ...] = ("auto", "vector", "reference")

# The vector lowering writes what it means; the reference relies on LLVM for registers.
_PASSES = {"vector": 0, "reference": 1}


@dataclass(frozen=True)
class Lowered:
    """LLVM IR of one kernel.

    ``engine`` is ``vector`` or ``reference``; ``reason`` says why the vector lowering declined (empty if it
    did not).
    ``letters`` describe the arguments for :mod:`headrace.codegen.cpu.runtime`; ``passes`` is the level of
    LLVM's pipeline that the text wants.
    """

    ir: str
    name: str
    letters: str
    engine: str
    reason: str
    passes: int

    @property
    def entry(self) -> str:
        """Exported symbol of the worker."""
        return f"{self.name}.worker"


def lower(module: Module, target: CpuTarget, engine: Engine = "auto") -> Lowered:
    """Lower the module's kernel.

    Raises:
        UnsupportedTtir: neither lowering (or not the one asked for) can do it.
        CpuEngineError: ``engine`` is unknown.
    """
    if engine not in ENGINES:
        raise CpuEngineError(f"engine={engine!r}; use {', '.join(ENGINES)}")
    kernel = module.kernel
    if kernel.result_types:
        raise ttir.unsupported("tt.func", "a kernel that returns a value")
    letters = "".join(letter_of(a.type) for a in kernel.args)
    text, reason = None, ""
    if engine != "reference":
        from headrace.codegen.cpu import vector

        try:
            text = vector.lower(kernel, module, target)
        except vector.VectorDeclined as declined:
            reason = str(declined) or "declined"
            if engine == "vector":
                raise UnsupportedTtir(f"the vector lowering declines {kernel.name}: {reason}") from declined
    used = "vector"
    if text is None:
        text, used = reference.lower(kernel, module, target), "reference"
    ir = f'target triple = "{target.triple}"\n{text}\n{worker_ir(kernel, kernel.name)}'
    return Lowered(ir, kernel.name, letters, used, reason, _PASSES[used])
