"""Index maps: any chain of views, composed and simplified, reads what torch's views read."""

from __future__ import annotations

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.ir import index as maps
from headrace.ir import size as sizes
from headrace.ir.dtype import DType
from headrace.ir.evaluate import evaluate
from headrace.ir.graph import Graph
from headrace.ir.ops import Input, View
from headrace.ir.size import parse, symbol, text
from headrace.ir.types import TensorType, dim

S0 = symbol("s0")


def shape_of(*extents: int | sympy.Expr) -> tuple[sympy.Expr, ...]:
    return tuple(map(sympy.sympify, extents))


def index_of(source: str) -> tuple[sympy.Expr, ...]:
    return tuple(parse(part) for part in source.split(", "))


def texts(index: tuple[sympy.Expr, ...]) -> str:
    return ", ".join(map(text, index))


def read(x: torch.Tensor, index: tuple[sympy.Expr, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """x through an index map, by the evaluator."""
    graph = Graph()
    graph.add(Input(), (), TensorType.of(DType.I64, *x.shape), name="x")
    graph.outputs = (graph.add(View(index), ("x",), TensorType.of(DType.I64, *shape)).name,)
    return evaluate(graph, {"x": x})[0]


def run_steps(x: torch.Tensor, steps: list[maps.Step]) -> torch.Tensor:
    """Apply the steps as the emitter does."""
    for step in steps:
        match step:
            case ("permute", order):
                x = x.permute(*order)
            case ("reshape", shape):
                x = x.reshape([int(extent) for extent in shape])
            case ("expand", shape):
                x = x.expand([int(extent) for extent in shape])
            case ("unsqueeze", at):
                x = x.unsqueeze(at)
            case ("squeeze", at):
                x = x.squeeze(at)
            case ("select", at, place):
                x = x.select(at, int(place))
            case ("flip", dims):
                x = x.flip(*dims)
            case ("slice", at, start, stop, stride):
                x = x[(slice(None),) * at + (slice(int(start), int(stop), int(stride)),)]
            case _:
                raise AssertionError(step)
    return x


@st.composite
def view_chains(draw: st.DrawFn) -> tuple[torch.Tensor, tuple[sympy.Expr, ...], torch.Tensor]:
    """(x, the composed index map, the view by torch) of a random chain of views."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    x = torch.arange(int(torch.tensor(shape).prod())).view(shape)
    y, index = x, maps.identity(shape_of(*shape))
    for _ in range(draw(st.integers(1, 5))):
        old = y.shape
        kind = draw(st.sampled_from(["permute", "reshape", "expand", "slice", "flip", "unsqueeze", "select"]))
        axis = draw(st.integers(0, y.dim() - 1)) if y.dim() else 0
        step: tuple[sympy.Expr, ...]
        if kind == "permute":
            order = draw(st.permutations(range(y.dim())))
            y = y.permute(*order) if order else y
            step = tuple(dim(order.index(at)) for at in range(len(order)))
        elif kind == "reshape":
            left, new = y.numel(), []
            while left > 1 and len(new) < 4:
                factor = draw(st.sampled_from([f for f in range(1, left + 1) if left % f == 0]))
                new.append(factor)
                left //= factor
            new.append(left)
            y = y.reshape(new)
            step = maps.reshape(shape_of(*old), shape_of(*new))
        elif kind == "expand" and y.dim() < 5:
            y = y.unsqueeze(0).expand(2, *old)
            step = tuple(dim(at + 1) for at in range(len(old)))
        elif kind == "slice" and y.dim():
            start = draw(st.integers(0, old[axis] - 1))
            stride = draw(st.integers(1, 2))
            y = y[(slice(None),) * axis + (slice(start, None, stride),)]
            step = tuple(
                dim(at) * (stride if at == axis else 1) + (start if at == axis else 0)
                for at in range(len(old))
            )
        elif kind == "flip" and y.dim():
            y = y.flip(axis)
            step = tuple(old[at] - 1 - dim(at) if at == axis else dim(at) for at in range(len(old)))
        elif kind == "unsqueeze" and y.dim() < 5:
            y = y.unsqueeze(axis)
            step = tuple(dim(at + (at >= axis)) for at in range(len(old)))
        elif kind == "select" and y.dim() > 1:
            place = draw(st.integers(0, old[axis] - 1))
            y = y.select(axis, place)
            step = tuple(
                sympy.Integer(place) if at == axis else dim(at - (at > axis)) for at in range(len(old))
            )
        else:
            continue
        index = maps.compose(index, step, shape_of(*y.shape))
    return x, tuple(maps.simplify(expr, shape_of(*y.shape)) for expr in index), y


@settings(max_examples=300, deadline=None)
@given(view_chains())
def test_a_chain_of_views_reads_what_torch_reads(
    chain: tuple[torch.Tensor, tuple[sympy.Expr, ...], torch.Tensor],
) -> None:
    x, index, wanted = chain
    assert torch.equal(read(x, index, tuple(wanted.shape)), wanted)


@settings(max_examples=300, deadline=None)
@given(view_chains())
def test_steps_read_what_torch_reads(
    chain: tuple[torch.Tensor, tuple[sympy.Expr, ...], torch.Tensor],
) -> None:
    x, index, wanted = chain
    steps = maps.as_steps(index, shape_of(*x.shape), shape_of(*wanted.shape))
    if steps is not None:
        assert torch.equal(run_steps(x, steps), wanted)


@settings(max_examples=200, deadline=None)
@given(view_chains())
def test_index_text_is_read_back(chain: tuple[torch.Tensor, tuple[sympy.Expr, ...], torch.Tensor]) -> None:
    for expr in chain[1]:
        assert parse(text(expr)) == expr


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 12), st.integers(-30, 30), st.integers(1, 5))
def test_division_by_ranges_is_exact(extent: int, c: int, m: int, offset: int, k: int) -> None:
    """floordiv and mod with simplification equal Python's on every point of the range."""
    shape = shape_of(extent, 5)
    x = dim(0) * k + dim(1) * m + offset
    for simplified, plain in ((maps.floordiv, int.__floordiv__), (maps.mod, int.__mod__)):
        expr = simplified(x, sympy.Integer(c), shape)
        for d0 in {0, extent // 2, extent - 1}:
            for d1 in range(5):
                point = {dim(0): sympy.Integer(d0), dim(1): sympy.Integer(d1)}
                value = sizes.rebuild(expr, lambda s, point=point: point[s])
                assert int(value) == plain(d0 * k + d1 * m + offset, c)


def test_counting_back_from_the_end_stays_in_the_range_of_remainders() -> None:
    """`x.reshape(-1)[-1:]` of sizes s1, s0: torch's Mod refuses numbers below 0."""
    s1, one = symbol("s1"), shape_of(1)
    assert maps.floordiv(S0 * s1 - 1, S0, one) == s1 - 1
    assert maps.mod(S0 * s1 - 1, S0, one) == S0 - 1
    assert maps.mod(4 * S0 - 3 + dim(0), sympy.Integer(4), shape_of(3)) == dim(0) + 1
    assert maps.floordiv(4 * S0 - 3 + dim(0), sympy.Integer(4), shape_of(3)) == S0 - 1


def test_head_repeat_becomes_a_floor_division() -> None:
    """[B, 3, J, D] -> unsqueeze, expand to 3 -> reshape to 9 heads, with a symbolic number of keys."""
    wide, new = shape_of(1, 3, 3, S0, 64), shape_of(1, 9, S0, 64)
    repeat = index_of("0, d1, d3, d4")
    assert texts(maps.compose(repeat, maps.reshape(wide, new), new)) == "0, d1 // 3, d2, d3"


@pytest.mark.parametrize(
    ("old", "middle"),
    [
        ((S0, 576), (1, S0, 9, 64)),
        ((4, S0, 16), (4 * S0, 16)),
        ((S0, 12), (S0 * 4, 3)),
        ((2, S0 + 1, 6), (2, 2 * S0 + 2, 3)),
    ],
)
def test_reshape_and_back_is_the_identity(
    old: tuple[sympy.Expr, ...], middle: tuple[sympy.Expr, ...]
) -> None:
    old, middle = shape_of(*old), shape_of(*middle)
    there, back = maps.reshape(old, middle), maps.reshape(middle, old)
    assert maps.compose(there, back, old) == maps.identity(old)


def test_splitting_heads_keeps_symbolic_sizes_out_of_the_index() -> None:
    assert texts(maps.reshape(shape_of(1, S0, 576), shape_of(1, S0, 9, 64))) == "0, d1, 64*d2 + d3"


def test_dimensions_of_size_one_read_zero() -> None:
    assert maps.identity(shape_of(1, 4, 1)) == index_of("0, d1, 0")


@pytest.mark.parametrize(
    ("index", "old", "new", "kinds"),
    [
        ("d0, d1", (4, 5), (4, 5), []),
        ("d1, d0", (5, 4), (4, 5), ["permute"]),
        ("0, d2, 0, d3", (1, 9, 1, 64), (1, 1, 9, 64), ["permute"]),
        (
            "0, d1 // 3, d2, d3",
            (1, 3, 7, 4),
            (1, 9, 7, 4),
            ["squeeze", "unsqueeze", "unsqueeze", "expand", "reshape"],
        ),
        ("d0, 4*d1 + d2", (3, 8), (3, 2, 4), ["reshape"]),
        ("2*d0 + 1, d1", (9, 3), (4, 3), ["slice"]),
        ("d0, 2", (3, 5), (3,), ["select"]),
        ("-d0 + 2", (3,), (3,), ["flip"]),
        ("d1", (5,), (4, 5), ["unsqueeze", "expand"]),
    ],
)
def test_steps_are_few(index: str, old: tuple[int, ...], new: tuple[int, ...], kinds: list[str]) -> None:
    steps = maps.as_steps(index_of(index), shape_of(*old), shape_of(*new))
    assert steps is not None
    assert [step[0] for step in steps] == kinds
    x = torch.arange(int(torch.tensor(old).prod())).view(old)
    assert torch.equal(run_steps(x, steps), read(x, index_of(index), new))


def test_steps_keep_symbolic_sizes() -> None:
    steps = maps.as_steps(index_of("0, d1 // 3, d2, d3"), shape_of(1, 3, S0, 64), shape_of(1, 9, S0, 64))
    assert steps is not None
    assert steps[-1] == ("reshape", shape_of(1, 9, S0, 64))


def test_a_diagonal_has_no_steps() -> None:
    assert maps.as_steps(index_of("d0, d0"), shape_of(3, 3), shape_of(3)) is None
