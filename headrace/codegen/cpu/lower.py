"""From a TTIR module to the LLVM IR of a kernel with its worker: the vector lowering first, the reference
otherwise."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from headrace.codegen.cpu import amx, jit, reference, ttir
from headrace.codegen.cpu.target import CpuTarget
from headrace.codegen.cpu.ttir import Function, Module
from headrace.codegen.cpu.worker import letter_of, worker_ir
from headrace.errors import CpuEngineError, UnsupportedTtir

Engine: TypeAlias = Literal["auto", "vector", "reference"]
ENGINES: tuple[Engine, ...] = ("auto", "vector", "reference")

# How the reason begins when the vector lowering did not decline but failed.
INTERNAL = "an internal error of the vector lowering"

# The vector lowering writes what it means; the reference relies on LLVM for registers.
_PASSES = {"vector": 0, "reference": 1}


@dataclass(frozen=True)
class Lowered:
    """LLVM IR of one kernel.

    ``engine`` is ``vector`` or ``reference``; ``reason`` says why the vector lowering declined (empty if it
    did not). ``outlined`` names the operations that the vector code calls in their reference form.
    ``letters`` describe the arguments for :mod:`headrace.codegen.cpu.runtime`; ``passes`` is the level of
    LLVM's pipeline that the text wants. ``checked`` is what LLVM made of the text, where it was asked.
    """

    ir: str
    name: str
    letters: str
    engine: str
    reason: str
    passes: int
    outlined: tuple[str, ...] = ()
    checked: jit.Checked | None = field(default=None, repr=False, compare=False)

    @property
    def entry(self) -> str:
        """Exported symbol of the worker."""
        return f"{self.name}.worker"


def lower(module: Module, target: CpuTarget, engine: Engine = "auto", fused: bool = True) -> Lowered:
    """Lower the module's kernel.

    ``fused``: a sum may take in a product of the kernel with one rounding. The reference never does that.

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
    reason = ""
    if engine != "reference":
        from headrace.codegen.cpu import vector

        try:
            made = vector.lower(kernel, module, target)
            ir = _with_worker(made.ir if fused else vector.unfused(made.ir), kernel, target)
            checked = jit.check(ir) if engine == "auto" else None
            return Lowered(ir, kernel.name, letters, "vector", "", _PASSES["vector"], made.outlined, checked)
        except vector.VectorDeclined as declined:
            reason = str(declined) or "declined"
            if engine == "vector":
                raise UnsupportedTtir(f"the vector lowering declines {kernel.name}: {reason}") from declined
        except CpuEngineError as rejected:
            if engine == "vector":
                raise
            reason = str(rejected)
        except UnsupportedTtir as unsupported:
            if engine == "vector":
                raise
            reason = str(unsupported)
        except Exception as fault:
            # A fault of the vector lowering is no fault of the kernel's: the reference can still run it.
            reason = _fault(fault)
            if engine == "vector":
                raise UnsupportedTtir(f"the vector lowering fails on {kernel.name}: {reason}") from fault
    ir = _with_worker(reference.lower(kernel, module, target), kernel, target)
    return Lowered(ir, kernel.name, letters, "reference", reason, _PASSES["reference"])


def _fault(fault: Exception) -> str:
    """What an exception that the vector lowering should never raise says, and where it comes from."""
    *_, frame = traceback.extract_tb(fault.__traceback__)
    said = f": {fault}" if str(fault) else ""
    return f"{INTERNAL}, {type(fault).__name__} at {Path(frame.filename).name}:{frame.lineno}{said}"


def _with_worker(text: str, kernel: Function, target: CpuTarget) -> str:
    worker = worker_ir(
        kernel,
        kernel.name,
        fence="!nontemporal" in text,
        tiled=amx.used_in(text),
        fails="@headrace_fail(" in text,
        begins="@headrace.begin()" in text,
    )
    return f'target triple = "{target.triple}"\n{text}\n{worker}'
