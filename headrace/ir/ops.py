"""The ops of the IR: few and mathematical. An op is a declaration: a class of attributes with a meaning.

| op        | result                                                                                  |
|-----------|-----------------------------------------------------------------------------------------|
| `input`   | a graph input                                                                            |
| `size`    | a symbolic size as an i64 scalar                                                         |
| `view`    | y[d] = x[index(d)]: permute, expand, slice, reshape, flip; never copies by itself         |
| `map`     | y[d] = expr(x0[d], x1[d], ..., d0, d1, ...): pointwise, constants and iota included       |
| `reduce`  | y = kind over axes of x: sum max min prod any all argmax argmin                          |
| `contract`| an einsum of two operands                                                                |
| `scan`    | an inclusive prefix sum, product or maximum along one axis                               |
| `gather`  | y[.., i.., ..] = x[.., index[i..], ..] along one axis                                    |
| `scatter` | x with values written (or added) at index[i..] along one axis                            |
| `extern`  | an FX node kept verbatim                                                                 |
| `kernel`  | a fused region described by a Spec                                                       |
| `item`    | one result of an `extern` or `kernel` that has several                                   |

Rounding is explicit: a `map` whose expression ends in `cast:bf16` rounds, nothing else does. Results of
`reduce` and `contract` accumulate in float32 (float64 for float64) and have the dtype of their node's type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import sympy

from headrace.ir.expr import Expr
from headrace.ir.spec import Spec

REDUCE_KINDS = ("sum", "max", "min", "prod", "any", "all", "argmax", "argmin")
SCAN_KINDS = ("sum", "prod", "max")


@dataclass(frozen=True, slots=True)
class Input:
    """A graph input; its node's name is its name."""

    mnemonic: ClassVar[str] = "input"


@dataclass(frozen=True, slots=True)
class Size:
    """A symbolic integer (a SymInt input or an expression over sizes) as an i64 scalar tensor."""

    expr: sympy.Expr

    mnemonic: ClassVar[str] = "size"


@dataclass(frozen=True, slots=True)
class View:
    """y[d0, d1, ...] = x[index[0], index[1], ...]: over d0, ... and sizes, one per dimension of x."""

    index: tuple[sympy.Expr, ...]

    mnemonic: ClassVar[str] = "view"


@dataclass(frozen=True, slots=True)
class Map:
    """y[d] = expr over `x0`, `x1`, ... (the operands at d, all of y's shape) and `d0`, ... (indices)."""

    expr: Expr

    mnemonic: ClassVar[str] = "map"


@dataclass(frozen=True, slots=True)
class Reduce:
    """Reduce `axes` (sorted, non-negative; removed from the shape) by `kind`."""

    kind: str
    axes: tuple[int, ...]

    mnemonic: ClassVar[str] = "reduce"


@dataclass(frozen=True, slots=True)
class Contract:
    """An einsum of two operands, e.g. `bik,bjk->bij`."""

    equation: str

    mnemonic: ClassVar[str] = "contract"


@dataclass(frozen=True, slots=True)
class Scan:
    """An inclusive scan along `axis`, optionally from the end."""

    kind: str
    axis: int
    reverse: bool = False

    mnemonic: ClassVar[str] = "scan"


@dataclass(frozen=True, slots=True)
class Gather:
    """operands (x, index): dimension `axis` of x is replaced by the dimensions of the integers `index`."""

    axis: int

    mnemonic: ClassVar[str] = "gather"


@dataclass(frozen=True, slots=True)
class Scatter:
    """operands (x, index, values): x with x[.., index[i..], ..] = values (added when `accumulate`)."""

    axis: int
    accumulate: bool = False

    mnemonic: ClassVar[str] = "scatter"


@dataclass(frozen=True, slots=True)
class Extern:
    """An FX node that the IR does not model; `target` is its operator's name. Tensor operands, in order."""

    target: str

    mnemonic: ClassVar[str] = "extern"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A region that one generated kernel computes; operands in the order that the Spec states."""

    spec: Spec

    mnemonic: ClassVar[str] = "kernel"


@dataclass(frozen=True, slots=True)
class Item:
    """Result number `at` of an operand with several results."""

    at: int

    mnemonic: ClassVar[str] = "item"


Op = Input | Size | View | Map | Reduce | Contract | Scan | Gather | Scatter | Extern | Kernel | Item
