"""Which part of each tensor is ever needed.

A store under the mask ``rows < m`` needs only those rows of its value; element-wise operations, broadcasts,
reductions over other dimensions and dot products pass the bound on to their operands. Tiles padded to 16 rows
for ``tl.dot`` are thereby computed only as far as they are stored. The analysis runs backwards over the TTIR
before any code is written.
"""

from __future__ import annotations

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Block, Function, Op, Value, shape_of
from headrace.codegen.cpu.vector.lanes.elementwise import NAMES

ALL = "all"
Bound = tuple[Value, int] | str | None
Bounds = list[Bound]
_STRUCTURAL = frozenset(
    {"tt.splat", "tt.broadcast", "tt.expand_dims", "tt.make_range", "arith.constant", "tt.trans"}
)


class Demand:
    """For each value and dimension: None (unused), ALL, or (comparison, its dimension) as upper bound."""

    def __init__(self, function: Function) -> None:
        self.definitions: dict[Value, Op] = {}
        self._keys: dict[Value, str] = {}
        self._texts: dict[str, int] = {}
        self._canonical: dict[tuple[str, int], tuple[Value, int]] = {}
        self._needs: dict[Value, Bounds] = {}
        self._changed = True
        for op in ttir.walk(function):
            for result in op.results:
                self.definitions[result] = op
        while self._changed:
            self._changed = False
            self._block(function.body)

    def bounds(self, value: Value) -> dict[int, tuple[Value, int]]:
        """The dimensions of ``value`` that are needed only up to a bound."""
        return {d: b for d, b in enumerate(self._needs.get(value, [])) if isinstance(b, tuple)}

    # propagation

    def _join(self, value: Value, bounds: Bounds) -> None:
        known = self._needs.setdefault(value, [None] * len(shape_of(value.type)))
        for d, new in enumerate(bounds):
            old = known[d]
            if new is None or old in (ALL, new):
                continue
            known[d] = new if old is None else ALL
            self._changed = True

    def _all(self, value: Value) -> None:
        self._join(value, [ALL] * len(shape_of(value.type)))

    def _of(self, value: Value) -> Bounds:
        return self._needs.get(value, [None] * len(shape_of(value.type)))

    def _block(self, block: Block) -> None:
        for op in reversed(block.ops):
            self._op(op)

    def _op(self, op: Op) -> None:
        name = op.name
        if name == "tt.store":
            pointer, value, mask = (op.segment(k) for k in range(3))
            assert pointer is not None
            assert value is not None
            found = self.mask_bounds(mask) if mask is not None else {}
            for stored in (pointer, value):
                self._join(stored, [found.get(d, ALL) for d in range(len(shape_of(stored.type)))])
            if mask is not None:
                self._all(mask)  # in memory it is all that says where it does not hold
        elif name == "tt.load":
            # The last vector of a loop reaches beyond what is needed, and must not read just anywhere.
            pointer, mask, other = (op.segment(k) for k in range(3))
            for operand in (pointer, mask):
                if operand is not None:
                    self._all(operand)
            if other is not None:
                self._join(other, self._of(op.result))
        elif name in NAMES or name == "arith.select":
            here = self._of(op.result)
            for operand in op.operands:
                if len(shape_of(operand.type)) == len(here):
                    self._join(operand, here)
        elif name == "tt.broadcast":
            shape = shape_of(op.operands[0].type)
            here = self._of(op.result)
            self._join(op.operands[0], [ALL if n == 1 else b for n, b in zip(shape, here, strict=True)])
        elif name == "tt.expand_dims":
            here = list(self._of(op.result))
            del here[op.int_attr("axis")]
            self._join(op.operands[0], here)
        elif name == "tt.trans":
            order = order_of(op)
            source: Bounds = [None] * len(order)
            for d, o in enumerate(order):
                source[o] = self._of(op.result)[d]
            self._join(op.operands[0], source)
        elif name == "tt.reduce" and len(op.operands) == 1:
            axis = op.int_attr("axis")
            here = list(self._of(op.result))
            here.insert(axis, ALL)
            self._join(op.operands[0], here)
        elif name == "tt.dot" and len(shape_of(op.result.type)) == 2:
            a, b, c = op.operands[:3]
            rows, columns = self._of(op.result)
            self._join(c, [rows, columns])
            self._join(a, [rows, ALL])
            self._join(b, [ALL, columns])
        elif name == "scf.for":
            inits, args, outs = op.operands[3:], op.regions[0].args[1:], op.regions[0].ops[-1].operands
            for result, out, arg in zip(op.results, outs, args, strict=True):
                # One tile holds all three: without an iteration what it started from is the result.
                self._join(arg, self._of(result))
                self._join(out, self._of(arg))
            self._block(op.regions[0])
            # What one iteration makes the next one uses, whose bounds may be others.
            made = {r for o in ttir.walk(op) for r in o.results}
            for arg in args:
                self._join(
                    arg, [ALL if isinstance(b, tuple) and b[0] in made else None for b in self._of(arg)]
                )
            for init, arg in zip(inits, args, strict=True):
                self._join(init, self._of(arg))
        elif name == "scf.if":
            for region in op.regions:
                if region.ops:
                    for out, result in zip(region.ops[-1].operands, op.results, strict=True):
                        self._join(out, self._of(result))
                    self._block(region)
        elif name not in ("scf.yield", "tt.splat"):
            for operand in op.operands:
                self._all(operand)
            for region in op.regions:
                for inner in ttir.walk(region):
                    for operand in inner.operands:
                        self._all(operand)

    # masks

    def mask_bounds(self, mask: Value) -> dict[int, tuple[Value, int]]:
        """Dimensions of a mask with an upper bound: the comparison that gives it, and its own dimension."""
        found: dict[int, tuple[Value, int]] = {}
        self._bounds(mask, {d: d for d in range(len(shape_of(mask.type)))}, found)
        return found

    def _bounds(self, value: Value, dims: dict[int, int], found: dict[int, tuple[Value, int]]) -> None:
        op = self.definitions.get(value)
        if op is None:
            return
        if op.name == "arith.andi":
            for operand in op.operands:
                self._bounds(operand, dims, found)
        elif op.name == "tt.broadcast":
            shape = shape_of(op.operands[0].type)
            self._bounds(op.operands[0], {d: o for d, o in dims.items() if shape[d] > 1}, found)
        elif op.name == "tt.expand_dims":
            axis = op.int_attr("axis")
            inner = {d if d < axis else d - 1: o for d, o in dims.items() if d != axis}
            self._bounds(op.operands[0], inner, found)
        elif op.name == "tt.trans":
            order = order_of(op)
            self._bounds(op.operands[0], {order[d]: o for d, o in dims.items()}, found)
        elif op.name == "arith.cmpi" and op.attrs["predicate"] in ("slt", "sle"):
            left = self._dimension(op.operands[0])
            if left is not None and self._dimension(op.operands[1]) == -1 and left in dims:
                key = (self.key(value), left)
                found.setdefault(dims[left], self._canonical.setdefault(key, (value, left)))

    def _dimension(self, value: Value) -> int | None:
        """The one dimension along which an integer tensor varies; -1 if none, None if unknown."""
        op = self.definitions.get(value)
        if op is None or op.name not in (*_STRUCTURAL, "arith.addi", "arith.extsi", "arith.subi"):
            return None
        if op.name in ("tt.splat", "arith.constant"):
            return -1
        if op.name == "tt.make_range":
            return 0
        parts = [self._dimension(o) for o in op.operands]
        if None in parts:
            return None
        varying = {p for p in parts if p is not None and p >= 0}
        if len(varying) != 1:
            return -1 if not varying else None
        (d,) = varying
        if op.name == "tt.expand_dims":
            return d if d < op.int_attr("axis") else d + 1
        return None if op.name == "tt.trans" else d

    def key(self, value: Value) -> str:
        """A text that is equal for values computed in the same way."""
        if value not in self._keys:
            op = self.definitions.get(value)
            if op is None or op.regions or (op.name not in _STRUCTURAL and op.name not in NAMES):
                text = f"%{id(value)}"
            else:
                inner = ",".join(self.key(o) for o in op.operands)
                text = f"{op.name}({inner}){sorted(op.attrs.items(), key=str)}{value.type}"
            self._keys[value] = f"#{self._texts.setdefault(text, len(self._texts))}"
        return self._keys[value]


def order_of(op: Op) -> tuple[int, ...]:
    """Permutation of ``tt.trans``."""
    order = op.attrs["order"]
    assert isinstance(order, tuple | list)
    return tuple(int(o) for o in order)
