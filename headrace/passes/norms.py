"""Upper bounds that follow from the graph alone: of elements, and of L2 norms along the last axis.

Normalised queries and keys have bounded products: |q . k| <= |q| |k|. A norm is known after

    x * rsqrt(mean(x^2) + eps)         |y| <= sqrt(D)         RMS norm without weights
    x / max(|x|, eps)                  |y| <= 1               L2 norm
    x * cos(t) + rotated(x) * sin(t)   |y| <= sqrt(2) |x|     rotary embedding

and through casts, factors of bounded size, sums, and views that keep features together. A weight is an input,
which may be anything, so a norm with weights proves nothing. Everything that is not recognised is unbounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

from headrace.ir.dtype import DType
from headrace.ir.expr import Call, Expr, Ref, conversion
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import Extern, Input, Map, Reduce, Size, View
from headrace.ir.types import dim
from headrace.passes.algebra import bare, number, tidy
from headrace.passes.intervals import ANYTHING, UNIT, Interval, bounds
from headrace.passes.reading import typed

# Below it, squares of float32 underflow to zero and a norm computed from them says nothing.
_SMALLEST_EPSILON = 1e-24
# Rounding on the way: of x before it is squared, of the mean, and of the result, all to bfloat16 at worst.
_ROUNDING = 1.02
_F16_LARGEST = 65504.0
_LOOKED_THROUGH = (DType.BF16, DType.F16, DType.F32)
_DEEPEST = 64  # nodes between an operand and what bounds it


@dataclass
class Norms:
    """Bounds in one graph, each computed once; recursion stops at whatever is not pointwise."""

    graph: Graph
    _norms: dict[str, float | None] = field(default_factory=dict)
    _intervals: dict[str, Interval] = field(default_factory=dict)
    _depth: int = 0

    def norm(self, name: str) -> float | None:
        """A bound of the L2 norm of every row along the last axis of a value; None where none is known."""
        if name not in self._norms:
            if self._depth >= _DEEPEST:
                return None
            self._depth += 1
            found = [each for each in self._candidates(self.graph[name]) if each is not None]
            self._depth -= 1
            best = min(found, default=math.inf)
            self._norms[name] = best if math.isfinite(best) else None
        return self._norms[name]

    def _candidates(self, node: Node) -> list[float | None]:
        if node.type is None or not node.type.shape or not node.type.dtype.is_floating:
            return [None]
        found: list[float | None] = []
        last = node.type.shape[-1]
        magnitude = self.interval(node.name).magnitude
        if last.is_Integer and math.isfinite(magnitude):
            found.append(math.sqrt(int(last)) * magnitude)
        if isinstance(node.op, View):
            found.append(self.norm(node.operands[0]) if self._keeps_features(node) else None)
        elif isinstance(node.op, Extern):
            found.append(self._joint(list(node.operands)) if self._joins_features(node) else None)
        elif isinstance(node.op, Map):
            found += [self._normalised(node), self._rotated(node)]
            env = {f"x{at}": name for at, name in enumerate(node.operands)}
            found.append(self._expression(node.op.expr, env))
        return found

    def _keeps_features(self, node: Node) -> bool:
        """Whether a row of a view holds distinct elements of one row of its source."""
        assert isinstance(node.op, View)
        if not node.op.index:
            return False  # one number, repeated: as many times as the row is long
        last = dim(typed(node).rank - 1)
        *others, feature = node.op.index
        if any(last in index.free_symbols for index in others):
            return False
        rest = (feature - last).expand()
        flipped = (feature + last).expand()
        return last not in rest.free_symbols or last not in flipped.free_symbols

    def _joins_features(self, node: Node) -> bool:
        """Whether an extern is a concatenation of all its operands along the last axis."""
        assert isinstance(node.op, Extern)
        if not node.op.target.startswith("aten.cat") or not node.operands:
            return False
        shape = typed(node).shape
        shapes = [typed(operand).shape for operand in self.graph.operands(node)]
        same = all(other[:-1] == shape[:-1] and len(other) == len(shape) for other in shapes)
        return same and sum(other[-1] for other in shapes) == shape[-1]

    def _joint(self, names: list[str]) -> float | None:
        """A bound of the norm of rows laid side by side: disjoint slices of one value are no more than it."""
        total = 0.0
        groups: dict[object, list[tuple[str, int, int]]] = {}
        for name in names:
            source = self._slice(name)
            if source is None:
                groups[(name, len(groups))] = [(name, 0, 0)]
            else:
                groups.setdefault(source[0], []).append((name, source[1], source[2]))
        for key, parts in groups.items():
            parts.sort(key=lambda part: part[1])
            disjoint = all(a + length <= b for (_, a, length), (_, b, _) in pairwise(parts))
            if disjoint and len(parts) > 1 and isinstance(key, tuple):
                whole = self.norm(str(key[0]))
                if whole is not None:
                    total += whole**2
                    continue
            for name, _, _ in parts:
                part = self.norm(name)
                if part is None:
                    return None
                total += part**2
        return math.sqrt(total)

    def _slice(self, name: str) -> tuple[object, int, int] | None:
        """((source, other indices), first, length) of a slice of features, its sign aside."""
        node = self._core(self.graph[name], signs=True)
        if not isinstance(node.op, View) or not self._keeps_features(node):
            return None
        last = typed(node).shape[-1]
        first = (node.op.index[-1] - dim(typed(node).rank - 1)).expand()
        if not (last.is_Integer and first.is_Integer):
            return None
        return (node.operands[0], node.op.index[:-1]), int(first), int(last)

    def _core(self, node: Node, *, signs: bool = False) -> Node:
        """What a value was before casts (and changes of sign) to and from types of float32's range."""
        while isinstance(node.op, Map) and len(node.operands) == 1:
            expr = self._plain(node)
            if signs and isinstance(expr, Call) and expr.fn == "neg":
                expr = expr.args[0]
            if expr != Ref("x0") or typed(node).dtype is DType.F16:
                break
            node = self.graph[node.operands[0]]
        return node

    def _plain(self, node: Node) -> Expr:
        """A map's expression without roundings."""
        assert isinstance(node.op, Map)
        dtypes = {f"x{at}": typed(operand).dtype for at, operand in enumerate(self.graph.operands(node))}
        return tidy(bare(node.op.expr, dtypes), dtypes)

    # Elements

    def interval(self, name: str) -> Interval:
        """What every element of a value stays within."""
        if name not in self._intervals:
            if self._depth >= _DEEPEST:
                return ANYTHING
            self._depth += 1
            self._intervals[name] = self._interval(self.graph[name])
            self._depth -= 1
        return self._intervals[name]

    def _interval(self, node: Node) -> Interval:
        match node.op:
            case Input() if node.type is not None and node.type.dtype is DType.BOOL:
                return UNIT
            case Size():
                return Interval(0.0)
            case View():
                return self.interval(node.operands[0])
            case Map(expr=expr):
                env = {f"x{at}": self.interval(operand) for at, operand in enumerate(node.operands)}
                for at, extent in enumerate(typed(node).shape):
                    top = float(extent) - 1.0 if extent.is_Integer else math.inf
                    env[f"d{at}"] = Interval(0.0, max(top, 0.0))
                return bounds(expr, env)
            case Reduce(kind="max" | "min"):
                return self.interval(node.operands[0])
            case Extern(target=target) if target.startswith("aten.cat") and node.operands:
                found = self.interval(node.operands[0])
                for operand in node.operands[1:]:
                    found = found.union(self.interval(operand))
                return found
        return ANYTHING

    # Rows

    def _expression(self, expr: Expr, env: dict[str, str]) -> float | None:
        """The norm of an expression over values of one shape."""
        if isinstance(expr, Ref):
            return self.norm(env[expr.name]) if expr.name in env else None
        if not isinstance(expr, Call):
            return None
        converted = conversion(expr)
        if expr.fn in ("neg", "abs") or (converted is not None and converted[1] in _LOOKED_THROUGH):
            found = self._expression(expr.args[0], env)
            if found is None or (
                converted is not None and converted[1] is DType.F16 and found > _F16_LARGEST
            ):
                return None
            return found * (1.0 if converted is None else 1.0 + 2.0**-8)
        if expr.fn in ("add", "sub"):
            one, other = (self._expression(arg, env) for arg in expr.args)
            return None if one is None or other is None else one + other
        if expr.fn in ("mul", "div"):
            sides = [(expr.args[0], expr.args[1])]
            if expr.fn == "mul":
                sides.append((expr.args[1], expr.args[0]))
            intervals = {name: self.interval(value) for name, value in env.items()}
            found_norms = []
            for row, factor in sides:
                whole = self._expression(row, env)
                given = factor if expr.fn == "mul" else Call("reciprocal", (factor,))
                most = bounds(given, intervals).magnitude
                if whole is not None and math.isfinite(most):
                    found_norms.append(whole * most)
            return min(found_norms, default=None)
        return None

    def _normalised(self, node: Node) -> float | None:
        """1 / sqrt(c) where a map is x * rsqrt(r) or x / sqrt(r) with r >= c * sum(x^2) along its rows."""
        expr = self._plain(node)
        if not (isinstance(expr, Call) and expr.fn in ("mul", "div") and len(node.operands) == 2):
            return None
        if set(expr.args) != {Ref("x0"), Ref("x1")} or (expr.fn == "div" and expr.args[0] != Ref("x0")):
            return None
        orders = [(0, 1), (1, 0)] if expr.fn == "mul" else [(0, 1)]
        for x, r in orders:
            least = self._least(node.operands[r], node.operands[x], inverse=expr.fn == "mul")
            if least is not None:
                return _ROUNDING / math.sqrt(least)
        return None

    def _least(self, name: str, x: str, *, inverse: bool) -> float | None:
        """c where a value, constant along rows, is at least sqrt(c sum(x^2)), or at most one over that.

        Walks from the factor up to the sum, over one-operand maps and views that add or drop dimensions.
        """
        steps: list[Expr] = []
        node = self.graph[name]
        rank = typed(self.graph[x]).rank
        index = tuple(dim(at) for at in range(rank))
        shape = typed(self.graph[x]).shape
        index = tuple(i if extent != 1 else i * 0 for i, extent in zip(index, shape, strict=True))
        while not isinstance(node.op, Reduce):
            if isinstance(node.op, View):
                table = {dim(at): place for at, place in enumerate(index)}
                index = tuple(place.xreplace(table) for place in node.op.index)
            elif isinstance(node.op, Map) and len(node.operands) == 1 and typed(node).dtype is not DType.F16:
                steps.append(self._plain(node))
            else:
                return None
            node = self.graph[node.operands[0]]
        if node.op.kind != "sum" or typed(node).dtype is DType.F16 or not self._squares(node, x):
            return None
        wanted = tuple(dim(at) if extent != 1 else dim(at) * 0 for at, extent in enumerate(shape[:-1]))
        if index != wanted:
            return None
        return _lower(steps[::-1], inverse)

    def _squares(self, node: Node, x: str) -> bool:
        """Whether a sum runs over the squares of the rows of x."""
        assert isinstance(node.op, Reduce)
        source = self._core(self.graph[node.operands[0]])
        if node.op.axes != (typed(source).rank - 1,) or not isinstance(source.op, Map):
            return False
        if typed(source).dtype is DType.F16:
            return False
        expr = self._plain(source)
        square = isinstance(expr, Call) and expr.fn == "mul"
        if not square or len(source.operands) != 1:
            return False
        assert isinstance(expr, Call)
        bases = [arg.args[0] if isinstance(arg, Call) and arg.fn == "abs" else arg for arg in expr.args]
        base = self._core(self.graph[source.operands[0]])
        return bases == [Ref("x0"), Ref("x0")] and base.name == self._core(self.graph[x]).name

    def _rotated(self, node: Node) -> float | None:
        """The norm of a * cos(t) + b * sin(t) of one t: at most that of a and b side by side."""
        expr = self._plain(node)
        if not (
            isinstance(expr, Call) and expr.fn in ("add", "sub") and set(expr.args) == {Ref("x0"), Ref("x1")}
        ):
            return None
        rows, waves = [], []
        for operand in self.graph.operands(node):
            product = self._core(operand)
            if not isinstance(product.op, Map) or self._plain(product) != Call("mul", (Ref("x0"), Ref("x1"))):
                return None
            for row, wave in (product.operands, product.operands[::-1]):
                angle = self._wave(self._core(self.graph[wave], signs=True))
                if angle is not None:
                    rows.append(row)
                    waves.append(angle)
                    break
        if sorted(fn for fn, _ in waves) != ["cos", "sin"] or waves[0][1] != waves[1][1]:
            return None
        joint = self._joint(rows)
        return None if joint is None else joint * _ROUNDING

    def _wave(self, node: Node) -> tuple[str, object] | None:
        """(cos or sin, what identifies its angle at each element)."""
        node = self._core(node, signs=True)
        if isinstance(node.op, View):
            found = self._wave(self.graph[node.operands[0]])
            return None if found is None else (found[0], (node.op.index, typed(node).shape, found[1]))
        if isinstance(node.op, Extern) and self._joins_features(node):
            parts = [self._wave(operand) for operand in self.graph.operands(node)]
            names = {part[0] for part in parts if part is not None}
            if None in parts or len(names) != 1:
                return None
            return names.pop(), tuple(part[1] for part in parts if part is not None)
        if isinstance(node.op, Map) and len(node.operands) == 1:
            expr = self._plain(node)
            if isinstance(expr, Call) and expr.fn in ("cos", "sin"):
                return expr.fn, (str(expr.args[0]), node.operands[0])
        return None


def _lower(steps: list[Expr], inverse: bool) -> float | None:
    """c of r >= c sum(x^2) + eps, following r from the sum through maps of one operand.

    They end with a root or, for a factor, with the inverse of one. None where a step is not understood, and
    where eps does not keep tiny rows, whose squares underflow, from being blown up.
    """
    least, epsilon, root, flipped = 1.0, 0.0, False, False
    for step in steps:
        for fn, value in _parts(step):
            if flipped:  # after the inverse a step would be a factor of the row
                return None
            if fn in ("mul", "div") and value is not None and value > 0 and not root:
                factor = value if fn == "mul" else 1.0 / value
                least, epsilon = least * factor, epsilon * factor
            elif fn == "add" and value is not None and value >= 0:
                epsilon = epsilon + value if not root else epsilon + value**2
            elif fn == "maximum" and value is not None and value >= 0:
                epsilon = max(epsilon, value if not root else value**2)
            elif fn == "sqrt" and not root:
                root = True
            elif fn == "rsqrt" and not root:
                root = flipped = True
            elif fn == "reciprocal" and root:
                flipped = True
            else:
                return None
    return least if root and flipped == inverse and epsilon >= _SMALLEST_EPSILON else None


def _parts(expr: Expr) -> list[tuple[str, float | None]]:
    """A map of one operand as steps, innermost first; an unknown one ends in a step of no name."""
    if expr == Ref("x0"):
        return []
    if isinstance(expr, Call) and len(expr.args) == 1:
        return [*_parts(expr.args[0]), (expr.fn, None)]
    if isinstance(expr, Call) and len(expr.args) == 2 and number(expr.args[1]) is not None:
        return [*_parts(expr.args[0]), (expr.fn, number(expr.args[1]))]
    return [("", None)]
