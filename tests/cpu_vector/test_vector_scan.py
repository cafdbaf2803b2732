"""Scans and reductions with any combine function, against the reference lowering."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from vector_support import against_reference, ttir_of

from headrace.codegen.cpu.parse import parse
from headrace.codegen.cpu.ttir import walk
from headrace.codegen.cpu.vector.analysis.commute import commutes


@triton.jit
def _add(a, b):
    return a + b


@triton.jit
def _linear(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@triton.jit
def _welford(m1, s1, w1, m2, s2, w2):
    delta = m2 - m1
    w = w1 + w2
    ratio = tl.where(w == 0.0, 0.0, w2 / w)
    return m1 + delta * ratio, s1 + s2 + delta * delta * w1 * ratio, w


@triton.jit
def _last(a, b):
    return b


@triton.jit
def _sums(x, o, R: tl.constexpr, C: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr, OP: tl.constexpr):
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    v = tl.load(x + at)
    if OP == "sum":
        r = tl.cumsum(v, AXIS, reverse=BACK)
    elif OP == "prod":
        r = tl.cumprod(v, AXIS, reverse=BACK)
    elif OP == "last":
        r = tl.associative_scan(v, AXIS, _last, reverse=BACK)
    else:
        r = tl.associative_scan(v, AXIS, _add, reverse=BACK)
    tl.store(o + at, r)


@triton.jit
def _recurrence(a, b, o, n, R: tl.constexpr, C: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr):
    r, c = tl.arange(0, R)[:, None], tl.arange(0, C)[None, :]
    m = (r < n) & (c < C - 3)
    x = tl.load(a + r * C + c, mask=m, other=1.0)
    y = tl.exp(tl.load(b + r * C + c, mask=m, other=0.0))
    p, q = tl.associative_scan((x, y), AXIS, _linear, reverse=BACK)
    tl.store(o + r * C + c, p + q, mask=m)


@triton.jit
def _lengths(x, o, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(o + i, tl.cumsum(tl.load(x + i), 0))


@triton.jit
def _extremes(
    x, v, i, R: tl.constexpr, C: tl.constexpr, AXIS: tl.constexpr, LEFT: tl.constexpr, OP: tl.constexpr
):
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    t = tl.load(x + at)
    if OP == "max":
        a, b = tl.max(t, AXIS, return_indices=True, return_indices_tie_break_left=LEFT)
    else:
        a, b = tl.min(t, AXIS, return_indices=True, return_indices_tie_break_left=LEFT)
    k = tl.arange(0, C if AXIS == 0 else R)
    tl.store(v + k, a)
    tl.store(i + k, b)


@triton.jit
def _argmax(x, o, N: tl.constexpr):
    tl.store(o, tl.argmax(tl.load(x + tl.arange(0, N)), 0))


@triton.jit
def _moments(x, o, n, R: tl.constexpr, C: tl.constexpr, AXIS: tl.constexpr):
    r, c = tl.arange(0, R)[:, None], tl.arange(0, C)[None, :]
    m = c < n
    v = tl.load(x + r * C + c, mask=m, other=0.0).to(tl.float32)
    w = tl.where(m, 1.0, 0.0) + tl.zeros((R, C), tl.float32)
    mean, square, weight = tl.reduce((v, v * 0.0, w), AXIS, _welford)
    k = tl.arange(0, C if AXIS == 0 else R)
    size: tl.constexpr = C if AXIS == 0 else R
    tl.store(o + k, mean)
    tl.store(o + size + k, square)
    tl.store(o + 2 * size + k, weight)


SHAPES = [(1, 128), (128, 1), (4, 16), (16, 8), (2, 4), (32, 64)]


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_sums(shape: tuple[int, int], axis: int, back: bool):
    x = torch.randn(shape)
    against_reference(
        _sums, [1], x, torch.zeros_like(x), R=shape[0], C=shape[1], AXIS=axis, BACK=back, OP="sum", tol=1e-5
    )


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int32, torch.int64, torch.float64, torch.float16], ids=str
)
@pytest.mark.parametrize("op", ["sum", "prod", "last"])
def test_running_combinations_in_every_type(dtype: torch.dtype, op: str):
    x = torch.randint(-3, 4, (8, 64)).to(dtype)
    for back in (False, True):
        against_reference(_sums, [1], x, torch.zeros_like(x), R=8, C=64, AXIS=1, BACK=back, OP=op, tol=1e-2)


def test_a_scan_carries_nan_and_infinity_onwards():
    x = torch.ones(2, 64)
    x[0, 20], x[1, 30], x[1, 50] = math.nan, math.inf, -math.inf
    o = torch.zeros_like(x)
    against_reference(_sums, [1], x, o, R=2, C=64, AXIS=1, BACK=False, OP="custom")
    assert o[0, :20].tolist() == list(range(1, 21))
    assert bool(o[0, 20:].isnan().all())
    assert bool(o[1, 50:].isnan().all())


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [1, 7, 16])
def test_a_scan_of_two_tensors_under_a_mask(n: int, axis: int, back: bool):
    a, b = torch.rand(16, 32) * 0.5 + 0.5, torch.randn(16, 32)
    against_reference(
        _recurrence, [1], a, b, torch.zeros(16, 32), n, R=16, C=32, AXIS=axis, BACK=back, tol=1e-5
    )


@pytest.mark.parametrize("n", [1, 2, 8, 16, 1024])
def test_one_dimensional_scans_of_every_length(n: int):
    x = torch.randint(-99, 99, (n,), dtype=torch.int32)
    against_reference(_lengths, [1], x, torch.zeros_like(x), N=n)


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_extremes_with_their_places(shape: tuple[int, int], axis: int, left: bool, op: str):
    x = (
        torch.randint(0, 4, shape).float()
        if left
        else torch.randperm(shape[0] * shape[1]).view(shape).float()
    )
    count = shape[1 - axis]
    v, i = torch.zeros(count), torch.zeros(count, dtype=torch.int32)
    against_reference(_extremes, [1], x, v, i, R=shape[0], C=shape[1], AXIS=axis, LEFT=left, OP=op)
    assert torch.equal(v, x.amax(axis) if op == "max" else x.amin(axis))
    if left:
        first = (x == v.unsqueeze(axis)).int().argmax(axis)
        assert torch.equal(i.long(), first)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("axis", [0, 1])
def test_extremes_of_every_type(dtype: torch.dtype, axis: int):
    x = torch.randint(-5, 5, (16, 32)).to(dtype)
    count = (32, 16)[axis]
    v, i = torch.zeros(count, dtype=dtype), torch.zeros(count, dtype=torch.int32)
    against_reference(_extremes, [1], x, v, i, R=16, C=32, AXIS=axis, LEFT=True, OP="max")


@pytest.mark.parametrize("n", [1, 4, 16, 64, 4096])
def test_argmax_of_a_row(n: int):
    x = torch.randn(n)
    x[n // 2] = 9.0
    o = torch.zeros(1, dtype=torch.int32)
    against_reference(_argmax, [1], x, o, N=n)
    assert o.item() == n // 2


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("shape", "n"), [((4, 256), 200), ((16, 16), 16), ((32, 8), 5), ((1, 1024), 1000)])
def test_mean_and_variance_by_welford(shape: tuple[int, int], n: int, axis: int):
    x = torch.randn(shape) + 100
    count = shape[1 - axis]
    o = torch.zeros(3, count)
    against_reference(_moments, [1], x, o, n, R=shape[0], C=shape[1], AXIS=axis, tol=1e-3)
    kept = x[:, :n].double() if axis == 1 else x.double()[:, : min(n, count)]
    got = o if axis == 1 else o[:, : kept.shape[1]]
    torch.testing.assert_close(got[0].double(), kept.mean(axis), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        got[1].double() / got[2].double(), kept.var(axis, unbiased=False), rtol=1e-4, atol=1e-5
    )


@triton.jit
def _composed(a, b, o, R: tl.constexpr, C: tl.constexpr, AXIS: tl.constexpr):
    at = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    p, q = tl.reduce((tl.load(a + at), tl.load(b + at)), AXIS, _linear)
    k = tl.arange(0, C if AXIS == 0 else R)
    tl.store(o + k, p + q)


@triton.jit
def _first_with(va, ia, vb, ib):
    keep = va >= vb
    return tl.where(keep, va, vb), tl.where(keep, ia, ib)


@triton.jit
def _first_largest(x, o, R: tl.constexpr, C: tl.constexpr):
    c = tl.arange(0, C)[None, :] + tl.zeros((R, 1), tl.int32)
    v = tl.load(x + tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :])
    _, place = tl.reduce((v, c), 1, _first_with)
    tl.store(o + tl.arange(0, R), place)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(2, 16), (1, 128), (8, 64), (64, 4)], ids=str)
def test_a_function_that_does_not_commute_meets_its_elements_in_order(shape: tuple[int, int], axis: int):
    a, b = torch.rand(shape) + 0.3, torch.randn(shape)
    o = torch.zeros(shape[1 - axis])
    against_reference(_composed, [1], a, b, o, R=shape[0], C=shape[1], AXIS=axis, tol=1e-4)


@pytest.mark.parametrize("c", [4, 32, 256])
def test_ties_go_to_the_element_that_comes_first(c: int):
    x = torch.randint(0, 3, (4, c)).float()
    o = torch.zeros(4, dtype=torch.int32)
    against_reference(_first_largest, [1], x, o, R=4, C=c)
    assert torch.equal(o.long(), (x == x.amax(1, keepdim=True)).int().argmax(1))


@pytest.mark.parametrize(
    ("kernel", "types", "constants", "expected"),
    [
        (
            _extremes,
            ("*fp32", "*fp32", "*i32"),
            {"R": 4, "C": 32, "AXIS": 1, "LEFT": True, "OP": "max"},
            True,
        ),
        (
            _extremes,
            ("*fp32", "*fp32", "*i32"),
            {"R": 4, "C": 32, "AXIS": 1, "LEFT": False, "OP": "max"},
            False,
        ),
        (_moments, ("*fp32", "*fp32", "i32"), {"R": 4, "C": 32, "AXIS": 1}, True),
        (_composed, ("*fp32", "*fp32", "*fp32"), {"R": 4, "C": 32, "AXIS": 1}, False),
        (_first_largest, ("*fp32", "*i32"), {"R": 4, "C": 32}, False),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_trials_tell_which_functions_commute(kernel, types, constants, expected: bool):
    names = [n for n in kernel.arg_names if n not in constants]
    module = parse(ttir_of(kernel, dict(zip(names, types, strict=True)), constants))
    (reduction,) = (op for op in walk(module) if op.name == "tt.reduce")
    makers = {r: op for op in walk(module) for r in op.results}
    assert commutes(reduction.regions[0], makers) is expected
