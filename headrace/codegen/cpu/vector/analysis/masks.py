"""Masks as upper bounds of dimensions.

``offs < n`` with ``offs`` of stride one along a dimension means "that dimension is valid up to n -
offs[0]". A mask is split into such bounds and a rest that is evaluated element by element. Loops stop at the
bounds and tell the context so (facts); a load or store then tests only what no loop has established.

Where ``offs`` may wrap around within the tile (see ``ranges``) the bound holds if it does not; if it does,
the dimension is unbounded and the rest compares the elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.codegen.cpu.vector.analysis import ranges
from headrace.codegen.cpu.vector.analysis.affine import stride_along
from headrace.codegen.cpu.vector.context import Context, Index, is_const_int, vector_type
from headrace.codegen.cpu.vector.expr import Broadcast, ExpandDims, Expr, Transpose, Uniform
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise

Limits = dict[int, tuple[str, ...]]


@dataclass(frozen=True)
class Box:
    """Conjunction of bounds (i64 SSA names or constants, within [0, size]) and of other conditions."""

    limits: Limits
    rest: tuple[Expr, ...]


EVERYTHING = Box({}, ())
_FAR = 1 << 62  # the difference of two integers below it needs no more than 64 bits
_FLIP = {"slt": "sgt", "sle": "sge", "sgt": "slt", "sge": "sle"}


def analyse(g: Context, mask: Expr | None) -> Box:
    """Split a mask into bounds and a rest. The rest follows what stands for it when it is asked, so a Box may
    be kept for longer than the memory that a mask lies in now."""
    if mask is None:
        return EVERYTHING
    limits: dict[int, list[str]] = {}
    rest: list[Expr] = []
    _collect(g, mask, limits, rest)
    return Box({d: tuple(dict.fromkeys(names)) for d, names in limits.items()}, tuple(rest))


def _collect(g: Context, mask: Expr, limits: dict[int, list[str]], rest: list[Expr]) -> None:
    if not mask.varies and mask.shape:
        value = mask.scalar(g)
        if value != "true":
            limits.setdefault(0, []).append(g.select("i1", value, "i64", str(mask.shape[0]), "0"))
        return
    steps: list[Expr] = []
    dims = {d: d for d in mask.varies}
    core = mask.resolved()
    while isinstance(core, ExpandDims | Broadcast | Transpose):
        steps.append(core)
        dims = {outer: core.down(0, d) for outer, d in dims.items()}
        core = core.operands[0].resolved()
    if isinstance(core, Elementwise) and core.op == "arith.andi":
        for part in core.operands:
            for step in reversed(steps):
                part = _again(step, part)
            _collect(g, part, limits, rest)
        return
    bound = _bound(g, core)
    if bound is None:
        rest.append(mask)
        return
    dim, limit, straight = bound
    if straight != "true":
        known = Uniform(straight, "i1", mask.shape)
        rest.append(Elementwise("arith.ori", (known, mask), mask.shape, "i1", {}))
    for outer, d in dims.items():
        size = str(mask.shape[outer])
        if d == dim and limit != size and straight != "false":
            limits.setdefault(outer, []).append(g.select("i1", straight, "i64", limit, size))


def _again(step: Expr, source: Expr) -> Expr:
    """The structural operation ``step`` applied to another source."""
    if isinstance(step, ExpandDims):
        return ExpandDims(source, step.axis)
    if isinstance(step, Transpose):
        return Transpose(source, step.order)
    return Broadcast(source, step.shape)


def _bound(g: Context, expr: Expr) -> tuple[int, str, str] | None:
    """(dimension, limit, condition) of a comparison that says "index below limit" if the condition holds."""
    if not isinstance(expr, Elementwise) or expr.op != "arith.cmpi":
        return None
    predicate = str(expr.attrs["predicate"])
    left, right = expr.operands
    if left.varies and not right.varies:
        pass
    elif right.varies and not left.varies:
        left, right = right, left
        predicate = _FLIP.get(predicate, "")
    else:
        return None
    if predicate not in ("slt", "sle") or len(left.varies) != 1:
        return None
    (dim,) = left.varies
    if stride_along(g, left, dim) != 1:
        return None
    straight = ranges.straight(g, left, dim)
    if straight == "false":
        return dim, "0", straight
    lo = _wide(g, left.scalar(g), left.element)
    hi = _wide(g, right.scalar(g), right.element)
    size = left.shape[dim]
    if left.element == "i64" and not (_near(ranges.base_of(g, left)) and _near(ranges.base_of(g, right))):
        return dim, _distance(g, lo, hi, size, predicate), straight
    if predicate == "sle":
        hi = g.add(hi, "1")
    return dim, g.smax("0", g.smin(g.sub(hi, lo), str(size))), straight


def _near(x: ranges.Known) -> bool:
    return x.low > -_FAR and x.high < _FAR


def _distance(g: Context, lo: str, hi: str, size: int, predicate: str) -> str:
    """How many of ``size`` integers from ``lo`` on are below ``hi`` (or not above it), where ``hi - lo`` may
    need 65 bits: the largest integer may stand for "no limit"."""
    more = int(predicate == "sle")
    apart = g.call("llvm.umin.i64", "i64", ("i64", g.sub(hi, lo)), ("i64", str(size - more)))
    return g.select("i1", g.cmp(predicate, lo, hi), "i64", g.add(apart, str(more)), "0")


def _wide(g: Context, value: str, element: str) -> str:
    if element == "i64" or is_const_int(value):
        return value
    return g.cast("sext", element, value, "i64")


def established(g: Context, box: Box, index: Index) -> list[str]:
    """The counters of loops that stop at bounds, so that within them these are not tested.

    Such a loop may not run at all: an address that all its turns share must not be touched before it.
    """
    return [
        ix.base
        for ix, names in ((index[d], names) for d, names in box.limits.items())
        if ix.base is not None and any((limit, ix.tag) in g.facts for limit in names)
    ]


def condition(g: Context, box: Box, index: Index, dim: int, width: int) -> tuple[str, str]:
    """What is left to test at ``index``: (scalar condition, vector condition), each "true" when nothing
    is."""
    scalar, vector = "true", "true"
    vt = vector_type("i1", width)

    def both(a: str, b: str, type_: str) -> str:
        return b if a == "true" else a if b == "true" else g.op("and", type_, a, b)

    for d, names in box.limits.items():
        for limit in names:
            if (limit, index[d].tag) in g.facts:
                continue
            left = g.sub(limit, g.index(index[d]))
            if width and d == dim:
                if is_const_int(left) and int(left) >= width:
                    continue
                vector = both(vector, g.lanes_below(left, width), vt)
            else:
                scalar = both(scalar, g.cmp("sgt", left, "0"), "i1")
    for expr in box.rest:
        if width and dim in expr.varies:
            vector = both(vector, expr.eval(g, index, dim, width), vt)
        else:
            scalar = both(scalar, expr.eval(g, index, -1, 0), "i1")
    return scalar, vector
