"""Operands that vary along some dimensions of a kernel's domain: how they are named and shaped."""

from __future__ import annotations

import sympy

from headrace.errors import Unreadable
from headrace.ir import index as maps
from headrace.ir.dtype import DType
from headrace.ir.graph import Graph
from headrace.ir.index import Index, Shape
from headrace.ir.spec import Extra
from headrace.ir.types import dim
from headrace.passes.reading import Access, operand, typed


class Extras:
    """Collects a Spec's extras: each distinct operand once, named `e0`, `e1`, ... in order of first use.

    Args:
        graph: gets a `view` node where an operand has to be reshaped.
        shape: the domain, one size per letter.
        letters: e.g. `bmn`.
        known: extras that the Spec has already, with their operands.
    """

    def __init__(
        self,
        graph: Graph,
        shape: Shape,
        letters: str,
        known: tuple[tuple[Extra, str], ...] = (),
        limit: int = 6,
    ) -> None:
        self.graph = graph
        self.shape = shape
        self.letters = letters
        self.limit = limit
        self.found: list[tuple[Extra, str]] = list(known)

    def add(self, access: Access) -> str:
        """The name of an operand that is read at `access`, an index over the domain.

        Raises:
            Unreadable: the operand varies in a way that no subset of the domain's dimensions describes.
        """
        kind = typed(self.graph[access.node])
        if kind.dtype is DType.F64:
            raise Unreadable(f"{access.node} is float64, which kernels do not compute in")
        read = [at for at in range(len(self.shape)) if access.reads(at)]
        if kind.shape and kind.rank >= len(self.shape):
            # A dimension of size 1 counts as varying where the operand has it: one text for every M.
            read += [at for at, extent in enumerate(self.shape) if extent == 1 and read and at not in read]
        read.sort()
        table: dict[sympy.Symbol, sympy.Expr] = {dim(at): dim(new) for new, at in enumerate(read)}
        shape = tuple(self.shape[at] for at in read)
        index: Index = tuple(expr.xreplace(table) for expr in access.index)
        if access.index == maps.identity(kind.shape) and shape == kind.shape:
            index = maps.identity(shape)
        name = operand(self.graph, Access(access.node, index), shape)
        if name is None:
            raise Unreadable(
                f"{access.node} is read at {list(map(str, access.index))}, which is no plain operand"
            )
        dims = "".join(self.letters[at] for at in read)
        for extra, other in self.found:
            if other == name and extra.dims == dims:
                return extra.name
        if len(self.found) >= self.limit:
            raise Unreadable(f"more than {self.limit} extra operands")
        extra = Extra(f"e{len(self.found)}", kind.dtype, dims)
        self.found.append((extra, name))
        return extra.name
