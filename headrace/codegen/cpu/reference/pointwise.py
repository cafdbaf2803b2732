"""Operations that map elements to elements: ``scalar(e, op, registers)`` gives the result register(s).

Where LLVM leaves a result undefined or would trap, one is chosen: a division by zero gives 0 (remainder: the
dividend), the most negative integer divided by -1 wraps, a shift by the width or more gives 0 (arithmetic:
the sign).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference import external, numbers
from headrace.codegen.cpu.reference.emitter import Emitter, register_type
from headrace.codegen.cpu.ttir import Element, Op, PointerType, ScalarType

Rule = Callable[[Emitter, Op, Sequence[str]], str]

_INT = {
    "arith.addi": "add",
    "arith.subi": "sub",
    "arith.muli": "mul",
    "arith.andi": "and",
    "arith.ori": "or",
    "arith.xori": "xor",
}
_INT_INTRINSIC = {
    "arith.maxsi": "smax",
    "arith.minsi": "smin",
    "arith.maxui": "umax",
    "arith.minui": "umin",
}
_FLOAT = {
    "arith.addf": "fadd",
    "arith.subf": "fsub",
    "arith.mulf": "fmul",
    "arith.divf": "fdiv",
    "arith.remf": "frem",
    "tt.precise_divf": "fdiv",
    "tt.approx_divf": "fdiv",
}
_FLOAT_INTRINSIC = {
    "arith.maxnumf": "maxnum",
    "arith.minnumf": "minnum",
    "arith.maximumf": "maximum",
    "arith.minimumf": "minimum",
    "math.sqrt": "sqrt",
    "tt.precise_sqrt": "sqrt",
    "math.absf": "fabs",
    "math.floor": "floor",
    "math.ceil": "ceil",
    "math.trunc": "trunc",
    "math.round": "round",
    "math.roundeven": "roundeven",
    "math.copysign": "copysign",
    "math.fma": "fma",
}
_LIBM = {
    "math.exp": "exp",
    "math.exp2": "exp2",
    "math.expm1": "expm1",
    "math.log": "log",
    "math.log2": "log2",
    "math.log10": "log10",
    "math.log1p": "log1p",
    "math.sin": "sin",
    "math.cos": "cos",
    "math.tan": "tan",
    "math.tanh": "tanh",
    "math.sinh": "sinh",
    "math.cosh": "cosh",
    "math.asin": "asin",
    "math.acos": "acos",
    "math.atan": "atan",
    "math.atan2": "atan2",
    "math.asinh": "asinh",
    "math.acosh": "acosh",
    "math.atanh": "atanh",
    "math.erf": "erf",
    "math.erfc": "erfc",
    "math.powf": "pow",
    "math.cbrt": "cbrt",
}


def _element(op: Op, index: int = 0) -> Element:
    return ttir.element_of(op.operands[index].type)


def _result(op: Op) -> Element:
    return ttir.element_of(op.results[0].type)


def compute_type(element: Element) -> str:
    """The LLVM type in which a float operation is computed: double for f64, else float."""
    return "double" if isinstance(element, ScalarType) and element.name == "f64" else "float"


def in_float(e: Emitter, op: Op, registers: Sequence[str], compute: Callable[[str, list[str]], str]) -> str:
    """Widen the operands, compute, round once."""
    element = _element(op)
    kind = compute_type(element)
    result = compute(kind, [numbers.widen(e, r, element, op) for r in registers])
    return result if kind == "double" else numbers.narrow(e, result, element, op)


def suffix(kind: str) -> str:
    return {"float": "f32", "double": "f64"}.get(kind, kind)


def _int_binary(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return e.let(f"{_INT[op.name]} {register_type(_result(op))} {r[0]}, {r[1]}")


def _int_intrinsic(e: Emitter, op: Op, r: Sequence[str]) -> str:
    kind = register_type(_result(op))
    return e.call(kind, f"llvm.{_INT_INTRINSIC[op.name]}.{kind}", (kind, r[0]), (kind, r[1]))


def _float_binary(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return in_float(e, op, r, lambda kind, w: e.let(f"{_FLOAT[op.name]} {kind} {w[0]}, {w[1]}"))


def _float_intrinsic(e: Emitter, op: Op, r: Sequence[str]) -> str:
    name = _FLOAT_INTRINSIC[op.name]
    return in_float(
        e, op, r, lambda kind, w: e.call(kind, f"llvm.{name}.{suffix(kind)}", *((kind, x) for x in w))
    )


def _libm(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return in_float(e, op, r, lambda kind, w: libm(e, _LIBM[op.name], kind, w))


def libm(e: Emitter, name: str, kind: str, registers: Sequence[str]) -> str:
    """Call the C library's function of that name for float or double."""
    return e.call(kind, name + ("f" if kind == "float" else ""), *((kind, x) for x in registers))


def divide(e: Emitter, op: Op, r: Sequence[str]) -> str:
    kind = register_type(_result(op))
    signed, remainder = op.name.endswith("si"), "rem" in op.name
    zero = e.let(f"icmp eq {kind} {r[1]}, 0")
    minus = e.let(f"icmp eq {kind} {r[1]}, -1") if signed else zero
    special = e.let(f"or i1 {zero}, {minus}")
    divisor = e.let(f"select i1 {special}, {kind} 1, {kind} {r[1]}")
    verb = ("s" if signed else "u") + ("rem" if remainder else "div")
    plain = e.let(f"{verb} {kind} {r[0]}, {divisor}")
    if signed:
        negated = "0" if remainder else e.let(f"sub {kind} 0, {r[0]}")
        plain = e.let(f"select i1 {minus}, {kind} {negated}, {kind} {plain}")
    by_zero = r[0] if remainder else "0"
    return e.let(f"select i1 {zero}, {kind} {by_zero}, {kind} {plain}")


def _shift(e: Emitter, op: Op, r: Sequence[str]) -> str:
    kind, bits = register_type(_result(op)), _result(op).bits
    inside = e.let(f"icmp ult {kind} {r[1]}, {bits}")
    if op.name == "arith.shrsi":
        amount = e.let(f"select i1 {inside}, {kind} {r[1]}, {kind} {bits - 1}")
        return e.let(f"ashr {kind} {r[0]}, {amount}")
    amount = e.let(f"select i1 {inside}, {kind} {r[1]}, {kind} 0")
    shifted = e.let(f"{'shl' if op.name == 'arith.shli' else 'lshr'} {kind} {r[0]}, {amount}")
    return e.let(f"select i1 {inside}, {kind} {shifted}, {kind} 0")


def _cmpi(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return e.let(f"icmp {op.str_attr('predicate')} {register_type(_element(op))} {r[0]}, {r[1]}")


def _cmpf(e: Emitter, op: Op, r: Sequence[str]) -> str:
    element = _element(op)
    wide = [numbers.widen(e, x, element, op) for x in r]
    return e.let(f"fcmp {op.str_attr('predicate')} {compute_type(element)} {wide[0]}, {wide[1]}")


def _select(e: Emitter, op: Op, r: Sequence[str]) -> str:
    kind = register_type(_result(op))
    return e.let(f"select i1 {r[0]}, {kind} {r[1]}, {kind} {r[2]}")


def _float_to_float(e: Emitter, op: Op, r: Sequence[str]) -> str:
    mode = op.str_attr("rounding")
    if mode not in ("", "rtne", "rtz", "to_nearest_even", "toward_zero"):
        raise ttir.unsupported(op, f"rounding {mode}")
    zero = mode in ("rtz", "toward_zero")
    return numbers.convert(e, r[0], _element(op), _result(op), op, toward_zero=zero)


def _extend(e: Emitter, op: Op, r: Sequence[str]) -> str:
    source, target = _element(op), _result(op)
    if source.bits == target.bits:
        return r[0]
    verb = "trunc" if target.bits < source.bits else "zext" if "ui" in op.name else "sext"
    return e.let(f"{verb} {register_type(source)} {r[0]} to {register_type(target)}")


def _int_to_float(e: Emitter, op: Op, r: Sequence[str]) -> str:
    verb, source, target = op.name.split(".")[1], register_type(_element(op)), _result(op)
    verb = "sitofp" if verb == "sitofp" else "uitofp"
    if compute_type(target) == "double" or target == ttir.F32:
        return e.let(f"{verb} {source} {r[0]} to {register_type(target)}")
    value = numbers.within_double(e, r[0], verb == "sitofp") if source == "i64" else r[0]
    double = e.let(f"{verb} {source} {value} to double")
    return numbers.convert(e, double, ScalarType("f64"), target, op)


def _float_to_int(e: Emitter, op: Op, r: Sequence[str]) -> str:
    element, target = _element(op), register_type(_result(op))
    wide, kind = numbers.widen(e, r[0], element, op), compute_type(element)
    verb = "fptosi" if op.name == "arith.fptosi" else "fptoui"
    return e.call(target, f"llvm.{verb}.sat.{target}.{suffix(kind)}", (kind, wide))


def _negf(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return in_float(e, op, r, lambda kind, w: e.let(f"fneg {kind} {w[0]}"))


def _rsqrt(e: Emitter, op: Op, r: Sequence[str]) -> str:
    def compute(kind: str, w: list[str]) -> str:
        root = e.call(kind, f"llvm.sqrt.{suffix(kind)}", (kind, w[0]))
        return e.let(f"fdiv {kind} {numbers.float_literal(1.0, kind)}, {root}")

    return in_float(e, op, r, compute)


def _clampf(e: Emitter, op: Op, r: Sequence[str]) -> str:
    names = ("maximum", "minimum") if op.str_attr("propagateNan") == "all" else ("maxnum", "minnum")

    def compute(kind: str, w: list[str]) -> str:
        low = e.call(kind, f"llvm.{names[0]}.{suffix(kind)}", (kind, w[0]), (kind, w[1]))
        return e.call(kind, f"llvm.{names[1]}.{suffix(kind)}", (kind, low), (kind, w[2]))

    return in_float(e, op, r, compute)


def _absi(e: Emitter, op: Op, r: Sequence[str]) -> str:
    kind = register_type(_result(op))
    return e.call(kind, f"llvm.abs.{kind}", (kind, r[0]), ("i1", "false"))


def high_product(e: Emitter, op: Op, r: Sequence[str], signed: bool) -> str:
    kind, bits = register_type(_element(op)), _element(op).bits
    verb = "sext" if signed else "zext"
    a, b = (e.let(f"{verb} {kind} {x} to i{2 * bits}") for x in r)
    product = e.let(f"mul i{2 * bits} {a}, {b}")
    return e.let(f"trunc i{2 * bits} {e.let(f'lshr i{2 * bits} {product}, {bits}')} to {kind}")


def _bitcast(e: Emitter, op: Op, r: Sequence[str]) -> str:
    source, target = register_type(_element(op)), register_type(_result(op))
    return r[0] if source == target else e.let(f"bitcast {source} {r[0]} to {target}")


def _addptr(e: Emitter, op: Op, r: Sequence[str]) -> str:
    element, offset = _element(op), _element(op, 1)
    assert isinstance(element, PointerType)
    index = r[1] if offset.bits == 64 else e.let(f"sext {register_type(offset)} {r[1]} to i64")
    size = max(1, element.pointee.bits // 8)
    return e.let(f"getelementptr i8, ptr {r[0]}, i64 {e.let(f'mul i64 {index}, {size}')}")


def _int_to_ptr(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return e.let(f"inttoptr {register_type(_element(op))} {r[0]} to ptr")


def _ptr_to_int(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return e.let(f"ptrtoint ptr {r[0]} to {register_type(_result(op))}")


def _same(e: Emitter, op: Op, r: Sequence[str]) -> str:
    return r[0]


RULES: dict[str, Rule] = {
    **dict.fromkeys(_INT, _int_binary),
    **dict.fromkeys(_INT_INTRINSIC, _int_intrinsic),
    **dict.fromkeys(_FLOAT, _float_binary),
    **dict.fromkeys(_FLOAT_INTRINSIC, _float_intrinsic),
    **dict.fromkeys(_LIBM, _libm),
    **dict.fromkeys(("arith.divsi", "arith.divui", "arith.remsi", "arith.remui"), divide),
    **dict.fromkeys(("arith.shli", "arith.shrsi", "arith.shrui"), _shift),
    **dict.fromkeys(("arith.extf", "arith.truncf", "tt.fp_to_fp"), _float_to_float),
    **dict.fromkeys(("arith.extsi", "arith.extui", "arith.trunci"), _extend),
    **dict.fromkeys(("arith.index_cast", "arith.index_castui"), _extend),
    **dict.fromkeys(("arith.sitofp", "arith.uitofp"), _int_to_float),
    **dict.fromkeys(("arith.fptosi", "arith.fptoui"), _float_to_int),
    **dict.fromkeys(("arith.bitcast", "tt.bitcast"), _bitcast),
    "arith.convertf": _float_to_float,
    "math.clampf": _clampf,
    "arith.cmpi": _cmpi,
    "arith.cmpf": _cmpf,
    "arith.select": _select,
    "arith.negf": _negf,
    "math.rsqrt": _rsqrt,
    "math.absi": _absi,
    "tt.clampf": _clampf,
    "tt.mulhiui": lambda e, op, r: high_product(e, op, r, signed=False),
    "tt.addptr": _addptr,
    "tt.int_to_ptr": _int_to_ptr,
    "tt.ptr_to_int": _ptr_to_int,
    "tt.extern_elementwise": external.lower,
    "tt.splat": _same,
}


def lower(e: Emitter, op: Op) -> None:
    """Apply the operation's rule to every element. A scalar operand is the same for all of them."""
    apply(e, op, RULES[op.name])


def apply(e: Emitter, op: Op, rule: Rule) -> None:
    """Apply a rule to every element."""
    type_ = op.results[0].type
    if not isinstance(type_, ttir.TensorType):
        e.write(op.results[0], rule(e, op, [e.read(v) for v in op.operands]))
        return
    with e.loop(type_.numel) as i:
        e.write(op.results[0], rule(e, op, [e.read(v, i) for v in op.operands]), i)
