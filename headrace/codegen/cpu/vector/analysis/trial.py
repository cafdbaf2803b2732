"""Whether an element-wise operation has a vector form, found out by writing it once into the void."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from headrace.codegen.cpu.vector.context import Context, Machine
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.lanes.elementwise import apply

# What 8-bit floats take part in: everything else would treat their codes as integers.
_CODES = frozenset({"arith.select", "tt.bitcast", "arith.bitcast", "arith.extf", "arith.truncf",
"tt.fp_to_fp"})  # fmt: skip


def refusal(
    machine: Machine, op: str, types: tuple[str, ...], element: str, attrs: Mapping[str, object], pointee: str
) -> str:
    """Why ``op`` on operands of these types cannot be written, or "" if it can."""
    return _refusal(machine, op, types, element, tuple(sorted(attrs.items())), pointee)


@lru_cache(maxsize=1024)
def _refusal(
    machine: Machine,
    op: str,
    types: tuple[str, ...],
    element: str,
    attrs: tuple[tuple[str, object], ...],
    pointee: str,
) -> str:
    if any(t.startswith("f8") for t in (*types, element)) and op not in _CODES:
        return f"{op} on 8-bit floats has no vector form"
    for width in (0, machine.lanes):
        g = Context(machine)
        names = [g.e.define(g.e.fresh()) for _ in types]
        try:
            apply(g, op, names, list(types), element, width, dict(attrs), pointee)
        except VectorDeclined as declined:
            return str(declined)
        except KeyError as missing:
            return f"{op} on {', '.join(types)} has no vector form ({missing})"
    return ""
