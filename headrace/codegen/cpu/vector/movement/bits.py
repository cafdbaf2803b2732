"""Functions of the bits of an element's position: what ``hypercube.py`` makes of sort, topk and flip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Op, element_of, shape_of
from headrace.codegen.cpu.vector.context import Context, Index, Ix, const, element_type, vector_type
from headrace.codegen.cpu.vector.expr import NONE, Expr, Shape
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering


class Flip(Expr):
    """Element i ^ stride of a one-dimensional source whose size is a power of two."""

    def __init__(self, source: Expr, stride: int) -> None:
        super().__init__(source.shape, source.element, source.varies, (source,))
        self.stride = stride

    def down(self, position: int, dim: int) -> int:
        """None: what is beyond a bound of the source is not beyond it here."""
        return NONE

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        (ix,) = index
        if width > self.stride:
            value = self.operands[0].eval(g, index, dim, width)
            lanes = [n ^ self.stride for n in range(width)]
            return g.shuffle(self.element, width, value, "poison", lanes)
        if ix.base is None:
            there = Ix(None, ix.off ^ self.stride)
        else:
            there = Ix(g.op("xor", "i64", g.index(ix), str(self.stride)), 0)
        return self.operands[0].eval(g, (there,), dim, width)


class Parity(Expr):
    """Whether position i & mask has an odd number of ones."""

    def __init__(self, shape: Shape, element: str, mask: int) -> None:
        super().__init__(shape, element, frozenset({0} if shape[0] > 1 else ()))
        self.mask = mask

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        (ix,) = index
        if ix.base is None:
            odd = [(n & self.mask).bit_count() % 2 for n in range(ix.off, ix.off + max(width, 1))]
            return self._constant(odd) if width else const(self.element, odd[0])
        low = self.mask & (width - 1) if width else 0
        high = self._high(g, self.mask & ~low, g.index(ix))
        if not width:
            return high
        inside = self._constant([(n & low).bit_count() % 2 for n in range(width)])
        if not self.mask & ~low:
            return inside
        spread = g.splat(self.element, high, width)
        return g.op("xor", vector_type(self.element, width), spread, inside) if low else spread

    def _high(self, g: Context, mask: int, position: str) -> str:
        """Parity of a scalar position under the mask."""
        if not mask:
            return const(self.element, 0)
        kept = g.op("and", "i64", position, str(mask))
        if mask & (mask - 1):
            kept = g.call("llvm.ctpop.i64", "i64", ("i64", kept))
        elif mask > 1:
            kept = g.op("lshr", "i64", kept, str(mask.bit_length() - 1))
        if self.element == "i1":
            return g.cast("trunc", "i64", kept, "i1")
        kept = g.op("and", "i64", kept, "1")
        return kept if self.element == "i64" else g.cast("trunc", "i64", kept, self.element)

    def _constant(self, odd: Sequence[int]) -> str:
        return "<" + ", ".join(f"{self.element} {const(self.element, n)}" for n in odd) + ">"


def parity(lowering: Lowering, op: Op) -> None:
    """``headrace.parity``."""
    type_ = op.result.type
    lowering.put(op.result, Parity(shape_of(type_), element_type(element_of(type_)), op.int_attr("mask")))


def flip(lowering: Lowering, op: Op) -> None:
    """``headrace.flip``. What is not within one vector is read from memory, or each flip would double the
    work."""
    source, stride = lowering.get(op.operands[0]), op.int_attr("stride")
    if not source.varies:
        lowering.put(op.result, source)
        return
    if stride >= min(lowering.g.machine.lanes, source.shape[0]) and source.element != "i1":
        kept = source.resolved()
        while isinstance(kept, Elementwise) and kept.op == "tt.bitcast":
            kept = kept.operands[0].resolved()  # which others read as well
        lowering.s.materialise(kept)
    lowering.put(op.result, Flip(source, stride))
