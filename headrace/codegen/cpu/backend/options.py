"""Compilation options of the CPU backend: those that Triton's frontend reads, and which lowering to use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

from headrace.errors import CpuEngineError


@dataclass(frozen=True)
class CpuOptions:
    """Options of one compilation.

    ``engine``: ``auto`` (vector lowering, else reference), ``vector`` or ``reference``. Warps, CTAs, stages
    and what else code generators for GPUs are told (``_GPU``) are accepted, because kernels and autotuners
    name them, and mean nothing here: they keep their defaults, so that configurations which differ in nothing
    else share one compilation. ``enable_fp_fusion``: whether ``x * y + z`` of the kernel may round once; what
    no launch says is ``triton.knobs.language.default_fp_fusion``, as on a GPU.
    """

    engine: str = "auto"
    num_warps: int = 1
    num_ctas: int = 1
    num_stages: int = 1
    warp_size: int = 1
    enable_fp_fusion: bool = True
    launch_cooperative_grid: bool = False
    launch_pdl: bool = False
    maxnreg: int | None = None
    ir_override: str | None = None
    extern_libs: tuple[tuple[str, str], ...] = ()
    debug: bool = False
    sanitize_overflow: bool = True
    instrumentation_mode: str = ""
    fpsan_homomorphic_casts: bool = False
    supported_fp8_dtypes: tuple[str, ...] = ("fp8e4nv", "fp8e5", "fp8e4b8", "fp8e5b16")
    deprecated_fp8_dot_operand_dtypes: tuple[str, ...] = ()
    default_dot_input_precision: str = "ieee"
    allowed_dot_input_precisions: tuple[str, ...] = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")
    max_num_imprecise_acc_default: int = 0
    waves_per_eu: int = 0
    matrix_instr_nonkdim: int = 0
    kpack: int = 1
    allow_flush_denorm: bool = False
    schedule_hint: str = ""
    ptx_version: int | None = None
    ptx_options: str | None = None
    backend_name: str = "cpu"
    arch: str = ""

    def hash(self) -> str:
        """Key of these options in Triton's cache."""
        text = "_".join(f"{f.name}-{getattr(self, f.name)}" for f in fields(self))
        return hashlib.sha256(text.encode()).hexdigest()


_GPU = frozenset(
    {
        "num_warps",
        "num_ctas",
        "num_stages",
        "warp_size",
        "maxnreg",
        "launch_pdl",
        "waves_per_eu",
        "matrix_instr_nonkdim",
        "kpack",
        "schedule_hint",
        "ptx_version",
        "ptx_options",
    }
)


def parse(given: dict[str, Any], arch: str) -> CpuOptions:
    """Options from what a launch or autotuner config passes. Triton itself refuses names that are neither an
    option nor a parameter.

    Raises:
        CpuEngineError: the kernel asks for a cooperative grid.
    """
    if given.get("launch_cooperative_grid"):
        raise CpuEngineError(
            "launch_cooperative_grid=True: the programs of a grid run one after another on each thread, so "
            "they must not wait for each other; split the kernel where they do"
        )
    from triton import knobs

    known = {f.name for f in fields(CpuOptions)} - _GPU
    values = {k: v for k, v in given.items() if k in known and v is not None}
    fused = values.get("enable_fp_fusion", knobs.language.default_fp_fusion)
    values["enable_fp_fusion"] = bool(fused) and not knobs.language.force_disable_fp_fusion
    if isinstance(values.get("extern_libs"), dict):
        values["extern_libs"] = sorted(values["extern_libs"].items())
    # What comes back from the cache's JSON has lists where these have tuples; both have the same hash.
    values = {k: _tupled(v) for k, v in values.items()}
    return CpuOptions(**{**values, "arch": arch})


def _tupled(value: Any) -> Any:
    return tuple(_tupled(each) for each in value) if isinstance(value, (list, tuple)) else value
