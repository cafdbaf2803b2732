"""The 8-bit float formats: what each code means."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Float8:
    """Exponent bits are 7 - mantissa; ``top`` is the largest finite code, ``nan`` a quiet NaN.

    Formats with one zero (``fnuz``) use the code of -0 for their only NaN.
    """

    mantissa: int
    bias: int
    top: int
    nan: int
    infinity: int | None

    def value(self, code: int) -> float:
        """The number of a code."""
        if code == self.nan:
            return math.nan
        sign = -1.0 if code & 0x80 else 1.0
        magnitude = code & 0x7F
        if magnitude == self.infinity:
            return sign * math.inf
        if magnitude > self.top:
            return math.nan
        exponent, fraction = magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1)
        if exponent == 0:
            return sign * math.ldexp(fraction, 1 - self.bias - self.mantissa)
        return sign * math.ldexp((1 << self.mantissa) + fraction, exponent - self.bias - self.mantissa)

    def code(self, number: float) -> int:
        """The code of a number that the format holds; NaN's for any other."""
        sign = math.copysign(1.0, number)
        for code in range(256):
            if self.value(code) == number and (number != 0 or math.copysign(1.0, self.value(code)) == sign):
                return code
        return 0 if number == 0 else self.nan


FLOAT8 = {
    "f8e4m3fn": Float8(3, 7, 0x7E, 0x7F, None),
    "f8e5m2": Float8(2, 15, 0x7B, 0x7F, 0x7C),
    "f8e4m3fnuz": Float8(3, 8, 0x7F, 0x80, None),
    "f8e5m2fnuz": Float8(2, 16, 0x7F, 0x80, None),
}
