"""One stress run in a process of its own: ``python stress_run.py SEED`` exits with 0 if all was right.

A seed chooses the order and the sizes of what happens at the same time: Python threads that launch and
compile, children forked in the middle of that (which launch, and compile kernels that the parent never saw),
and launches from inside another parallel region. What hangs is ended by faulthandler with every thread's
stack.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import torch
import triton
import triton.language as tl

from headrace.codegen.cpu import runtime
from headrace.codegen.cpu.direct import DirectKernel, compile_direct

LIMIT_S = 100
N = 10_000


@triton.jit
def scaled(x, o, n, FACTOR: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + at, tl.load(x + at, mask=at < n) * FACTOR, mask=at < n)


@triton.jit
def counted(x, total, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(total, tl.sum(tl.load(x + at, mask=at < n, other=0)))


def compiled(factor: int, block: int) -> DirectKernel:
    signature = {"x": "*fp32", "o": "*fp32", "n": "i32"}
    return compile_direct(scaled, signature, {"FACTOR": factor, "BLOCK": block})


def check(launch: Callable[[torch.Tensor, torch.Tensor], None], factor: int, value: int) -> None:
    """Run on fresh tensors; numpy compares, since torch's own operators hang in a forked child."""
    x, o = torch.empty(N), torch.empty(N)
    x.numpy().fill(value)
    o.numpy().fill(-1.0)
    launch(x, o)
    wrong = int((o.numpy() != factor * value).sum())
    if wrong:
        raise AssertionError(f"{wrong} of {N} elements are wrong")


def direct(factor: int, block: int, value: int) -> None:
    kernel = compiled(factor, block)
    check(lambda x, o: kernel(-(-N // block), 1, 1, x, o, N), factor, value)


def through_triton(factor: int, block: int, value: int) -> None:
    check(lambda x, o: scaled[(triton.cdiv(N, block),)](x, o, N, factor, block), factor, value)


def atomics(block: int, value: int) -> None:
    x, total = torch.empty(N, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    x.numpy().fill(value)
    counted[(triton.cdiv(N, block),)](x, total, N, block)
    if int(total) != N * value:
        raise AssertionError(f"atomics lost {N * value - int(total)} of {N * value}")


def in_child(work: Callable[[], None]) -> int:
    """Fork, work in the child, and wait; the child's exit code."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            # dump_traceback_later would wait for the parent's watchdog thread, which is not here.
            signal.alarm(LIMIT_S // 2)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def nested(factor: int, block: int) -> None:
    """Launch from the threads of a parallel region that somebody else opened."""
    kernel = compiled(factor, block)
    path = runtime._openmp_path()
    if path is None:
        return
    wrong: list[BaseException] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def region(_: int | None) -> None:
        try:
            check(lambda x, o: kernel(-(-N // block), 1, 1, x, o, N), factor, 5)
        except BaseException as error:
            wrong.append(error)

    ctypes.CDLL(path).GOMP_parallel(region, None, 3, 0)
    if wrong:
        raise wrong[0]


def main(seed: int) -> None:
    rng = random.Random(seed)
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    faulthandler.register(signal.SIGALRM, chain=True)
    torch.set_num_threads(rng.choice([1, 2, 2, 3, 4]))
    # torch loads numpy's interface at the first use, under a lock of its own that a fork would leave locked.
    torch.empty(1).numpy()
    if rng.random() < 0.5:
        torch.randn(1 << 18).exp_()  # torch's own team exists before ours
    errors: list[BaseException] = []
    stop = threading.Event()

    def worker(own: int) -> None:
        local = random.Random(own)
        if local.random() < 0.3:
            torch.set_num_threads(local.choice([1, 2, 3]))
        while not stop.is_set():
            try:
                factor, block = local.randint(1, 6), local.choice([16, 64, 256, 1024])
                kind = local.random()
                if kind < 0.5:
                    direct(factor, block, local.randint(1, 9))
                elif kind < 0.9:
                    through_triton(factor, block, local.randint(1, 9))
                else:
                    atomics(block, local.randint(1, 9))
            except BaseException as error:
                errors.append(error)
                return

    team = [threading.Thread(target=worker, args=(rng.randrange(1 << 30),)) for _ in range(rng.randint(1, 4))]
    for thread in team:
        thread.start()
    codes = []
    for _ in range(rng.randint(2, 5)):
        time.sleep(rng.random() * 0.1)
        factor, block = rng.randint(1, 9), rng.choice([32, 128, 512])
        act = rng.random()
        if act < 0.35:
            codes.append(in_child(lambda f=factor, b=block: direct(f, b, 3)))
        elif act < 0.6:
            codes.append(in_child(lambda f=factor, b=block: through_triton(f, b, 3)))
        elif act < 0.8:
            nested(factor, block)
        else:
            # A child that forks again.
            codes.append(in_child(lambda f=factor, b=block: os._exit(in_child(lambda: direct(f, b, 3)))))
    stop.set()
    for thread in team:
        thread.join()
    through_triton(7, 128, 2)
    if errors:
        raise errors[0]
    if any(codes):
        raise AssertionError(f"children ended with {codes}")
    print("passed")


if __name__ == "__main__":
    main(int(sys.argv[1]))
