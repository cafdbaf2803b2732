"""Triton functions that the kernels call and Triton's language lacks; imported by rendered kernels as `hr`.

All floating arguments and results are float32. Errors are a few units in the last place unless stated.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def expm1(x):
    """exp(x) - 1, by its series where exp would cancel."""
    small = x * (
        1.0 + x * (0.5 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040))))))
    )
    return tl.where(tl.abs(x) < 0.35, small, tl.exp(x) - 1.0)


@triton.jit
def log1p(x):
    """log(1 + x); log(u) x / (u - 1) with u = 1 + x undoes the rounding of u (Goldberg 1991, theorem 4)."""
    u = 1.0 + x
    exact = (u == 1.0) | (u == float("inf"))
    return tl.where(exact, tl.where(u == 1.0, x, u), tl.log(u) * (x / tl.where(exact, 1.0, u - 1.0)))


@triton.jit
def tanh(x):
    """tanh(x) = e / (e + 2) with e = expm1(2x), on |x| so that large arguments saturate; NaN stays NaN."""
    size = tl.abs(x)
    e = expm1(2.0 * tl.where(size > 16.0, 16.0, size))
    t = e / (e + 2.0)
    return tl.where(x < 0.0, -t, t)


@triton.jit
def power(x, y):
    """x ** y, its special values as C's pow: a finite negative base takes whole exponents only, else NaN.
    Relative error grows with |y log2 x|.
    """
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    half = y * 0.5
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(half) != half)
    negative = (x < 0.0) | (1.0 / x < 0.0)  # -0.0 too
    signed = tl.where(negative & odd, -size, size)
    value = tl.where((x < 0.0) & (x > float("-inf")) & (whole == 0), float("nan"), signed)
    one = (y == 0.0) | (x == 1.0) | ((x == -1.0) & (tl.abs(y) == float("inf")))
    return tl.where(one, 1.0, value)


@triton.jit
def power_1(x):
    return x


@triton.jit
def power_2(x):
    return x * x


@triton.jit
def power_3(x):
    return x * x * x


@triton.jit
def power_4(x):
    return power_2(x * x)


@triton.jit
def power_5(x):
    return power_4(x) * x


@triton.jit
def power_6(x):
    return power_3(x * x)


@triton.jit
def power_7(x):
    return power_6(x) * x


@triton.jit
def power_8(x):
    return power_4(x * x)


@triton.jit
def floor_divide(x, y):
    """floor(x / y), from the exact remainder: the quotient itself may round up to a whole number."""
    q = tl.floor(x / y)
    r = tl.fma(-q, y, x)
    low = tl.where(y > 0.0, r < 0.0, r > 0.0)
    high = tl.where(y > 0.0, r >= y, r <= y)
    return tl.where(low, q - 1.0, tl.where(high, q + 1.0, q))


@triton.jit
def remainder(x, y):
    """x - y floor(x / y), the sign of y: C's fmod, and y once more where the signs differ. A negative x too
    small to matter beside a positive y gives y.
    """
    r = x % y
    r = tl.where((tl.abs(y) == float("inf")) & (tl.abs(x) < float("inf")), x, r)
    return tl.where((r != 0.0) & ((r < 0.0) != (y < 0.0)), r + y, r)


@triton.jit
def floor_divide_int(x, y):
    """floor(x / y) of integers; Triton's `//` truncates."""
    q = x // y
    return tl.where((q * y != x) & ((x < 0) != (y < 0)), q - 1, q)


@triton.jit
def remainder_int(x, y):
    r = x % y
    return tl.where((r != 0) & ((r < 0) != (y < 0)), r + y, r)


@triton.jit
def fraction(m, factor):
    """factor m - E for a whole number E, in (-1, 0]; zero where factor m overflows.

    The product is taken apart into its rounded value and the exact rest, which is up to half a unit in the
    last place: more than one where the product is beyond 2^25.
    """
    near = tl.ceil(m * factor)
    rest = tl.fma(m, factor, -near)
    return tl.where(tl.abs(near) < float("inf"), rest - tl.ceil(rest), 0.0)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _times(a, b):
    return a * b


@triton.jit
def reduce_sum(x, axis: tl.constexpr):
    return tl.sum(x, axis=axis)


@triton.jit
def reduce_max(x, axis: tl.constexpr):
    """The largest along an axis; NaN where there is one, as torch.amax gives."""
    return tl.reduce(x, axis, _larger)


@triton.jit
def reduce_min(x, axis: tl.constexpr):
    return tl.reduce(x, axis, _smaller)


@triton.jit
def reduce_prod(x, axis: tl.constexpr):
    return tl.reduce(x, axis, _times)
