"""Order of memory effects: a lazy load never moves past a store or an atomic operation.

Before an operation that writes memory, every live value that still depends on a load is put into a tile
of its own.

What happens within one store is the subject of ``analysis/overlap.py``.
"""

from __future__ import annotations

from collections.abc import KeysView

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Block, Op, Value
from headrace.codegen.cpu.vector.expr import (
    Broadcast,
    Buffer,
    ExpandDims,
    Expr,
    Range,
    Scalar,
    Transpose,
    Uniform,
)
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.memory.transfer import Load

# An atomic load may acquire: what follows must not be read before it, nor what precedes it after.
_WRITES = frozenset({"tt.store", "tt.atomic_rmw", "tt.atomic_cas", "tt.atomic_load", "tt.atomic_store",
"tt.atomic_poll", "tt.call"})  # fmt: skip
# What is seen each time it runs, besides writes.
_ONCE = frozenset({"tt.print", "tt.assert"})


def writes(op: Op) -> bool:
    """True if the operation, or one inside it, writes global memory."""
    return op.name in _WRITES or any(
        inner.name in _WRITES for region in op.regions for inner in ttir.walk(region)
    )


def repeatable(op: Op) -> bool:
    """True if running the operation again, with the same operands, changes nothing that can be seen."""
    if op.attrs.get("isVolatile") or op.attrs.get("pure") is False:
        return False
    return not writes(op) and op.name not in _ONCE


def used_from(block: Block, position: int) -> KeysView[Value]:
    """Values that operations from ``position`` on read and that exist before it, in the order of their first
    use: a set of objects would have an order of its own in each process, and so would the code."""
    used: dict[Value, None] = {}
    made: set[Value] = set()
    for op in block.ops[position:]:
        made.update(op.results)
        used.update(dict.fromkeys(op.operands))
        for region in op.regions:
            made.update(region.args)
            for inner in ttir.walk(region):
                used.update(dict.fromkeys(inner.operands))
                made.update(inner.results)
                for deeper in inner.regions:
                    made.update(deeper.args)
    return dict.fromkeys(v for v in used if v not in made).keys()


def outer_values(region: Block) -> KeysView[Value]:
    """Values from outside that a region reads, in the order of their first use."""
    return dict.fromkeys(v for v in used_from(region, 0) if v not in region.args).keys()


def loads(expr: Expr) -> list[Load]:
    """Loads that an expression would still execute (addresses included)."""
    found: list[Load] = []
    seen: set[int] = set()

    def visit(e: Expr) -> None:
        e = e.resolved()
        if id(e) in seen:
            return
        seen.add(id(e))
        if isinstance(e, Load):
            found.append(e)
        if isinstance(e, Buffer) and e.source is not None:
            visit(e.source)
        for o in e.operands:
            visit(o)

    visit(expr)
    return found


def loads_elsewhere(expr: Expr) -> set[Load]:
    """Those of :func:`loads` that an element of ``expr`` may read at another position than its own: a matrix
    plus its transpose reads every element in its place, and once more elsewhere."""
    found: set[Load] = set()
    seen: set[tuple[int, bool]] = set()

    def visit(e: Expr, moved: bool) -> None:
        e = e.resolved()
        if (e.uid, moved) in seen:
            return
        seen.add((e.uid, moved))
        if isinstance(e, Load) and moved:
            found.add(e)
        if isinstance(e, Buffer) and e.source is not None:
            visit(e.source, moved)
        moved = moved or not e.in_place
        for o in e.operands:
            visit(o, moved)

    visit(expr, False)
    return found


def same(a: Expr, b: Expr) -> bool:
    """True if two expressions are computed in the same way from the same values."""
    a, b = a.resolved(), b.resolved()
    if a is b:
        return True
    if (
        type(a) is not type(b)
        or a.shape != b.shape
        or a.element != b.element
        or len(a.operands) != len(b.operands)
    ):
        return False
    if isinstance(a, Scalar | Uniform) and isinstance(b, Scalar | Uniform):
        return a.name == b.name
    if isinstance(a, Range) and isinstance(b, Range):
        return a.start == b.start
    if isinstance(a, Elementwise) and isinstance(b, Elementwise):
        if a.op != b.op or a.attrs != b.attrs or a.pointee != b.pointee:
            return False
    elif isinstance(a, ExpandDims) and isinstance(b, ExpandDims):
        if a.axis != b.axis:
            return False
    elif isinstance(a, Transpose) and isinstance(b, Transpose):
        if a.order != b.order:
            return False
    elif not isinstance(a, Broadcast):
        return False
    return all(same(x, y) for x, y in zip(a.operands, b.operands, strict=True))


def same_offsets(a: Expr, b: Expr) -> bool:
    """Like :func:`same`, but the scalar pointers at the bottom may differ."""
    a, b = a.resolved(), b.resolved()
    if a.element == "ptr" and isinstance(a, Scalar | Uniform) and isinstance(b, Scalar | Uniform):
        return a.shape == b.shape
    if type(a) is not type(b) or a.shape != b.shape or a.element != b.element:
        return False
    if isinstance(a, Elementwise) and isinstance(b, Elementwise) and a.op == b.op == "tt.addptr":
        return (
            a.pointee == b.pointee
            and same_offsets(a.operands[0], b.operands[0])
            and same(a.operands[1], b.operands[1])
        )
    if isinstance(a, ExpandDims | Broadcast) and len(a.operands) == len(b.operands) == 1:
        axes = getattr(a, "axis", None) == getattr(b, "axis", None)
        return axes and same_offsets(a.operands[0], b.operands[0])
    return same(a, b)
