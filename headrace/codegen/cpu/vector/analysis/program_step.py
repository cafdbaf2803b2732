"""How far the next program's addresses are from this one's: what prefetching needs to know."""

from __future__ import annotations

from collections.abc import Callable

from headrace.codegen.cpu.ttir import Function, Op, Value
from headrace.codegen.cpu.vector.context import SIZES, Context, is_const_int, pointee_of
from headrace.codegen.cpu.vector.expr import Expr
from headrace.codegen.cpu.vector.memory.prefetch import LINE

# Smaller tiles are neighbours in memory more often than not, and the hardware's own prefetchers see that.
LEAST_TILE = 2048
_SAME = frozenset({"tt.splat", "tt.broadcast", "tt.expand_dims", "tt.trans", "tt.reshape", "arith.extsi",
                   "arith.extui", "arith.index_cast", "tt.bitcast"})  # fmt: skip
_STILL = frozenset({"arith.constant", "tt.make_range", "tt.get_num_programs"})


class Steps:
    """How far apart the tiles of program x and of program x + 1 are."""

    def __init__(
        self, function: Function, definitions: dict[Value, Op], get: Callable[[Value], Expr], g: Context
    ) -> None:
        self._arguments = frozenset(function.args)
        self._definitions = definitions
        self._get = get
        self._g = g

    def of(self, pointer: Value, bytes_: int) -> str:
        """Distance in bytes as an i64, for a tile of ``bytes_``; "" where prefetching is of no use."""
        if bytes_ < LEAST_TILE:
            return ""
        step = self._step(pointer, {})
        if step is None or (is_const_int(step) and abs(int(step)) < LINE):
            return ""
        return step

    def _step(self, value: Value, known: dict[Value, str | None]) -> str | None:
        """Step of a value. ``known`` are those that were found for this pointer: operands are shared, and a
        walk over every path to them would not end."""
        if value not in known:
            known[value] = self._found(value, known)
        return known[value]

    def _found(self, value: Value, known: dict[Value, str | None]) -> str | None:
        if value in self._arguments:
            return "0"
        op = self._definitions.get(value)
        if op is None or op.regions:
            return None
        if op.name in _STILL:
            return "0"
        if op.name == "tt.get_program_id":
            return "1" if op.int_attr("axis") == 0 else "0"
        if op.name in _SAME:
            return self._step(op.operands[0], known)
        parts = [self._step(o, known) for o in op.operands]
        if any(p is None for p in parts):
            return None
        steps = [p for p in parts if p is not None]
        if all(s == "0" for s in steps):
            return "0"
        if op.name == "arith.addi":
            return self._g.add(*steps)
        if op.name == "arith.subi":
            return self._g.sub(*steps)
        if op.name == "arith.muli":
            return self._product(op, steps)
        if op.name == "tt.addptr":
            return self._g.add(steps[0], self._g.mul(steps[1], str(SIZES[pointee_of(op.operands[0])])))
        return None

    def _product(self, op: Op, steps: list[str]) -> str | None:
        for moving, still in ((0, 1), (1, 0)):
            if steps[still] != "0":
                continue
            factor = self._get(op.operands[still]).resolved()
            if factor.varies:
                return None
            name = factor.scalar(self._g)
            if factor.element != "i64" and name.startswith("%"):
                name = self._g.cast("sext", factor.element, name, "i64")
            return self._g.mul(steps[moving], name)
        return None
