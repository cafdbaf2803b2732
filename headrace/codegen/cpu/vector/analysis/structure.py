"""Branches between blocks as nested ``scf.if``.

Triton writes an early return as ``cf.cond_br`` to a block that returns. Its blocks form no loops. A side that
always returns becomes the body of an ``scf.if`` that ends with ``headrace.leave`` (or just that operation),
and the other side goes on at the same level; sides that meet again become an ``scf.if`` whose results are
the arguments of the block where they meet::

    cf.cond_br %c, ^1, ^2            headrace.leave %c
    ^1: tt.return             =>     ...
    ^2: ...                          tt.return
"""

from __future__ import annotations

from dataclasses import replace

from headrace.codegen.cpu.ttir import Block, Function, Op, Successor
from headrace.codegen.cpu.vector.errors import VectorDeclined

LEAVE = "headrace.leave"  # operand: the condition; attribute ``when``: the value at which the program ends
SAME = "headrace.same"  # the result is the operand
_ENDS = ("tt.return", "ub.unreachable")


def one_block(function: Function) -> Function:
    """The function with one block.

    Raises:
        VectorDeclined: the blocks do not nest.
    """
    if len(function.blocks) == 1:
        return function
    body = _Blocks(function).run()
    return replace(function, blocks=[body])


def _returns(block: Block) -> bool:
    """True for a block that does nothing but return."""
    return len(block.ops) == 1 and block.ops[0].name in _ENDS


class _Blocks:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.order: dict[Block, int] = {}
        self.reach: dict[Block, frozenset[Block]] = {}
        self.done: set[Block] = set()
        self._visit(function.body, ())
        for position, block in enumerate(reversed(list(self.reach))):
            self.order[block] = position

    def _visit(self, block: Block, path: tuple[Block, ...]) -> frozenset[Block]:
        if block in path:
            raise VectorDeclined("blocks that branch backwards are not vectorised")
        if block not in self.reach:
            found = {block}
            for successor in block.ops[-1].successors:
                found |= self._visit(successor.block, (*path, block))
            self.reach[block] = frozenset(b for b in found if not _returns(b))
        return self.reach[block]

    def run(self) -> Block:
        ops = self.follow(self.function.body, None)
        return Block(self.function.body.args, [*ops, Op("tt.return")])

    def follow(self, block: Block, stop: Block | None) -> list[Op]:
        """Operations from ``block`` up to ``stop``, the branch into which becomes a ``scf.yield``."""
        ops: list[Op] = []
        while True:
            if block in self.done:
                raise VectorDeclined("blocks that do not nest are not vectorised")
            self.done.add(block)
            ops += block.ops[:-1]
            end = block.ops[-1]
            if end.name in _ENDS:
                return ops
            if end.name == "cf.br":
                step = end.successors[0]
            elif end.name == "cf.cond_br":
                chosen = self.choose(end, ops, stop)
                if chosen is None:
                    return ops
                step = chosen
            else:
                raise VectorDeclined(f"the terminator {end.name} is not vectorised")
            if step.block is stop:
                return [*ops, Op("scf.yield", list(step.operands))]
            if _returns(step.block):
                return [*ops, *self.leave(stop)]
            ops += [Op(SAME, [v], [a]) for v, a in zip(step.operands, step.block.args, strict=True)]
            block = step.block

    def leave(self, stop: Block | None) -> list[Op]:
        """End the program from within a region (at the level of the function it ends by itself)."""
        return [] if stop is None else [Op(LEAVE)]

    def choose(self, end: Op, ops: list[Op], stop: Block | None) -> Successor | None:
        """Append what a conditional branch does; the successor with which the level goes on."""
        yes, no = end.successors
        common = self.reach[yes.block] & self.reach[no.block]
        if common:
            meet = min(common, key=self.order.__getitem__)
            regions = [Block([], self.side(s, meet)) for s in (yes, no)]
            ops.append(Op("scf.if", [end.operands[0]], list(meet.args), {}, regions, end.loc))
            return Successor(meet, list(meet.args)) if meet is stop else self._into(meet, ops, stop)
        first = stop is not None and stop in self.reach[yes.block]
        second = stop is not None and stop in self.reach[no.block]
        if not first and not second:
            first = len(self.reach[yes.block]) > len(self.reach[no.block])
        going, ending, when = (yes, no, False) if first else (no, yes, True)
        if _returns(ending.block):
            ops.append(Op(LEAVE, [end.operands[0]], attrs={"when": when}, loc=end.loc))
        else:
            inside = Block([], [*self.side(ending, None), Op(LEAVE), Op("scf.yield")])
            empty = Block([], [Op("scf.yield")])
            regions = [inside, empty] if when else [empty, inside]
            ops.append(Op("scf.if", [end.operands[0]], [], {}, regions, end.loc))
        return going

    def _into(self, meet: Block, ops: list[Op], stop: Block | None) -> Successor | None:
        """Go on with a block whose arguments are defined already."""
        ops += self.follow(meet, stop)
        return None

    def side(self, successor: Successor, meet: Block | None) -> list[Op]:
        if successor.block is meet:
            return [Op("scf.yield", list(successor.operands))]
        if _returns(successor.block):
            return [Op(LEAVE), Op("scf.yield")]
        args = zip(successor.operands, successor.block.args, strict=True)
        return [*(Op(SAME, [v], [a]) for v, a in args), *self.follow(successor.block, meet)]
