"""Conversions between number formats, each in its plainest form.

Arithmetic on f16, bf16 and 8-bit floats is done in f32 and rounded once (to nearest, ties to even, unless
the operation asks for rounding toward zero).
Conversion to an 8-bit float saturates to the largest finite value, as PTX ``cvt.satfinite`` does; NaN stays
NaN. Conversion of a float to an integer saturates and takes NaN to 0.
"""

from __future__ import annotations

import math
import struct

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.float8 import FLOAT8, Float8
from headrace.codegen.cpu.reference.emitter import Emitter, register_type
from headrace.codegen.cpu.ttir import Element, PointerType, ScalarType

WIDE = ("f32", "f64")


def float_literal(value: float, type_: str) -> str:
    """An LLVM literal of type half, float or double with exactly this value after rounding; ``bf16`` gives
    the bits as an ``i16``."""
    if type_ == "double":
        return "0x" + struct.pack(">d", value).hex().upper()
    if type_ == "half":
        return "0xH" + struct.pack(">e", value).hex().upper()
    try:
        bits = struct.unpack(">I", struct.pack(">f", value))[0]
    except OverflowError:
        bits = 0x7F800000 if value > 0 else 0xFF800000
    if type_ == "bf16":
        rounded = bits if math.isnan(value) or math.isinf(value) else bits + 0x7FFF + (bits >> 16 & 1)
        return str(struct.unpack(">h", struct.pack(">H", rounded >> 16 & 0xFFFF))[0])
    widened = struct.unpack(">f", struct.pack(">I", bits))[0]
    return "0x" + struct.pack(">d", widened).hex().upper()


def literal(value: object, element: Element) -> str:
    """An LLVM literal for an element of a constant."""
    if isinstance(element, PointerType):
        return "null"
    if element.name in FLOAT8:
        return str(FLOAT8[element.name].code(float(str(value))))
    if element.is_float:
        assert isinstance(value, (int, float))
        return float_literal(float(value), "bf16" if element.name == "bf16" else register_type(element))
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
        wide = e.let(f"zext i16 {register} to i32")
        return e.let(f"bitcast i32 {e.let(f'shl i32 {wide}, 16')} to float")
    table = _decode_table(e, element, op)
    index = e.let(f"zext i8 {register} to i64")
    return e.let(f"load float, ptr {e.let(f'getelementptr float, ptr {table}, i64 {index}')}")


def narrow(e: Emitter, register: str, element: Element, op: ttir.Op, *, toward_zero: bool = False) -> str:
    """An f32 rounded to ``element`` (which is not f64)."""
    assert isinstance(element, ScalarType)
    if element.name == "f32":
        return register
    if element.name == "f16":
        return _cut(e, register, "float", "half", toward_zero)
    if element.name == "bf16":
        return _to_bf16(e, register, toward_zero)
    return _to_float8(e, register, element, op, toward_zero)


def _cut(e: Emitter, register: str, source: str, target: str, toward_zero: bool) -> str:
    """``fptrunc``; toward zero, a magnitude that was rounded up goes down by one code."""
    near = e.let(f"fptrunc {source} {register} to {target}")
    if not toward_zero:
        return near
    bits = {"half": "i16", "float": "i32"}[target]
    back = e.let(f"fpext {target} {near} to {source}")
    suffix = "f32" if source == "float" else "f64"
    magnitude = e.call(source, f"llvm.fabs.{suffix}", (source, register))
    rounded = e.call(source, f"llvm.fabs.{suffix}", (source, back))
    above = e.let(f"zext i1 {e.let(f'fcmp ogt {source} {rounded}, {magnitude}')} to {bits}")
    code = e.let(f"sub {bits} {e.let(f'bitcast {target} {near} to {bits}')}, {above}")
    return e.let(f"bitcast {bits} {code} to {target}")


def convert(
    e: Emitter, register: str, source: Element, target: Element, op: ttir.Op, *, toward_zero: bool = False
) -> str:
    """Float to float, rounding to nearest even or toward zero."""
    if source == target:
        return register
    wide = widen(e, register, source, op)
    from_double = isinstance(source, ScalarType) and source.name == "f64"
    assert isinstance(target, ScalarType)
    if target.name == "f64":
        return wide if from_double else e.let(f"fpext float {wide} to double")
    if from_double and toward_zero:
        wide = _cut(e, wide, "double", "float", toward_zero)  # cutting twice is cutting once
    elif from_double:
        if target.name == "f16":
            return e.let(f"fptrunc double {wide} to half")
        wide = _to_odd(e, wide) if target.name != "f32" else e.let(f"fptrunc double {wide} to float")
    return narrow(e, wide, target, op, toward_zero=toward_zero)


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


def within_double(e: Emitter, register: str, signed: bool) -> str:
    """A 64-bit integer that f64 holds exactly and narrower floats round like it: beyond 2^53 the lowest bit
    that fits says whether there were any below it."""
    rest = e.let(f"icmp ne i64 {e.let(f'and i64 {register}, 2047')}, 0")
    sticky = e.let(f"select i1 {rest}, i64 2048, i64 0")
    odd = e.let(f"or i64 {e.let(f'and i64 {register}, -2048')}, {sticky}")
    size = e.call("i64", "llvm.abs.i64", ("i64", register), ("i1", "false")) if signed else register
    large = e.let(f"icmp ugt i64 {size}, {1 << 53}")
    return e.let(f"select i1 {large}, i64 {odd}, i64 {register}")


def _to_bf16(e: Emitter, register: str, toward_zero: bool) -> str:
    bits = rounded = e.let(f"bitcast float {register} to i32")
    if not toward_zero:
        lowest = e.let(f"and i32 {e.let(f'lshr i32 {bits}, 16')}, 1")
        rounded = e.let(f"add i32 {bits}, {e.let(f'add i32 {lowest}, 32767')}")
    quiet = e.let(f"or i32 {bits}, 4194304")
    is_nan = e.let(f"fcmp uno float {register}, {register}")
    chosen = e.let(f"select i1 {is_nan}, i32 {quiet}, i32 {rounded}")
    return e.let(f"trunc i32 {e.let(f'lshr i32 {chosen}, 16')} to i16")


def _form(element: ScalarType, op: ttir.Op) -> Float8:
    if element.name not in FLOAT8:
        raise ttir.unsupported(op, f"numbers of type {element}; use float8 e4m3fn, e5m2 or their fnuz forms")
    return FLOAT8[element.name]


def _decode_table(e: Emitter, element: ScalarType, op: ttir.Op) -> str:
    form, name = _form(element, op), f"decode_{element.name}"
    entries = ", ".join("float " + float_literal(form.value(code), "float") for code in range(256))
    e.globals.setdefault(name, f"@{name} = internal constant [256 x float] [{entries}]")
    return f"@{name}"


def _to_float8(e: Emitter, register: str, element: ScalarType, op: ttir.Op, toward_zero: bool) -> str:
    form = _form(element, op)
    shift = 23 - form.mantissa
    bits = e.let(f"bitcast float {register} to i32")
    magnitude = e.let(f"and i32 {bits}, 2147483647")
    absolute = e.let(f"bitcast i32 {magnitude} to float")
    # Normal results: round the f32 mantissa, then take the bias difference off the exponent.
    biased = magnitude
    if not toward_zero:
        lowest = e.let(f"and i32 {e.let(f'lshr i32 {magnitude}, {shift}')}, 1")
        biased = e.let(f"add i32 {magnitude}, {e.let(f'add i32 {lowest}, {(1 << (shift - 1)) - 1}')}")
    normal = e.let(f"sub i32 {e.let(f'lshr i32 {biased}, {shift}')}, {(127 - form.bias) << form.mantissa}")
    # Subnormal results: a whole number of the smallest step.
    steps = e.let(f"fmul float {absolute}, {float_literal(2.0 ** (form.bias - 1 + form.mantissa), 'float')}")
    whole = steps if toward_zero else e.call("float", "llvm.roundeven.f32", ("float", steps))
    subnormal = e.call("i32", "llvm.fptoui.sat.i32.f32", ("float", whole))
    small = e.let(f"fcmp olt float {absolute}, {float_literal(2.0 ** (1 - form.bias), 'float')}")
    code = e.let(f"select i1 {small}, i32 {subnormal}, i32 {normal}")
    code = e.call("i32", "llvm.umin.i32", ("i32", code), ("i32", str(form.top)))
    is_nan = e.let(f"fcmp uno float {register}, {register}")
    sign = e.let(f"and i32 {e.let(f'lshr i32 {bits}, 24')}, 128")
    if form.nan == 0x80:  # there is no -0
        zero = e.let(f"icmp eq i32 {code}, 0")
        sign = e.let(f"select i1 {zero}, i32 0, i32 {sign}")
    code = e.let(f"select i1 {is_nan}, i32 {form.nan}, i32 {code}")
    return e.let(f"trunc i32 {e.let(f'or i32 {code}, {sign}')} to i8")
