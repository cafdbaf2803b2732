"""``tt.reduce`` and ``tt.scan``: which of the ways to combine elements an operation gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.codegen.cpu.float8 import FLOAT8
from headrace.codegen.cpu.ttir import Op, element_of, shape_of
from headrace.codegen.cpu.vector.analysis import effects
from headrace.codegen.cpu.vector.context import element_type
from headrace.codegen.cpu.vector.control.island import tile
from headrace.codegen.cpu.vector.expr import Expr, Scalar, Summed
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.reduction.combine import combine_of, is_simple
from headrace.codegen.cpu.vector.reduction.fold import fold
from headrace.codegen.cpu.vector.reduction.reduce import reduce_tile
from headrace.codegen.cpu.vector.reduction.region import Region, region_of
from headrace.codegen.cpu.vector.reduction.scan import scan as scan_tiles

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering


def reduce(lowering: Lowering, op: Op) -> None:
    """One tensor by one commutative operation, or anything else by ``reduction/fold.py``."""
    source = lowering.get(op.operands[0])
    if len(op.operands) != 1 or not is_simple(op) or source.element in FLOAT8:
        _fold(lowering, op)
        return
    axis = op.int_attr("axis")
    if isinstance(source, Summed) and source.axis == axis:
        lowering.put(op.result, source.total)
        return
    element = source.element
    if element in ("half", "bfloat"):
        combine = combine_of(op, "float")
        source = Elementwise("arith.extf", (source,), source.shape, "float", {})
    elif element == "i1":
        # Bytes, as every tile of i1 in memory; with the sign, so that signed comparisons keep their meaning.
        combine = combine_of(op, "i8")
        source = Elementwise("arith.extsi", (source,), source.shape, "i8", {})
    else:
        combine = combine_of(op, element)
    result = reduce_tile(lowering.s, source, axis, combine, lowering.limits(op.result))
    made: Expr = Scalar(result, combine.element) if isinstance(result, str) else result
    if element != combine.element:
        narrow = "arith.trunci" if element == "i1" else "arith.truncf"
        made = Elementwise(narrow, (made,), made.shape, element, {})
    lowering.put(op.result, made)


def scan(lowering: Lowering, op: Op) -> None:
    """``tt.scan``."""
    exprs = [lowering.get(o) for o in op.operands]
    backwards = bool(op.attrs.get("reverse"))
    tiles = scan_tiles(lowering.s, exprs, op.int_attr("axis"), _region(lowering, op), backwards)
    for value, made in zip(op.results, tiles, strict=True):
        lowering.put(value, tile(made, element_type(element_of(value.type))))


def _fold(lowering: Lowering, op: Op) -> None:
    exprs = [lowering.get(o) for o in op.operands]
    made = fold(lowering.s, exprs, op.int_attr("axis"), _region(lowering, op), lowering.demand.definitions)
    for value, result in zip(op.results, made, strict=True):
        element = element_type(element_of(value.type))
        lowering.put(value, Scalar(result, element) if isinstance(result, str) else tile(result, element))


def _region(lowering: Lowering, op: Op) -> Region:
    outer = effects.outer_values(op.regions[0])
    return region_of(lowering.g, op, {v: lowering.scalar(v) for v in outer if not shape_of(v.type)})
