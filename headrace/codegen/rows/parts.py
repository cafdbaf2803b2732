"""What Rows templates are filled with: loads, reductions a pass at a time, outputs; all of it Triton text.

A step is a set of reductions that do not read one another. A whole block is reduced along the row once its
pass is over (`Step`), or every block is folded into [LANES] values on the way (`LaneStep`): running values of
a softmax, which cost an exponential each, are then few. Both read the same loads, whose `col` is [BLOCK_N] in
one and [BLOCK_N / LANES, LANES] in the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen import expr_triton as et
from headrace.codegen.expr_triton import Code, Kind, Value
from headrace.codegen.plan import Buffer, Param, conversion, pointer
from headrace.codegen.rows.softmax import Pair, rewritten, rows_decided
from headrace.ir.expr import Expr, refs
from headrace.ir.spec import Extra, Reduction, Rows

IDENTITY = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")', "prod": "1.0"}
COMBINE = {"sum": "{0} + {1}", "prod": "{0} * {1}"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """An input's load: `<name>_val = <load>`; `varies` where it differs along the row."""

    name: str
    load: Code
    varies: bool


@dataclass(frozen=True, slots=True)
class ReductionArg:
    """A reduction: its value per element, the text that folds a new block into `<name>_acc`, how an axis is
    reduced."""

    name: str
    value: Code
    identity: Code
    fold: Code
    function: str


@dataclass(frozen=True, slots=True)
class Step:
    """Reductions of one pass over the row, and the inputs that they read."""

    reductions: tuple[ReductionArg, ...]
    loads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LaneReduction:
    """As ReductionArg, for [LANES]: how a whole block enters `<name>_acc`, and how the last, partial one."""

    name: str
    identity: Code
    fold: Code
    tail: Code
    function: str


@dataclass(frozen=True, slots=True)
class LaneStep:
    """One pass over the row, folded into lanes; `score` and `tail_score` of the softmax where it is in it."""

    reductions: tuple[LaneReduction, ...]
    loads: tuple[str, ...]
    score: Code
    tail_score: Code

    @property
    def values(self) -> int:
        """How many numbers a chunk of a row leaves."""
        return len(self.reductions) + (2 if self.score else 0)


@dataclass(frozen=True, slots=True)
class RowOutput:
    pointer: str
    variable: str
    value: Code
    reduced: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """How a template spells a Rows.

    Attributes:
        several: a program has BLOCK_R rows, else one.
        even: every block is whole.
        static: the row's length is part of the code, else the parameter N; `length` is it, or a bound of it.
        pair: the softmax, where its arithmetic is to be used.
    """

    spec: Rows
    several: bool
    even: bool
    static: bool
    length: int
    pair: Pair | None

    @property
    def row(self) -> str:
        return "row[:, None]" if self.several else "row"

    @property
    def col(self) -> str:
        return "col[None, :]" if self.several else "col"

    @property
    def column(self) -> Code:
        """The test that an element is inside of its row; empty where all are."""
        return Code("" if self.even else ("(col < N)[None, :]" if self.several else "col < N"))

    @property
    def mask(self) -> Code:
        """The test that an element of the tile exists."""
        guards = ["(row < R)[:, None]"] if self.several else []
        if not self.even:
            guards.append(f"(col < N){'[None, :]' if self.several else ''}")
        return et.conjunction(guards)

    @property
    def decided(self) -> frozenset[str]:
        return rows_decided(self.spec)

    @property
    def varying(self) -> frozenset[str]:
        return frozenset(extra.name for extra in self.spec.inputs if "n" in extra.dims)

    def written(self, expr: Expr) -> Expr:
        return expr if self.pair is None else rewritten(expr, self.pair, self.varying)

    def env(self) -> dict[str, Value]:
        found = {e.name: et.name(f"{e.name}_val", Kind.of(e.dtype)) for e in self.spec.inputs}
        index = "[:, None]" if self.several else ""
        found |= {
            r.name: et.name(f"{r.name}_red", Kind.FLOAT, index=index, peak=r.kind == "max")
            for r in self.spec.reductions
        }
        if self.pair is not None:
            found[self.pair.inverse] = et.name("per_total", Kind.FLOAT, index=index)
        found["count"] = et.literal(float(self.length)) if self.static else et.name("count", Kind.FLOAT)
        return found

    def loads(self) -> tuple[Loaded, ...]:
        return tuple(self._load(extra) for extra in self.spec.inputs)

    def _load(self, extra: Extra) -> Loaded:
        name, convert = f"{extra.name}_ptr", conversion(extra)
        if extra.dims == "":
            return Loaded(extra.name, Code(f"tl.load({name}){convert}"), False)
        if extra.dims == "r":
            mask = ", mask=(row < R)[:, None], other=0" if self.several else ""
            return Loaded(extra.name, Code(f"tl.load({name} + {self.row}{mask}){convert}"), False)
        if extra.dims == "n":
            mask = f", mask={self.column}, other=0" if self.column else ""
            return Loaded(extra.name, Code(f"tl.load({name} + {self.col}{mask}){convert}"), True)
        mask = f", mask={self.mask}, other=0" if self.mask else ""
        return Loaded(extra.name, Code(f"tl.load({name} + {self.row} * N + {self.col}{mask}){convert}"), True)

    def step(self, reductions: tuple[Reduction, ...], shape: str) -> Step:
        """Reductions of whole blocks of `shape`."""
        env = self.env()
        args = tuple(self._reduction(r, env, shape) for r in reductions)
        return Step(args, self.read(*(r.expr for r in reductions)))

    def lane_step(self, reductions: tuple[Reduction, ...], *, pair: bool) -> LaneStep:
        """Reductions of blocks folded into lanes, with the softmax pair or without."""
        env, shape = self.env(), "[BLOCK_N // LANES, LANES]"
        args = tuple(_lane_reduction(r, self._reduced(r, env, shape)) for r in reductions)
        exprs = [r.expr for r in reductions]
        score = tail = Code("")
        if pair:
            assert self.pair is not None
            exprs.append(self.pair.score)
            score = Code(self._value(self.pair.score, env, shape, apart=True))
            tail = _inside(score, IDENTITY["max"])
        return LaneStep(args, self.read(*exprs), score, tail)

    def read(self, *exprs: Expr) -> tuple[str, ...]:
        """The inputs that differ along the row and are read by any of the expressions."""
        names = frozenset().union(*(refs(expr) for expr in exprs))
        return tuple(e.name for e in self.spec.inputs if e.name in names and "n" in e.dims)

    def outputs(self, shape: str) -> tuple[RowOutput, ...]:
        env = self.env()
        # A value per row is stored from [BLOCK_R]: reductions without their column index.
        narrow = env | {r.name: et.name(f"{r.name}_red", Kind.FLOAT) for r in self.spec.reductions}
        narrow |= {
            e.name: et.name(f"{e.name}_row", Kind.of(e.dtype)) for e in self.spec.inputs if e.dims == "r"
        }
        if self.pair is not None:
            narrow[self.pair.inverse] = et.name("per_total", Kind.FLOAT)
        found = []
        for at, output in enumerate(self.spec.outputs):
            reduced = at in self.spec.reduced
            value = et.render(self.written(output.expr), narrow if reduced else env)
            filled = et.filled(value, ("[BLOCK_R]" if self.several else "[]") if reduced else shape)
            found.append(RowOutput(f"Y{at}", f"y{at}", filled, reduced))
        return tuple(found)

    def context(self) -> dict[str, object]:
        """What every Rows template reads."""
        every, inputs = self.every, self.spec.inputs
        full = [o.expr for at, o in enumerate(self.spec.outputs) if at not in self.spec.reduced]
        per_row = [e.name for e in inputs if e.dims == "r" and self.spec.reduced and e.name in every]
        return {
            "several": self.several, "static": self.static, "n": self.length,
            "loads": {load.name: load for load in self.loads()},
            "once": [e.name for e in inputs if "n" not in e.dims and e.name in every],
            "whole": [e.name for e in inputs if "n" in e.dims and e.name in every],
            "final": self.read(*full), "per_row": per_row, "mask": self.mask, "row_index": Code(self.row),
            "col_index": Code(self.col), "column": self.column,
            "needs_count": not self.static and "count" in every, "axis": 1 if self.several else 0,
            "top_name": self.pair.top if self.pair is not None else "",
            "total_name": self.pair.total if self.pair is not None else "",
            "inverse": self.pair is not None and self.pair.inverse in self.every,
        }  # fmt: skip

    @property
    def every(self) -> frozenset[str]:
        """All names that are read."""
        exprs = [o.expr for o in self.spec.outputs] + [r.expr for r in self.spec.reductions]
        return frozenset().union(*(refs(self.written(expr)) for expr in exprs))

    def params(self) -> tuple[list[Param], list[Param], list[Param]]:
        """Of a kernel: inputs, outputs, sizes."""
        inputs = [pointer(f"{e.name}_ptr", e.dtype, f"{e.name}_t") for e in self.spec.inputs]
        outputs = [pointer(f"Y{at}", o.dtype, f"y{at}") for at, o in enumerate(self.spec.outputs)]
        return inputs, outputs, [Param("R", "i32", "R"), *([] if self.static else [Param("N", "i32", "N")])]

    def host_sizes(self) -> tuple[tuple[str, str], ...]:
        first = f"{self.spec.inputs[0].name}_t"
        rows = f"{first}.numel() // {self.length if self.static else '(N or 1)'}"
        return (("shape", f"{first}.shape"), ("N", "shape[-1]"), ("R", rows))

    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(
            Buffer(f"y{at}", o.dtype, ("*shape[:-1]",) if at in self.spec.reduced else ("*shape",))
            for at, o in enumerate(self.spec.outputs)
        )

    def _reduced(self, reduction: Reduction, env: Mapping[str, Value], shape: str) -> str:
        """What a reduction reads of an element."""
        return self._value(reduction.expr, env, shape, decides=reduction.name in self.decided)

    def _value(
        self, expr: Expr, env: Mapping[str, Value], shape: str, *, apart: bool = False, decides: bool = False
    ) -> str:
        """A value per element, in float32; with `apart` it is subtracted from in the template."""
        value = et.as_float(et.render(self.written(expr), env, decides=decides))
        if apart:
            value = et.rounded_product(value)
        if not refs(expr) & self.varying:
            return f"tl.zeros({shape}, dtype=tl.float32) + {value.text}"
        return str(et.filled(value, shape))

    def _reduction(self, reduction: Reduction, env: Mapping[str, Value], shape: str) -> ReductionArg:
        text = self._reduced(reduction, env, shape)
        identity = IDENTITY[reduction.kind]
        if self.column:
            text = f"tl.where({self.column}, {text}, {identity})"
        acc = f"{reduction.name}_acc"
        folded = combined(reduction.kind, acc, text)
        return ReductionArg(reduction.name, Code(text), Code(identity), folded, f"reduce_{reduction.kind}")


def combined(kind: str, left: str, right: str) -> Code:
    """Two partial reductions as one."""
    if kind in COMBINE:
        return Code(COMBINE[kind].format(left, f"({right})" if kind == "prod" else right))
    fn = {"max": "maximum", "min": "minimum"}[kind]
    return Code(f"tl.{fn}({left}, {right}, propagate_nan=tl.PropagateNan.ALL)")


def _inside(text: str, otherwise: str) -> Code:
    return Code(f"tl.where(col < N, {text}, {otherwise})")


def _lane_reduction(reduction: Reduction, text: str) -> LaneReduction:
    kind, identity = reduction.kind, IDENTITY[reduction.kind]
    acc = f"{reduction.name}_acc"

    def folded(value: str) -> Code:
        return combined(kind, acc, f"hr.reduce_{kind}({value}, axis=0)")

    return LaneReduction(
        reduction.name, Code(identity), folded(text), folded(_inside(text, identity)), f"reduce_{kind}"
    )


def steps(spec: Rows, pair: Pair | None = None) -> tuple[tuple[Reduction, ...], ...]:
    """Reductions in order, a new step wherever one reads a reduction of the step before it.

    With a softmax pair, which one pass yields, the others only: the pair belongs to the first step.
    """
    found: list[list[Reduction]] = [[]] if pair is not None else []
    at: dict[str, int] = {} if pair is None else {pair.top: 0, pair.total: 0}
    for reduction in spec.reductions:
        if reduction.name in at:
            continue
        level = 1 + max((at[name] for name in refs(reduction.expr) if name in at), default=-1)
        at[reduction.name] = level
        while len(found) <= level:
            found.append([])
        found[level].append(reduction)
    return tuple(tuple(step) for step in found)
