"""Reductions over one dimension: along the vector (rows) or across vectors (columns)."""

from __future__ import annotations

from collections.abc import Callable

from headrace.codegen.cpu.vector.analysis.access import valid, vector_dim
from headrace.codegen.cpu.vector.analysis.masks import Limits
from headrace.codegen.cpu.vector.context import FLOATS, Context, Ix, vector_type
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Buffer, Expr, Shape, packed
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.lanes.pairs import PairProduct
from headrace.codegen.cpu.vector.loops import lanes, power_below, quotient, rows, upper
from headrace.codegen.cpu.vector.memory.transfer import fetch_before
from headrace.codegen.cpu.vector.reduction.accumulate import accumulate
from headrace.codegen.cpu.vector.reduction.blocks import (
    Block,
    Term,
    fold,
    is_zero,
    outside,
    row_blocks,
    share,
    store_block,
    supports_outside,
    sweep_axis,
    with_zeros,
    zeros_outside,
)
from headrace.codegen.cpu.vector.reduction.combine import Combine
from headrace.codegen.cpu.vector.schedule import Scheduler, numel

# Told which part of the work comes now, and of how many: the lines to ask for meanwhile.
Asks = Callable[[str, int], list[str]]


def reduce_tile(s: Scheduler, expr: Expr, axis: int, combine: Combine, demanded: Limits) -> Expr | str:
    """Reduce ``expr`` over ``axis``: the SSA name of a scalar, or a buffer valid up to ``demanded``."""
    g = s.g
    made = s.tee(s.prepare(expr))
    expr = expr.resolved()
    names = (valid(g, expr, axis) or ()) if supports_outside(combine) else ()
    dim = vector_dim(g, expr.shape, [expr])
    limits: Limits = {d if d < axis else d + 1: n for d, n in demanded.items()}
    result: Expr | str
    if len(expr.shape) == 1:
        result = _whole(s, expr, combine, names)
    else:
        shape = tuple(n for d, n in enumerate(expr.shape) if d != axis)
        # What is computed in vectors along ``dim`` is stored in vectors along it.
        fast = None if dim == axis else dim if dim < axis else dim - 1
        pointer = g.alloca(combine.element, numel(shape))
        result = into = Buffer(pointer, shape, combine.element, packed(shape, fast))
        if dim == axis:
            along(s, expr, axis, combine, names, limits, into, None, 1, 8)
        else:
            across(s, expr, axis, dim, combine, names, limits, into, None, 1)
    s.untee(made, {**limits, **({axis: names} if names else {})})
    return result


def _whole(s: Scheduler, expr: Expr, combine: Combine, names: tuple[str, ...]) -> str:
    g = s.g
    acc = accumulate(g, combine, expr, 0, s.uses, s.keep)
    heavy = s.cost(expr) >= 8
    sets = max(1, min(4 if heavy else 8, expr.shape[0] // acc.step))
    row = (Ix(None, 0),)
    values = sweep_axis(
        g, [Term(expr, acc)], 0, Block((row,), 1, 1), names, [acc.neutral(g)] * sets, sets, heavy
    )
    vector = fold(g, acc, values, sets, 1)
    result = g.e.pure(f"extractelement <1 x {combine.element}> {vector}, i64 0", (vector,))
    if zeros_outside(g, expr, combine, 0, names, row):
        return with_zeros(g, combine, result, names, expr.shape[0], 0)
    extra = outside(g, expr, combine, 0, names, row)
    return result if extra is None else combine.apply(g, result, extra, 0)


def along(
    s: Scheduler,
    expr: Expr,
    axis: int,
    combine: Combine,
    names: tuple[str, ...],
    limits: Limits,
    into: Buffer,
    init: Expr | None,
    m_block: int,
    n_block: int,
    asks: Asks | None = None,
) -> None:
    """Reduce along the vector into ``into`` (plus ``init``), ``m_block`` x ``n_block`` results at a time.

    ``asks``, for a product of matrices, says at each block of results what to ask for meanwhile.
    """
    g = s.g
    acc = accumulate(g, combine, expr, axis, s.uses, s.keep)
    if init is not None and combine.element not in FLOATS and is_zero(init, g):
        init = None  # of floats the sum may be minus zero, and that plus zero is zero
    heavy = s.cost(expr) >= 8
    if heavy:
        n_block = min(n_block, 4)

    def emit(block: Block) -> None:
        count = len(block.rows)
        lines = _lines(g, asks, expr.shape, axis, block, m_block, n_block) if asks is not None else []
        sets = power_below(max(1, min((4 if heavy else 16) // count, expr.shape[axis] // acc.step, 4)))
        start = [acc.neutral(g)] * (sets * count)
        values = sweep_axis(g, [Term(expr, acc)], axis, block, names, start, sets, heavy, lines=lines)
        vector = fold(g, acc, values, sets, count)
        width = 1
        while width < count:
            width *= 2
        vt = vector_type(combine.element, width)
        if zeros_outside(g, expr, combine, axis, names, block.rows[0]):
            vector = with_zeros(g, combine, vector, names, expr.shape[axis], width)
        for r, row in enumerate(block.rows):
            extra = outside(g, expr, combine, axis, names, row)
            if extra is None:
                continue
            one = g.e.pure(f"extractelement {vt} {vector}, i64 {r}", (vector,))
            merged = combine.apply(g, one, extra, 0)
            text = f"insertelement {vt} {vector}, {combine.element} {merged}, i64 {r}"
            vector = g.e.pure(text, (vector, merged))
        store_block(g, combine, vector, block, axis, into, init)

    row_blocks(g, expr.shape, axis, limits, m_block, n_block, emit)


def _lines(
    g: Context, asks: Asks, shape: Shape, axis: int, block: Block, m_block: int, n_block: int
) -> list[str]:
    """What to ask for at a whole block of a matrix; blocks are counted row by row."""
    m, n = (size for d, size in enumerate(shape) if d != axis)
    whole = (min(m_block, m), min(n_block, n))
    if (block.m, block.n) != whole:
        return []
    first = (g.index(ix) for d, ix in enumerate(block.rows[0]) if d != axis)
    row, column = (quotient(g, at, size) for at, size in zip(first, whole, strict=True))
    each = n // whole[1]
    return asks(g.add(g.mul(row, str(each)), column), m // whole[0] * each)


def across(
    s: Scheduler,
    expr: Expr,
    axis: int,
    dim: int,
    combine: Combine,
    names: tuple[str, ...],
    limits: Limits,
    into: Buffer,
    init: Expr | None,
    m_block: int,
    extent: str = "",
    asks: Asks | None = None,
) -> None:
    """Reduce with vectors along ``dim``: ``m_block`` rows times up to eight vectors of accumulators.

    ``extent`` replaces the bound of the reduced dimension that follows from ``names``. ``asks``, for a
    product of matrices, says at each step what to ask for meanwhile.
    """
    g = s.g
    e = combine.element
    width = min(g.machine.lanes, expr.shape[dim])
    vt = vector_type(e, width)
    others = [d for d in range(len(expr.shape)) if d not in (axis, dim)]
    top = expr.resolved()
    product: tuple[Expr, ...] = ()
    if (
        combine.op == "arith.addf"
        and e == "float"
        and isinstance(top, Elementwise)
        and top.op == "arith.mulf"
    ):
        product = top.operands if s.uses.get(top.uid, 1) == 1 else ()
    if init is not None and e not in FLOATS and is_zero(init, g):
        init = None
    hi = extent or upper(g, names, expr.shape[axis])
    step = min(4 if m_block == 1 else 2, expr.shape[axis])
    if not product and not isinstance(top, PairProduct) and s.cost(expr) >= 8:
        step = 1  # long computations fill the pipes alone; more side by side only take time to compile
    vectors = min(8 if m_block == 1 else 4, expr.shape[dim] // width)
    rows_of = expr.shape[others[0]] if others else 1

    def tile(block: list[list[Ix]]) -> None:
        def body(at: list[Ix], _: Values, tail: bool) -> Values:
            tag = g.tag()

            def place(row: list[Ix], ix: Ix, k: Ix) -> tuple[Ix, ...]:
                full = list(row)
                full[dim], full[axis] = ix, k
                return tuple(full)

            def soon(iv: str) -> list[str]:
                if asks is None or (len(block), len(at)) != (min(m_block, rows_of), vectors):
                    return []
                passes, steps = expr.shape[dim] // width // vectors, expr.shape[axis] // step
                row = quotient(g, g.index(block[0][others[0]]), len(block))
                part = g.add(g.mul(row, str(passes)), quotient(g, g.index(at[0]), vectors * width))
                turn = g.add(g.mul(part, str(steps)), quotient(g, iv, step))
                return asks(turn, rows_of // len(block) * passes * steps)

            def run(lo: str, end: str, count: int, carried: Values) -> Values:
                def inner(iv: str, args: Values) -> Values:
                    args = list(args)
                    lines = soon(iv) if count == step else []
                    with g.knowing([(n, tag) for n in names]):
                        for u in range(count):
                            if lines and isinstance(top, PairProduct):
                                top.read(g, [place(block[0], ix, Ix(iv, u, tag)) for ix in at], width)
                            for r, row in enumerate(block):
                                for j, ix in enumerate(at):
                                    here = place(row, ix, Ix(iv, u, tag))
                                    slot = r * len(at) + j
                                    if isinstance(top, PairProduct):
                                        args[slot] = top.update(g, args[slot], here, width)
                                    elif product:
                                        x, y = (o.eval(g, here, dim, width) for o in product)
                                        args[slot] = g.fma(e, width, x, y, args[slot])
                                    else:
                                        value = expr.eval(g, here, dim, width)
                                        args[slot] = combine.apply(g, args[slot], value, width)
                                    part = (u * len(block) + r) * len(at) + j
                                    for line in share(lines, part, count * len(block) * len(at)):
                                        args[slot] = fetch_before(g, line, e, width, args[slot])
                    return args

                return g.e.loop(lo, end, str(count), [(vt, v) for v in carried], inner)

            values = [g.splat(e, combine.identity, width)] * (len(at) * len(block))
            middle = g.floor_to(hi, step)
            values = run("0", middle, step, values)
            if step > 1 and middle != hi:
                values = run(middle, hi, 1, values)
            for r, row in enumerate(block):
                for j, ix in enumerate(at):
                    value = values[r * len(at) + j]
                    full = place(row, ix, Ix(None, 0))
                    if names:
                        value = _merge_outside(g, expr, combine, axis, dim, names, full, value, width)
                    index = tuple(i for d, i in enumerate(full) if d != axis)
                    rd = dim if dim < axis else dim - 1
                    if init is not None:
                        value = combine.apply(g, init.eval(g, index, rd, width), value, width)
                    into.put(g, index, rd, width, value)
            return []

        lanes(g, expr.shape[dim], width, limits.get(dim, ()), (), body, vectors)

    if m_block == 1 or not others:
        rows(g, expr.shape, others, limits, lambda index: tile([index]))
        return
    shape = list(expr.shape)
    shape[axis] = 1

    def emit(block: Block) -> None:
        tile([list(row) for row in block.rows])

    # Blocks of rows: the vector dimension plays no part in choosing them.
    flat = tuple(1 if d in (axis, dim) else n for d, n in enumerate(expr.shape))
    only = {d: n for d, n in limits.items() if d not in (axis, dim)}
    inner = others[-1]
    order = [*others[:-1], inner]
    assert len(order) == 1, "row blocks across vectors are for matrices"
    bound: Limits = {0: only[inner]} if inner in only else {}

    def place_rows(b: Block) -> None:
        emit(Block(tuple(_at(len(flat), inner, row[0]) for row in b.rows), b.m, b.n))

    row_blocks(g, (flat[inner], 1), 1, bound, 1, m_block, place_rows)


def _at(rank: int, dim: int, ix: Ix) -> tuple[Ix, ...]:
    return tuple(ix if d == dim else Ix(None, 0) for d in range(rank))


def _merge_outside(
    g: Context,
    expr: Expr,
    combine: Combine,
    axis: int,
    dim: int,
    names: tuple[str, ...],
    index: tuple[Ix, ...],
    value: str,
    width: int,
) -> str:
    e = combine.element
    vt = vector_type(e, width)
    beyond = expr.eval(g, index, dim, width, axis)
    zeros = [g.splat(e, z, width) for z in ("0", "0x0000000000000000")]
    if beyond in zeros and combine.op in ("arith.addf", "arith.addi"):
        return with_zeros(g, combine, value, names, expr.shape[axis], width)
    count = g.sub(str(expr.shape[axis]), upper(g, names, expr.shape[axis]))
    if combine.op == "arith.addf":
        beyond = g.op("fmul", vt, beyond, g.splat(e, g.cast("sitofp", "i64", count, e), width))
    elif combine.op == "arith.addi":
        n = count if e == "i64" else g.cast("trunc", "i64", count, e)
        beyond = g.op("mul", vt, beyond, g.splat(e, n, width))
    merged = combine.apply(g, value, beyond, width)
    return g.select("i1", g.cmp("sgt", count, "0"), vt, merged, value)
