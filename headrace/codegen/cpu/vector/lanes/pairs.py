"""bf16 products two at a time: ``vdpbf16ps`` multiplies pairs along k and adds them to one f32 lane.

With vectors along n the right operand is needed as P[k / 2, n], each 32-bit element holding b[k, n] and
b[k + 1, n]; the left one as a[m, k / 2], read as 32-bit broadcasts.
"""

from __future__ import annotations

from headrace.codegen.cpu.vector.context import Context, Index, Ix
from headrace.codegen.cpu.vector.expr import NONE, Buffer, Expr
from headrace.codegen.cpu.vector.reduction.accumulate import DOT


class Pairs(Expr):
    """P[k / 2, n] of a bf16 matrix b[k, n] that is contiguous along n."""

    def __init__(self, source: Expr) -> None:
        k, n = source.shape
        super().__init__((k // 2, n), "i32", frozenset({0, 1}), (source,))

    def down(self, position: int, dim: int) -> int:
        return dim if dim == 1 else NONE

    def rows(self, g: Context, index: Index, width: int, row: int) -> tuple[str, int, int]:
        """Elements of the even or the odd row of pairs: their vector, its length, and where in it they begin.

        A whole line is read for both of its halves, where its place is constant. (Where it is not, the second
        half may be beyond a bound.)
        """
        k, n = index
        base = None if k.base is None else g.mul(k.base, "2")
        start = n.off % (2 * width)
        whole = n.base is None and start % width == 0 and self.shape[1] % (2 * width) == 0
        length, first = (2 * width, start) if whole else (width, 0)
        at = (Ix(base, 2 * k.off + row), n.plus(-first))
        return self.operands[0].eval(g, at, 1, length), length, first

    def compute(self, g: Context, index: Index, dim: int, width: int, out: int) -> str:
        (even, length, first), (odd, _, _) = (self.rows(g, index, width, row) for row in (0, 1))
        order = [first + lane + length * r for lane in range(width) for r in (0, 1)]
        both = g.shuffle("i16", length, even, odd, order)
        return g.bitcast(f"<{2 * width} x i16>", both, f"<{width} x i32>")


class PairProduct(Expr):
    """The lazy product that is summed over its last dimension; only ever used through :meth:`update`."""

    def __init__(self, left: Expr, right: Expr) -> None:
        m, k = left.shape
        super().__init__((m, right.shape[1], k), "float", frozenset({0, 1, 2}), (left, right))

    def down(self, position: int, dim: int) -> int:
        return {(0, 0): 0, (0, 2): 1, (1, 1): 1, (1, 2): 0}.get((position, dim), NONE)

    def read(self, g: Context, indices: list[Index], width: int) -> None:
        """Read what updates at these indices along n will want, one row after the other."""
        pairs = self.operands[1].resolved()
        if isinstance(pairs, Pairs):
            for row in (0, 1):
                for _, n, k in indices:
                    pairs.rows(g, (k, n), width, row)

    def update(self, g: Context, acc: str, index: Index, width: int) -> str:
        """``acc`` (16 lanes along n) plus the pair at ``index``."""
        m, n, k = index
        a = self.operands[0].eval(g, (m, k), NONE, 0)
        x = g.bitcast("<16 x i32>", g.splat("i32", a, width), "<32 x bfloat>")
        y = g.bitcast("<16 x i32>", self.operands[1].eval(g, (k, n), 1, width), "<32 x bfloat>")
        return g.call(DOT, "<16 x float>", ("<16 x float>", acc), ("<32 x bfloat>", x), ("<32 x bfloat>", y))


def as_words(tile: Buffer) -> Buffer:
    """A bf16 tile, contiguous along its last dimension, as 32-bit words."""
    m, k = tile.shape
    return Buffer(tile.pointer, (m, k // 2), "i32", (tile.strides[0] // 2, 1))
