"""Which roundings decide.

A kernel keeps float32 where eager PyTorch rounds to bfloat16 or float16 between two operations, and is nearer
to the exact result for it. Not so before a jump: 0.999 is 1.0 in bfloat16, and floor gives 0 for one and 1
for the other. So what a function with a jump reads, however far up, is computed with the roundings that its
expression states (`cast:bf16`), for all that read it, and everything else without them. The functions with a
jump are listed here and nowhere else.

A rounding that the program itself asks for, `x - x.to(torch.bfloat16).float()`, is no `cast` but a `round`:
it is what is computed, and is made everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from headrace.ir.dtype import DType
from headrace.ir.expr import COMPARISONS, PREDICATES, Call, Const, Expr, refs

HALVES = (DType.BF16, DType.F16)
_FLOATING = frozenset(f"cast:{dtype.value}" for dtype in DType if dtype.is_floating)
# Arguments at which a function jumps; None: all of them. Casts to integers and to booleans jump as well.
_JUMPS: dict[str, frozenset[int] | None] = {
    **dict.fromkeys(PREDICATES),
    **dict.fromkeys(("floor", "ceil", "floordiv", "mod")),
    "where": frozenset({0}),
    "pow": frozenset({1}),  # of a negative number: NaN but for whole exponents
}


def jumps(expr: Call, at: int) -> bool:
    """Whether a call jumps at some value of its argument number `at`."""
    if expr.fn.startswith("cast:"):
        return expr.fn not in _FLOATING
    if expr.fn == "pow" and isinstance(base := expr.args[0], Const) and base.value > 0:
        return False
    places = _JUMPS.get(expr.fn, frozenset())
    return places is None or at in places


def is_cast(expr: Expr) -> bool:
    """Whether an expression is a cast to a floating type, which kernels may leave out."""
    return isinstance(expr, Call) and expr.fn in _FLOATING


def operand(expr: Call, at: int) -> Expr:
    """Argument number `at`, without a rounding to bfloat16 where it is only told apart from zero, as every
    normal number of float32 is in bfloat16."""
    arg = expr.args[at]
    if not isinstance(arg, Call) or arg.fn != "cast:bf16":
        return arg
    zero = expr.fn in COMPARISONS and isinstance(other := expr.args[1 - at], Const) and other.value == 0
    truth = expr.fn in ("cast:b8", "and", "or", "not") or (expr.fn == "where" and not at)
    return arg.args[0] if zero or truth else arg


def decisive(expr: Expr, *, decides: bool = False) -> frozenset[Call]:
    """Every call in an expression whose value a jump reads; `decides`: one reads the expression itself."""
    if not isinstance(expr, Call):
        return frozenset()
    below = (decisive(operand(expr, at), decides=decides or jumps(expr, at)) for at in range(len(expr.args)))
    return frozenset[Call]({expr} if decides else ()).union(*below)


def without(expr: Expr, unwanted: Callable[[Call], bool], *, decides: bool = False) -> Expr:
    """The expression without the unwanted ones of its casts to floating types, but for those that decide.

    `decides`: a jump reads the expression itself.
    """
    return _without(expr, unwanted, decisive(expr), decides)


def _without(expr: Expr, unwanted: Callable[[Call], bool], kept: frozenset[Call], decides: bool) -> Expr:
    if not isinstance(expr, Call):
        return expr
    decides = decides or expr in kept
    args = (_without(arg, unwanted, kept, decides or jumps(expr, at)) for at, arg in enumerate(expr.args))
    done = Call(expr.fn, tuple(args))
    return done.args[0] if not decides and is_cast(done) and unwanted(done) else done


def deciding(expr: Expr, *, decides: bool = False) -> frozenset[str]:
    """The names whose values a jump reads."""
    if decides:
        return refs(expr)
    if not isinstance(expr, Call):
        return frozenset()
    return frozenset[str]().union(
        *(deciding(arg, decides=jumps(expr, at)) for at, arg in enumerate(expr.args))
    )


def decided(results: Iterable[Expr], steps: Sequence[tuple[str, Expr]]) -> frozenset[str]:
    """The names whose values a jump reads, on the way to `results`.

    `steps` are named values in order, each an expression over names and earlier steps: what a step reads is
    read by whatever reads the step.
    """
    found = frozenset[str]().union(*map(deciding, results))
    for name, expr in reversed(steps):
        found |= deciding(expr, decides=name in found)
    return found
