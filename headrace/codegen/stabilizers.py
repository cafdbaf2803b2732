"""Stabilizers of the softmax: which ones a Normalizer permits, and the constants that templates share.

softmax(x)_j = exp(x_j - c) / sum_k exp(x_k - c) for every real c. A stabilizer is a choice of c:

| knob      | c                                              | exact         | source                       |
|-----------|------------------------------------------------|---------------|------------------------------|
| `online`  | the running maximum                            | yes           | Milakov & Gimelshein 2018    |
| `lazy`    | an older maximum, exceeded by 2^8 at most      | yes           | FlashAttention-4             |
| `pair`    | the running maximum, up to a power of two      | yes           | Two-Pass Softmax, 2001.04438 |
| `unified` | a constant phi: no maximum, nothing to rescale | rows in range | FlashDecoding++, 2311.01282  |

**The guard of `unified`.** With weights p_j = exp(x_j - phi) >= 0 and l = sum_j p_j over n keys,

    max_j p_j <= l <= n max_j p_j.

So l <= e^60 says that no weight came near float32's largest value (e^88.7), and l >= e^-60 that the
largest weight is at least e^-60 / n: a weight that underflowed (below e^-87.3) is then smaller than l by
e^-27, less than the rounding of l. One comparison of the finished denominator replaces the paper's two
comparisons of every score (its section 3), and a low score beside a high one does not trip it. The
accumulator has to pass too: it is the sum of p_j v_j, which leaves float32 for values v that themselves are
huge or tiny. Its largest magnitude in the row must be finite, and not below 2^-100 where weights are scaled
down (l < 1). Rows that fail, NaN included, are recomputed with `online`. A row that sees no key has l = 0,
which is no reason to recompute it.

A Spec whose bound is `proven` may take `unified` without calibration. The guard stays, for the sake of values
at the ends of float32; it costs the loop nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from headrace.codegen.expr_triton import Code
from headrace.ir.dtype import DType
from headrace.ir.schedule import Knob, Value
from headrace.ir.spec import Normalizer, Stabilizer, Weighting

KNOB = "stabilizer"
# Nats on both sides of phi in which a denominator is trusted.
WINDOW = 60
LOWEST, HIGHEST = Code(repr(math.exp(-WINDOW))), Code(repr(math.exp(WINDOW)))
# Below it the largest accumulator of a row may have lost digits to underflow.
TINY = Code(repr(2.0**-100))
# By how many powers of two a score may exceed a lazy maximum, as in FlashAttention-4.
SLACK = 8

EXACT = (Stabilizer.ONLINE, Stabilizer.LAZY, Stabilizer.PAIR)


def permitted(normalizer: Normalizer) -> tuple[Stabilizer, ...]:
    """What a Schedule may take; nothing where exp is not divided by its sum or is to be left as it is."""
    if normalizer.weighting is not Weighting.EXP or normalizer.denominator.value != "sum":
        return ()
    if normalizer.stabilizer is Stabilizer.ONLINE:
        return EXACT
    return (*EXACT, Stabilizer.UNIFIED) if normalizer.stabilizer is Stabilizer.UNIFIED else ()


def knobs(
    normalizer: Normalizer, *, without: Collection[Stabilizer] = (), unified: bool = False
) -> tuple[Knob, ...]:
    """The question, if there is something to choose; without choices that cannot be taken here.

    Args:
        unified: a unified maximum is the default where it is permitted; else `online` is.
    """
    values = tuple(str(one) for one in permitted(normalizer) if one not in without)
    first = Stabilizer.UNIFIED if unified and Stabilizer.UNIFIED in values else Stabilizer.ONLINE
    return (Knob(KNOB, str(first), values),) if values else ()


def ranges(normalizer: Normalizer) -> dict[str, tuple[Value, ...]]:
    """The knob's legal words where it exists: all that there are, so that a refusal can give its reason."""
    return {KNOB: tuple(str(one) for one in (*EXACT, Stabilizer.UNIFIED))} if permitted(normalizer) else {}


def refusal(normalizer: Normalizer, value: Value, narrow: DType, *, gpu: bool) -> str | None:
    """Why a stabilizer may not be taken; `narrow` is the type that weights are rounded to for p @ v."""
    if value != Stabilizer.UNIFIED:
        return None
    if Stabilizer.UNIFIED not in permitted(normalizer):
        return (
            f"the Spec's normalizer {normalizer} permits no unified maximum; "
            "scores must be calibrated or provably bounded"
        )
    if narrow is DType.F16 and gpu:
        return "a unified maximum needs weights beyond float16's range; use bf16 or f32 values"
    return None


def phi(normalizer: Normalizer, *, base_two: bool) -> Code:
    """The constant in the unit of the kernel's exponents: powers of two, or nats."""
    return Code(repr(normalizer.phi * math.log2(math.e) if base_two else float(normalizer.phi)))
