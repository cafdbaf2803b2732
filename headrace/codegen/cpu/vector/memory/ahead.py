"""Prefetching of the tile that the next iteration of a loop will read.

A loop over tiles reads one while it computes with another only as far as the processor runs ahead, which is
far less than a tile; and where tiles of two tensors take turns, no stream is long enough for the hardware's
prefetchers. So while one tile is used, the next is asked for. Where it lies is found at run time: as far from
this tile as this one is from the last. A wrong guess costs a useless read, nothing else.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Context
from headrace.codegen.cpu.vector.dot.place import Place, place_of
from headrace.codegen.cpu.vector.expr import Expr, Transpose
from headrace.codegen.cpu.vector.memory.transfer import Load


def source(expr: Expr) -> Load | None:
    """The load that a matrix is, transposed perhaps."""
    expr = expr.resolved()
    while isinstance(expr, Transpose):
        expr = expr.operands[0].resolved()
    return expr if isinstance(expr, Load) else None


def moving(g: Context, load: Load) -> Place | None:
    """Where a matrix lies that is read from another place at each iteration of the innermost loop."""
    place = place_of(g, load)
    level = g.e.barrier()
    if place is None or level == 0 or g.e.depth(place.pointer) < level:
        return None
    return place


def distance(g: Context, load: Load, first: str = "") -> str:
    """Bytes from this iteration's tile to the next one's; "" where the loop does not move it.

    ``first`` is what to take in the first iteration, before which there is none; else that is of no use.
    """
    place = moving(g, load)
    if place is None:
        return ""
    slot = g.alloca("ptr", 1)
    g.e.allocas.append(f"  store ptr null, ptr {slot}, align 8")
    before = g.e.here(f"load ptr, ptr {slot}, align 8")
    g.e.effect(f"store ptr {place.pointer}, ptr {slot}, align 8")
    now, last = (g.cast("ptrtoint", "ptr", p, "i64") for p in (place.pointer, before))
    found = g.sub(now, last)
    return g.select("i1", g.cmp("eq", before, "null", "ptr"), "i64", first, found) if first else found


def hidden_distance(g: Context, load: Load) -> str:
    """:func:`distance`, with it and the tile's address hidden from LLVM's analyses. In the first iteration
    the next tile is taken to follow upon this one.

    Loop strength reduction weighs ways to combine the parts of every address in a loop. Where each row of
    the tile is both read and prefetched, their long sums took two thirds of all of code generation.
    """
    place = moving(g, load)
    if place is None:
        return ""
    rows = 0 if place.strides[1] == "1" else 1
    found = distance(g, load, g.mul(place.strides[rows], str(load.shape[rows] * place.size)))
    g.e.opaque("ptr", place.pointer)
    g.e.opaque("i64", found)
    return found
