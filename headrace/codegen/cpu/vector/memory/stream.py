"""Stores that go past the caches.

An ordinary store first reads the line that it is going to overwrite; a nontemporal one does not, and leaves
the caches to data that is still needed. That pays where a launch writes more than the caches would keep.
Each store nest is therefore written twice, and the launch's size decides at run time. Nontemporal stores
are ordered by the fence at the end of every worker; a program sees its own stores in order in any case.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Function, Op, Value
from headrace.codegen.cpu.vector.context import SIZES, ZERO, Context
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import NONE, Shape
from headrace.codegen.cpu.vector.memory.prefetch import LINE
from headrace.codegen.cpu.vector.memory.transfer import Pointers

# A launch that writes this much and reads as much leaves little of it in the last level of cache. Where the
# result would still be found there, an ordinary store is the better one.
STREAM_BYTES = 32 << 20
# Tiles of less than this are written by code that is not worth having twice.
_LEAST_TILE = 1024

_THROUGH = frozenset({"tt.addptr", "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.trans", "tt.reshape",
                      "tt.bitcast"})  # fmt: skip


class Streams:
    """Which arguments of a kernel may be written past the caches: those that it never loads from."""

    def __init__(self, function: Function) -> None:
        self._makers: dict[Value, Op] = {}
        self._inits: dict[Value, Value] = {}
        self._arguments = {arg: f"%a{k}" for k, arg in enumerate(function.args)}
        self.loaded: set[str] = set()
        self.allowed = True
        self.written = 0  # bytes that one program stores outside of loops
        pointers: list[Value] = []
        for op in ttir.walk(function):
            self._makers.update(dict.fromkeys(op.results, op))
            if op.name == "scf.for":
                self._inits.update(zip(op.regions[0].args[1:], op.operands[3:], strict=True))
            elif op.name == "scf.while":
                self._inits.update(zip(op.regions[0].args, op.operands, strict=False))
            elif op.name == "tt.load":
                pointers.append(op.operands[0])
            elif op.name.startswith("tt.atomic") or op.name in ("tt.elementwise_inline_asm", "tt.call"):
                # What other programs learn by an atomic must be visible before it.
                self.allowed = False
        self.loaded.update(self._root(p) for p in pointers)
        for op in function.body.ops:
            if op.name == "tt.store" and self._root(op.operands[0]) not in self.loaded:
                self.written += _bytes(op.operands[1])

    def _root(self, value: Value) -> str:
        while value not in self._arguments:
            if value in self._inits:
                value = self._inits[value]
                continue
            op = self._makers.get(value)
            if op is None or op.name not in _THROUGH:
                return ""
            value = op.operands[0]
        return self._arguments[value]

    def condition(
        self, g: Context, pointer: Value, target: Pointers, element: str, shape: Shape, dim: int
    ) -> str:
        """i1 that says whether this launch should store such tiles through ``pointer`` past the caches."""
        size = SIZES[element]
        tile = size
        for n in shape:
            tile *= n
        root = self._root(pointer)
        if not self.allowed or not root or root in self.loaded:
            return "false"
        if tile < _LEAST_TILE or not target.contiguous(dim) or shape[dim] * size < LINE:
            return "false"
        word = g.cast("ptrtoint", "ptr", target.expr.eval(g, (ZERO,) * len(shape), NONE, 0), "i64")
        for d, n in enumerate(shape):
            if d == dim or n == 1:
                continue
            stride = target.stride(d)
            if stride is None:
                return "false"
            step = g.mul(str(stride), str(size))
            if step.startswith("%"):
                word = g.op("or", "i64", word, step)
            elif int(step) % LINE:
                return "false"
        total = str(max(tile, self.written))
        for axis in range(3):
            total = g.mul(g.cast("sext", "i32", f"%g{axis}", "i64"), total)
        large = g.e.pure(f"icmp sge i64 {total}, {STREAM_BYTES}", (total,))
        low = g.op("and", "i64", word, str(LINE - 1))
        aligned = g.e.pure(f"icmp eq i64 {low}, 0", (low,))
        both = g.op("and", "i1", large, aligned)
        for other in sorted(self.loaded - {""}):
            apart = g.e.pure(f"icmp ne ptr {root}, {other}", (root, other))
            both = g.op("and", "i1", both, apart)
        return both


def _bytes(value: Value) -> int:
    count = 1
    for n in ttir.shape_of(value.type):
        count *= n
    return count * max(ttir.element_of(value.type).bits // 8, 1)


def both(g: Context, condition: str, write: Callable[[bool], None]) -> None:
    """``write(nontemporal)`` under each answer to ``condition``."""
    if condition == "false":
        write(False)
        return

    def side(streaming: bool) -> Values:
        write(streaming)
        return []

    outer, g.prefetches.twin = g.prefetches.twin, g.prefetches.twin or g.tag()
    g.e.branch(condition, (), lambda: side(True), lambda: side(False))
    g.prefetches.twin = outer
