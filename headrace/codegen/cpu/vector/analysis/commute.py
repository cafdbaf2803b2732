"""Whether a combine function gives the same for (a, b) and (b, a), found out by trying.

A fold along the vector is several times faster if elements may change places. Functions are run on numbers
with many ties, and on those around the constants in them, where they may decide; one that does anything
unusual counts as sensitive to order.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Mapping, Sequence

from headrace.codegen.cpu.ttir import Block, Op, ScalarType, Value, element_of

Number = int | float
_TRIALS = 192
_FLOATS = (0.0, 1.0, -1.0, 2.5, -3.25, 0.5, 7.0)
_INTS = (0, 1, 2, 3, -1, -2)
_AROUND = (-5, -1, 0, 1, 6)  # from a constant
_COMPARE: dict[str, Callable[[Number, Number], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Number]] = {
    "addf": operator.add, "addi": operator.add, "subf": operator.sub, "subi": operator.sub,
    "mulf": operator.mul, "muli": operator.mul, "andi": operator.and_, "ori": operator.or_,
    "xori": operator.xor, "maxnumf": max, "minnumf": min, "maximumf": max, "minimumf": min, "maxsi": max,
    "minsi": min, "maxui": max, "minui": min,
}  # fmt: skip
_SAME = frozenset({"extsi", "extui", "trunci", "sitofp", "uitofp", "extf", "truncf"})


class _Unusual(Exception):
    """An operation that is not tried out."""


def commutes(block: Block, makers: Mapping[Value, Op]) -> bool:
    """True if no trial tells the two orders apart. ``makers`` finds constants from outside."""
    count = len(block.args) // 2
    draw = random.Random(1)
    special = _decisive(block, makers)
    if any(not isinstance(element_of(v.type), ScalarType) for v in block.args):
        return False
    tried = 0
    for _ in range(_TRIALS):
        left, right = ([_number(draw, v, special) for v in block.args[:count]] for _ in "ab")
        try:
            pairs = zip(
                _run(block, [*left, *right], makers), _run(block, [*right, *left], makers), strict=True
            )
        except _Unusual:
            return False
        except ZeroDivisionError:
            continue  # two empty groups, in Welford's formula
        if not all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in pairs):
            return False
        tried += 1
    return tried > _TRIALS // 4


def _decisive(block: Block, makers: Mapping[Value, Op]) -> list[Number]:
    """Numbers on both sides of every constant of the function."""
    made = [*block.ops, *(makers[o] for op in block.ops for o in op.operands if o in makers)]
    constants = {op.attrs["value"] for op in made if op.name == "arith.constant"}
    finite = sorted(c for c in constants if isinstance(c, int | float) and math.isfinite(c))
    return [c + by for c in finite for by in _AROUND]


def _number(draw: random.Random, value: Value, special: Sequence[Number]) -> Number:
    element = element_of(value.type)
    assert isinstance(element, ScalarType)
    if element.bits == 1:
        return draw.randrange(2)
    if special and draw.random() < 0.5:
        chosen = draw.choice(special)
        return chosen if element.is_float else int(chosen)
    return draw.choice(_FLOATS) if element.is_float else draw.choice(_INTS)


def _run(block: Block, arguments: Sequence[Number], makers: Mapping[Value, Op]) -> list[Number]:
    known = dict(zip(block.args, arguments, strict=True))
    for op in block.ops[:-1]:
        if op.name == "arith.constant":
            known[op.result] = _constant(op)
            continue
        for operand in op.operands:
            if operand not in known:
                known[operand] = _constant(makers.get(operand))
        known[op.result] = _apply(
            op.name, str(op.attrs.get("predicate", "")), [known[o] for o in op.operands]
        )
    return [known[v] for v in block.ops[-1].operands]


def _constant(op: Op | None) -> Number:
    value = op.attrs["value"] if op is not None and op.name == "arith.constant" else None
    if not isinstance(value, int | float):
        raise _Unusual
    return value


def _apply(name: str, predicate: str, args: list[Number]) -> Number:
    short = name.removeprefix("arith.")
    if short in _BINARY:
        return _BINARY[short](*args)
    if short in _SAME:
        return args[0]
    if short == "select":
        return args[1] if args[0] else args[2]
    if short == "negf":
        return -args[0]
    if short == "divf":
        return args[0] / args[1]
    if short in ("cmpi", "cmpf"):
        compare = _COMPARE.get(predicate.removeprefix("s").removeprefix("u").removeprefix("o"))
        if compare is not None:
            return int(compare(args[0], args[1]))
        if predicate in _COMPARE:
            return int(_COMPARE[predicate](args[0], args[1]))
    raise _Unusual
