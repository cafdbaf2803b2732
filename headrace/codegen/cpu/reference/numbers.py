"""Conversions between number formats, each in its plainest form.

Arithmetic on f16, bf16 and 8-bit floats is done in f32 and rounded once (to nearest, ties to even).
Conversion to an 8-bit float saturates to the largest finite value, as PTX ``cvt.satfinite`` does; NaN stays
NaN. Conversion of a float to an integer saturates and takes NaN to 0.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference.emitter import Emitter, register_type
from headrace.codegen.cpu.ttir import Element, PointerType, ScalarType

WIDE = ("f32", "f64")


@dataclass(frozen=True)
class _Float8:
    """Exponent bits are 7 - mantissa; ``top`` is the largest finite code, ``nan`` a quiet NaN."""

    mantissa: int
    bias: int
    top: int
    nan: int
    infinity: int | None

    def value(self, code: int) -> float:
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


_FLOAT8 = {
    "f8e4m3fn": _Float8(3, 7, 0x7E, 0x7F, None),
    "f8e5m2": _Float8(2, 15, 0x7B, 0x7F, 0x7C),
}


def float_literal(value: float, type_: str) -> str:
    """An LLVM literal of type half, bfloat, float or double with exactly this value after rounding."""
    if type_ == "double":
        return "0x" + struct.pack(">d", value).hex().upper()
    if type_ == "half":
        return "0xH" + struct.pack(">e", value).hex().upper()
    try:
        bits = struct.unpack(">I", struct.pack(">f", value))[0]
    except OverflowError:
        bits = 0x7F800000 if value > 0 else 0xFF800000
    if type_ == "bfloat":
        rounded = bits if math.isnan(value) or math.isinf(value) else bits + 0x7FFF + (bits >> 16 & 1)
        return f"0xR{rounded >> 16 & 0xFFFF:04X}"
    widened = struct.unpack(">f", struct.pack(">I", bits))[0]
    return "0x" + struct.pack(">d", widened).hex().upper()


def literal(value: object, element: Element) -> str:
    """An LLVM literal for an element of a constant."""
    if isinstance(element, PointerType):
        return "null"
    if element.name in _FLOAT8:
        form = _FLOAT8[element.name]
        number = float(str(value))
        candidates = [c for c in range(256) if form.value(c) == number]
        return str(candidates[0] if candidates else form.nan)
    if element.is_float:
        assert isinstance(value, (int, float))
        return float_literal(float(value), register_type(element))
    if element == ttir.I1:
        return "1" if value else "0"
    assert isinstance(value, int)
    return str(int(value))


def widen(e: Emitter, register: str, element: Element, op: ttir.Op) -> str:
    """Any float narrower than f32 as f32; f32 and f64 unchanged."""
    assert isinstance(element, ScalarType)
    if element.name in WIDE:
        return register
    if element.name == "f16":
        return e.let(f"fpext half {register} to float")
    if element.name == "bf16":
        bits = e.let(f"bitcast bfloat {register} to i16")
        wide = e.let(f"zext i16 {bits} to i32")
        return e.let(f"bitcast i32 {e.let(f'shl i32 {wide}, 16')} to float")
    table = _decode_table(e, element, op)
    index = e.let(f"zext i8 {register} to i64")
    return e.let(f"load float, ptr {e.let(f'getelementptr float, ptr {table}, i64 {index}')}")


def narrow(e: Emitter, register: str, element: Element, op: ttir.Op) -> str:
    """An f32 rounded to ``element`` (which is not f64)."""
    assert isinstance(element, ScalarType)
    if element.name == "f32":
        return register
    if element.name == "f16":
        return e.let(f"fptrunc float {register} to half")
    if element.name == "bf16":
        return _to_bf16(e, register)
    return _to_float8(e, register, element, op)


def convert(e: Emitter, register: str, source: Element, target: Element, op: ttir.Op) -> str:
    """Float to float, rounding to nearest even."""
    if source == target:
        return register
    wide = widen(e, register, source, op)
    from_double = isinstance(source, ScalarType) and source.name == "f64"
    assert isinstance(target, ScalarType)
    if target.name == "f64":
        return wide if from_double else e.let(f"fpext float {wide} to double")
    if from_double:
        if target.name == "f16":
            return e.let(f"fptrunc double {wide} to half")
        wide = _to_odd(e, wide) if target.name != "f32" else e.let(f"fptrunc double {wide} to float")
    return narrow(e, wide, target, op)


def _to_odd(e: Emitter, register: str) -> str:
    """f64 to f32, rounding to odd, so that a second rounding to fewer bits is exact."""
    near = e.let(f"fptrunc double {register} to float")
    back = e.let(f"fpext float {near} to double")
    magnitude = e.call("double", "llvm.fabs.f64", ("double", register))
    rounded = e.call("double", "llvm.fabs.f64", ("double", back))
    bits = e.let(f"bitcast float {near} to i32")
    down = e.let(f"sub i32 {bits}, 1")
    above = e.let(f"fcmp ogt double {rounded}, {magnitude}")
    floor = e.let(f"select i1 {above}, i32 {down}, i32 {bits}")
    inexact = e.let(f"fcmp one double {back}, {register}")
    odd = e.let(f"or i32 {floor}, {e.let(f'zext i1 {inexact} to i32')}")
    return e.let(f"bitcast i32 {odd} to float")


def _to_bf16(e: Emitter, register: str) -> str:
    bits = e.let(f"bitcast float {register} to i32")
    lowest = e.let(f"and i32 {e.let(f'lshr i32 {bits}, 16')}, 1")
    rounded = e.let(f"add i32 {bits}, {e.let(f'add i32 {lowest}, 32767')}")
    quiet = e.let(f"or i32 {bits}, 4194304")
    is_nan = e.let(f"fcmp uno float {register}, {register}")
    chosen = e.let(f"select i1 {is_nan}, i32 {quiet}, i32 {rounded}")
    half = e.let(f"trunc i32 {e.let(f'lshr i32 {chosen}, 16')} to i16")
    return e.let(f"bitcast i16 {half} to bfloat")


def _form(element: ScalarType, op: ttir.Op) -> _Float8:
    if element.name not in _FLOAT8:
        raise ttir.unsupported(op, f"numbers of type {element}; use float8 e4m3fn or e5m2")
    return _FLOAT8[element.name]


def _decode_table(e: Emitter, element: ScalarType, op: ttir.Op) -> str:
    form, name = _form(element, op), f"decode_{element.name}"
    entries = ", ".join("float " + float_literal(form.value(code), "float") for code in range(256))
    e.globals.setdefault(name, f"@{name} = internal constant [256 x float] [{entries}]")
    return f"@{name}"


def _to_float8(e: Emitter, register: str, element: ScalarType, op: ttir.Op) -> str:
    form = _form(element, op)
    shift = 23 - form.mantissa
    bits = e.let(f"bitcast float {register} to i32")
    magnitude = e.let(f"and i32 {bits}, 2147483647")
    absolute = e.let(f"bitcast i32 {magnitude} to float")
    # Normal results: round the f32 mantissa, then take the bias difference off the exponent.
    lowest = e.let(f"and i32 {e.let(f'lshr i32 {magnitude}, {shift}')}, 1")
    biased = e.let(f"add i32 {magnitude}, {e.let(f'add i32 {lowest}, {(1 << (shift - 1)) - 1}')}")
    normal = e.let(f"sub i32 {e.let(f'lshr i32 {biased}, {shift}')}, {(127 - form.bias) << form.mantissa}")
    # Subnormal results: a whole number of the smallest step.
    steps = e.let(f"fmul float {absolute}, {float_literal(2.0 ** (form.bias - 1 + form.mantissa), 'float')}")
    whole = e.call("float", "llvm.roundeven.f32", ("float", steps))
    subnormal = e.call("i32", "llvm.fptoui.sat.i32.f32", ("float", whole))
    small = e.let(f"fcmp olt float {absolute}, {float_literal(2.0 ** (1 - form.bias), 'float')}")
    code = e.let(f"select i1 {small}, i32 {subnormal}, i32 {normal}")
    code = e.call("i32", "llvm.umin.i32", ("i32", code), ("i32", str(form.top)))
    is_nan = e.let(f"fcmp uno float {register}, {register}")
    code = e.let(f"select i1 {is_nan}, i32 {form.nan}, i32 {code}")
    sign = e.let(f"and i32 {e.let(f'lshr i32 {bits}, 24')}, 128")
    return e.let(f"trunc i32 {e.let(f'or i32 {code}, {sign}')} to i8")
