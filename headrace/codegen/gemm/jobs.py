"""Jobs: which weights a Gemm program reads together, and the tiles along N that cover them.

Outputs that read a common weight form a Job: one pass over K feeds them all. Jobs share one launch; a
program finds its job from its tile number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.codegen import expr_triton as et
from headrace.codegen.expr_triton import Code, Kind, Value
from headrace.codegen.plan import Facts, Read, cdiv, conversion
from headrace.ir.dtype import DType
from headrace.ir.expr import refs
from headrace.ir.spec import Extra, Gemm


@dataclass(frozen=True, slots=True)
class WeightArg:
    """One weight as a template sees it; `row` and `batch` are strides, `column` its place in a split-K
    partial row."""

    name: str
    transposed: bool  # stored [k, n]
    row: int
    batch: int
    column: int
    convert: Code


@dataclass(frozen=True, slots=True)
class OutputArg:
    pointer: str
    value: Code
    variable: str
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """Weights that are read together, the outputs made of them, and the tiles along N that cover them."""

    n: int
    first: int
    last: int
    block_n: int
    weights: tuple[WeightArg, ...]
    outputs: tuple[OutputArg, ...]
    reads: tuple[Read, ...]
    bound: Code  # n as text, or the variable that holds it
    even: bool

    @property
    def tiles(self) -> int:
        return self.last - self.first


def groups(spec: Gemm) -> tuple[tuple[int, ...], ...]:
    """Positions of outputs, grouped so that no weight is read by two groups, in order of first output."""
    found: list[tuple[set[int], set[str]]] = []
    for at, output in enumerate(spec.outputs):
        names = {f"acc_{w.name}" for w in spec.weights} & refs(output.expr)
        touching = [group for group in found if group[1] & names]
        merged = ({at}.union(*(g[0] for g in touching)), names.union(*(g[1] for g in touching)))
        found = [group for group in found if group not in touching] + [merged]
    return tuple(sorted(tuple(sorted(group[0])) for group in found))


def accumulators(spec: Gemm) -> int:
    """The largest number of weights that one program reads."""
    return max(len(_weights(spec, group)) for group in groups(spec))


def widths(spec: Gemm) -> tuple[int, ...]:
    """Columns of each Job."""
    return tuple(spec.weights[_weights(spec, group)[0]].n for group in groups(spec))


def _weights(spec: Gemm, group: tuple[int, ...]) -> list[int]:
    names = frozenset().union(*(refs(spec.outputs[at].expr) for at in group))
    return [at for at, w in enumerate(spec.weights) if f"acc_{w.name}" in names]


def unlike(spec: Gemm) -> bool:
    """Whether tl.dot gets float32: x is read once for all weights, and one of them is not of its type."""
    return any(w.dtype is not spec.x for w in spec.weights)


def jobs_of(spec: Gemm, facts: Facts, block_n: int, *, tile: bool) -> tuple[Job, ...]:
    """Jobs with their tile ranges; `tile` says that m and n index a 2-D tile, else a row of one m."""
    found: list[Job] = []
    columns = [sum(w.n for w in spec.weights[:at]) for at in range(len(spec.weights))]
    first, mixed = 0, unlike(spec)
    for group in groups(spec):
        members = _weights(spec, group)
        n = spec.weights[members[0]].n
        last = first + cdiv(n, block_n)
        even = n % block_n == 0
        env: dict[str, Value] = {f"acc_{w.name}": et.name(f"acc_{w.name}", Kind.FLOAT) for w in spec.weights}
        env |= {extra.name: et.name(f"{extra.name}_val", Kind.of(extra.dtype)) for extra in spec.extras}
        outputs = tuple(
            OutputArg(
                f"Y{at}",
                et.render(spec.outputs[at].expr, env).code,
                f"y{at}",
                tuple(e.name for e in spec.extras if e.name in refs(spec.outputs[at].expr)),
            )
            for at in group
        )
        used = {name for output in outputs for name in output.reads}
        weights = tuple(
            WeightArg(
                w.name, w.layout == "kn", facts.strides[at][1], facts.strides[at][0], columns[at],
                Code(".to(tl.float32)" if tile and mixed and w.dtype is not DType.F32 else ""),
            )
            for at in members
            for w in [spec.weights[at]]
        )  # fmt: skip
        reads = tuple(_read(e, n, even, tile) for e in spec.extras if e.name in used)
        found.append(Job(n, first, last, block_n, weights, outputs, reads, Code(str(n)), even))
        first = last
    return tuple(found)


def shared_loop(spec: Gemm, jobs: tuple[Job, ...]) -> Job | None:
    """One Job whose weights are variables, chosen per program, where all jobs can share one loop over K.

    Shared memory is allotted for every loop in a kernel, so on GPUs one loop for Q, K and V needs a third.
    """
    kinds = {
        tuple((spec.weights[at].dtype, spec.weights[at].layout) for at in _weights(spec, g))
        for g in groups(spec)
    }
    strides = {tuple((w.row, w.transposed, w.convert) for w in job.weights) for job in jobs}
    if len(jobs) < 2 or len(kinds) > 1 or len(strides) > 1:
        return None
    first = jobs[0]
    weights = tuple(replace(w, name=f"w_at_{at}", column=0) for at, w in enumerate(first.weights))
    even = all(job.even for job in jobs)
    return replace(first, last=jobs[-1].last, weights=weights, bound=Code("columns"), even=even)


def _read(extra: Extra, n: int, even: bool, tile: bool) -> Read:
    """The load of a contiguous extra in an epilogue."""
    text = {
        "b": "b",
        "m": "m.to(tl.int64)[:, None]" if tile else "m.to(tl.int64)",
        "n": "n[None, :]" if tile else "n",
    }
    size = {"b": "", "m": "M", "n": str(n)}
    terms = []
    for at, dim in enumerate(extra.dims):
        rest = [size[later] for later in extra.dims[at + 1 :]]
        # n M of an operand [.., n, m] may be beyond int32.
        first = text[dim].replace("n", "n.to(tl.int64)", 1) if dim == "n" and rest else text[dim]
        terms.append(" * ".join([first, *rest]))
    masks = []
    if "m" in extra.dims and tile:
        masks.append("(m < M)[:, None]")
    if "n" in extra.dims and not even:
        masks.append(f"(n < {n})[None, :]" if tile else f"(n < {n})")
    return Read(extra.name, et.total(terms), et.conjunction(masks), conversion(extra))
