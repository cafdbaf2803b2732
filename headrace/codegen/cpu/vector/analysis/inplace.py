"""Loop-carried tiles that a dot product may update where they are, instead of in a second tile.

``acc = tl.dot(a, b, acc)`` and ``acc = tl.dot(p, v, acc * alpha[:, None])`` read element (i, j) of the old
tile only to make element (i, j) of the new one. If nothing else reads the old tile, one tile is enough: half
the cache, and addresses that do not change from one iteration to the next.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.codegen.cpu.ttir import Block, Op, Value
from headrace.codegen.cpu.vector.lanes.elementwise import NAMES


def updates_in_place(body: Block, arg: Value, out: Value, uses: Mapping[Value, int]) -> bool:
    """True if ``out`` is a dot product that adds to ``arg``, or to an element-wise function of it, and that
    is the only use of ``arg``."""
    made: dict[Value, Op] = {result: op for op in body.ops for result in op.results}
    op = made.get(out)
    if op is None or op.name != "tt.dot" or uses.get(out, 0) != 1 or uses.get(arg, 0) != 1:
        return False
    value = op.operands[2]
    while value is not arg:
        step = made.get(value)
        if step is None or step.name not in NAMES or uses.get(value, 0) != 1:
            return False
        if str(step.result.type) != str(arg.type):
            return False
        inner = [o for o in step.operands if _reaches(made, o, arg)]
        if len(inner) != 1:
            return False
        value = inner[0]
    return True


def _reaches(made: Mapping[Value, Op], value: Value, arg: Value) -> bool:
    """True if ``value`` is computed from ``arg``."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        one = stack.pop()
        if one is arg:
            return True
        if one in seen or one not in made:
            continue
        seen.add(one)
        stack += made[one].operands
    return False
