"""Elementwise operations that Triton's frontend does not emit, but passes over its output may.

Rounded division, extended products and sums, bit counts, classes of floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference import numbers, pointwise
from headrace.codegen.cpu.reference.emitter import Emitter, register_type
from headrace.codegen.cpu.reference.pointwise import (
    Rule,
    compute_type,
    divide,
    high_product,
    in_float,
    suffix,
)
from headrace.codegen.cpu.ttir import Element, Op, ScalarType


def _element(op: Op, index: int = 0) -> Element:
    return ttir.element_of(op.operands[index].type)


def _result(op: Op) -> Element:
    return ttir.element_of(op.results[0].type)


def _rounded_division(e: Emitter, op: Op, r: Sequence[str]) -> str:
    """Division rounded up or down: the truncated quotient, moved by one where it was not exact."""
    kind, signed = register_type(_result(op)), op.name.endswith("si")
    sign = "si" if signed else "ui"
    quotient = divide(e, Op(f"arith.div{sign}", op.operands, op.results), r)
    rest = divide(e, Op(f"arith.rem{sign}", op.operands, op.results), r)
    moved = e.let(f"icmp ne {kind} {rest}, 0")
    if signed:
        opposite = e.let(f"icmp slt {kind} {e.let(f'xor {kind} {rest}, {r[1]}')}, 0")
        up = "ceil" in op.name
        moved = e.let(f"and i1 {moved}, {e.let(f'xor i1 {opposite}, true') if up else opposite}")
    zero = e.let(f"icmp ne {kind} {r[1]}, 0")
    step = e.let(f"zext i1 {e.let(f'and i1 {moved}, {zero}')} to {kind}")
    return e.let(f"{'add' if 'ceil' in op.name else 'sub'} {kind} {quotient}, {step}")


def _bit_count(e: Emitter, op: Op, r: Sequence[str]) -> str:
    kind = register_type(_result(op))
    extra = () if op.name == "math.ctpop" else (("i1", "false"),)
    return e.call(kind, f"llvm.{op.name.split('.')[1]}.{kind}", (kind, r[0]), *extra)


def _test(e: Emitter, op: Op, r: Sequence[str]) -> str:
    """math.isnan, isinf, isfinite, isnormal: the classes of llvm.is.fpclass."""
    element = _element(op)
    classes = {"math.isnan": 3, "math.isinf": 516, "math.isfinite": 504, "math.isnormal": 264}[op.name]
    wide, kind = numbers.widen(e, r[0], element, op), compute_type(element)
    if op.name == "math.isnormal" and kind != "double" and element != ttir.F32:
        raise ttir.unsupported(op, f"isnormal of {element}; widen it to f32 first")
    return e.call("i1", f"llvm.is.fpclass.{suffix(kind)}", (kind, wide), ("i32", str(classes)))


def _integer_power(e: Emitter, op: Op, r: Sequence[str]) -> str:
    """A float to an integer power, by pow in double."""
    power = e.let(f"sitofp {register_type(_element(op, 1))} {r[1]} to double")
    element, result = _element(op), _result(op)
    base = numbers.convert(e, r[0], element, ScalarType("f64"), op)
    made = e.call("double", "pow", ("double", base), ("double", power))
    return numbers.convert(e, made, ScalarType("f64"), result, op)


def _flush(e: Emitter, op: Op, r: Sequence[str]) -> str:
    """Denormals become zero of their sign."""

    def compute(kind: str, w: list[str]) -> str:
        tiny = numbers.float_literal(2.0**-1022 if kind == "double" else 2.0**-126, kind)
        size = e.call(kind, f"llvm.fabs.{suffix(kind)}", (kind, w[0]))
        zero = numbers.float_literal(0.0, kind)
        signed = e.call(kind, f"llvm.copysign.{suffix(kind)}", (kind, zero), (kind, w[0]))
        return e.let(f"select i1 {e.let(f'fcmp olt {kind} {size}, {tiny}')}, {kind} {signed}, {kind} {w[0]}")

    if _element(op) not in (ttir.F32, ScalarType("f64"), ScalarType("bf16")):
        raise ttir.unsupported(op, f"flushing denormals of {_element(op)}")
    return in_float(e, op, r, compute)


def _extended_product(e: Emitter, op: Op, r: Sequence[str]) -> list[str]:
    kind = register_type(_element(op))
    low = e.let(f"mul {kind} {r[0]}, {r[1]}")
    return [low, high_product(e, op, r, signed=op.name == "arith.mulsi_extended")]


def _with_carry(e: Emitter, op: Op, r: Sequence[str]) -> list[str]:
    kind = register_type(_element(op))
    if op.name == "arith.addui_extended":
        total = e.let(f"add {kind} {r[0]}, {r[1]}")
        return [total, e.let(f"icmp ult {kind} {total}, {r[0]}")]
    return [e.let(f"sub {kind} {r[0]}, {r[1]}"), e.let(f"icmp ult {kind} {r[0]}, {r[1]}")]


def _function(e: Emitter, name: str) -> Callable[[str, list[str]], str]:
    return lambda kind, wide: pointwise.libm(e, name, kind, wide)


def _sincos(e: Emitter, op: Op, r: Sequence[str]) -> list[str]:
    return [in_float(e, op, r, _function(e, n)) for n in ("sin", "cos")]


# Operations with two results.
PAIRS: dict[str, Callable[[Emitter, Op, Sequence[str]], list[str]]] = {
    **dict.fromkeys(("arith.mulsi_extended", "arith.mului_extended"), _extended_product),
    **dict.fromkeys(("arith.addui_extended", "arith.subui_extended"), _with_carry),
    "math.sincos": _sincos,
}


def lower_pair(e: Emitter, op: Op) -> None:
    """Apply a rule with two results to every element."""
    rule, type_ = PAIRS[op.name], op.results[0].type
    if not isinstance(type_, ttir.TensorType):
        for result, register in zip(op.results, rule(e, op, [e.read(v) for v in op.operands]), strict=True):
            e.write(result, register)
        return
    with e.loop(type_.numel) as i:
        made = rule(e, op, [e.read(v, i) for v in op.operands])
        for result, register in zip(op.results, made, strict=True):
            e.write(result, register, i)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("arith.ceildivsi", "arith.ceildivui", "arith.floordivsi"), _rounded_division),
    **dict.fromkeys(("math.ctlz", "math.cttz", "math.ctpop"), _bit_count),
    **dict.fromkeys(("math.isnan", "math.isinf", "math.isfinite", "math.isnormal"), _test),
    "arith.flush_denormals": _flush,
    "math.fpowi": _integer_power,
}


def lower(e: Emitter, op: Op) -> None:
    """Apply the operation's rule to every element."""
    pointwise.apply(e, op, RULES[op.name])
