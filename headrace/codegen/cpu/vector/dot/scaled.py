"""``tt.dot_scaled``: operands of the OCP MX formats, multiplied by their block scales while they are read.

Groups of elements along k share one power of two, an exponent byte with bias 127 (255: NaN). Two e2m1
numbers lie in a byte, the even one in the low half, next to each other along k (or along m, n). Where the
processor has bf16 products and a scaled operand is exact in bf16, it is multiplied as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Op
from headrace.codegen.cpu.vector import dot
from headrace.codegen.cpu.vector.context import Context, Index, Ix, const, vector_type
from headrace.codegen.cpu.vector.dot.product import as_floats
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import NONE, Buffer, Expr, Transpose, Uniform
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.lanes.select import Select
from headrace.codegen.cpu.vector.schedule import Scheduler, numel

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering

_EIGHT_BITS = {"e4m3": "f8e4m3fn", "e5m2": "f8e5m2"}
_SIXTEEN_BITS = {"bf16": "bfloat", "fp16": "half"}


class Nibbles(Expr):
    """f32 values of e2m1 numbers, two to a byte along ``axis``."""

    def __init__(self, source: Expr, axis: int) -> None:
        shape = tuple(2 * n if d == axis else n for d, n in enumerate(source.shape))
        super().__init__(shape, "float", source.varies | {axis}, (source,))
        self.axis = axis

    def down(self, position: int, dim: int) -> int:
        return NONE if dim == self.axis else dim

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        axis = self.axis
        bt = vector_type("i8", width)
        where = g.index(index[axis])
        inner = (*index[:axis], _ix(_shifted(g, where, 1)), *index[axis + 1 :])
        if width and dim == axis:
            half = f"<{width // 2} x i8>"
            pairs = self.operands[0].eval(g, inner, axis, width // 2, out)
            low = g.op("and", half, pairs, g.splat("i8", "15", width // 2))
            high = g.op("lshr", half, pairs, g.splat("i8", "4", width // 2))
            order = [lane + (width // 2) * n for lane in range(width // 2) for n in (0, 1)]
            return _from_e2m1(g, g.shuffle("i8", width // 2, low, high, order), width)
        byte = self.operands[0].eval(g, inner, dim, width, out)
        odd = g.op("and", "i64", where, "1")
        amount = g.cast("trunc", "i64", g.op("shl", "i64", odd, "2"), "i8")
        moved = g.op("lshr", bt, byte, g.splat("i8", amount, width))
        return _from_e2m1(g, g.op("and", bt, moved, g.splat("i8", "15", width)), width)


class Grouped(Expr):
    """Each element of ``source`` repeated ``group`` times along ``axis``."""

    def __init__(self, source: Expr, axis: int, group: int) -> None:
        shape = tuple(group * n if d == axis else n for d, n in enumerate(source.shape))
        super().__init__(shape, source.element, source.varies, (source,))
        self.axis = axis
        self.group = group

    def down(self, position: int, dim: int) -> int:
        return NONE if dim == self.axis else dim

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        axis, group, source = self.axis, self.group, self.operands[0]
        where = _ix(_shifted(g, g.index(index[axis]), group.bit_length() - 1))
        inner = (*index[:axis], where, *index[axis + 1 :])
        if not width or dim != axis:
            return source.eval(g, inner, dim, width, out)
        if width <= group:  # vectors start at multiples of their width
            return g.splat(self.element, source.eval(g, inner, NONE, 0, out), width)
        few = source.eval(g, inner, axis, width // group, out)
        return g.shuffle(self.element, width // group, few, "poison", [n // group for n in range(width)])


def lower(lowering: Lowering, op: Op) -> None:
    """D = C + (A scaled) (B scaled)."""
    a, b, c, a_scale, b_scale = (op.segment(k) for k in range(5))
    assert a is not None
    assert b is not None
    assert c is not None
    s = lowering.s
    forms = (op.str_attr("lhs"), op.str_attr("rhs"))
    small = all(f in ("e2m1", "bf16", *_EIGHT_BITS) for f in forms)
    element = "bfloat" if small and lowering.g.machine.bf16_dot else "float"
    operands = []
    for value, scale, form, pack, contracted in (
        (a, a_scale, forms[0], "lhs_k_pack", -1),
        (b, b_scale, forms[1], "rhs_k_pack", -2),
    ):
        raw, factor = lowering.get(value), lowering.get(scale) if scale is not None else None
        along = contracted if op.attrs.get(pack) is not False else -3 - contracted
        decoded = _decoded(s, raw, form, contracted % len(raw.shape), along % len(raw.shape), factor)
        operands.append(as_floats(s, decoded, element))
    into = lowering.destinations.get(op.result)
    result = dot.lower(s, operands[0], operands[1], lowering.get(c), lowering.limits(op.result), into)
    lowering.put(op.result, result)


def _decoded(s: Scheduler, raw: Expr, form: str, contracted: int, packed: int, scale: Expr | None) -> Expr:
    """An operand in f32 (16-bit floats as they are, where they have no scale), multiplied by its scale."""
    if form == "e2m1":
        value: Expr = Nibbles(raw, packed)
    else:
        kind = _EIGHT_BITS.get(form) or _SIXTEEN_BITS.get(form, "")
        if not kind or raw.element not in (kind, "i8", "i16"):
            raise VectorDeclined(f"tt.dot_scaled of {raw.element} as {form} is not vectorised")
        value = raw
        if raw.element != kind:
            value = Elementwise("tt.bitcast", (raw,), raw.shape, kind, {})
    s.keep.append(value)
    if scale is None:
        return value
    if scale.element != "i8":
        raise VectorDeclined(f"tt.dot_scaled with scales of {scale.element} is not vectorised")
    powers = _powers(s, scale)
    if contracted == len(raw.shape) - 2:  # scales of the right operand are [.., n, k / group]
        order = (*range(len(raw.shape) - 2), len(raw.shape) - 1, len(raw.shape) - 2)
        powers = Transpose(powers, order)
    grouped = Grouped(powers, contracted, value.shape[contracted] // powers.shape[contracted])
    value = as_floats(s, value, "float")
    made = Elementwise("arith.mulf", (value, grouped), value.shape, "float", {})
    s.keep += [powers, grouped, made]
    return made


def _powers(s: Scheduler, scale: Expr) -> Expr:
    """The powers of two that exponent bytes stand for, as a tile of f32."""

    def constant(n: int, element: str = "i32") -> Expr:
        return Uniform(const(element, n), element, scale.shape)

    def op(name: str, *args: Expr, element: str = "i32", **attrs: object) -> Expr:
        made = Elementwise(name, args, scale.shape, element, attrs)
        s.keep.append(made)
        return made

    exponent = op("arith.extui", scale)
    bits = op("arith.shli", exponent, constant(23))
    cases: Sequence[tuple[int, int]] = ((0, 1 << 22), (255, 0x7FC00000))  # 2^-127 is a subnormal f32
    for code, value in cases:
        found = op("arith.cmpi", exponent, constant(code), element="i1", predicate="eq")
        bits = Select(found, constant(value), bits)
        s.keep.append(bits)
    power = op("tt.bitcast", bits, element="float")
    tile = Buffer(s.g.alloca("float", numel(scale.shape)), scale.shape, "float")
    s.materialise(power, into=tile)
    return tile


def _ix(name: str) -> Ix:
    return Ix(name, 0) if name.startswith("%") else Ix(None, int(name))


def _shifted(g: Context, value: str, bits: int) -> str:
    if not value.startswith("%"):
        return str(int(value) >> bits)
    return g.e.pure(f"lshr i64 {value}, {bits}", (value,)) if bits else value


def _from_e2m1(g: Context, code: str, width: int) -> str:
    """f32 values of e2m1 codes in bytes: as an f16 of the same exponent range, times 2^14."""
    bt, st, ht, ft = (vector_type(t, width) for t in ("i8", "i16", "half", "float"))
    wide = g.cast("zext", bt, code, st)
    magnitude = g.op("shl", st, g.op("and", st, wide, g.splat("i16", "7", width)), g.splat("i16", "9", width))
    sign = g.op("shl", st, wide, g.splat("i16", "12", width))
    sign = g.op("and", st, sign, g.splat("i16", const("i16", 0x8000), width))
    number = g.cast("fpext", ht, g.bitcast(st, g.op("or", st, magnitude, sign), ht), ft)
    return g.op("fmul", ft, number, g.splat("float", const("float", 2.0**14), width))
