"""Attention: score, mask, normalizer and value product, as one value of independent choices."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.errors import SpecSyntaxError
from headrace.ir.dtype import DType
from headrace.ir.expr import Const, Expr, Ref, parse, refs
from headrace.ir.spec.operand import Extra, digest, fields_of, listing, unlist

_DOT = Ref("s")
_ALL = Const(True)

# Nats that scores surely stay within where a bound is proven; n keys add up to n e^50 at most.
PROVEN_BOUND = 50


class Weighting(enum.StrEnum):
    """The pointwise g of the normalizer: a score becomes a weight."""

    EXP = "exp"
    SIGMOID = "sigmoid"
    IDENTITY = "identity"


class Denominator(enum.StrEnum):
    """What the weighted sum is divided by."""

    SUM = "sum"
    NONE = "none"


class Stabilizer(enum.StrEnum):
    """How exp is kept in range: what a Spec permits, and which of that a Schedule takes.

    A Spec with `online` permits the exact ones (online, lazy, pair). One with `unified` also permits a
    constant phi instead of the row's maximum, guarded, because its scores were calibrated or are bounded.
    A Schedule names the one it uses in its knob `stabilizer`.
    """

    ONLINE = "online"  # the running maximum (FlashAttention)
    LAZY = "lazy"  # a stale maximum, renewed when exceeded by a factor of 2^8 (FlashAttention-4)
    PAIR = "pair"  # (mantissa, exponent): the maximum rounded up to a power of two (Two-Pass Softmax)
    UNIFIED = "unified"  # one constant phi for all rows (FlashDecoding++, equations 3 and 4)
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Normalizer:
    """Text: `exp/sum/online`. Softmax is exp over its sum; sigmoid attention is `sigmoid/none/none`.

    `exp/sum/unified(16)` permits the constant phi = 16 (nats); `exp/sum/unified(0, proven)` says that no
    score's distance from phi exceeds `PROVEN_BOUND`, whatever the inputs, so that no calibration is needed.
    (The guard stays: values may be huge or tiny.)
    """

    weighting: Weighting = Weighting.EXP
    denominator: Denominator = Denominator.SUM
    stabilizer: Stabilizer = Stabilizer.ONLINE
    phi: int = 0
    proven: bool = False

    def __post_init__(self) -> None:
        if self.stabilizer in (Stabilizer.LAZY, Stabilizer.PAIR):
            raise SpecSyntaxError(f"{self.stabilizer} is a Schedule's choice; a Spec says online or unified")
        if self.stabilizer is not Stabilizer.UNIFIED and (self.phi or self.proven):
            raise SpecSyntaxError("only a unified maximum has a constant phi")
        if self.stabilizer is Stabilizer.UNIFIED and self.weighting is not Weighting.EXP:
            raise SpecSyntaxError(f"a unified maximum stabilizes exp, not {self.weighting}")
        if self.stabilizer is Stabilizer.UNIFIED and self.denominator is Denominator.NONE:
            raise SpecSyntaxError(
                "phi cancels in the sum that divides; without it a Spec says exp/none/online"
            )
        if abs(self.phi) > 1 << 20:
            raise SpecSyntaxError(f"phi = {self.phi} is out of range")

    def __str__(self) -> str:
        licence = ""
        if self.stabilizer is Stabilizer.UNIFIED:
            licence = f"({self.phi}{', proven' if self.proven else ''})"
        return f"{self.weighting}/{self.denominator}/{self.stabilizer}{licence}"

    @classmethod
    def parse(cls, text: str) -> Normalizer:
        parts = text.strip().split("/")
        if len(parts) != 3:
            raise SpecSyntaxError(f"cannot read normalizer {text!r}; expected g/denominator/stabilizer")
        licence = re.fullmatch(r"unified\((-?\d{1,7})(, proven)?\)", parts[2].strip())
        try:
            if licence is None and parts[2] == Stabilizer.UNIFIED:
                raise SpecSyntaxError(f"cannot read normalizer {text!r}; expected unified(phi)")
            if licence is None:
                return cls(Weighting(parts[0]), Denominator(parts[1]), Stabilizer(parts[2]))
            phi, proven = int(licence[1]), licence[2] is not None
            return cls(Weighting(parts[0]), Denominator(parts[1]), Stabilizer.UNIFIED, phi, proven)
        except ValueError as error:
            raise SpecSyntaxError(f"cannot read normalizer {text!r}: {error}") from None


@dataclass(frozen=True, slots=True)
class Attention:
    """o[b,h,i] = sum_j p_ij v[b,hv,j] / den_i, s_ij = score(q[b,h,i] . k[b,hk,j]), p = g(s) where mask.

    Operands in order: q `[B, H, I, d_k]`, k `[B, H_k, J, d_k]`, v `[B, H_v, J, d_v]`, the extras; any
    strides. Head h reads K head h // (H // H_k) and V head h // (H // H_v). Output `[B, H, I, d_v]`.

    `score` is an expression over `s` (the raw dot product, float32), the indices `b h i j`, and extras;
    `mask` one that is true where key j is visible, over the indices and extras (`true` when absent).
    Causal: `le(j, i)`. A static cache: `le(j, add(i, p))` with p:i64[], the number of keys before this call;
    a conjunct of the form `le(j, e)` or `lt(j, e)` whose e does not read j bounds the keys that are read.
    A row whose scores are all -inf, hidden or not, gives what eager gives: NaN under `safe=false` (softmax),
    zeros under `safe=true` (scaled dot-product attention). A score that is NaN makes its row NaN under both.
    Extras have dims out of `bhij`; an extra of dims `bh..` varies with the query head.
    Sizes known at run time: (b, i, j).
    """

    q: DType
    k: DType
    v: DType
    out: DType
    heads: int
    k_heads: int
    v_heads: int
    d_k: int
    d_v: int
    score: Expr = _DOT
    mask: Expr = _ALL
    normalizer: Normalizer = Normalizer()
    safe: bool = False
    extras: tuple[Extra, ...] = ()

    kind = "Attention"

    def __post_init__(self) -> None:
        if self.heads % self.k_heads or self.heads % self.v_heads:
            raise SpecSyntaxError(
                f"{self.heads} query heads do not divide among {self.k_heads}/{self.v_heads}"
            )
        known = {extra.name for extra in self.extras} | {"b", "h", "i", "j"}
        if not refs(self.mask) <= known or not refs(self.score) <= known | {"s"}:
            raise SpecSyntaxError("score or mask reads an unknown name")

    def sizes(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        return (shapes[0][0], shapes[0][2], shapes[1][2])

    def output_shapes(self, shapes: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        return ((shapes[0][0], shapes[0][1], shapes[0][2], self.d_v),)

    @property
    def output_dtypes(self) -> tuple[DType, ...]:
        return (self.out,)

    def __str__(self) -> str:
        return (
            f"Attention{{q={self.q.value}; k={self.k.value}; v={self.v.value}; out={self.out.value}; "
            f"heads=[{self.heads}, {self.k_heads}, {self.v_heads}]; dims=[{self.d_k}, {self.d_v}]; "
            f"score={self.score}; mask={self.mask}; normalizer={self.normalizer}; "
            f"safe={str(self.safe).lower()}; extras={listing(self.extras)}}}"
        )

    @property
    def digest(self) -> str:
        return digest(str(self))

    @classmethod
    def parse(cls, text: str) -> Attention:
        found = fields_of(text, "Attention")
        try:
            heads = [int(part) for part in unlist(found["heads"])]
            dims = [int(part) for part in unlist(found["dims"])]
            return cls(
                q=DType(found["q"]), k=DType(found["k"]), v=DType(found["v"]), out=DType(found["out"]),
                heads=heads[0], k_heads=heads[1], v_heads=heads[2], d_k=dims[0], d_v=dims[1],
                score=parse(found["score"]), mask=parse(found["mask"]),
                normalizer=Normalizer.parse(found["normalizer"]),
                safe={"true": True, "false": False}[found["safe"]],
                extras=tuple(Extra.parse(part) for part in unlist(found["extras"])),
            )  # fmt: skip
        except (KeyError, ValueError, IndexError) as error:
            raise SpecSyntaxError(f"cannot read {text[:80]!r}: {error}") from None
