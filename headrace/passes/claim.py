"""What is claimed: the policy that every recogniser asks before it takes a region from Inductor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from headrace.codegen.families import supported
from headrace.errors import PassSyntaxError
from headrace.ir.device import Backend, Device
from headrace.ir.spec import Attention, Gemm, Rows, Spec

KINDS = ("attention", "gemm", "rows")
SMALLEST = 16  # rows or columns of a matrix unit's tile; below it, a kernel is mostly padding


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
        return self._kind("attention", spec)

    def gemm(self, spec: Gemm) -> str | None:
        """Why a matrix product is not claimed; None where it is."""
        reason = self._kind("gemm", spec)
        widest = max(weight.n for weight in spec.weights)
        if reason is None and not self.eager and spec.k < SMALLEST:
            return f"K = {spec.k}: an outer product, left to Inductor"
        if reason is None and not self.eager and widest < SMALLEST:
            return f"N = {widest}: too narrow to fill a kernel"
        return reason

    def rows(self, spec: Rows, *, feeds_kernels: bool) -> str | None:
        """Why a row operation is not claimed; None where it is."""
        reason = self._kind("rows", spec)
        if reason is None and not self.eager and not feeds_kernels:
            return "Inductor fuses this reduction with its readers"
        return reason

    def _kind(self, kind: str, spec: Spec) -> str | None:
        if kind not in self.kinds:
            return f"{kind} is not claimed (option claim)"
        return supported(spec, Device("any", self.backend, "any", 1))


AUTO = Policy()
