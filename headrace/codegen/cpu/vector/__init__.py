"""Vectorising lowering of TTIR: lazy tensor expressions, loops that ask them for one vector at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.codegen.cpu.target import CpuTarget
from headrace.codegen.cpu.ttir import Function, Module
from headrace.codegen.cpu.vector.context import Machine
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.lowering import Lowering

__all__ = ["VectorDeclined", "Vectorised", "lower", "unfused"]

_FUSED = re.compile(r"(?m)^(  %\w+ = f(?:add|sub|mul)) contract ")


def machine_of(target: CpuTarget) -> Machine:
    """The machine facts that code generation depends on.

    Raises:
        VectorDeclined: the processor has neither AVX2 with FMA nor AVX-512.
    """
    if target.vector_bits < 256 or not target.is_x86:
        raise VectorDeclined(f"no vector code for {target.triple} with {target.vector_bits}-bit registers")
    wide = target.vector_bits == 512
    return Machine(
        16 if wide else 8,
        wide,
        wide and target.has("avx512bf16"),
        vnni=target.has("avx512vnni" if wide else "avxvnni"),
        amx_bf16=wide and target.has("amx-tile", "amx-bf16"),
        amx_int8=wide and target.has("amx-tile", "amx-int8"),
        bytes_to_bf16=wide and target.has("avx512bf16", "avx512vbmi"),
    )


@dataclass(frozen=True)
class Vectorised:
    """LLVM IR of a kernel; ``outlined`` names the operations that it calls in their reference form."""

    ir: str
    outlined: tuple[str, ...]


def unfused(ir: str) -> str:
    """The same code, in which LLVM makes no fused operation of a product and a sum."""
    return _FUSED.sub(r"\1 ", ir)


def lower(function: Function, module: Module, target: CpuTarget) -> Vectorised:
    """LLVM IR of ``void @NAME.program(args..., i32 pid_x, pid_y, pid_z, grid_x, grid_y, grid_z)`` for one
    program.

    Raises:
        VectorDeclined: the kernel has a construct that is not vectorised; nothing has been done.
    """
    lowering = Lowering(function, module, machine_of(target))
    return Vectorised(lowering.run(), tuple(lowering.islands.outlined))
