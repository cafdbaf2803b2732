"""The backend as Triton sees it: discovery, activation, ``kernel[grid](...)``, autotuning, caching."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys
import textwrap

import cpu_kernels as k
import cpu_tile_kernels as tiles
import pytest
import torch
import triton
import triton.language as tl
from triton.backends import backends
from triton.language.extra import libdevice
from triton.runtime.cache import FileCacheManager
from triton.tools.tensor_descriptor import TensorDescriptor

from headrace.codegen.cpu.backend import driver
from headrace.codegen.cpu.backend.benchmark import do_bench
from headrace.codegen.cpu.direct import compile_direct

HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.skipif(
    driver.why_inactive() is not None, reason=f"inactive: {driver.why_inactive()}"
)


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    settings = {**os.environ, **environment}
    return subprocess.run(command, cwd=HERE, env=settings, capture_output=True, text=True, timeout=120)


@triton.jit
def maybe_bias(x, bias, o, N: tl.constexpr):
    v = tl.load(x + tl.arange(0, N))
    if bias is not None:
        v += tl.load(bias + tl.arange(0, N))
    tl.store(o + tl.arange(0, N), v)


@triton.jit
def tuple_argument(pair, o, shift, N: tl.constexpr):
    tl.store(o + tl.arange(0, N), tl.load(pair[0] + tl.arange(0, N)) * pair[1] + shift)


@triton.jit
def host_descriptor(block, o, N: tl.constexpr):
    tl.store(o + tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :], block.load([0, 8]))


@triton.jit
def math_library(x, o, N: tl.constexpr):
    v = tl.load(x + tl.arange(0, N))
    s = (
        libdevice.tanh(v)
        + libdevice.pow(v * v, 0.5)
        + libdevice.rsqrt(v * v + 1)
        + libdevice.isnan(v).to(tl.float32)
    )
    tl.store(o + tl.arange(0, N), s + libdevice.fma(v, v, v) + libdevice.signbit(v).to(tl.float32))


@triton.autotune(configs=[triton.Config({"BLOCK": b}) for b in (64, 256)], key=["n"])
@triton.jit
def tuned(x, o, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + i, mask=i < n) * 2, mask=i < n)


def test_triton_finds_the_backend() -> None:
    assert backends["cpu"].driver is driver.CpuDriver
    assert isinstance(triton.runtime.driver.active, driver.CpuDriver)


def test_the_device_key_differs_from_every_gpu_index() -> None:
    assert not isinstance(driver.CpuDriver().get_current_device(), int)


def test_launching_with_tensors_and_numbers() -> None:
    x, y, o = torch.randn(1000), torch.randn(1000), torch.zeros(1000)
    kernel = k.masked_add[(8,)](x, y, o, 1000, BLOCK=128)
    assert torch.equal(o, x + y)
    assert kernel.metadata.engine in ("vector", "reference")
    assert set(kernel.asm) >= {"ttir", "llir", "obj"}


def test_choosing_the_lowering() -> None:
    x, y, o = torch.randn(1000), torch.randn(1000), torch.zeros(1000)
    kernel = k.masked_add[(8,)](x, y, o, 1000, BLOCK=128, engine="reference")
    assert kernel.metadata.engine == "reference"
    assert torch.equal(o, x + y)


def test_knobs_of_gpu_code_generators_are_accepted() -> None:
    x, y, o = torch.randn(1000), torch.randn(1000), torch.zeros(1000)
    k.masked_add[(8,)](x, y, o, 1000, BLOCK=128, num_warps=8, num_stages=3, waves_per_eu=2, maxnreg=64)
    assert torch.equal(o, x + y)


def test_none_as_a_pointer() -> None:
    x, b, o = torch.randn(16), torch.randn(16), torch.zeros(16)
    maybe_bias[(1,)](x, None, o, 16)
    assert torch.equal(o, x)
    maybe_bias[(1,)](x, b, o, 16)
    assert torch.equal(o, x + b)


@pytest.mark.parametrize("factor", [1, 2, 3.5])
def test_a_tuple_argument(factor: float) -> None:
    x, o = torch.randn(16), torch.zeros(16)
    tuple_argument[(1,)]((x, factor), o, 1.5, 16)
    torch.testing.assert_close(o, x * factor + 1.5)


def test_a_host_side_tensor_descriptor() -> None:
    x, o = torch.randn(16, 20), torch.ones(16, 16)
    host_descriptor[(1,)](TensorDescriptor.from_tensor(x, [16, 16]), o, 16)
    assert torch.equal(o[:, :12], x[:, 8:])
    assert o[:, 12:].eq(0).all()


def test_libdevice_functions() -> None:
    x, o = torch.randn(64), torch.zeros(64)
    x[3] = float("nan")
    math_library[(1,)](x, o, 64)
    expected = x.tanh() + x.abs() + (x * x + 1).rsqrt() + x.isnan() + x * x + x + x.signbit()
    torch.testing.assert_close(o, expected, equal_nan=True)


def test_autotune_measures_and_picks_a_config() -> None:
    x, o = torch.randn(1000), torch.zeros(1000)
    tuned[lambda meta: (triton.cdiv(1000, meta["BLOCK"]),)](x, o, 1000)
    assert torch.equal(o, x * 2)
    assert tuned.best_config.kwargs["BLOCK"] in (64, 256)


def test_bench_reports_quantiles_in_order() -> None:
    low, middle, high = do_bench(lambda: None, warmup=0, rep=0, quantiles=(0.0, 0.5, 1.0))
    assert 0 <= low <= middle <= high
    assert do_bench(lambda: None, warmup=0, rep=0, quantiles=(0.5,)) >= 0
    assert len(do_bench(lambda: None, warmup=0, rep=0, return_mode="all")) >= 5


def test_a_second_process_loads_the_cached_object(tmp_path: pathlib.Path) -> None:
    script = """
        import cpu_kernels as k
        from headrace.codegen.cpu.direct import compile_direct
        import torch
        signature = {"x": "*fp32", "y": "*fp32", "o": "*fp32", "n": "i32"}
        d = compile_direct(k.masked_add, signature, {"BLOCK": 128})
        o = torch.zeros(100)
        d(1, 1, 1, torch.ones(100), torch.ones(100), o, 100)
        print(d.compile_ms > 0, o.eq(2).all().item())
    """
    runs = [python(script, TRITON_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert [r.stdout.split() for r in runs] == [["True", "True"], ["False", "True"]], runs[0].stderr


@pytest.mark.parametrize("trouble", ["no folder", "no space"])
def test_a_cache_that_cannot_be_written_costs_only_the_next_compilation(
    trouble: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "cache"
    if trouble == "no folder":
        folder.write_text("")
    else:
        monkeypatch.setattr(FileCacheManager, "put", full)
    signature = {"x": "*fp32", "y": "*fp32", "o": "*fp32", "n": "i32"}
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(folder)
        for _ in range(2):
            o = torch.zeros(100)
            built = compile_direct(k.masked_add, signature, {"BLOCK": 128})
            built(1, 1, 1, torch.ones(100), torch.ones(100), o, 100)
            assert built.compile_ms > 0
            assert o.eq(2).all()


def test_importing_triton_loads_neither_torch_nor_llvmlite() -> None:
    script = """
        import sys, triton.backends
        heavy = {"torch", "llvmlite", "headrace.compiler", "headrace.ir"} & set(sys.modules)
        print("cpu" in triton.backends.backends, sorted(heavy))
    """
    done = python(script)
    assert done.stdout.split() == ["True", "[]"], done.stdout + done.stderr


def test_importing_the_backend_before_triton_works() -> None:
    script = """
        import headrace.codegen.cpu.backend.driver as driver
        import triton
        print(triton.backends.backends["cpu"].driver is driver.CpuDriver)
    """
    assert python(script).stdout.strip() == "True"


def test_without_llvmlite_triton_imports_and_the_driver_is_inactive() -> None:
    script = """
        import sys
        from importlib.machinery import PathFinder
        find = PathFinder.find_spec
        PathFinder.find_spec = classmethod(
            lambda cls, name, *rest: None if name.partition(".")[0] == "llvmlite" else find(name, *rest))
        import triton
        from triton.backends import backends
        print(backends["cpu"].driver.is_active())
        from headrace.codegen.cpu.backend.driver import why_inactive
        print(why_inactive())
    """
    assert python(script).stdout.split("\n")[:2] == ["False", "llvmlite is not installed"]


def test_the_setting_switches_the_driver_off() -> None:
    script = "from triton.backends import backends; print(backends['cpu'].driver.is_active())"
    assert python(script, HEADRACE_CPU_ENGINE="off").stdout.strip() == "False"


def test_the_driver_yields_to_another_package_of_that_name(tmp_path: pathlib.Path) -> None:
    info = tmp_path / "other_cpu-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-cpu\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[triton.backends]\ncpu = triton.backends.nvidia\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = python(
        "from headrace.codegen.cpu.backend import driver; print(driver.why_inactive())", PYTHONPATH=path
    )
    assert "another package registers" in done.stdout, done.stderr


def test_the_driver_yields_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends["nvidia"].driver, "is_active", staticmethod(lambda: True))
    assert driver.why_inactive() == "a nvidia device is present"


@pytest.mark.skipif(
    "avx512f" not in pathlib.Path("/proc/cpuinfo").read_text(), reason="needs an AVX-512 processor"
)
def test_a_lower_feature_set_is_obeyed() -> None:
    script = """
        import cpu_kernels as k
        from headrace.codegen.cpu import target
        from headrace.codegen.cpu.direct import compile_direct
        signature = {"x": "*fp32", "y": "*fp32", "o": "*fp32", "n": "i32"}
        d = compile_direct(k.masked_add, signature, {"BLOCK": 128})
        print(target.host().vector_bits, "zmm" in d.asm)
    """
    assert python(script, HEADRACE_CPU_FEATURES="avx2").stdout.split() == ["256", "False"]


def test_an_unknown_feature_set_is_an_error() -> None:
    done = python("from headrace.codegen.cpu import target; target.host()", HEADRACE_CPU_FEATURES="avx1024")
    assert "avx1024" in done.stderr


def test_direct_and_launched_kernels_agree() -> None:
    x, first, second = torch.randn(5, 100), torch.zeros(5, 100), torch.zeros(5, 100)
    tiles.softmax_rows[(5,)](x, first, 100, 100, BLOCK=128)
    signature = {"x": "*fp32", "o": "*fp32", "n": "i32", "stride": "i32"}
    compile_direct(tiles.softmax_rows, signature, {"BLOCK": 128})(5, 1, 1, x, second, 100, 100)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


@triton.jit
def lgamma(x, o, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(o + i, libdevice.lgamma(tl.load(x + i)))


@triton.jit
def memcpy(x, o, N: tl.constexpr):
    row = tl.reshape(tl.load(x + tl.arange(0, N)), (8, N // 8))
    tl.store(o + tl.arange(0, 8)[:, None] * (N // 8) + tl.arange(0, N // 8)[None, :], row)


@pytest.mark.parametrize("engine", ["vector", "reference"])
def test_a_kernel_may_have_the_name_of_a_c_function_that_it_needs(engine: str) -> None:
    x, o = torch.rand(1024, dtype=torch.float64) + 0.5, torch.zeros(1024, dtype=torch.float64)
    memcpy[(1,)](x, o, 1024, engine=engine)
    assert torch.equal(o, x)
    lgamma[(1,)](x, o, 1024, engine=engine)
    torch.testing.assert_close(o, torch.lgamma(x))
