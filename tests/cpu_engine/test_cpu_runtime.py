"""Launching: every program once, on as many threads as asked for, from any thread or process."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading

import cpu_kernels as k
import pytest
import torch
import triton
import triton.language as tl

from headrace.codegen.cpu.direct import DirectKernel, compile_direct
from headrace.errors import CpuEngineError

PATIENCE = 1 << 27


@triton.jit
def visit(counts, sizes):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tl.atomic_add(counts + (z * tl.num_programs(1) + y) * tl.num_programs(0) + x, 1)
    tl.store(sizes, tl.num_programs(0) * 10000 + tl.num_programs(1) * 100 + tl.num_programs(2))


@triton.jit
def in_turn(counter, o):
    at = tl.load(counter)
    tl.store(o + tl.program_id(0), at)
    tl.store(counter, at + 1)


@triton.jit
def after_another(started, tickets, FIRST: tl.constexpr, OTHER: tl.constexpr, PATIENCE: tl.constexpr):
    """Each program draws a ticket; program FIRST only once program OTHER has begun, or not for long."""
    program = tl.program_id(0)
    tl.atomic_add(started + program, 1)
    if program == FIRST:
        seen = 0
        for _ in range(PATIENCE):
            if seen == 0:
                seen = tl.atomic_add(started + OTHER, 0)
    tl.store(tickets + program, tl.atomic_add(started + tl.num_programs(0), 1))


@triton.jit
def after_the_last_one(started, tickets):
    """Each program waits for the one before it."""
    program = tl.program_id(0)
    ticket = tl.atomic_add(started + tl.num_programs(0), 1)
    if program > 0:
        while tl.atomic_add(started + program - 1, 0) == 0:
            pass
    tl.store(tickets + program, ticket)
    tl.atomic_add(started + program, 1)


@triton.jit
def scalars(o, i, f, h, b, flag, big):
    tl.store(o, i)
    tl.store(o + 1, f)
    tl.store(o + 2, h)
    tl.store(o + 3, b)
    tl.store(o + 4, flag.to(tl.float64))
    tl.store(o + 5, big.to(tl.float64))


@triton.jit
def checked(x, n):
    tl.device_assert(tl.load(x) < n, "x is too large")


@pytest.fixture(scope="module")
def visitor() -> DirectKernel:
    return compile_direct(visit, {"counts": "*i32", "sizes": "*i32"}, {})


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("grid", [(1, 1, 1), (2, 1, 1), (7, 5, 3), (1, 64, 2), (1000, 1, 1)])
def test_every_program_runs_exactly_once(visitor, threads, grid, count) -> None:
    threads(count)
    counts, sizes = (
        torch.zeros(grid[0] * grid[1] * grid[2], dtype=torch.int32),
        torch.zeros(1, dtype=torch.int32),
    )
    visitor(*grid, counts, sizes)
    assert counts.eq(1).all()
    assert sizes.item() == grid[0] * 10000 + grid[1] * 100 + grid[2]


@pytest.mark.parametrize("grid", [(0, 1, 1), (4, 0, 1), (1, 1, 0)])
def test_an_empty_grid_runs_nothing(visitor, grid) -> None:
    counts = torch.zeros(4, dtype=torch.int32)
    visitor(*grid, counts, counts)
    assert counts.eq(0).all()


def test_one_thread_runs_programs_in_order(threads) -> None:
    threads(1)
    kernel = compile_direct(in_turn, {"counter": "*i32", "o": "*i32"}, {})
    o = torch.zeros(500, dtype=torch.int32)
    kernel(500, 1, 1, torch.zeros(1, dtype=torch.int32), o)
    assert torch.equal(o, torch.arange(500, dtype=torch.int32))


def test_a_thread_begins_with_its_own_share(threads) -> None:
    """So it finds in its caches what it read in the last launch. While the first program waits for the first
    one of the second half, the other thread comes to that one before any other."""
    threads(2)
    programs = 320
    half = programs // 2
    kernel = compile_direct(
        after_another,
        {"started": "*i32", "tickets": "*i32"},
        {"FIRST": 0, "OTHER": half, "PATIENCE": PATIENCE},
    )
    for _ in range(5):
        tickets = torch.zeros(programs, dtype=torch.int32)
        kernel(programs, 1, 1, torch.zeros(programs + 1, dtype=torch.int32), tickets)
        assert tickets[half] <= 1
        assert torch.equal(tickets.sort().values, torch.arange(programs, dtype=torch.int32))


@pytest.mark.parametrize("first", [0, 100, 319])
def test_a_thread_that_is_held_up_leaves_its_share_to_the_others(threads, first) -> None:
    threads(2)
    programs = 320
    other = (first + programs // 2 - 1) % programs  # far from it, in the other half or at the end of its own
    kernel = compile_direct(
        after_another,
        {"started": "*i32", "tickets": "*i32"},
        {"FIRST": first, "OTHER": other, "PATIENCE": PATIENCE},
    )
    tickets = torch.zeros(programs, dtype=torch.int32)
    kernel(programs, 1, 1, torch.zeros(programs + 1, dtype=torch.int32), tickets)
    assert tickets[first] > 0
    assert torch.equal(tickets.sort().values, torch.arange(programs, dtype=torch.int32))


def test_programs_that_wait_for_others_are_begun_in_order(threads) -> None:
    """No thread sits at the beginning of its share until all of the one before it is done."""
    threads(2)
    programs = 320
    kernel = compile_direct(after_the_last_one, {"started": "*i32", "tickets": "*i32"}, {})
    tickets = torch.zeros(programs, dtype=torch.int32)
    kernel(programs, 1, 1, torch.zeros(programs + 1, dtype=torch.int32), tickets)
    chunk = 10
    assert (tickets - torch.arange(programs)).abs().max() <= chunk
    assert torch.equal(tickets.sort().values, torch.arange(programs, dtype=torch.int32))


def test_scalar_arguments_arrive_in_their_own_type() -> None:
    signature = {"o": "*fp64", "i": "i32", "f": "fp32", "h": "fp16", "b": "bf16", "flag": "i1", "big": "i64"}
    o = torch.zeros(6, dtype=torch.float64)
    compile_direct(scalars, signature, {})(1, 1, 1, o.data_ptr(), -5, 0.1, 0.1, 0.1, True, 2**40 + 1)
    halves = [torch.tensor(0.1).to(t).double().item() for t in (torch.float32, torch.float16, torch.bfloat16)]
    assert o.tolist() == [-5.0, *halves, 1.0, float(2**40 + 1)]


def test_minus_one_is_not_taken_for_an_error() -> None:
    signature = {"o": "*fp64", "i": "i32", "f": "fp32", "h": "fp16", "b": "bf16", "flag": "i1", "big": "i64"}
    o = torch.zeros(6, dtype=torch.float64)
    compile_direct(scalars, signature, {})(1, 1, 1, o, -1, -1.0, -1.0, -1.0, False, -1)
    assert o.tolist() == [-1, -1, -1, -1, 0, -1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((1, 1, 1, 0), TypeError),
        ((1, 1, 1, 0, 0, 0), TypeError),
        ((1, 1, None, 0, 0), TypeError),
        ((1, 1, 1, "address", 0), AttributeError),
    ],
)
def test_wrong_arguments_raise_before_anything_runs(visitor, arguments, error) -> None:
    with pytest.raises(error):
        visitor(*arguments)


def test_a_parameter_without_a_type_is_named() -> None:
    with pytest.raises(CpuEngineError, match="sizes"):
        compile_direct(visit, {"counts": "*i32"}, {})


def test_a_failed_device_assert_raises_once_and_names_the_line() -> None:
    kernel = compile_direct(checked, {"x": "*i32", "n": "i32"}, {}, options={"debug": True})
    x = torch.tensor([3], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"test_cpu_runtime.py:\d+: x is too large"):
        kernel(4, 1, 1, x, 3)
    kernel(4, 1, 1, x, 4)


def test_a_failed_device_assert_is_raised_by_its_own_launch(threads) -> None:
    threads(2)
    kernel = compile_direct(checked, {"x": "*i32", "n": "i32"}, {}, options={"debug": True})
    x = torch.tensor([3], dtype=torch.int32)
    failures = dict.fromkeys((2, 3, 4, 5), 0)  # 3 is too large for the first two

    def work(bound: int) -> None:
        for _ in range(200):
            try:
                kernel(400, 1, 1, x, bound)
            except RuntimeError:
                failures[bound] += 1

    team = [threading.Thread(target=work, args=(bound,)) for bound in failures]
    for t in team:
        t.start()
    for t in team:
        t.join()
    assert failures == {2: 200, 3: 200, 4: 0, 5: 0}


def test_python_threads_launch_at_the_same_time() -> None:
    kernel = compile_direct(
        k.masked_add, {"x": "*fp32", "y": "*fp32", "o": "*fp32", "n": "i32"}, {"BLOCK": 128}
    )
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = torch.full((1000,), float(seed))
        for turn in range(100):
            o = torch.zeros(1000)
            kernel(8, 1, 1, x, torch.full((1000,), float(turn)), o, 1000)
            if not o.eq(seed + turn).all():
                wrong.append(seed)

    team = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in team:
        t.start()
    for t in team:
        t.join()
    assert not wrong


def test_the_builtin_keeps_the_code_alive() -> None:
    signature = {"x": "*fp32", "y": "*fp32", "o": "*fp32", "n": "i32"}
    launch = compile_direct(k.masked_add, signature, {"BLOCK": 16}).launch
    gc.collect()
    x, o = torch.randn(64), torch.zeros(64)
    launch(4, 1, 1, x, x, o, 64)
    assert torch.equal(o, x + x)


FORK = """
    import os, sys, faulthandler
    faulthandler.dump_traceback_later(60, exit=True)
    import torch, triton
    import cpu_kernels as k
    from headrace.codegen.cpu.direct import compile_direct
    torch.set_num_threads(2)
    x = torch.randn(1 << 20)
    y = torch.randn(1 << 20)
    expected = x + y  # torch's OpenMP threads exist from here on

    def launch():
        signature = {{"x": "*fp32", "y": "*fp32", "o": "*fp32", "n": "i32"}}
        kernel = compile_direct(k.masked_add, signature, {{"BLOCK": 1024}})
        o = torch.empty(1 << 20)
        kernel(1024, 1, 1, x, y, o, 1 << 20)
        return o.numpy().tobytes() == expected_bytes

    expected_bytes = expected.numpy().tobytes()
    if {before}:
        assert launch()
    child = os.fork()
    if child == 0:
        os._exit(0 if launch() else 3)
    _, status = os.waitpid(child, 0)
    assert launch()
    sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("before", [True, False], ids=["runtime-before-fork", "runtime-after-fork"])
def test_a_forked_child_does_not_hang(before: bool) -> None:
    script = textwrap.dedent(FORK.format(before=before))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=str(k.__file__).rsplit("/", 1)[0], timeout=90
    )
    assert done.returncode == 0


SMALL_STACK = """
    import threading
    import torch, triton
    import cpu_kernels as k
    from headrace.codegen.cpu.direct import compile_direct
    kernel = compile_direct(k.swap_tensors, {"x": "*fp32", "o": "*fp32", "n": "i32"}, {"N": 1 << 16})
    assert kernel.engine == "vector"
    x, outputs = torch.randn(2 << 16), []

    def launch():
        outputs.append(torch.empty(2 << 16))
        kernel(1, 1, 1, x, outputs[-1], 3)

    launch()
    threading.stack_size(256 << 10)
    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert torch.equal(*outputs)
"""


def test_a_python_thread_may_have_a_small_stack() -> None:
    script = textwrap.dedent(SMALL_STACK)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=str(k.__file__).rsplit("/", 1)[0], timeout=90
    )
    assert done.returncode == 0


def test_temporaries_larger_than_a_stack_are_fine() -> None:
    x = torch.randn(512, 512)
    o = torch.empty(512, 512)
    signature = {"x": "*fp32", "o": "*fp32", "M": "i32", "N": "i32", "sx": "i32", "so": "i32"}
    kernel = compile_direct(k.strided_2d, signature, {"BM": 512, "BN": 512}, options={"engine": "reference"})
    kernel(1, 1, 1, x, o, 512, 512, 512, 512)
    assert torch.equal(o, (x * 2).T)
