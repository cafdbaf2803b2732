"""A store into memory from which its own value is still being read.

The lazy value of a ``tt.store`` is read and written a vector at a time, while Triton reads the whole tile
before it writes any. The two differ where the written addresses overlap read ones that are not the same
element for element: a shifted copy in place, a transpose in place, two arguments that are views of one
tensor. Whether that is so is known when the program runs: the store goes to a tile of ours if it is, and is
copied from there afterwards. A tile of rows that an index picks is spanned by looking at every row's address;
values that are gathered one by one are read completely first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headrace.codegen.cpu.vector.analysis import effects
from headrace.codegen.cpu.vector.analysis.affine import root_name
from headrace.codegen.cpu.vector.analysis.masks import Box
from headrace.codegen.cpu.vector.context import SIZES, ZERO, Context, Index, Ix, stored
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import NONE, Buffer, Expr, Shape, packed
from headrace.codegen.cpu.vector.loops import lanes, rows
from headrace.codegen.cpu.vector.memory.transfer import Load, Pointers, store
from headrace.codegen.cpu.vector.schedule import numel

# A tile whose rows are picked by an index: as many addresses as rows are looked at, if rows are this long.
_FEW = 32
_PERMUTED = 3  # dimensions whose order by run-time strides is tried


class Redirected(Pointers):
    """The addresses of a store, or where ``elsewhere`` holds those of a tile of ours."""

    def __init__(self, g: Context, target: Pointers, elsewhere: str, tile: Buffer) -> None:
        super().__init__(g, target.expr, target.pointee)
        self.elsewhere = elsewhere
        self.tile = tile

    def at(self, g: Context, index: Index, dim: int) -> str:
        assert dim != NONE
        ix = index[dim]
        start = (*index[:dim], ZERO, *index[dim + 1 :])
        real, ours = self.expr.eval(g, start, NONE, 0), self.tile.address(g, start)
        pointer = g.select("i1", self.elsewhere, "ptr", ours, real)
        if ix.base is not None:
            pointer = g.gep(self.pointee, pointer, ix.base)
        return g.gep(self.pointee, pointer, str(ix.off))


@dataclass(frozen=True)
class Reading:
    """A load that the value of a store depends on."""

    load: Load
    in_place: bool  # whether each element reads at its own position only

    def own(self, target: Pointers) -> bool:
        """Whether each element reads the address that it is then stored to."""
        return self.in_place and _same(target, self.load.pointers)


def readings(exprs: Sequence[Expr]) -> list[Reading]:
    """Everything that is read for these values."""
    loads = dict.fromkeys(load for e in exprs for load in effects.loads(e))
    elsewhere = set().union(*(effects.loads_elsewhere(e) for e in exprs))
    return [Reading(load, load not in elsewhere) for load in loads]


def shifted(target: Pointers, shape: Shape, exprs: Sequence[Expr]) -> list[Reading]:
    """What these values read at other addresses than those of the store, element for element."""
    once = _surely_once(target, shape)
    return [r for r in readings(exprs) if not once or not r.own(target)]


def _same(a: Pointers, b: Pointers) -> bool:
    """Whether two tiles name the same addresses, element for element (a bitcast pointer keeps its name)."""
    return a.pointee == b.pointee and effects.same(a.expr, b.expr)


def _surely_once(target: Pointers, shape: Shape) -> bool | None:
    """Whether no address is written by two elements; None where run-time strides decide."""
    strides = [(target.stride(d), n) for d, n in enumerate(shape) if n > 1]
    if len(strides) > _PERMUTED or any(s is None for s, _ in strides):
        known = [(abs(s), n) for s, n in strides if isinstance(s, int)]
        if len(known) < len(strides):
            return False
    else:
        known = [(abs(s), n) for s, n in strides if isinstance(s, int)]
        if len(known) < len(strides):
            return None if all(s != 0 for s, _ in strides) else False
    reach = 1
    for stride, n in sorted(known):
        if stride < reach:
            return False
        reach += stride * (n - 1)
    return True


def _once(g: Context, target: Pointers, shape: Shape) -> str:
    """i1: each dimension's stride exceeds what smaller strides reach, so no address is written twice."""
    sure = _surely_once(target, shape)
    if sure is not None:
        return "true" if sure else "false"
    strides = []
    for d, n in enumerate(shape):
        if n > 1:
            stride = g.call("llvm.abs.i64", "i64", ("i64", str(target.stride(d))), ("i1", "false"))
            strides.append((stride, n))
    found = "false"
    for order in itertools.permutations(strides):
        reach, nested = "1", "true"
        for stride, n in order:
            far = g.cmp("sge", stride, reach)
            nested = far if nested == "true" else g.op("and", "i1", nested, far)
            reach = g.add(reach, g.mul(stride, str(n - 1)))
        found = nested if found == "false" else g.op("or", "i1", found, nested)
    return found


def _either(g: Context, a: str, b: str) -> str:
    """a or b, folded where one is known."""
    if "true" in (a, b):
        return "true"
    return b if a == "false" else a if b == "false" else g.op("or", "i1", a, b)


def _not(g: Context, a: str) -> str:
    known = {"true": "false", "false": "true"}
    return known.get(a) or g.op("xor", "i1", a, "true")


def condition(g: Context, target: Pointers, shape: Shape, reading: Sequence[Reading], dim: int) -> str | None:
    """i1: whether the store would overwrite what is yet to be read; None where that cannot be told."""
    if not reading:
        return "false"
    written = _span(g, target, shape)
    if written is None or not target.contiguous(dim):
        return None
    twice = _not(g, _once(g, target, shape))
    found = "false"
    for one in reading:
        load = one.load
        if one.own(target):
            found = _either(g, found, twice)
            continue
        read = _span(g, load.pointers, load.shape, numel(shape) // _FEW)
        if read is None:
            return None
        meets = _meet(g, target, load.pointers, shape, written, read)
        mine, other = root_name(target.expr), root_name(load.pointers.expr)
        alike = one.in_place and target.pointee == load.pointers.pointee
        if alike and mine != other and effects.same_offsets(target.expr, load.pointers.expr):
            first = [p.expr.eval(g, (ZERO,) * len(shape), NONE, 0) for p in (target, load.pointers)]
            apart = _either(g, twice, g.e.pure(f"icmp ne ptr {first[0]}, {first[1]}", first))
            meets = g.op("and", "i1", meets, apart)
        found = _either(g, found, meets)
    return found


def crossing(g: Context, target: Pointers, shape: Shape, others: Sequence[Pointers]) -> str | None:
    """i1: whether one of ``others`` names an address of ``target`` at another element; None if unknown."""
    found = "false"
    for other in others:
        once = _once(g, target, shape)
        if once == "false":
            return None
        if _same(target, other):
            found = _either(g, found, _not(g, once))
            continue
        mine, theirs = _span(g, target, shape), _span(g, other, shape)
        if mine is None or theirs is None:
            return None
        meets = _meet(g, target, other, shape, mine, theirs)
        found = _either(g, found, _either(g, meets, _not(g, once)))
    return found


def _meet(
    g: Context, a: Pointers, b: Pointers, shape: Shape, first: tuple[str, str], second: tuple[str, str]
) -> str:
    """i1: whether two tiles of pointers may have an address in common."""
    meets = g.op("and", "i1", _less(g, first[0], second[1]), _less(g, second[0], first[1]))
    size = SIZES[a.pointee]
    if a.expr.shape != b.expr.shape:
        return meets
    outer = [d for d, n in enumerate(shape) if n > 1]
    if size != SIZES[b.pointee] or len(outer) != 2 or a.stride(outer[1]) != 1 or b.stride(outer[1]) != 1:
        return meets
    step, run = a.stride(outer[0]), shape[outer[1]] * size
    if not isinstance(step, int) or step != b.stride(outer[0]) or step * size < 2 * run:
        return meets
    # Rows of equal distance that lie between each other, as the halves of a head do.
    rest = g.op("srem", "i64", g.op("sub", "i64", second[0], first[0]), str(step * size))
    negative = g.e.pure(f"icmp slt i64 {rest}, 0", (rest,))
    between = g.select("i1", negative, "i64", g.add(rest, str(step * size)), rest)
    short = g.e.pure(f"icmp ult i64 {between}, {run}", (between,))
    far = g.e.pure(f"icmp ugt i64 {between}, {step * size - run}", (between,))
    return g.op("and", "i1", meets, g.op("or", "i1", short, far))


def _address(g: Context, pointers: Pointers, index: Index) -> str:
    return g.cast("ptrtoint", "ptr", pointers.expr.eval(g, index, NONE, 0), "i64")


def _extremes(g: Context, pointers: Pointers, shape: Shape, dims: Sequence[int]) -> tuple[str, str]:
    """The smallest and the largest address over some dimensions."""
    index = [ZERO] * len(shape)

    def step(k: int, found: Values) -> Values:
        if k == len(dims):
            here = _address(g, pointers, tuple(index))
            pair = (("umin", found[0]), ("umax", found[1]))
            return [g.call(f"llvm.{name}.i64", "i64", ("i64", old), ("i64", here)) for name, old in pair]
        tag = g.tag()

        def inner(iv: str, carried: Values) -> Values:
            index[dims[k]] = Ix(iv, 0, tag)
            return step(k + 1, carried)

        return g.e.loop("0", str(shape[dims[k]]), "1", [("i64", v) for v in found], inner)

    low, high = step(0, ["-1", "0"])
    return low, high


def _less(g: Context, a: str, b: str) -> str:
    return g.e.pure(f"icmp ult i64 {a}, {b}", (a, b))


def _span(g: Context, pointers: Pointers, shape: Shape, most: int = 1) -> tuple[str, str] | None:
    """First byte and the byte after the last one that a tile of pointers names; None where ``most`` addresses
    are not enough to tell."""
    size = SIZES[pointers.pointee]
    loose = [d for d in range(len(shape)) if pointers.stride(d) is None]
    if math.prod(shape[d] for d in loose) > most:
        return None
    if loose:
        low, high = _extremes(g, pointers, shape, loose)
    else:
        low = high = _address(g, pointers, (ZERO,) * len(shape))
    high = g.add(high, str(size))
    for d, n in enumerate(shape):
        stride = pointers.stride(d)
        if stride is None:
            continue
        reach = g.mul(str(stride), str((n - 1) * size))
        low = g.add(low, g.smin(reach, "0"))
        high = g.add(high, g.smax(reach, "0"))
    return low, high


def guarded(
    g: Context,
    target: Pointers,
    box: Box,
    shape: Shape,
    element: str,
    dim: int,
    elsewhere: str,
    write: Callable[[Pointers], None],
) -> None:
    """``write`` into the target, by way of a tile of ours where ``elsewhere`` holds."""
    if elsewhere == "false":
        write(target)
        return
    kept = stored(element)
    tile = Buffer(g.alloca(kept, numel(shape)), shape, kept, packed(shape, dim))
    write(Redirected(g, target, elsewhere, tile))
    width = min(g.machine.lanes, shape[dim])

    def copy() -> Values:
        def row(index: list[Ix]) -> None:
            def body(at: list[Ix], _: Values, tail: bool) -> Values:
                for ix in at:
                    index[dim] = ix
                    here = tuple(index)
                    value = g.load(kept, width, tile.address(g, here))
                    store(g, target, box, value, kept, here, dim, width)
                return []

            lanes(g, shape[dim], width, box.limits.get(dim, ()), (), body, 1)

        rows(g, shape, [d for d in range(len(shape)) if d != dim], box.limits, row)
        return []

    g.e.branch(elsewhere, (), copy)


def settle_mask(loads_of: Sequence[Expr], materialise: Callable[[Expr], object], target: Pointers) -> None:
    """Read what masks and addresses of the store depend on before it writes."""
    for reading in shifted(target, target.expr.shape, loads_of):
        materialise(reading.load)
