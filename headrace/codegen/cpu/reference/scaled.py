"""``tt.dot_scaled``: block-scaled operands, decoded to f32 first.

OCP MX formats: groups of 32 elements along K share one power of two, kept as an exponent byte with bias 127
(255: NaN).
"""

from __future__ import annotations

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference import collective, numbers
from headrace.codegen.cpu.reference.emitter import Emitter
from headrace.codegen.cpu.ttir import Op, ScalarType, TensorType, Value, shape_of

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_ELEMENTS = {"e4m3": "f8e4m3fn", "e5m2": "f8e5m2", "bf16": "bf16", "fp16": "f16"}


def dot_scaled(e: Emitter, op: Op) -> None:
    """D = C + (A scaled) (B scaled), accumulated in f32."""
    sizes = op.attrs["operandSegmentSizes"]
    assert isinstance(sizes, tuple)
    left, right, start, left_scale, right_scale = (op.segment(k) for k in range(5))
    assert left is not None
    assert right is not None
    assert start is not None
    a = _decode(e, op, left, left_scale, op.str_attr("lhs"), "lhs_k_pack", contracted=-1)
    b = _decode(e, op, right, right_scale, op.str_attr("rhs"), "rhs_k_pack", contracted=-2)
    c = Value(-1, TensorType(shape_of(start.type), ttir.F32))
    e.copy(start.type, e.place(start), e.place(c))
    collective.matmul(e, op, a, b, c)


def _decode(
    e: Emitter, op: Op, value: Value, scale: Value | None, form: str, pack: str, contracted: int
) -> Value:
    shape = list(shape_of(value.type))
    four_bit = form == "e2m1"
    # Two 4-bit numbers to a byte, along K or, where the attribute says so, along M or N.
    packed = contracted if op.attrs.get(pack) is not False else -3 - contracted
    if four_bit:
        shape[packed] *= 2
    elif form not in _ELEMENTS:
        raise ttir.unsupported(op, f"operand format {form}; use e4m3, e5m2, e2m1, bf16 or fp16")
    wide = Value(-1, TensorType(tuple(shape), ttir.F32))
    with e.nest(shape) as index:
        if four_bit:
            number = _nibble(e, value, index, packed)
        else:
            raw = e.read(value, e.linear(index, shape))
            stored = ttir.element_of(value.type)
            source = stored if stored.bits != 8 else ScalarType(_ELEMENTS[form])
            number = numbers.widen(e, raw, source, op)
        if scale is not None:
            factor = _scale(e, op, scale, index, contracted, shape[contracted])
            number = e.let(f"fmul float {number}, {factor}")
        e.write(wide, number, e.linear(index, shape))
    return wide


def _nibble(e: Emitter, value: Value, index: list[str], axis: int) -> str:
    entries = ", ".join("float " + numbers.float_literal(x, "float") for x in _E2M1)
    e.globals.setdefault("decode_e2m1", f"@decode_e2m1 = internal constant [16 x float] [{entries}]")
    packed = list(index)
    packed[axis] = e.let(f"lshr i64 {index[axis]}, 1")
    byte = e.let(f"zext i8 {e.read(value, e.linear(packed, shape_of(value.type)))} to i64")
    shift = e.let(f"shl i64 {e.let(f'and i64 {index[axis]}, 1')}, 2")
    code = e.let(f"and i64 {e.let(f'lshr i64 {byte}, {shift}')}, 15")
    return e.let(f"load float, ptr {e.let(f'getelementptr float, ptr @decode_e2m1, i64 {code}')}")


def _scale(e: Emitter, op: Op, scale: Value, index: list[str], contracted: int, inner: int) -> str:
    """Scales are [.., M or N, K / group]; the group size follows from the shapes. A scale is an exponent
    byte, or an 8-bit float."""
    shape = shape_of(scale.type)
    group = inner // shape[-1]
    row = index[-2] if contracted == -1 else index[-1]
    position = [*index[:-2], row, e.let(f"udiv i64 {index[contracted]}, {group}")]
    code, element = e.read(scale, e.linear(position, shape)), ttir.element_of(scale.type)
    if isinstance(element, ScalarType) and element.is_float:
        return numbers.widen(e, code, element, op)
    exponent = e.let(f"zext i8 {code} to i32")
    bits = e.let(f"shl i32 {exponent}, 23")
    tiny = e.let(f"icmp eq i32 {exponent}, 0")
    bits = e.let(f"select i1 {tiny}, i32 4194304, i32 {bits}")  # 2^-127 is a subnormal f32
    nan = e.let(f"icmp eq i32 {exponent}, 255")
    bits = e.let(f"select i1 {nan}, i32 2143289344, i32 {bits}")
    return e.let(f"bitcast i32 {bits} to float")
