"""Loops, branches and memory order."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
import vector_kernels as k
from vector_support import run, ttir_of, worst

from headrace.codegen.cpu import jit, runtime, target
from headrace.codegen.cpu.lower import lower
from headrace.codegen.cpu.parse import parse


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [1, 40, 64])
def test_carried_tile_beside_a_store(n: int, steps: int):
    x = torch.rand(max(steps, 1), n)  # of one sign: nothing cancels
    y = torch.empty(steps + 1, n)
    run(k.running, [1], x, y, steps, n, BLOCK=64)
    total = torch.zeros(n, dtype=torch.float64)
    for t in range(steps):
        total = total * 0.5 + x[t].double()
        assert worst(y[t], total / (t + 1)) < 1e-6
    assert worst(y[steps], total + steps) < 1e-6


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 10])
def test_carried_tiles_that_trade_places(steps: int):
    y = torch.empty(2, 32)
    run(k.fibonacci, [1], y, steps, BLOCK=32)
    a, b = torch.arange(32.0), torch.ones(32)
    for _ in range(steps):
        a, b = b, a + b
    assert torch.equal(y, torch.stack([a, b]))


@pytest.mark.parametrize("flag", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 50, 64])
def test_branches_yield_tiles_and_may_store(n: int, flag: int):
    x = torch.randn(n)
    before = x.clone()
    y = torch.empty(n)
    run(k.branches, [1], x, y, n, flag, BLOCK=64)
    inner = torch.exp(before) if flag > 0 else before + 1.0
    assert torch.equal(x, x if flag > 1 else before)
    torch.testing.assert_close(y, inner * (2.0 if flag > 0 else 3.0) + before, rtol=2e-6, atol=1e-6)
    if flag > 1:
        torch.testing.assert_close(x, inner, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("na", "nb", "kk"), [(24, 16, 40), (16, 24, 40), (5, 30, 64), (32, 3, 7)])
def test_branches_with_loops_that_start_from_one_constant(na: int, nb: int, kk: int):
    torch.manual_seed(na)
    x, a, b = torch.randn(3, kk), torch.randn(na, kk), torch.randn(nb, kk)
    y, z = torch.empty(3, na), torch.empty(3, nb)
    tiles = -(-na // 16)
    run(k.two_jobs, [tiles + -(-nb // 16), 3], x, a, b, y, z, kk, na, nb, SPLIT=tiles, BN=16, BK=16)
    for w, found in ((a, y), (b, z)):
        exact = torch.zeros(3, w.shape[0], dtype=torch.float64)
        for k0 in range(0, kk, 16):
            exact = exact * 0.5 + x[:, k0 : k0 + 16].double() @ w[:, k0 : k0 + 16].double().T
        assert worst(found, exact) < 2e-6


@pytest.mark.parametrize(("few", "many"), [(3, 50), (16, 17), (0, 64), (40, 40), (33, 64)])
def test_one_value_stored_up_to_two_bounds(few: int, many: int):
    x, y, z = torch.randn(64), torch.zeros(64), torch.zeros(64)
    run(k.two_bounds, [1], x, y, z, few, many, BLOCK=64)
    exact = torch.exp(x.double())
    assert worst(y, torch.where(torch.arange(64) < few, exact, 0.0)) < 1e-6
    assert worst(z, torch.where(torch.arange(64) < many, exact, 0.0)) < 1e-6


@pytest.mark.parametrize("n", [1, 20, 64])
def test_value_beyond_a_mask_is_fixed_before_memory_changes(n: int):
    m, x, y = torch.randn(4), torch.randn(4, n), torch.empty(4)
    full = torch.zeros(4, 64, dtype=torch.float64)
    full[:, :n] = x
    exact = torch.exp(full - m.double()[:, None])
    run(k.outside_depends_on_memory, [1], m, x, y, n, BM=4, BN=64)
    assert worst(m, exact.amax(1)) < 1e-6
    assert worst(y, exact.sum(1)) < 1e-6


def test_while_over_scalars():
    x = torch.tensor([1, 2, 3, 7, 27], dtype=torch.int32)
    y = torch.empty_like(x)
    run(k.collatz, [5], x, y)
    assert y.tolist() == [0, 1, 7, 16, 111]


@pytest.mark.parametrize(("n", "group"), [(64, 16), (128, 4), (32, 32)])
def test_reshape(n: int, group: int):
    x, y = torch.randn(n), torch.empty(n // group)
    run(k.reshape_sum, [1], x, y, BN=n, GROUP=group)
    assert worst(y, 2 * x.double().view(-1, group).sum(1)) < 1e-6


@triton.jit
def _sums_and_prints(x, w, o, M: tl.constexpr, K: tl.constexpr):
    m, k = tl.arange(0, M), tl.arange(0, K)
    acc = tl.zeros([M], tl.float32)
    for i in range(3):
        a = tl.load(x + i * K + k)
        b = tl.load(w + m[:, None] * K + k[None, :])
        tl.device_print("turn", i)
        acc += tl.sum(a[None, :] * b, 1)
    tl.store(o + m, acc)


def test_a_loop_that_only_sums_still_prints_once_per_iteration(capfd):
    x, w, o = torch.randn(3, 64), torch.randn(32, 64), torch.empty(32)
    run(_sums_and_prints, (1,), x, w, o, M=32, K=64)
    assert capfd.readouterr().out.count("turn") == 3
    torch.testing.assert_close(o, (x.sum(0) * w).sum(1), rtol=1e-4, atol=1e-4)


@triton.jit
def _all_or_nothing(x, count, y, flag, N: tl.constexpr):
    r, c = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    chosen = tl.load(count + r * 0 + c * 0) > 2
    v = tl.load(x + r + c * N, mask=chosen)
    u = v
    if flag > 0:
        u = v + u
    tl.store(y + r * N + c, u, mask=(r >= 1) & (r < 5) & (c < 7))


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_a_mask_that_is_the_same_everywhere_first_met_in_a_branch(count: int, flag: int):
    x, y = torch.randn(8, 8), torch.zeros(8, 8)
    run(_all_or_nothing, (1,), x, torch.tensor([count], dtype=torch.int32), y, flag, N=8)
    expected = torch.zeros(8, 8)
    expected[1:5, :7] = x.T[1:5, :7] * (1 + flag) * (count > 2)
    assert torch.equal(y, expected)


@triton.jit
def _decaying(x, y, n, ROWS: tl.constexpr, BLOCK: tl.constexpr, LATER: tl.constexpr):
    r, c = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    rows = tl.zeros([ROWS], tl.float32)
    tile = tl.zeros([ROWS, BLOCK], tl.float32)
    for at in range(0, n, BLOCK):
        v = tl.load(x + r[:, None] * n + at + c[None, :])
        if LATER:
            tile = v + tile * 0.5
        else:
            rows = tl.sum(v, 1) + rows * 0.5
    tl.store(y + r, tl.sum(tile, 1) if LATER else rows)


@pytest.mark.parametrize("later", [False, True])
def test_a_sum_beside_what_the_loop_scales(later: bool):
    x, y = torch.randn(16, 192), torch.zeros(16)
    run(_decaying, (1,), x, y, 192, ROWS=16, BLOCK=64, LATER=later)
    parts = x.double().view(16, 3, 64).sum(2)
    assert worst(y, parts @ torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)) < 1e-6


@triton.jit
def _kept_for_later(x, y, n, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b, c, d = tl.load(x + i), tl.load(x + N + i), tl.load(x + 2 * N + i), tl.load(x + 3 * N + i)
    for t in range(n):
        tl.store(y + i + t * N, (a + b * t) / (c * c + 1.0) + d)
    tl.store(y + i, a + b + c + d)
    tl.store(x + i, a * b + c * d)


def test_a_kernel_becomes_the_same_code_each_time():
    text = ttir_of(_kept_for_later, {"x": "*fp32", "y": "*fp32", "n": "i32"}, {"N": 64})
    modules = [parse(text) for _ in range(8)]  # objects that lie at other places in memory
    assert len({lower(module, target.host(), "vector").ir for module in modules}) == 1


@triton.jit
def _bound_by_call(x, y, positive, s, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(y + N, tl.sum(a))
    if positive > 0:
        b = a * 2.0
    else:
        b = tl.abs(a)
        b -= 1.0
    n = (s * 1.5).to(tl.bfloat16, fp_downcast_rounding="rtz").to(tl.int32)
    tl.store(y + i, b, mask=i < n)


@pytest.mark.parametrize("positive", [0, 1])
def test_a_bound_that_has_no_vector_form_is_not_looked_at_in_branches_before_it(positive: int):
    x, y = torch.randn(64), torch.zeros(65)
    kernel = run(_bound_by_call, (1,), x, y, positive, 10.0, N=64)
    assert kernel.llvm_ir.count(f'call void @"{jit.ISLAND}') == 1
    assert torch.equal(y[:15], (x * 2 if positive else x.abs() - 1)[:15])
    assert not y[15:64].any()


_UNEQUAL_STEPS = """
module {
  tt.func public @kernel(%y: !tt.ptr<i32>, %n: i32) {
    %zero = arith.constant 0 : i32
    %one = arith.constant 1 : i32
    %start = arith.constant dense<0> : tensor<4xi32>
    %steps = arith.constant dense<[1, 10, 100, 1000]> : tensor<4xi32>
    %sum = scf.for %i = %zero to %n step %one iter_args(%a = %start) -> (tensor<4xi32>) : i32 {
      %next = arith.addi %a, %steps : tensor<4xi32>
      scf.yield %next : tensor<4xi32>
    }
    %at = tt.make_range {end = 4 : i32, start = 0 : i32} : tensor<4xi32>
    %all = tt.splat %y : !tt.ptr<i32> -> tensor<4x!tt.ptr<i32>>
    %to = tt.addptr %all, %at : tensor<4x!tt.ptr<i32>>, tensor<4xi32>
    tt.store %to, %sum : tensor<4x!tt.ptr<i32>>
    tt.return
  }
}
"""


def test_a_carried_tile_whose_elements_grow_by_different_constants():
    host = target.host()
    lowered = lower(parse(_UNEQUAL_STEPS), host, "vector")
    shared = runtime.get(host)
    loaded = jit.load(jit.emit(lowered.ir, host).obj, (lowered.entry,), shared.known, host)
    y = torch.zeros(4, dtype=torch.int32)
    shared.callable(loaded.addresses[lowered.entry], lowered.letters, loaded)(1, 1, 1, y, 3)
    assert y.tolist() == [3, 30, 300, 3000]


@triton.jit
def _long_way(x, y, step, N: tl.constexpr, STEPS: tl.constexpr):
    i = tl.arange(0, N)
    at = x + i
    for t in tl.static_range(STEPS):
        at += step * (tl.program_id(0) + t)
    tl.store(y + i, tl.load(at))


def test_a_long_chain_of_pointer_additions_is_vectorised():
    steps = 400
    x, y = torch.randn(steps * steps), torch.zeros(32)
    run(_long_way, [1], x, y, 1, N=32, STEPS=steps)
    start = steps * (steps - 1) // 2
    assert torch.equal(y, x[start : start + 32])
