"""What the vector engine calls in reference form, early returns, and loops that carry every kind of tile."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from vector_support import against_reference, run


@triton.jit
def _early(x, y, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    if pid * BLOCK >= n:
        return
    i = pid * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0)
    if tl.sum(v) < 0:
        tl.store(y + i, v, mask=i < n)
        return
    tl.store(y + i, v * 2, mask=i < n)


@triton.jit
def _early_within(x, y, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    i = pid * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i)
    s = tl.sum(v)
    if s < 0:
        if pid == 1:
            return
        v = v - s
    else:
        if pid == 2:
            tl.store(y + i, v * 7)
            return
        v = tl.exp(v)
    tl.store(y + i, v)
    if pid == n:
        return
    tl.store(x + i, v + 1)


@triton.jit
def _while_tiles(x, y, flags, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    p = x + i
    alive = v > 0.1
    count = 0
    while (tl.max(alive.to(tl.int32)) > 0) & (count < 20):
        v = tl.where(alive, v * 0.5, v)
        alive = alive & (v > 0.1)
        p = tl.where(alive, p, y + i)
        count += 1
    tl.store(p, v)
    tl.store(flags + i, alive.to(tl.int32) + count)


@triton.jit
def _for_masks(x, y, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    odd = (i & 1) == 1
    p = x + i
    q = y + i
    for k in range(n):
        tl.store(p, tl.load(p) + tl.where(odd, 1.0, 10.0))
        odd = odd ^ (i > k)
        p, q = q, p
    tl.store(out + i, odd.to(tl.int32))


@triton.jit
def _if_masks(x, y, flag, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    if flag > 0:
        m = v > 0
        p = y + i
    else:
        m = v < 0.5
        p = y + (N - 1 - i)
    tl.store(p, v, mask=m)


@triton.jit(noinline=True)
def _helper(a, b, place, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(place + i, tl.load(place + i) * a)
    return a * b, a - b


@triton.jit
def _calls(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    before = tl.load(out)
    a, b = _helper(3.0, before, x, N)
    tl.store(y + i, a + b + v + tl.load(x + i))


@triton.jit
def _order(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    before = tl.load(x + i)
    tl.atomic_add(x + (i ^ 1), before * 2, mask=i < N - 3)
    after = tl.load(x + i)
    tl.store(y + i, before * 1000 + after)


@triton.jit
def _printing(x, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.device_print("value", v)
    tl.store(x + i, v + 1)
    tl.device_print("again", tl.load(x + i))


@triton.jit
def _checked(x, n, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.device_assert(tl.load(x + i) < n, "too large")
    tl.store(x + i, i)


@triton.jit
def _large(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    v = tl.load(x + i)
    s = tl.exp(v - tl.max(v))
    tl.store(y + i, s / tl.sum(s))


@pytest.mark.parametrize("n", [1, 40, 128, 250])
def test_early_returns(n: int):
    against_reference(_early, [5], torch.randn(320), torch.zeros(320), n, BLOCK=64, tol=1e-6)


@pytest.mark.parametrize("last", [0, 3, 9])
def test_returns_inside_branches(last: int):
    torch.manual_seed(last)
    x = torch.randn(6, 32)
    x[1] -= 2
    x[2] += 2
    x[4] -= 2
    against_reference(_early_within, [6], x, torch.zeros(6, 32), last, BLOCK=32, tol=1e-5)


def test_a_while_loop_carries_floats_masks_and_pointers():
    flags = torch.zeros(64, dtype=torch.int32)
    against_reference(_while_tiles, [1], torch.rand(64) * 3, torch.zeros(64), flags, N=64)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_for_loop_carries_masks_and_pointers(steps: int):
    out = torch.zeros(32, dtype=torch.int32)
    against_reference(_for_masks, [1], torch.zeros(32), torch.zeros(32), out, steps, N=32)


@pytest.mark.parametrize("flag", [0, 1])
def test_branches_yield_masks_and_pointers(flag: int):
    against_reference(_if_masks, [1], torch.randn(64), torch.zeros(64), flag, N=64)


def test_a_called_function_writes_in_program_order():
    kernel = against_reference(_calls, [1], torch.randn(32), torch.zeros(32), torch.ones(1), N=32, tol=1e-6)
    assert "tt.call" in kernel.metadata["outlined"]


def test_loads_stay_on_their_side_of_an_atomic():
    against_reference(_order, [1], torch.randint(-9, 9, (64,)).float(), torch.zeros(64), N=64)


def test_prints_appear_in_program_order(capfd: pytest.CaptureFixture[str]):
    run(_printing, [1], torch.arange(4.0), N=4)
    import ctypes

    ctypes.CDLL(None).fflush(None)
    text = capfd.readouterr().out
    assert text.index("again") > text.rindex("value")
    assert "idx (3)" in text


def test_constants_that_differ_by_element_and_wide_tiles():
    x = torch.randn(1 << 18)
    against_reference(_large, [1], x, torch.zeros_like(x), N=1 << 18, tol=1e-5)
