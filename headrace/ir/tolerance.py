"""The one tolerance table: how far a result may lie from the float64 reference.

    max|out - REF| <= FACTOR * max|eager(same dtype) - REF| + EPSILON[dtype] * max|REF|

Gradients get three times that. NaN and infinity positions must equal the reference's.
"""

from __future__ import annotations

from headrace.ir.dtype import DType

FACTOR = 2.0
BACKWARD = 3.0
EPSILON = {DType.F64: 1e-12, DType.F32: 1e-5, DType.F16: 1e-3, DType.BF16: 8e-3}


def bound(dtype: DType, eager_error: float, reference_scale: float, *, backward: bool = False) -> float:
    """The largest permitted max-abs error of an output of `dtype`."""
    limit = FACTOR * eager_error + EPSILON[dtype] * reference_scale
    return limit * BACKWARD if backward else limit
