"""c[i] + a[i] @ b[i] for a batch of matrices: the operands are put into memory, and one product is written
into a loop over i."""

from __future__ import annotations

import dataclasses

from headrace.codegen.cpu.vector.analysis.access import vector_dim
from headrace.codegen.cpu.vector.dot.product import Product
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Uniform, packed
from headrace.codegen.cpu.vector.loops import upper
from headrace.codegen.cpu.vector.schedule import numel


def accepts(p: Product) -> bool:
    """True for three-dimensional operands."""
    return len(p.c.shape) == 3


def lower(p: Product) -> Expr:
    """Write the loop; the buffer that holds the results."""
    g, s = p.g, p.s
    a, b = _tile(p, p.a), _tile(p, p.b)
    into = p.buffer()
    c = p.c
    if c.varies:
        s.materialise(c, into=into)
        c = into
    limits = {d - 1: names for d, names in p.limits.items() if d}

    def one(i: str, _: Values) -> Values:
        with s.scope():
            target = _matrix(p, into, i)
            one_a, one_b, one_c = (_slice(p, x, i) for x in (a, b, c))
            made = p.again(dataclasses.replace(p, a=one_a, b=one_b, c=one_c, limits=limits, into=target))
            if not isinstance(made, Buffer) or made.pointer != target.pointer:
                s.materialise(made, into=target)
        return []

    g.e.loop("0", upper(g, p.limits.get(0, ()), p.c.shape[0]), "1", (), one, barrier=True)
    return into


def _tile(p: Product, operand: Expr) -> Expr:
    """An operand in memory as a whole, or a constant."""
    tile = operand.resolved()
    if not tile.varies or (isinstance(tile, Buffer) and tile.source is None):
        return tile
    fast = vector_dim(p.g, tile.shape, [tile])
    made = Buffer(
        p.g.alloca(tile.element, numel(tile.shape)), tile.shape, tile.element, packed(tile.shape, fast or 2)
    )
    p.s.materialise(operand, into=made)
    return made


def _slice(p: Product, tile: Expr, i: str) -> Expr:
    if isinstance(tile, Buffer):
        return _matrix(p, tile, i)
    assert not tile.varies
    return Uniform(tile.scalar(p.g), tile.element, tile.shape[1:])


def _matrix(p: Product, tile: Buffer, i: str) -> Buffer:
    start = p.g.gep(tile.element, tile.pointer, p.g.mul(i, str(tile.strides[0])))
    made = Buffer(start, tile.shape[1:], tile.element, tile.strides[1:])
    p.s.keep.append(made)
    return made
