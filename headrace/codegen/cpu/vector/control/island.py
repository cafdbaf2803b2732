"""Operations without a vector form: lowered by the scalar reference into a function of their own, and called.

Operand tiles are put into row-major buffers, scalars into slots; the function writes its results into others,
which the vector code then reads like any tile. Equal functions are written once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.codegen.cpu import reference
from headrace.codegen.cpu.jit import ISLAND
from headrace.codegen.cpu.ttir import Op, Value, element_of, shape_of
from headrace.codegen.cpu.vector.analysis import effects
from headrace.codegen.cpu.vector.context import SIZES, element_type, stored, text
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Scalar, packed
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.schedule import numel

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering

_NAME = "@NAME@"
_PROGRAM = ("p0", "p1", "p2", "g0", "g1", "g2")


def tile(buffer: Buffer, element: str) -> Expr:
    """A tile in memory as a value of ``element``: an ``i1`` is kept in a byte."""
    if element == buffer.element:
        return buffer
    assert element == "i1"
    return Elementwise("arith.trunci", (buffer,), buffer.shape, "i1", {})


def row_major(lowering: Lowering, value: Value) -> Buffer:
    """The whole of a tile as a row-major buffer."""
    expr = lowering.get(value).resolved()
    if isinstance(expr, Elementwise) and expr.op == "arith.trunci" and expr.element == "i1":
        inner = expr.operands[0].resolved()  # what :func:`tile` makes of a stored i1
        if isinstance(inner, Buffer) and _plain(inner):
            return inner
    if isinstance(expr, Buffer) and _plain(expr):
        return expr
    element = stored(expr.element)
    buffer = Buffer(lowering.g.alloca(element, numel(expr.shape)), expr.shape, element)
    lowering.s.materialise(expr, into=buffer, needed={})
    return buffer


def _plain(buffer: Buffer) -> bool:
    return buffer.source is None and not buffer.limits and buffer.strides == packed(buffer.shape)


class Islands:
    """The outlined functions of one kernel."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.unit = reference.Unit(lowering.module, lowering.g.e.declarations, ISLAND)
        self._names: dict[str, str] = {}
        self.outlined: list[str] = []  # names of the operations, in program order

    @staticmethod
    def lower(lowering: Lowering, op: Op) -> None:
        """A handler like those of :class:`Lowering`."""
        lowering.islands.call(op)

    def call(self, op: Op) -> None:
        """Lower ``op`` by a call.

        Raises:
            UnsupportedTtir: the reference does not lower it either.
        """
        lowering, g = self.lowering, self.lowering.g
        operands = list(dict.fromkeys(op.operands))
        for region in op.regions:
            operands += [v for v in effects.outer_values(region) if v not in operands]
        symbol, frame = self._function(op, operands)
        self.outlined.append(op.name)
        places = [self._place(value) for value in operands]
        results: list[Buffer | str] = []
        for value in op.results:
            element, shape = element_type(element_of(value.type)), shape_of(value.type)
            pointer = g.alloca(stored(element), max(1, numel(shape)))
            results.append(Buffer(pointer, shape, stored(element)) if shape else pointer)
        places += [r.pointer if isinstance(r, Buffer) else r for r in results]
        scratch = g.e.shared_scratch(frame) if frame else "null"
        program = ", ".join(f"i32 %{name}" for name in _PROGRAM)
        args = ", ".join(f"ptr {p}" for p in [*places, scratch])
        g.e.effect(f'call void @"{symbol}"({args}, {program})')
        for value, place in zip(op.results, results, strict=True):
            element = element_type(element_of(value.type))
            if isinstance(place, Buffer):
                lowering.put(value, tile(place, element))
                continue
            name = g.e.here(f"load {text(stored(element))}, ptr {place}, align {SIZES[element]}")
            if element == "i1":
                name = g.e.here(f"trunc i8 {name} to i1")
            lowering.put(value, Scalar(name, element))

    def _function(self, op: Op, operands: list[Value]) -> tuple[str, int]:
        body, frame = self.unit.outlined(op, operands, _NAME)
        name = self._names.get(body)
        functions = self.lowering.g.e.functions
        if name is None:
            name = self._names[body] = f"{ISLAND}{len(self._names)}"
            functions[name] = body.replace(_NAME, name)
        functions.update(self.unit.callees)
        return name, frame

    def _place(self, value: Value) -> str:
        g = self.lowering.g
        if shape_of(value.type):
            return row_major(self.lowering, value).pointer
        expr = self.lowering.get(value)
        name, element = expr.scalar(g), expr.element
        slot = g.alloca(stored(element), 1)
        if element == "i1":
            name = g.cast("zext", "i1", name, "i8")
        g.e.effect(f"store {text(stored(element))} {name}, ptr {slot}, align {SIZES[stored(element)]}")
        return slot
