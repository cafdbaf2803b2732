"""Loads as lazy expressions, and stores. Addresses that a mask excludes are never touched."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.codegen.cpu.float8 import FLOAT8
from headrace.codegen.cpu.vector.analysis import masks, piecewise
from headrace.codegen.cpu.vector.analysis.affine import Stride, address, stride_along
from headrace.codegen.cpu.vector.context import SIZES, Context, Index, const, stored, text, vector_type
from headrace.codegen.cpu.vector.expr import NONE, Broadcast, ExpandDims, Expr, Transpose
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.memory.prefetch import LINE

_SUFFIX = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "i16", "ptr": "p0",
           **dict.fromkeys(FLOAT8, "i8")}  # fmt: skip


def suffix(element: str, width: int) -> str:
    """Intrinsic name suffix of a vector type."""
    return f"v{width}{_SUFFIX.get(element, element)}"


def fetch(g: Context, pointer: str) -> None:
    """Ask for the line at ``pointer``, into the second level of cache: the first holds what is in use. Any
    address will do."""
    g.e.declare("llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    g.e.effect(f"call void @llvm.prefetch.p0(ptr {pointer}, i32 0, i32 2, i32 1)")


def fetch_before(g: Context, pointer: str, element: str, width: int, value: str) -> str:
    """:func:`fetch`, before anything is done with a vector ``value``: the same under another name.

    LLVM's scheduler may move a request away from the reads that it stood between, and gathers those of a
    block at its end, where they arrive at little more than half the rate (see :mod:`..dot.spread`). Empty
    assembly that takes the value and gives it back has its place after the request and before what follows.
    """
    fetch(g, pointer)
    if SIZES[element] * width not in (16, 32, 64):
        return value
    return _settled(g, value, element, width, "sideeffect ")


def _settled(g: Context, value: str, element: str, width: int, kind: str = "") -> str:
    """A vector of 16, 32 or 64 bytes as it leaves empty assembly: LLVM knows nothing of how it was made."""
    register, type_ = "v" if g.machine.avx512 else "x", vector_type(element, width)
    return g.e.here(f'call {type_} asm {kind}"", "={register},0"({type_} {value})')


def _narrow(g: Context, value: str, element: str, width: int) -> str:
    """A vector of integers that a mask is to cut, as one that LLVM does not see being narrowed.

    LLVM 22 makes one instruction of narrowing and storing under a mask, and where it finds that the mask
    holds in one lane alone it stores that element as wide as it was before
    (https://github.com/llvm/llvm-project/issues/179489, mended in LLVM 23): what lies beside it is lost.
    """
    if not g.machine.avx512 or text(element)[0] != "i" or element == "i64" or not value.startswith("%"):
        return value
    size = SIZES[element] * width
    if size >= 16:
        return _settled(g, value, element, width)
    least = 16 // SIZES[element]
    order = [*range(width), *[-1] * (least - width)]
    whole = _settled(g, g.shuffle(element, width, value, "poison", order), element, least)
    return g.shuffle(element, least, whole, "poison", range(width))


def _uncast(expr: Expr, pointee: str) -> Expr:
    """The same addresses without a cast between pointers to elements of one size. Triton reads and writes
    booleans through such casts to bytes, and strides are told in elements of what was added to."""
    found = expr
    while (
        isinstance(found, Elementwise)
        and found.forward is None
        and found.op == "tt.bitcast"
        and found.operands[0].element == "ptr"
    ):
        found = found.operands[0]
    moved = found.resolved()
    while isinstance(moved, ExpandDims | Broadcast | Transpose):
        moved = moved.operands[0].resolved()
    alike = (
        isinstance(moved, Elementwise) and moved.op == "tt.addptr" and SIZES[moved.pointee] == SIZES[pointee]
    )
    return found if alike else expr


class Pointers:
    """A tensor of pointers with what is known about its strides."""

    def __init__(self, g: Context, expr: Expr, pointee: str) -> None:
        self.expr = _uncast(expr, pointee)
        self.pointee = pointee
        self._strides: dict[int, Stride] = {}
        self._pieces: piecewise.Known = {}
        self._g = g

    def stride(self, dim: int) -> Stride:
        """Elements per step along ``dim``; None when that is not constant."""
        if dim not in self._strides:
            self._strides[dim] = stride_along(self._g, self.expr, dim)
        return self._strides[dim]

    def contiguous(self, dim: int) -> bool:
        return self.stride(dim) == 1

    def slope(self, dim: int, width: int) -> int | None:
        """0 or 1 where vectors of ``width`` mostly are one element, or one run (see ``piecewise``)."""
        if self.stride(dim) is not None:
            return None
        found = piecewise.pieces(self._g, self.expr, dim, self._pieces)
        return found.slope if found is not None and found.slope in (0, 1) and found.period >= width else None

    def at(self, g: Context, index: Index, dim: int) -> str:
        """Address of the element at ``index``, split so that the part along ``dim`` is a plain offset."""
        if dim == NONE:
            for d in reversed(range(len(index))):
                if index[d].base is not None or index[d].off:
                    stride = self.stride(d)
                    if isinstance(stride, int) and stride == 1:
                        return address(g, self.expr, self.pointee, index, d, stride)
            return self.expr.eval(g, index, NONE, 0)
        stride = self.stride(dim)
        assert stride is not None
        return address(g, self.expr, self.pointee, index, dim, stride)


class Load(Expr):
    """``tt.load``: elements where the mask holds, ``other`` (zero when absent) elsewhere."""

    in_place = True

    def __init__(
        self, g: Context, pointers: Expr, element: str, mask: Expr | None, other: Expr | None
    ) -> None:
        parts = [e for e in (pointers, mask, other) if e is not None]
        varies: frozenset[int] = frozenset().union(*(p.varies for p in parts))
        super().__init__(pointers.shape, element, varies, parts)
        self.pointers = Pointers(g, pointers, element)
        self.mask = mask
        self.other = other
        self.ahead = ""  # distance in bytes to what the next program will load
        self._box: masks.Box | None = None

    def box(self, g: Context) -> masks.Box:
        if self._box is None:
            self._box = masks.analyse(g, self.mask)
        return self._box

    def _otherwise(self, g: Context, index: Index, dim: int, width: int) -> str:
        if self.other is None:
            return g.splat(self.element, const(self.element, 0), width)
        return self.other.eval(g, index, dim, width)

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        if out != NONE and out in self.box(g).limits:
            return self._otherwise(g, index, dim, width)
        scalar, vector = masks.condition(g, self.box(g), index, dim, width)
        if scalar == "false":
            return self._otherwise(g, index, dim, width)
        vt = vector_type(self.element, width)
        element = stored(self.element)
        value = self._read(g, index, dim, width, scalar, vector, element, const(element, 0))
        if element != self.element:
            value = g.cast("trunc", vector_type(element, width), value, vt)
        if scalar == vector == "true":
            return value
        other = self._otherwise(g, index, dim, width)
        if other in (g.splat(self.element, const(self.element, 0), width), "zeroinitializer"):
            return value
        if vector != "true":
            value = g.select(vector_type("i1", width), vector, vt, value, other)
        if scalar != "true":
            value = g.select("i1", scalar, vt, value, other)
        return value

    def _read(
        self,
        g: Context,
        index: Index,
        dim: int,
        width: int,
        scalar: str,
        vector: str,
        element: str,
        zero: str,
    ) -> str:
        """The loaded value with zeros where a condition fails."""
        vt = vector_type(element, width)
        within = masks.established(g, self.box(g), index)
        if width == 0:
            pointer = self.pointers.at(g, index, NONE)
            if scalar != "true":
                pointer = g.select("i1", scalar, "ptr", pointer, g.zeros())
            return g.load(element, 0, pointer, within)
        bt = vector_type("i1", width)
        align = SIZES[element]
        if self.pointers.contiguous(dim):
            pointer = self.pointers.at(g, index, dim)
            if scalar != "true":
                pointer = g.select("i1", scalar, "ptr", pointer, g.zeros())
            if vector == "true":
                if self.ahead and index[dim].off * align % LINE == 0:
                    g.prefetches.offer(g.e, self.uid, pointer, self.ahead, align)
                return g.load(element, width, pointer, within)
            name = f"llvm.masked.load.{suffix(element, width)}.p0"
            args = (("ptr", pointer), ("i32", str(align)), (bt, vector), (vt, g.splat(element, zero, width)))
            return g.call(name, vt, *args, read=True, within=within)
        stride = self.pointers.stride(dim)
        if (
            vector == "true"
            and isinstance(stride, int)
            and 2 <= stride <= 4
            and width * stride * align <= 256
        ):
            return self._spaced(g, index, dim, width, scalar, stride, within)
        mask = vector
        if scalar != "true":
            rows = g.splat("i1", scalar, width)
            mask = rows if vector == "true" else g.op("and", bt, rows, vector)
        if mask == "true":
            mask = "splat (i1 true)"
        otherwise = g.splat(element, zero, width)
        # On every path: what is read for the first time may be kept for later loops as it is read.
        pointers = addresses(g, self.pointers, index, dim, width)

        def gather() -> str:
            pt = vector_type("ptr", width)
            name = f"llvm.masked.gather.{suffix(element, width)}.{suffix('ptr', width)}"
            args = ((pt, pointers), ("i32", str(align)), (bt, mask), (vt, otherwise))
            return g.call(name, vt, *args, read=True, within=within)

        slope = self.pointers.slope(dim, width)
        if slope is None or scalar != "true" or (slope == 0 and vector != "true"):
            return gather()
        first, whole = piecewise.run(g, self.pointers.expr, self.pointers.pointee, index, dim, width, slope)

        def at_once() -> str:
            if slope == 0:
                return g.splat(element, g.load(element, 0, first), width)
            if vector == "true":
                return g.load(element, width, first)
            name = f"llvm.masked.load.{suffix(element, width)}.p0"
            args = (("ptr", first), ("i32", str(align)), (bt, vector), (vt, otherwise))
            return g.call(name, vt, *args, read=True)

        (value,) = g.e.branch(whole, [vt], lambda: [at_once()], lambda: [gather()])
        return value

    def _spaced(
        self,
        g: Context,
        index: Index,
        dim: int,
        width: int,
        scalar: str,
        stride: int,
        within: Sequence[str],
    ) -> str:
        """Every ``stride``-th element, from vectors that cover all between the first and the last: these two
        are valid, and nothing between them can lie on a page of its own."""
        element = stored(self.element)
        pointer = self.pointers.at(g, index, dim)
        if scalar != "true":
            pointer = g.select("i1", scalar, "ptr", pointer, g.zeros())
        last = stride * (width - 1)
        value, lanes = "poison", list(range(width))
        for part in range(stride):
            start = min(part * width, last - width + 1)
            loaded = g.load(element, width, g.gep(element, pointer, str(start)), within)
            order = [width + n * stride - start if start <= n * stride < start + width else n for n in lanes]
            value = g.shuffle(element, width, value, loaded, order)
        return value


def addresses(g: Context, pointers: Pointers, index: Index, dim: int, width: int) -> str:
    """Vector of addresses along ``dim`` for a gather or scatter."""
    stride = pointers.stride(dim)
    if stride is None:
        return pointers.expr.eval(g, index, dim, width)
    base = pointers.at(g, index, dim)
    lt = vector_type("i64", width)
    if isinstance(stride, int):
        steps = "<" + ", ".join(f"i64 {n * stride}" for n in range(width)) + ">"
    else:
        steps = g.op("mul", lt, g.splat("i64", stride, width), g.iota("i64", width))
    return g.e.pure(f"getelementptr {text(pointers.pointee)}, ptr {base}, {lt} {steps}", (base, steps))


def store(
    g: Context,
    pointers: Pointers,
    box: masks.Box,
    value: str,
    element: str,
    index: Index,
    dim: int,
    width: int,
    streaming: bool = False,
) -> None:
    """Store ``width`` elements along ``dim`` where the mask holds; ``streaming``: whole vectors are aligned
    and go past the caches."""
    scalar, vector = masks.condition(g, box, index, dim, width)
    if scalar == "false":
        return
    if element == "i1":
        value = g.cast("zext", vector_type("i1", width), value, vector_type("i8", width))
        element = "i8"

    def write() -> list[str]:
        vt, bt = vector_type(element, width), vector_type("i1", width)
        align = SIZES[element]
        if width == 0:
            g.store(element, 0, value, pointers.at(g, index, NONE))
        elif pointers.contiguous(dim):
            pointer = pointers.at(g, index, dim)
            if vector == "true" and streaming:
                g.e.declare("!0", "!0 = !{i32 1}")
                g.e.effect(
                    f"store {vt} {value}, ptr {pointer}, align {min(align * width, 64)}, !nontemporal !0"
                )
            elif vector == "true":
                g.store(element, width, value, pointer)
            else:
                name = f"llvm.masked.store.{suffix(element, width)}.p0"
                g.e.declare(name, f"declare void @{name}({vt}, ptr, i32, {bt})")
                whole = _narrow(g, value, element, width)
                g.e.effect(f"call void @{name}({vt} {whole}, ptr {pointer}, i32 {align}, {bt} {vector})")
        else:
            mask = "splat (i1 true)" if vector == "true" else vector
            pt = vector_type("ptr", width)
            where = addresses(g, pointers, index, dim, width)
            name = f"llvm.masked.scatter.{suffix(element, width)}.{suffix('ptr', width)}"
            g.e.declare(name, f"declare void @{name}({vt}, {pt}, i32, {bt})")
            g.e.effect(f"call void @{name}({vt} {value}, {pt} {where}, i32 {align}, {bt} {mask})")
        return []

    if scalar == "true":
        write()
    else:
        g.e.branch(scalar, (), write)


def store_all(
    g: Context,
    pointers: Pointers,
    box: masks.Box,
    values: Sequence[str],
    element: str,
    places: Sequence[Index],
    dim: int,
    width: int,
    streaming: bool,
) -> None:
    """Store vectors at neighbouring places. What goes past the caches goes there in whole lines."""
    merged = LINE // (SIZES[element] * width) if width else 1
    whole = streaming and element != "i1" and merged > 1 and len(places) % merged == 0
    if not whole or any(masks.condition(g, box, p, dim, width) != ("true", "true") for p in places):
        for place, value in zip(places, values, strict=True):
            store(g, pointers, box, value, element, place, dim, width, streaming)
        return
    for first in range(0, len(places), merged):
        parts, size = list(values[first : first + merged]), width
        while len(parts) > 1:
            parts = [
                g.shuffle(element, size, a, b, range(2 * size))
                for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
            size *= 2
        store(g, pointers, box, parts[0], element, places[first], dim, size, True)
