"""Gemm: several weights that share one input, each output an expression over their products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import SpecSyntaxError
from headrace.ir.dtype import DType
from headrace.ir.expr import Expr, parse, refs
from headrace.ir.spec.operand import NAME, Extra, digest, fields_of, listing, unlist


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight operand. Text: `name:dtype[n,k]layout`, e.g. `w0:bf16[960,576]nk`.

    `layout` is the order of its logical dimensions: `nk` (as nn.Linear stores it) or `kn` (as mm takes it).
    Strides are read at call time; the layout says which dimension is contiguous in the usual case.
    """

    name: str
    dtype: DType
    n: int
    k: int
    layout: str = "nk"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.layout not in ("nk", "kn") or self.n < 0 or self.k < 0:
            raise SpecSyntaxError(f"not a weight: {self}")

    def __str__(self) -> str:
        return f"{self.name}:{self.dtype.value}[{self.n},{self.k}]{self.layout}"

    @classmethod
    def parse(cls, text: str) -> Weight:
        import re

        match = re.fullmatch(r"([a-z][a-z0-9_]*):([a-z0-9]+)\[(\d+),(\d+)\](nk|kn)", text.strip())
        if match is None:
            raise SpecSyntaxError(f"cannot read weight {text!r}; expected name:dtype[n,k]layout")
        return cls(match[1], DType(match[2]), int(match[3]), int(match[4]), match[5])


@dataclass(frozen=True, slots=True)
class Output:
    """One output `[M, n]`: an expression over `acc_<weight>` and extras. Text: `dtype = expr`."""

    dtype: DType
    expr: Expr

    def __str__(self) -> str:
        return f"{self.dtype.value} = {self.expr}"

    @classmethod
    def parse(cls, text: str) -> Output:
        dtype, eq, expr = text.partition("=")
        if not eq:
            raise SpecSyntaxError(f"cannot read output {text!r}; expected dtype = expression")
        return cls(DType(dtype.strip()), parse(expr.strip()))


@dataclass(frozen=True, slots=True)
class Gemm:
    """y_o[b,m,n] = expr_o(acc_w[b,m,n], extras), acc_w[b,m,n] = sum_k x[b,m,k] * w[b,n,k], in float32.

    One launch serves weights that share an input: Q, K and V projections (three outputs of unequal n) or
    gate and up (`bf16 = mul(mul(acc_w0, sigmoid(acc_w0)), acc_w1)`, one output of two weights of equal n).

    Operands in order: x, the weights, the extras. x is `[M, K]` (`[B, M, K]` when `batched`; weights and
    outputs then also lead with B). Extras have dims out of `bmn`. Sizes known at run time: (b, m) or (m,).
    Casts inside an output expression state where eager PyTorch rounded; kernels keep float32 instead.
    """

    x: DType
    weights: tuple[Weight, ...]
    outputs: tuple[Output, ...]
    extras: tuple[Extra, ...] = ()
    batched: bool = False

    kind = "Gemm"

    def __post_init__(self) -> None:
        if not self.weights or not self.outputs:
            raise SpecSyntaxError("a Gemm has at least one weight and one output")
        if len({weight.k for weight in self.weights}) != 1:
            raise SpecSyntaxError("weights of one Gemm share the length k")
        known = {f"acc_{weight.name}" for weight in self.weights} | {extra.name for extra in self.extras}
        for output in self.outputs:
            if not refs(output.expr) <= known:
                unknown = sorted(refs(output.expr) - known)
                raise SpecSyntaxError(f"output {output} reads unknown names {unknown}")
            self.columns(output)

    @property
    def k(self) -> int:
        return self.weights[0].k

    def columns(self, output: Output) -> int:
        """n of an output: that of the weights its expression reads, which must agree."""
        sizes = {w.n for w in self.weights if f"acc_{w.name}" in refs(output.expr)}
        if len(sizes) != 1:
            raise SpecSyntaxError(f"output {output} must read weights of one n, reads n = {sorted(sizes)}")
        return sizes.pop()

    def sizes(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The run-time sizes, from operand shapes: (m,) or, batched, (b, m)."""
        return tuple(shapes[0][:-1])

    def output_shapes(self, shapes: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        return tuple((*shapes[0][:-1], self.columns(output)) for output in self.outputs)

    @property
    def output_dtypes(self) -> tuple[DType, ...]:
        return tuple(output.dtype for output in self.outputs)

    def __str__(self) -> str:
        return (
            f"Gemm{{x={self.x.value}; weights={listing(self.weights)}; extras={listing(self.extras)}; "
            f"outputs={listing(self.outputs)}; batched={str(self.batched).lower()}}}"
        )

    @property
    def digest(self) -> str:
        return digest(str(self))

    @classmethod
    def parse(cls, text: str) -> Gemm:
        found = fields_of(text, "Gemm")
        try:
            return cls(
                x=DType(found["x"]),
                weights=tuple(Weight.parse(part) for part in unlist(found["weights"])),
                extras=tuple(Extra.parse(part) for part in unlist(found["extras"])),
                outputs=tuple(Output.parse(part) for part in unlist(found["outputs"])),
                batched={"true": True, "false": False}[found["batched"]],
            )
        except (KeyError, ValueError) as error:
            raise SpecSyntaxError(f"cannot read {text[:80]!r}: {error}") from None
