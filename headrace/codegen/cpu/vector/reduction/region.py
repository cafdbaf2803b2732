"""The combine function of a ``tt.reduce`` or ``tt.scan``, on vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.codegen.cpu.ttir import Op, Value, element_of
from headrace.codegen.cpu.vector.analysis import effects
from headrace.codegen.cpu.vector.analysis.trial import refusal
from headrace.codegen.cpu.vector.context import Context, const, element_type
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.lanes.elementwise import NAMES, apply

_ATTRS = ("predicate", "rounding", "propagateNan")


@dataclass(frozen=True)
class Region:
    """``outs = f(left..., right...)`` with as many outs as there are tensors.

    ``outside`` are the names of scalars from outside that the body uses.
    """

    op: Op
    elements: tuple[str, ...]
    outside: dict[Value, str]

    def __call__(self, g: Context, left: Sequence[str], right: Sequence[str], width: int) -> list[str]:
        """Names of the results on ``width`` lanes (0: scalars)."""
        block = self.op.regions[0]
        names = dict(zip(block.args, [*left, *right], strict=True))
        for value, name in self.outside.items():
            names[value] = g.splat(element_type(element_of(value.type)), name, width)
        for op in block.ops[:-1]:
            element = element_type(element_of(op.result.type))
            if op.name == "arith.constant":
                number = op.attrs["value"]
                assert isinstance(number, int | float)
                names[op.result] = g.splat(element, const(element, number), width)
                continue
            types = [element_type(element_of(o.type)) for o in op.operands]
            args = [names[o] for o in op.operands]
            names[op.result] = apply(g, op.name, args, types, element, width, _attrs(op))
        return [names[v] for v in block.ops[-1].operands]


def _attrs(op: Op) -> dict[str, object]:
    return {k: v for k, v in op.attrs.items() if k in _ATTRS}


def region_of(g: Context, op: Op, scalars: dict[Value, str]) -> Region:
    """The region of ``op``; ``scalars`` names the values from outside that may occur in it.

    Raises:
        VectorDeclined: an operation in it has no vector form.
    """
    block = op.regions[0]
    for inner in block.ops[:-1]:
        if inner.name == "arith.constant":
            continue
        if inner.name not in NAMES or inner.name == "tt.addptr":
            raise VectorDeclined(f"{inner.name} in the body of {op.name} is not vectorised")
        types = tuple(element_type(element_of(o.type)) for o in inner.operands)
        element = element_type(element_of(inner.result.type))
        if why := refusal(g.machine, inner.name, types, element, _attrs(inner), ""):
            raise VectorDeclined(why)
    used = effects.outer_values(block)
    if not used <= set(scalars):
        raise VectorDeclined(f"the body of {op.name} uses a tile from outside")
    elements = tuple(element_type(element_of(v.type)) for v in op.operands)
    return Region(op, elements, {v: scalars[v] for v in used})
