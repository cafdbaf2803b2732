"""What people do with Triton around a kernel: autotuning, hooks, ahead-of-time compilation, the cache."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import cpu_kernels as k
import pytest
import torch
import triton
import triton.language as tl
from cpu_kernels import scaled
from triton.compiler import ASTSource

from headrace.codegen.cpu import seal
from headrace.codegen.cpu.backend import driver
from headrace.codegen.cpu.backend.benchmark import do_bench
from headrace.codegen.cpu.direct import compile_direct

HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.skipif(
    driver.why_inactive() is not None, reason=f"inactive: {driver.why_inactive()}"
)


@triton.autotune(
    configs=[
        triton.Config({"BLOCK": b}, num_warps=w, num_stages=s)
        for b in (64, 128)
        for w in (1, 4)
        for s in (1, 3)
    ],
    key=["n"],
)
@triton.jit
def by_warps(x, o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i, mask=i < n) + 3, mask=i < n)


@triton.autotune(
    configs=[triton.Config({"BLOCK": b}) for b in (32, 64)],
    key=["n"],
    reset_to_zero=["total"],
    restore_value=["x"],
)
@triton.jit
def counting(x, total, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i, mask=i < n, other=0.0)
    tl.atomic_add(total, tl.sum(v, axis=0))
    tl.store(x + i, v + 1, mask=i < n)


@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def guarded(x, o, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EVEN:
        tl.store(o + i, tl.load(x + i) - 1)
    else:
        tl.store(o + i, tl.load(x + i, mask=i < n) - 1, mask=i < n)


@pytest.fixture
def compilations() -> Iterator[list[bool]]:
    """One entry per compilation asked of Triton in the test: True where its file cache had it."""
    found: list[bool] = []
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda *, cache_hit, **_: found.append(cache_hit)
        yield found


# Autotuning and what decorates a kernel


def test_configs_that_differ_only_in_warps_and_stages_are_compiled_once(compilations: list[bool]) -> None:
    x, o = torch.randn(500), torch.zeros(500)
    by_warps[lambda meta: (triton.cdiv(500, meta["BLOCK"]),)](x, o, 500)
    assert torch.equal(o, x + 3)
    assert len(by_warps.configs_timings) == 8
    assert compilations.count(False) == 2


def test_autotuning_leaves_no_trace_in_the_arguments() -> None:
    x, total = torch.arange(100.0), torch.zeros(1)
    counting[lambda meta: (triton.cdiv(100, meta["BLOCK"]),)](x, total, 100)
    assert torch.equal(x, torch.arange(100.0) + 1)
    assert total.item() == 4950


def test_a_hook_of_a_config_runs_before_each_call() -> None:
    seen: list[int] = []
    tuned = triton.autotune(
        configs=[
            triton.Config({"BLOCK": b}, pre_hook=lambda args: seen.append(args["BLOCK"])) for b in (32, 64)
        ],
        key=["n"],
    )(scaled)
    x, o = torch.randn(64), torch.zeros(64)
    for _ in range(2):
        tuned[(2,)](x, o, 64, 2.0)
    assert set(seen[:-2]) == {32, 64}
    assert seen[-1] == tuned.best_config.kwargs["BLOCK"]
    assert torch.equal(o, x * 2)


def test_a_slow_function_is_not_called_again_for_the_sake_of_statistics() -> None:
    calls: list[int] = []

    def slow() -> None:
        calls.append(0)
        time.sleep(0.03)

    do_bench(slow, warmup=0, rep=1)
    assert len(calls) <= 3


def test_bench_of_triton_testing() -> None:
    x, o = torch.randn(64), torch.zeros(64)
    assert triton.testing.do_bench(lambda: scaled[(1,)](x, o, 64, 2.0, BLOCK=64), warmup=1, rep=1) > 0


@pytest.mark.parametrize("n", [64, 50])
def test_heuristics(n: int) -> None:
    x, o = torch.randn(64), torch.zeros(64)
    guarded[(2,)](x, o, n, BLOCK=32)
    assert torch.equal(o[:n], x[:n] - 1)
    assert o[n:].eq(0).all()


def test_hooks_around_a_launch() -> None:
    seen: list[tuple[str, str]] = []
    x, o = torch.randn(64), torch.zeros(64)

    def enter(metadata: object) -> None:
        seen.append(("enter", metadata.get()["name"]))
        assert o.eq(0).all()

    def leave(metadata: object) -> None:
        seen.append(("exit", metadata.get()["name"]))
        assert torch.equal(o, x * 2)

    runtime = triton.knobs.runtime
    runtime.launch_enter_hook.add(enter)
    runtime.launch_exit_hook.add(leave)
    try:
        scaled[(1,)](x, o, 64, 2.0, BLOCK=64)
    finally:
        runtime.launch_enter_hook.remove(enter)
        runtime.launch_exit_hook.remove(leave)
    assert [kind for kind, _ in seen] == ["enter", "exit"]
    assert "scaled" in seen[0][1]


def test_a_hook_before_each_run() -> None:
    seen: list[object] = []

    @triton.jit
    def zero(o):
        tl.store(o, 0.0)

    zero.add_pre_run_hook(lambda *args, **options: seen.append(options["num_warps"]))
    o = torch.ones(1)
    zero[(1,)](o, num_warps=2)
    assert seen == [2]
    assert o.item() == 0


# Compiling without launching


def test_compiling_ahead_of_time() -> None:
    signature = {"x": "*fp32", "o": "*fp32", "n": "i32", "factor": "fp32", "BLOCK": "constexpr"}
    kernel = triton.compile(ASTSource(scaled, signature, {"BLOCK": 64}))
    x, o = torch.randn(100), torch.zeros(100)
    kernel[(2, 1, 1)](x, o, 100, 3.0, 64)
    assert torch.equal(o, x * 3)


def test_compiling_from_a_file_of_ttir(tmp_path: pathlib.Path) -> None:
    x, o = torch.randn(64), torch.zeros(64)
    kernel = scaled[(1,)](x, o, 64, 2.0, BLOCK=64)
    path = tmp_path / "scaled.ttir"
    path.write_text(kernel.asm["ttir"])
    again = triton.compile(str(path))
    again[(1, 1, 1)](x, o.zero_(), 64, 5.0)
    assert torch.equal(o, x * 5)


def test_warming_up_launches_nothing() -> None:
    kernel = scaled.warmup(torch.float64, torch.float64, 10, 2.0, BLOCK=32, grid=(1,))
    assert "f64" in kernel.asm["ttir"]
    assert kernel.module is None


# The cache


def launched_anew() -> torch.Tensor:
    """What a kernel writes in a process that never ran it: only the files of the cache are known."""
    k.masked_add.device_caches.clear()
    o = torch.zeros(100)
    k.masked_add[(1,)](torch.ones(100), torch.ones(100), o, 100, BLOCK=128)
    return o


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[:300] + bytes([data[300] ^ 1]) + data[301:],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_object_in_tritons_cache_is_compiled_again(
    damage: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert launched_anew().eq(2).all()
    (path,) = tmp_path.rglob("*.obj")
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    assert not recwarn.list
    assert launched_anew().eq(2).all()
    assert "damaged" in str(recwarn.pop().message)
    assert seal.opened(path.read_bytes()) == seal.opened(whole)
    assert launched_anew().eq(2).all()
    assert not recwarn.list


@pytest.mark.parametrize("name", ["kernel.obj", "kernel.json"])
def test_a_damaged_entry_of_the_direct_cache_is_compiled_again(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    signature = {"x": "*fp32", "y": "*fp32", "o": "*fp32", "n": "i32"}

    def compile_ms() -> float:
        kernel = compile_direct(k.masked_add, signature, {"BLOCK": 128})
        o = torch.zeros(100)
        kernel(1, 1, 1, torch.ones(100), torch.ones(100), o, 100)
        assert o.eq(2).all()
        return kernel.compile_ms

    assert compile_ms() > 0
    assert compile_ms() == 0
    (path,) = tmp_path.rglob(name)
    path.write_bytes(path.read_bytes()[:-20])
    assert compile_ms() > 0
    assert compile_ms() == 0


def test_two_processes_compile_the_same_kernel_at_once(tmp_path: pathlib.Path) -> None:
    script = """
        import torch, cpu_kernels as k
        o = torch.zeros(100)
        k.masked_add[(1,)](torch.ones(100), torch.ones(100), o, 100, BLOCK=128)
        print(o.eq(2).all().item())
    """
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    running = [
        subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=300)[0].strip() for process in running] == ["True", "True"]
    (path,) = tmp_path.rglob("*.obj")
    assert seal.opened(path.read_bytes()) is not None


@pytest.mark.skipif("avx512f" not in pathlib.Path("/proc/cpuinfo").read_text(), reason="needs AVX-512")
def test_the_cache_tells_processor_features_apart(
    compilations: list[bool], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for level in ("native", "avx2", "avx2", "native"):
        monkeypatch.setenv("HEADRACE_CPU_FEATURES", level)
        assert launched_anew().eq(2).all()
    assert compilations == [False, False, True, True]
    k.masked_add.device_caches.clear()
