"""What is claimed: the policy that every recogniser asks before it takes a region from Inductor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.errors import PassSyntaxError
from headrace.ir.device import Backend
from headrace.ir.dtype import DType
from headrace.ir.spec import Attention, Gemm, Rows

KINDS = ("attention", "gemm", "rows")
_DTYPES = frozenset({DType.F32, DType.F16, DType.BF16})


@dataclass(frozen=True, slots=True)
class Policy:
    """Which kinds of region are claimed, and how eagerly.

    Args:
        kinds: of attention, gemm, rows.
        eager: claim whatever a kernel exists for (`claim="all"`). Otherwise (`"auto"`) only what is expected
            to win: no matrix products too small to pay for a call, and row operations only where their
            readers are kernels, so that Inductor has nothing to fuse them with.
        backend: the engine that would run the kernels.

    Text: `auto`, `all`, `none`, or kinds joined by `+` such as `attention+gemm`; then `@cuda` or `@hip` off
    the CPU.
    """

    kinds: frozenset[str] = frozenset(KINDS)
    eager: bool = False
    backend: Backend = Backend.CPU

    @classmethod
    def of(cls, claim: str | Iterable[str], backend: Backend = Backend.CPU) -> Policy:
        """The policy of the option `claim`: `auto`, `all`, `none`, one kind, or several.

        Raises:
            PassSyntaxError: naming the unknown kind.
        """
        parts = claim.split("+") if isinstance(claim, str) else list(claim)
        if parts == ["none"]:
            return cls(frozenset(), False, backend)
        if parts in (["auto"], ["all"]):
            return cls(frozenset(KINDS), parts == ["all"], backend)
        unknown = sorted(set(parts) - set(KINDS))
        if unknown:
            raise PassSyntaxError(
                f"nothing called {unknown[0]!r} can be claimed; known: auto, all, none, {', '.join(KINDS)}"
            )
        return cls(frozenset(parts), True, backend)

    @classmethod
    def parse(cls, text: str) -> Policy:
        claim, _, backend = text.partition("@")
        return cls.of(claim, Backend(backend or "cpu"))

    def __str__(self) -> str:
        if not self.kinds:
            claim = "none"
        elif self.kinds == frozenset(KINDS):
            claim = "all" if self.eager else "auto"
        else:
            claim = "+".join(kind for kind in KINDS if kind in self.kinds)
        return claim if self.backend is Backend.CPU else f"{claim}@{self.backend.value}"

    def attention(self, spec: Attention) -> str | None:
        """Why an attention is not claimed; None where it is."""
        if "attention" not in self.kinds:
            return "attention is not claimed (option claim)"
        if not {spec.q, spec.k, spec.v, spec.out} <= _DTYPES:
            return "attention kernels take bf16, f16 and f32"
        if max(spec.d_k, spec.d_v) > 512:
            return f"head dimension {max(spec.d_k, spec.d_v)} is beyond the 512 that one program holds"
        return None

    def gemm(self, spec: Gemm) -> str | None:
        """Why a matrix product is not claimed; None where it is."""
        if "gemm" not in self.kinds:
            return "gemm is not claimed (option claim)"
        if not self.eager and spec.k < 16:
            return f"K = {spec.k}: an outer product, left to Inductor"
        if not self.eager and max(weight.n for weight in spec.weights) < 16:
            return f"N = {max(weight.n for weight in spec.weights)}: too narrow to fill a kernel"
        return None

    def rows(self, spec: Rows, *, feeds_kernels: bool) -> str | None:
        """Why a row operation is not claimed; None where it is."""
        if "rows" not in self.kinds:
            return "rows is not claimed (option claim)"
        if not all(extra.dtype in _DTYPES for extra in spec.inputs if extra.dims == "rn"):
            return "row kernels take bf16, f16 and f32"
        if not self.eager and not feeds_kernels:
            return "Inductor fuses this reduction with its readers"
        return None


AUTO = Policy()
