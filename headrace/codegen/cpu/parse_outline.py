"""A nested region with several blocks (a combine or mapped function that returns early) as a function.

The region that stays behind is one block: a call of that function with the region's arguments and whatever
the blocks use from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from headrace.codegen.cpu.ttir import Block, Function, Op, Type, Value, walk


def outline(name: str, blocks: list[Block], new: Callable[[Type], Value]) -> tuple[Function, Block]:
    """The function called ``name`` and the block that calls it. ``new`` makes a value."""
    inside = set(_defined(blocks))
    captured: dict[Value, Value] = {}
    for op in (op for block in blocks for op in walk(block)):
        for operands in (op.operands, *(s.operands for s in op.successors)):
            for k, value in enumerate(operands):
                if value not in inside:
                    if value not in captured:
                        captured[value] = new(value.type)
                    operands[k] = captured[value]
    terminator = next(b.ops[-1] for b in blocks if b.ops[-1].name.endswith(".return"))
    for block in blocks:
        if block.ops[-1].name == terminator.name:
            block.ops[-1] = Op("tt.return", block.ops[-1].operands, loc=block.ops[-1].loc)
    types = [v.type for v in terminator.operands]
    arguments = [*blocks[0].args, *captured.values()]
    function = Function(name, arguments, [{} for _ in arguments], blocks, types, public=False)
    outer = [new(v.type) for v in blocks[0].args]
    call = Op("tt.call", [*outer, *captured], [new(t) for t in types], {"callee": name}, loc=terminator.loc)
    return function, Block(outer, [call, Op(terminator.name, call.results, loc=terminator.loc)])


def _defined(blocks: list[Block]) -> Iterator[Value]:
    for block in blocks:
        yield from block.args
        for op in walk(block):
            yield from op.results
            for region in op.regions:
                yield from region.args
