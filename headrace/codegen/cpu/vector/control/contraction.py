"""Loops that only accumulate: ``acc += sum(a * b)``, ``acc = dot(a, b, acc)``, ``acc += a * b`` summed later.

The loop is turned inside out. For a block of result elements the whole loop runs with the sums held in
vector registers; they are reduced across lanes once, at the end. Weights are thereby read exactly once, in
as many streams as the block has rows, and nothing is carried in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.codegen.cpu.ttir import Block as TtirBlock
from headrace.codegen.cpu.ttir import Op, Value, element_of, shape_of
from headrace.codegen.cpu.vector import dot
from headrace.codegen.cpu.vector.analysis import effects, ranges
from headrace.codegen.cpu.vector.analysis.access import valid, vector_dim
from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.context import FLOATS, SIZES, Ix, const, element_type
from headrace.codegen.cpu.vector.control import whole
from headrace.codegen.cpu.vector.control.registers import Carried, Registers
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.expr import (
    NONE,
    Broadcast,
    Buffer,
    ExpandDims,
    Expr,
    Scalar,
    Summed,
    Transpose,
    Uniform,
)
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.loops import power_below
from headrace.codegen.cpu.vector.memory.transfer import Load
from headrace.codegen.cpu.vector.reduction.accumulate import Accumulate, accumulate, direct
from headrace.codegen.cpu.vector.reduction.blocks import (
    Block,
    Stream,
    Term,
    fold,
    is_zero,
    outside,
    row_blocks,
    store_block,
    sweep_axis,
)
from headrace.codegen.cpu.vector.reduction.combine import Combine, combine_of
from headrace.codegen.cpu.vector.schedule import numel

if TYPE_CHECKING:
    from headrace.codegen.cpu.vector.lowering import Lowering

_ADD = {"f32": Combine("arith.addf", "float"), "i32": Combine("arith.addi", "i32")}
_FACTORS = {"f32": ("f32", "bf16", "f16"), "i32": ("i8",)}


@dataclass(frozen=True)
class Sum:
    """One accumulator. ``sources`` are summed over ``axis`` (two of them: the operands of a dot product).

    ``result`` is the reduced value: what the loop gives, or with ``later`` what a reduction after it gives.
    """

    carried: Carried
    sources: tuple[Value, ...]
    axis: int
    result: Value
    later: bool = False

    @property
    def combine(self) -> Combine:
        return _ADD[str(element_of(self.carried.arg.type))]


def _along_k(left: tuple[int, ...], combine: Combine, tiles: bool) -> bool:
    """Whether a dot product with ``left`` [m, k] per iteration is best summed along k: few rows, and, for
    floats, not so much of k at a time that :mod:`.dot.streamed` wins (measured). With ``tiles`` the operands
    suit :mod:`.dot.amx`."""
    m, k = left
    if tiles:
        return m < 8
    return m < 32 if combine.element == "i32" or k < 256 else m < 8


def _is_sum(op: Op | None) -> bool:
    """True for a tt.reduce of one f32 or i32 tensor by addition."""
    if op is None or op.name != "tt.reduce" or len(op.operands) != 1:
        return False
    add = _ADD.get(str(element_of(op.operands[0].type)))
    try:
        return add is not None and combine_of(op, add.element) == add
    except VectorDeclined:
        return False


def recognise(
    lowering: Lowering, body: TtirBlock, carried: list[Carried]
) -> tuple[list[Sum], frozenset[int]] | None:
    """The accumulators of a loop that does nothing else, and the operations that they replace."""
    made = {r: op for op in body.ops for r in op.results}
    sums: list[Sum] = []
    skip: set[int] = set()
    if any((op.regions and op.name != "tt.reduce") or not effects.repeatable(op) for op in body.ops):
        return None
    for c in carried:
        if c.kind != "tile":
            continue
        op = made.get(c.out)
        kind = str(element_of(c.arg.type))
        if op is None or kind not in _ADD or lowering.uses.get(c.arg, 0) != 1 or lowering.uses[c.out] != 1:
            return None
        if op.name == "tt.dot" and op.operands[2] is c.arg and len(shape_of(c.arg.type)) == 2:
            if any(str(element_of(o.type)) not in _FACTORS[kind] for o in op.operands[:2]):
                return None
            sums.append(Sum(c, (op.operands[0], op.operands[1]), 2, c.result))
            skip.add(id(op))
            continue
        if op.name != _ADD[kind].op or c.arg not in op.operands:
            return None
        term = op.operands[1] if op.operands[0] is c.arg else op.operands[0]
        inner = made.get(term)
        user = lowering.sole_user(c.result)
        if inner is not None and _is_sum(inner) and lowering.uses.get(term, 0) == 1:
            sums.append(Sum(c, (inner.operands[0],), inner.int_attr("axis"), c.result))
            skip |= {id(op), id(inner)}
        elif user is not None and _is_sum(user) and len(shape_of(c.arg.type)) > 1:
            sums.append(Sum(c, (term,), user.int_attr("axis"), user.result, later=True))
            skip.add(id(op))
        else:
            return None
    if not sums or any(op.name in ("tt.reduce", "tt.dot") and id(op) not in skip for op in body.ops):
        return None
    return sums, frozenset(skip)


def lower(lowering: Lowering, op: Op, carried: list[Carried]) -> bool:
    """Lower a ``scf.for`` in this way if it has the form; False if it does not."""
    found = recognise(lowering, op.regions[0], carried)
    if found is None:
        return False
    loop = Loop(lowering, op, carried, *found)
    if not loop.plan():
        return False
    loop.write()
    return True


class Loop:
    """One such loop while it is written (its body several times over)."""

    def __init__(
        self, lowering: Lowering, op: Op, carried: list[Carried], sums: list[Sum], skip: frozenset[int]
    ) -> None:
        self.lowering = lowering
        self.g, self.s = lowering.g, lowering.s
        self.body = op.regions[0]
        self.sums = sums
        self.skip = skip
        self.kind = element_type(element_of(op.operands[0].type))
        self.bounds = tuple(lowering.scalar(v) for v in op.operands[:3])
        unsigned = bool(op.attrs.get("unsigned"))
        self.predicate = "ult" if unsigned else "slt"
        lo, hi, step = self.bounds
        self.known = ranges.counter(self.g, lo, step, hi, self.kind, unsigned)
        self.registers = Registers(lowering, carried)
        self.updates: list[Accumulate] = []
        self.shapes: list[tuple[int, ...]] = []
        self.narrow: list[bool] = []
        self.whole: list[bool] = []
        self.needed: list[Limits] = []

    def enter(self, iv: str, args: Values) -> list[Expr]:
        """Lower the body for one iteration; what is summed, one expression per accumulator."""
        lowering = self.lowering
        lowering.put(self.body.args[0], Scalar(iv, self.kind))
        self.g.known[iv] = self.known
        self.registers.bind(args)
        lowering.block(self.body, self.skip)
        exprs = []
        for item in self.sums:
            operands = [lowering.get(v) for v in item.sources]
            exprs.append(dot.product(self.s, *operands) if len(operands) == 2 else operands[0])
        return exprs

    def plan(self) -> bool:
        """Lower the body once into the void to learn shapes and updates; False if the form does not fit."""
        g, s = self.g, self.s
        for item in self.sums:
            if len(item.sources) == 2:
                left = item.sources[0].type
                has = {"bf16": g.machine.amx_bf16, "i8": g.machine.amx_int8}
                tiles = has.get(str(element_of(left)), False)
                if not _along_k(shape_of(left), item.combine, tiles):
                    return False
        if any(item.later and not is_zero(self.lowering.get(item.carried.init), g) for item in self.sums):
            return False
        g.e.open("void", True)
        try:
            with s.scope():
                iv = g.e.define(g.e.fresh())
                exprs = self.enter(iv, [g.e.define(g.e.fresh()) for _ in self.registers.inits])
                for item, expr in zip(self.sums, exprs, strict=True):
                    axis = item.axis
                    if len(item.sources) == 2:
                        if not all(direct(o, axis) for o in expr.operands):
                            return False
                    elif vector_dim(g, expr.shape, [expr]) != axis and not _narrow(expr, axis):
                        return False
                    row = tuple(Ix(g.e.define(g.e.fresh()), 0) for _ in expr.shape)  # any of them
                    names = valid(g, expr, axis) or ()
                    if s.prepare_needed(expr) or outside(g, expr, item.combine, axis, names, row) is not None:
                        return False
                    self.updates.append(accumulate(g, item.combine, expr, axis, s.uses, s.keep))
                    self.shapes.append(expr.shape)
                    self.narrow.append(bool(_narrow(expr, axis)))
                    self.whole.append(len(item.sources) == 1 and whole.accepts(self, expr, item))
        finally:
            g.e.close()
        return True

    def write(self) -> None:
        """Write the loops and define the results."""
        lowering, g = self.lowering, self.g
        results: list[Buffer] = []
        inits: list[Expr | None] = []
        for item in self.sums:
            shape = shape_of(item.result.type)
            element = item.combine.element
            results.append(Buffer(g.alloca(element, numel(shape)), shape, element))
            init = lowering.get(item.carried.init)
            nothing = is_zero(init, g)
            if nothing and element in FLOATS:  # the sum of no numbers, or of minus zeros, is minus zero
                init, nothing = Uniform(const(element, 0), element, shape), False
            inits.append(None if nothing else init)
        self.needed = [lowering.limits(item.result) for item in self.sums]
        for group in self._groups():
            if len(group) == 1 and self.whole[group[0]]:
                whole.write(self, group[0], results[group[0]], inits[group[0]])
            else:
                self._write_group(group, results, inits)
        self.registers.bind(self._finals(), final=True)
        for item, result in zip(self.sums, results, strict=True):
            if item.later:
                shape = shape_of(item.carried.result.type)
                lowering.put(item.carried.result, Summed(result, shape, item.axis))
            else:
                lowering.put(item.carried.result, result)

    def _write_group(self, group: list[int], results: list[Buffer], inits: list[Expr | None]) -> None:
        g = self.g
        first = self.sums[group[0]]
        axis, full = first.axis, self.shapes[group[0]]
        limits: Limits = {d if d < axis else d + 1: n for d, n in self.needed[group[0]].items()}
        narrow = any(self.narrow[t] for t in group)
        m_block, n_block = _block(full, axis, len(group), len(first.sources) == 2, narrow)
        updates = [self.updates[t] for t in group]
        fixed = self.registers.inits

        def emit(block: Block) -> None:
            count = len(block.rows)
            chunks = full[axis] // updates[0].step
            sets = power_below(max(1, min(16 // (count * len(group)), chunks, 4)))
            size = sets * count
            start = [(u.type, u.neutral(g)) for u in updates for _ in range(size)]

            def iteration(iv: str, args: Values) -> Values:
                with self.s.scope():
                    exprs = self.enter(iv, args[: len(fixed)])
                    terms = [Term(exprs[t], self.update(exprs[t], t)) for t in group]
                    values = self._sweep(terms, axis, block, args[len(fixed) :], sets)
                    return self.registers.next(args[: len(fixed)]) + values

            lo, hi, step = self.bounds
            outs = g.e.loop(lo, hi, step, fixed + start, iteration, self.kind, True, self.predicate)
            values = outs[len(fixed) :]
            for k, t in enumerate(group):
                vector = fold(g, updates[k], values[k * size : (k + 1) * size], sets, count)
                store_block(g, self.sums[t].combine, vector, block, axis, results[t], inits[t])

        row_blocks(g, full, axis, limits, m_block, n_block, emit, spread=True)

    def update(self, expr: Expr, t: int) -> Accumulate:
        """The planned update, for the same sum lowered again."""
        made = accumulate(self.g, self.sums[t].combine, expr, self.sums[t].axis, self.s.uses, self.s.keep)
        planned = self.updates[t]
        assert (made.width, made.step, made.pairs) == (planned.width, planned.step, planned.pairs)
        return made

    def _sweep(self, terms: list[Term], axis: int, block: Block, values: Values, sets: int) -> Values:
        """One iteration for a block: together where all terms have the same bound along ``axis``."""
        g = self.g
        bounds = [valid(g, t.expr, axis) or () for t in terms]
        if all(b == bounds[0] for b in bounds):
            streams = [stream for term in terms for stream in _narrow(term.expr, axis)]
            return sweep_axis(g, terms, axis, block, bounds[0], values, sets, streams=streams)
        size = sets * len(block.rows)
        out: Values = []
        for k, (term, names) in enumerate(zip(terms, bounds, strict=True)):
            out += sweep_axis(g, [term], axis, block, names, values[k * size : (k + 1) * size], sets)
        return out

    def _finals(self) -> Values:
        """Final values of the scalars: the loop once more without its sums, if anybody asks."""
        if not any(self.lowering.uses.get(c.result, 0) for c in self.registers.carried):
            return [v for _, v in self.registers.inits]

        def iteration(iv: str, args: Values) -> Values:
            with self.s.scope():
                self.enter(iv, args)
                return self.registers.next(args)

        lo, hi, step = self.bounds
        inits = self.registers.inits
        return self.g.e.loop(lo, hi, step, inits, iteration, self.kind, True, self.predicate)

    def _groups(self) -> list[list[int]]:
        """Accumulators that can share loops and their bounds, at most eight together."""
        groups: list[list[int]] = []
        for k, item in enumerate(self.sums):
            for group in groups:
                first = group[0]
                alike = (self.shapes[first], self.sums[first].axis, self.updates[first].step) == (
                    self.shapes[k],
                    item.axis,
                    self.updates[k].step,
                )
                alike = alike and self.sums[first].combine == item.combine
                alike = alike and self.needed[first] == self.needed[k]
                if alike and len(self.sums[first].sources) == len(item.sources) and len(group) < 8:
                    group.append(k)
                    break
            else:
                groups.append([k])
        return groups


def _narrow(expr: Expr, axis: int) -> list[Stream]:
    """Bytes that are read along ``axis`` to be widened: what converts them is the bottleneck."""
    found: dict[int, Stream] = {}

    def visit(e: Expr, dims: tuple[int, ...]) -> None:
        """``dims`` gives the dimension of ``expr`` for each of ``e``."""
        e = e.resolved()
        if isinstance(e, Load):
            if SIZES[e.element] == 1 and axis in dims and e.pointers.contiguous(dims.index(axis)):
                found[e.uid] = Stream(e, dims, dims.index(axis))
        elif isinstance(e, Elementwise | ExpandDims | Broadcast | Transpose):
            for k, o in enumerate(e.operands):
                back = {e.down(k, d): dims[d] for d in range(len(e.shape))}
                visit(o, tuple(back.get(d, NONE) for d in range(len(o.shape))))

    visit(expr, tuple(range(len(expr.shape))))
    return list(found.values())


def _block(full: tuple[int, ...], axis: int, terms: int, is_dot: bool, narrow: bool) -> tuple[int, int]:
    """Rows and columns of results per block, at most sixteen accumulators altogether.

    The columns are rows of the weights. They are spread over the tile: short neighbouring rows would make
    several interleaved streams in one page, which hardware prefetchers do not follow (measured: half the
    read bandwidth). ``narrow`` weights take eight rows, so that converting the other operand matters less.
    """
    others = [n for d, n in enumerate(full) if d != axis]
    budget = 1 << max(0, (16 // terms).bit_length() - 1)  # a power of two, as the tile's size is
    streams = 8 if narrow and others[-1] >= 32 else 4 if others[-1] >= 32 else 2 if others[-1] >= 16 else 1
    if is_dot and others[0] > 1:
        return (4, max(1, min(budget // 4, others[-1])))
    return (1, max(1, min(streams, budget)))
