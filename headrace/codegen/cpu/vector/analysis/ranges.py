"""What is known of an integer while code is written: its smallest and largest value, and what it leaves when
divided by a power of two.

A mask ``offs < n`` is a bound on the index only if ``offs = base + i`` does not wrap around within the tile.
``pid * 128 + arange(0, 128)`` never does: a multiple of 128 lies at the start of a block that ends within the
type. What neither range nor remainder proves is asked at run time (:func:`straight`).
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.analysis.affine import stride_along
from headrace.codegen.cpu.vector.context import Context, is_const_int
from headrace.codegen.cpu.vector.expr import Broadcast, ExpandDims, Expr, Range, Transpose
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise

BITS = {"i8": 8, "i16": 16, "i32": 32, "i64": 64}


@dataclass(frozen=True)
class Known:
    """``low <= x <= high`` and ``x`` leaves ``residue`` modulo ``modulus``, a power of two."""

    low: int
    high: int
    modulus: int = 1
    residue: int = 0


def anything(bits: int) -> Known:
    """What holds for every signed integer of this width."""
    return Known(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def exactly(value: int, bits: int) -> Known:
    """One value."""
    return Known(value, value, 1 << bits, value % (1 << bits))


def learn(g: Context, expr: Expr, name: str) -> None:
    """Keep what is known of a scalar under its SSA name."""
    if expr.element in BITS and name.startswith("%"):
        g.known.setdefault(name, base_of(g, expr))


def counter(g: Context, lower: str, step: str, upper: str, element: str, unsigned: bool) -> Known:
    """The induction variable of a ``scf.for``. With a constant step it stays a step away from the end of its
    type: the loop could not end otherwise."""
    bits = BITS[element]
    every = anything(bits)
    start, end = _leaf(g, lower, element), _leaf(g, upper, element)
    if not is_const_int(step):
        return every
    by = int(step) & -int(step)
    modulus = min(start.modulus, by)
    if unsigned or int(step) <= 0:
        return Known(every.low, every.high, modulus, start.residue % modulus)
    return Known(start.low, min(end.high - 1, every.high - int(step)), modulus, start.residue % modulus)


def multiple(g: Context, steps: list[Expr | None], element: str) -> Known:
    """What starts at zero and grows by the sum of ``steps`` (None: an unknown one) any number of times."""
    every = anything(BITS[element])
    by = 1 << BITS[element]
    for step in steps:
        known = base_of(g, step) if step is not None else every
        by = min(by, known.modulus, known.residue & -known.residue or by)
    return Known(every.low, every.high, by)


def base_of(g: Context, expr: Expr) -> Known:
    """What is known of an integer (tensor) at index zero."""
    expr = expr.resolved()
    if expr.element not in BITS:
        return anything(64)
    if expr.uid not in g.known:
        g.known[expr.uid] = _base(g, expr, BITS[expr.element])
    return g.known[expr.uid]


def _base(g: Context, expr: Expr, bits: int) -> Known:
    if isinstance(expr, Range):
        return exactly(expr.start, bits)
    if isinstance(expr, ExpandDims | Broadcast | Transpose):
        return base_of(g, expr.operands[0])
    name = getattr(expr, "name", None)
    if isinstance(name, str):
        return _leaf(g, name, expr.element)
    if not isinstance(expr, Elementwise) or any(o.element not in BITS for o in expr.operands):
        return anything(bits)
    found = _apply(expr.op, [base_of(g, o) for o in expr.operands], BITS[expr.operands[0].element])
    return _within(found, bits) if found is not None else anything(bits)


def _leaf(g: Context, name: str, element: str) -> Known:
    if is_const_int(name):
        return exactly(int(name), BITS[element])
    return g.known.get(name) or anything(BITS[element])


def _within(x: Known, bits: int) -> Known:
    """The result of arithmetic in ``bits`` bits: what may have wrapped keeps its remainder only."""
    every = anything(bits)
    modulus = min(x.modulus, 1 << bits)
    fits = every.low <= x.low and x.high <= every.high
    return Known(*(x.low, x.high) if fits else (every.low, every.high), modulus, x.residue % modulus)


def _apply(op: str, args: list[Known], source: int) -> Known | None:
    """The result as if integers had no end; None where nothing is known. ``source``: bits of an operand."""
    a, b = args[0], args[-1]
    modulus = min(a.modulus, b.modulus)
    if op == "arith.addi":
        return Known(a.low + b.low, a.high + b.high, modulus, (a.residue + b.residue) % modulus)
    if op == "arith.subi":
        return Known(a.low - b.high, a.high - b.low, modulus, (a.residue - b.residue) % modulus)
    if op == "arith.muli":
        corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
        return Known(min(corners), max(corners), *_product(a, b))
    if op in ("arith.extsi", "arith.trunci", "arith.index_cast"):
        return a
    if op == "arith.extui":
        return a if a.low >= 0 else Known(0, (1 << source) - 1, a.modulus, a.residue)
    if op in ("arith.minsi", "arith.maxsi"):
        best = min if op == "arith.minsi" else max
        same = a.residue % modulus == b.residue % modulus
        kept = (modulus, a.residue % modulus) if same else (1, 0)
        return Known(best(a.low, b.low), best(a.high, b.high), *kept)
    if op in ("arith.divsi", "arith.remsi", "arith.divui", "arith.remui") and 0 < b.low == b.high:
        if a.low < 0 and op.endswith("ui"):
            return None
        if op.startswith("arith.div"):
            ends = [abs(x) // b.low * (1 if x >= 0 else -1) for x in (a.low, a.high)]
            return Known(*ends)
        return Known(0 if a.low >= 0 else 1 - b.low, b.low - 1)
    return None


def _product(a: Known, b: Known) -> tuple[int, int]:
    """(modulus, residue) of a product: (m x + r) (n y + s) = m n x y + m s x + n r y + r s."""
    terms = (a.modulus * b.modulus, a.modulus * b.residue, b.modulus * a.residue)
    modulus = min(t & -t for t in terms if t)
    return modulus, a.residue * b.residue % modulus


def straight(g: Context, expr: Expr, dim: int) -> str:
    """An i1, "true" where that is proven: ``expr``, of constant stride along ``dim`` and varying along
    nothing else, wraps around nowhere in the tile, nor does any narrower integer that it is extended from."""
    conditions: list[str] = []
    pending = [(expr.resolved(), dim, True)]
    while pending:
        found, d, checked = pending.pop()
        if checked:
            conditions.append(_level(g, found, d, found.shape[d]))
        if not isinstance(found, Elementwise | ExpandDims | Broadcast | Transpose):
            continue
        widened = isinstance(found, Elementwise) and found.op == "arith.extsi"
        for k, operand in enumerate(found.operands):
            inner, below = operand.resolved(), found.down(k, d)
            if below in inner.varies:
                pending.append((inner, below, widened))
    unproven = [c for c in dict.fromkeys(conditions) if c != "true"]
    if "false" in unproven:
        return "false"
    both = unproven[0] if unproven else "true"
    for condition in unproven[1:]:
        both = g.op("and", "i1", both, condition)
    return both


def _level(g: Context, expr: Expr, dim: int, size: int) -> str:
    """:func:`straight` for one integer type on the way."""
    stride, bits = stride_along(g, expr, dim), BITS[expr.element]
    if not isinstance(stride, int):
        return "false"
    known, every, span = base_of(g, expr), anything(bits), stride * (size - 1)
    if every.low <= known.low + min(span, 0) and known.high + max(span, 0) <= every.high:
        return "true"
    # Blocks of this size divide both halves of the type.
    if known.modulus < 1 << bits and 0 <= known.residue + span < known.modulus:
        return "true"
    if abs(span) > every.high:
        return "false"
    if span > 0:
        return g.cmp("sle", expr.scalar(g), str(every.high - span), expr.element)
    return g.cmp("sgt", expr.scalar(g), str(every.low - span - 1), expr.element)
