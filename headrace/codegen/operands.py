"""The operands of a Spec: names, dtypes and the shapes that they must have."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.errors import OperandError
from headrace.ir.dtype import DType
from headrace.ir.expr import refs
from headrace.ir.spec import Attention, Gemm, Spec

Shape = tuple[int, ...]


def operands(spec: Spec, shapes: Sequence[Sequence[int]]) -> list[tuple[str, DType, Shape | None]]:
    """(name, dtype, shape) of every operand, in order; sizes known only at run time are those of the given
    shapes.

    Shape None: any (what the Spec leaves open, e.g. how many leading dimensions a row vector's rows have).

    Raises:
        OperandError: the first operands have another rank than the Spec needs to find its sizes.
    """
    if isinstance(spec, Gemm):
        return _gemm(spec, shapes)
    if isinstance(spec, Attention):
        return _attention(spec, shapes)
    if not shapes or not shapes[0]:
        raise OperandError("the first operand of Rows has at least one dimension")
    known = {"rn": tuple(shapes[0]), "n": (shapes[0][-1],)}
    found: list[tuple[str, DType, Shape | None]] = []
    for at, extra in enumerate(spec.inputs):
        want = known.get(extra.dims)
        if extra.dims == "r" and at < len(shapes):
            want = tuple(shapes[0][:-1])
            want = (*want, 1) if tuple(shapes[at]) == (*want, 1) else want
        elif extra.dims == "" and at < len(shapes):
            want = tuple(1 for _ in shapes[at])
        found.append((extra.name, extra.dtype, want))
    return found


def _gemm(spec: Gemm, shapes: Sequence[Sequence[int]]) -> list[tuple[str, DType, Shape | None]]:
    rank = 3 if spec.batched else 2
    if not shapes or len(shapes[0]) != rank:
        raise OperandError(
            f"the first operand of this Gemm has {rank} dimensions, not {len(shapes[0]) if shapes else 0}"
        )
    lead = tuple(shapes[0][:-1])
    batch = lead[:1] if spec.batched else ()
    found: list[tuple[str, DType, Shape | None]] = [("x", spec.x, (*lead, spec.k))]
    for w in spec.weights:
        found.append((w.name, w.dtype, (*batch, *((w.n, w.k) if w.layout == "nk" else (w.k, w.n)))))
    for extra in spec.extras:
        readers = [o for o in spec.outputs if extra.name in refs(o.expr)]
        n = spec.columns(readers[0]) if readers else None
        sizes = {"m": lead[-1], "n": n, "b": lead[0]}
        want = tuple(size for d in extra.dims if (size := sizes[d]) is not None)
        found.append((extra.name, extra.dtype, want if len(want) == len(extra.dims) else None))
    return found


def _attention(spec: Attention, shapes: Sequence[Sequence[int]]) -> list[tuple[str, DType, Shape | None]]:
    if len(shapes) < 3 or len(shapes[0]) != 4 or len(shapes[1]) != 4:
        raise OperandError("q, k and v of an Attention have four dimensions each")
    b, i, j = spec.sizes(shapes)
    sizes = {"b": b, "h": spec.heads, "i": i, "j": j}
    found: list[tuple[str, DType, Shape | None]] = [
        ("q", spec.q, (b, spec.heads, i, spec.d_k)),
        ("k", spec.k, (b, spec.k_heads, j, spec.d_k)),
        ("v", spec.v, (b, spec.v_heads, j, spec.d_v)),
    ]
    return found + [(e.name, e.dtype, tuple(sizes[d] for d in e.dims)) for e in spec.extras]
