"""libdevice's functions on whole vectors: those that are math functions, rounded arithmetic or predicates."""

from __future__ import annotations

from headrace.codegen.cpu.external import function_of
from headrace.codegen.cpu.vector.context import Context, const, vector_type
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.lanes import math as vmath

_ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "divide": "fdiv"}
_SUFFIX = {"float": "f32", "double": "f64"}


def apply(g: Context, symbol: str, args: list[str], types: list[str], element: str, width: int) -> str:
    """Write one call of ``symbol``.

    Raises:
        VectorDeclined: it has no vector form here.
    """
    found = function_of(symbol)
    if found is None or found.rounding not in ("", "rn") or any(t != types[0] for t in types):
        raise VectorDeclined(f"{symbol} is not vectorised")
    name, source = found.name, types[0]
    if source not in _SUFFIX:
        raise VectorDeclined(f"{symbol} is not vectorised")
    st = vector_type(source, width)
    if element == "i32" and name in ("isnan", "isinf", "isfinite"):
        suffix = f"v{width}{_SUFFIX[source]}" if width else _SUFFIX[source]
        size = g.call(f"llvm.fabs.{suffix}", st, (st, args[0]))
        other = size if name == "isnan" else g.splat(source, const(source, float("inf")), width)
        predicate = {"isnan": "uno", "isinf": "oeq", "isfinite": "olt"}[name]
        flag = g.e.pure(f"fcmp {predicate} {st} {size}, {other}", (size, other))
        return g.cast("zext", vector_type("i1", width), flag, vector_type("i32", width))
    if element != source:
        raise VectorDeclined(f"{symbol} is not vectorised")
    if name in _ARITHMETIC:
        return g.op(_ARITHMETIC[name], st, *args)
    if name == "rcp":
        return g.op("fdiv", st, g.splat(source, const(source, 1.0), width), args[0])
    return vmath.function(g, name, args, source, width)
