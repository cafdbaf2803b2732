"""Rows: reductions along the last dimension with pointwise expressions before and after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import SpecSyntaxError
from headrace.ir.dtype import DType
from headrace.ir.expr import Expr, parse, refs
from headrace.ir.spec.gemm import Output
from headrace.ir.spec.operand import NAME, Extra, digest, fields_of, listing, unlist

REDUCTIONS = ("sum", "max", "min", "prod")


@dataclass(frozen=True, slots=True)
class Reduction:
    """One reduction over the row, in float32: `name = kind(expr)`; `expr` may read earlier reductions."""

    name: str
    kind: str
    expr: Expr

    def __post_init__(self) -> None:
        if self.kind not in REDUCTIONS or not NAME.fullmatch(self.name):
            raise SpecSyntaxError(f"not a reduction: {self}")

    def __str__(self) -> str:
        return f"{self.name} = {self.kind}({self.expr})"

    @classmethod
    def parse(cls, text: str) -> Reduction:
        match = re.fullmatch(r"([a-z][a-z0-9_]*) = (\w+)\((.*)\)", text.strip())
        if match is None:
            raise SpecSyntaxError(f"cannot read reduction {text!r}; expected name = kind(expression)")
        return cls(match[1], match[2], parse(match[3]))


@dataclass(frozen=True, slots=True)
class Rows:
    """y_o[r,n] = expr_o(inputs[r,n], reductions[r], count); reductions run in order over n.

    Softmax:   inputs x:f32[rn]; m = max(x); s = sum(exp(sub(x, m))); f32 = div(exp(sub(x, m)), s)
    RMSNorm:   inputs x:bf16[rn], w:bf16[n]; s = sum(mul(x, x));
               bf16 = mul(mul(x, rsqrt(add(div(s, count), 1e-05))), w)

    Inputs have dims `rn` (a matrix), `n` (a row vector shared by all rows), `r` (a scalar per row) or
    none. The row length is the reserved name `count` (a float). The first input is `rn` and decides R and N.
    Sizes known at run time: (r, n). Outputs are `[R, N]`, or `[R]` where `reduced` lists their position
    (their expression then reads no `n`-varying name).

    `phi` permits a Schedule to take exp(x - phi) for exp(x - m) in a softmax, one constant (in nats) for all
    rows instead of their maxima, guarded: rows that phi does not suit are recomputed. Without it, only exact
    stabilizers are permitted.
    """

    inputs: tuple[Extra, ...]
    reductions: tuple[Reduction, ...]
    outputs: tuple[Output, ...]
    reduced: tuple[int, ...] = ()
    phi: int | None = None

    kind = "Rows"

    def __post_init__(self) -> None:
        if not self.inputs or self.inputs[0].dims != "rn" or not self.outputs:
            raise SpecSyntaxError("Rows needs a first input of dims rn, and an output")
        known = {extra.name for extra in self.inputs} | {"count"}
        for reduction in self.reductions:
            if not refs(reduction.expr) <= known:
                raise SpecSyntaxError(f"reduction {reduction} reads an unknown name")
            known.add(reduction.name)
        varying = {extra.name for extra in self.inputs if "n" in extra.dims}
        for at, output in enumerate(self.outputs):
            if not refs(output.expr) <= known:
                raise SpecSyntaxError(f"output {output} reads an unknown name")
            if at in self.reduced and refs(output.expr) & varying:
                raise SpecSyntaxError(f"output {output} is one value per row but reads a row")
        if self.phi is not None and abs(self.phi) > 1 << 20:
            raise SpecSyntaxError(f"phi = {self.phi} is out of range")

    def sizes(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """(r, n): all leading dimensions of the first operand taken as one, and its last."""
        rows = 1
        for extent in shapes[0][:-1]:
            rows *= extent
        return (rows, shapes[0][-1])

    def output_shapes(self, shapes: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        full = tuple(shapes[0])
        return tuple(full[:-1] if at in self.reduced else full for at in range(len(self.outputs)))

    @property
    def output_dtypes(self) -> tuple[DType, ...]:
        return tuple(output.dtype for output in self.outputs)

    def __str__(self) -> str:
        licence = "" if self.phi is None else f"; phi={self.phi}"
        return (
            f"Rows{{inputs={listing(self.inputs)}; reductions={listing(self.reductions)}; "
            f"outputs={listing(self.outputs)}; reduced={listing(self.reduced)}{licence}}}"
        )

    @property
    def digest(self) -> str:
        return digest(str(self))

    @classmethod
    def parse(cls, text: str) -> Rows:
        found = fields_of(text, "Rows")
        try:
            return cls(
                inputs=tuple(Extra.parse(part) for part in unlist(found["inputs"])),
                reductions=tuple(Reduction.parse(part) for part in unlist(found["reductions"])),
                outputs=tuple(Output.parse(part) for part in unlist(found["outputs"])),
                reduced=tuple(int(part) for part in unlist(found["reduced"])),
                phi=int(found["phi"]) if "phi" in found else None,
            )
        except (KeyError, ValueError) as error:
            raise SpecSyntaxError(f"cannot read {text[:80]!r}: {error}") from None
