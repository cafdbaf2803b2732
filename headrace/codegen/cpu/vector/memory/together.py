"""Stores that follow one another, written by one nest of loops.

The halves of a rotary embedding, or the gradients of a product, read the same tiles. One after the other,
each store would have to put what the next one reads into memory first. Together they read everything once, a
vector at a time, provided that no store overwrites what is yet to be read; where that depends on the
arguments, the program decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Block, Op, shape_of
from headrace.codegen.cpu.vector.analysis import effects, masks, overlap
from headrace.codegen.cpu.vector.analysis.access import vector_dim
from headrace.codegen.cpu.vector.context import Ix, pointee_of
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Expr
from headrace.codegen.cpu.vector.lanes.elementwise import NAMES, evaluate
from headrace.codegen.cpu.vector.loops import lanes, rows
from headrace.codegen.cpu.vector.memory import stream
from headrace.codegen.cpu.vector.memory.transfer import Pointers, store_all
from headrace.codegen.cpu.vector.schedule import numel

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering

_BETWEEN = NAMES | {"arith.constant", "tt.make_range", "tt.splat", "tt.broadcast", "tt.expand_dims",
                    "arith.select", "tt.trans"}  # fmt: skip
_MOST = 4  # stores in one nest: each keeps a vector or two in registers
_LEAST = 256  # elements of a tile that is worth a nest of its own


@dataclass(frozen=True)
class _Part:
    """One of the stores."""

    op: Op
    target: Pointers
    expr: Expr
    box: masks.Box


def group(block: Block, position: int) -> list[int]:
    """Positions of the stores from ``position`` on with nothing but pure operations between them."""
    found: list[int] = []
    for at in range(position, len(block.ops)):
        op = block.ops[at]
        if op.name == "tt.store":
            if shape_of(op.operands[1].type) != shape_of(block.ops[position].operands[1].type):
                break
            found.append(at)
            if len(found) == _MOST:
                break
        elif op.name not in _BETWEEN:
            break
    return found


def lower(lowering: Lowering, block: Block, positions: list[int]) -> set[int]:
    """Write the stores at ``positions`` as one nest; the ids of the operations that are done with then (none
    of the stores among them if they must stay apart)."""
    done: set[int] = set()
    ops = [block.ops[at] for at in positions]
    if len(ops) < 2 or numel(shape_of(ops[0].operands[1].type)) < _LEAST:
        return done
    for op in block.ops[positions[0] : positions[-1]]:
        if op.name != "tt.store":
            if op.results[0] not in lowering.env:
                lowering.op(op)
            done.add(id(op))
    parts = _parts(lowering, ops)
    if parts is None:
        return done
    g, s = lowering.g, lowering.s
    lowering.settle(block, positions[-1], ops[-1])
    for part in parts:
        s.prepare(part.expr, fuse=False)
    dim = vector_dim(g, parts[0].expr.shape, [p.expr for p in parts], parts[0].target)
    clash = _clash(lowering, parts, dim)
    if clash is None:
        return done

    def apart() -> Values:
        with s.scope():
            for at, op in zip(positions, ops, strict=True):
                lowering.settle(block, at, op)
                lowering.op(op)
        return []

    def at_once() -> Values:
        with s.scope():
            _nest(lowering, parts, dim)
        return []

    if clash == "false":
        at_once()
    else:
        g.e.branch(clash, (), apart, at_once, rare=True)
    return done | {id(op) for op in ops}


def _parts(lowering: Lowering, ops: list[Op]) -> list[_Part] | None:
    g = lowering.g
    parts: list[_Part] = []
    for op in ops:
        pointer, value, mask = (op.segment(k) for k in range(3))
        assert pointer is not None
        assert value is not None
        target = Pointers(g, lowering.get(pointer), pointee_of(pointer))
        box = masks.analyse(g, lowering.get(mask) if mask is not None else None)
        expr = lowering.get(value)
        where = [target.expr, *([lowering.get(mask)] if mask is not None else [])]
        if not expr.shape or any(effects.loads(e) for e in where):
            return None
        if parts and (expr.shape != parts[0].expr.shape or box.limits != parts[0].box.limits):
            return None
        parts.append(_Part(op, target, expr, box))
    return parts


def _clash(lowering: Lowering, parts: list[_Part], dim: int) -> str | None:
    """i1: whether one store overwrites what another element of the nest reads or writes; None where that
    cannot be told."""
    g, shape = lowering.g, parts[0].expr.shape
    values = [part.expr for part in parts]
    found = "false"
    for k, part in enumerate(parts):
        reading = overlap.shifted(part.target, shape, values)
        others = [p.target for p in parts[:k]]
        for condition in (
            overlap.condition(g, part.target, shape, reading, dim),
            overlap.crossing(g, part.target, shape, others),
        ):
            if condition is None:
                return None
            if condition != "false":
                found = condition if found == "false" else g.op("or", "i1", found, condition)
    return found


def _nest(lowering: Lowering, parts: list[_Part], dim: int) -> None:
    g, s = lowering.g, lowering.s
    shape, limits = parts[0].expr.shape, parts[0].box.limits
    width = min(g.machine.lanes, shape[dim])
    unroll = min(s.unroll(p.expr) for p in parts)
    streams = "true"
    for p in parts:
        pointer = p.op.operands[0]
        one = lowering.streams.condition(g, pointer, p.target, p.expr.element, shape, dim)
        streams = (
            "false"
            if "false" in (one, streams)
            else one
            if streams == "true"
            else g.op("and", "i1", streams, one)
        )

    def write(streaming: bool) -> None:
        def row(index: list[Ix]) -> None:
            def body(at: list[Ix], _: Values, tail: bool) -> Values:
                places = [(*index[:dim], ix, *index[dim + 1 :]) for ix in at]
                values = [evaluate(g, p.expr, places, dim, width) for p in parts]
                for p, names in zip(parts, values, strict=True):
                    store_all(g, p.target, p.box, names, p.expr.element, places, dim, width, streaming)
                return []

            lanes(g, shape[dim], width, limits.get(dim, ()), (), body, unroll)

        rows(g, shape, [d for d in range(len(shape)) if d != dim], limits, row)

    stream.both(g, streams, write)
