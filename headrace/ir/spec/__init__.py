"""Specs say *what* a fused kernel computes; Schedules say how. See `docs/ir.md`."""

from __future__ import annotations

from functools import lru_cache

from headrace.errors import SpecSyntaxError
from headrace.ir.spec.attention import Attention, Denominator, Normalizer, Stabilizer, Weighting
from headrace.ir.spec.gemm import Gemm, Output, Weight
from headrace.ir.spec.operand import Extra
from headrace.ir.spec.rows import Reduction, Rows

Spec = Attention | Gemm | Rows

__all__ = [
    "Attention", "Denominator", "Extra", "Gemm", "Normalizer", "Output", "Reduction", "Rows", "Spec",
    "Stabilizer", "Weight", "Weighting", "parse_spec",
]  # fmt: skip


@lru_cache(maxsize=4096)
def parse_spec(text: str) -> Spec:
    """The Spec of a canonical text; `parse_spec(str(spec)) == spec`."""
    kinds: dict[str, type[Attention | Gemm | Rows]] = {kind.kind: kind for kind in (Attention, Gemm, Rows)}
    name = text.strip().partition("{")[0]
    if name not in kinds:
        raise SpecSyntaxError(f"{name!r} is no Spec; known: {', '.join(kinds)}")
    return kinds[name].parse(text)
