"""Grids and arguments of a launch, also odd ones: what they mean, or how they are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from cpu_kernels import scaled
from triton.tools.tensor_descriptor import TensorDescriptor

from headrace.codegen.cpu.backend import driver
from headrace.errors import CpuEngineError

pytestmark = pytest.mark.skipif(
    driver.why_inactive() is not None, reason=f"inactive: {driver.why_inactive()}"
)


@triton.jit
def typed(o, a: tl.int32, b: tl.int64, c: tl.int8):
    tl.store(o, a.to(tl.int64) + b + c)


@triton.jit
def narrow(o, a: tl.float16, b: tl.bfloat16):
    tl.store(o, a.to(tl.float64))
    tl.store(o + 1, b.to(tl.float64))


@triton.jit
def moved(source, target, at, N: tl.constexpr):
    target.store([0, 0, 0], source.load([0, at, 0]) * N)


@triton.jit
def waits(flag):
    while tl.atomic_add(flag, 0) == 0:
        pass


def test_grids_of_every_form() -> None:
    x = torch.randn(256)
    for grid in ((4,), [4, 1], (4, 1, 1), lambda meta: (256 // meta["BLOCK"],), (np.int64(4),)):
        o = torch.zeros(256)
        scaled[grid](x, o, 256, 2.0, BLOCK=64)
        assert torch.equal(o, x * 2)


@pytest.mark.parametrize("grid", [(0,), (4, 0), (1, 1, 0), (-1,)])
def test_an_empty_grid_runs_nothing(grid: tuple[int, ...]) -> None:
    o = torch.zeros(64)
    scaled[grid](torch.ones(64), o, 64, 2.0, BLOCK=64)
    assert o.eq(0).all()


@pytest.mark.parametrize(
    ("grid", "error"),
    [
        ((2**31,), ValueError),
        ((2**70,), OverflowError),
        ((1.5,), TypeError),
        ((2**31 - 1, 2**31 - 1, 4), ValueError),
    ],
)
def test_a_grid_that_is_none_is_an_error(grid: tuple[object, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        scaled[grid](torch.ones(64), torch.zeros(64), 64, 2.0, BLOCK=64)


def test_tensors_without_elements() -> None:
    scaled[(1,)](torch.empty(0), torch.empty(0), 0, 2.0, BLOCK=64)


def test_a_tensor_that_is_not_contiguous_is_its_first_element_onwards() -> None:
    base, o = torch.arange(64.0), torch.zeros(8)
    scaled[(1,)](base[8:40:4], o, 8, 1.0, BLOCK=8)
    assert torch.equal(o, base[8:16])


def test_a_reinterpreted_tensor() -> None:
    x, o = torch.arange(8, dtype=torch.int32), torch.zeros(8)
    scaled[(1,)](triton.reinterpret(x.float().view(torch.int32), tl.float32), o, 8, 2.0, BLOCK=8)
    assert torch.equal(o, x * 2.0)


def test_a_tensor_of_the_meta_device_is_refused() -> None:
    with pytest.raises(ValueError, match="argument 1 is a tensor without memory"):
        scaled[(1,)](torch.ones(8), torch.empty(8, device="meta"), 8, 2.0, BLOCK=8)


def test_a_tensor_elsewhere_is_refused() -> None:
    class Elsewhere:
        dtype, is_cpu = torch.float32, False

        def data_ptr(self) -> int:
            return 4096

    with pytest.raises(ValueError, match="argument 0 is a tensor that is not in main memory"):
        scaled[(1,)](Elsewhere(), torch.zeros(8), 8, 2.0, BLOCK=8)


@pytest.mark.parametrize("wrong", [np.ones(8, np.float32), "text", object()])
def test_what_is_no_argument_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError):
        scaled[(1,)](wrong, torch.zeros(8), 8, 2.0, BLOCK=8)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ((2**31 - 1, 1, -128), None),
        ((-(2**31), -(2**40), 127), None),
        ((2**32, 0, 0), OverflowError),
        ((0, 0, 300), OverflowError),
        ((-(2**31) - 1, 0, 0), OverflowError),
        ((1.5, 0, 0), TypeError),
    ],
)
def test_integers_must_fit_their_parameter(values: tuple[object, ...], error: type[Exception] | None) -> None:
    o = torch.zeros(1, dtype=torch.int64)
    if error is None:
        typed[(1,)](o, *values)
        assert o.item() == sum(values)
    else:
        with pytest.raises(error):
            typed[(1,)](o, *values)


@pytest.mark.parametrize("sign", [1, -1])
def test_floats_are_rounded_once_to_16_bit_parameters(sign: int) -> None:
    o = torch.empty(2, dtype=torch.float64)
    above, below = 2.0**-40, -(2.0**-40)  # a tie of 16 bits, by less than 32 bits hold
    for by, halves, brains in [(above, 1 + 2**-10, 1.0), (0.0, 1.0, 1.0), (below, 1.0, 1.0)]:
        narrow[(1,)](o, sign * (1 + 2**-11 + by), sign * 1.0)
        assert o.tolist() == [sign * halves, sign * brains]
    for by, brain in [(above, 1 + 2**-7), (0.0, 1.0), (below, 1.0)]:
        narrow[(1,)](o, sign * 1e300, sign * (1 + 2**-8 + by))
        assert o.tolist() == [sign * float("inf"), sign * brain]
    narrow[(1,)](o, float("nan"), sign * 3.4e38)
    assert o[0].isnan()
    assert o[1].isinf()


def test_missing_and_surplus_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        scaled[(1,)](torch.ones(8), torch.zeros(8), 8, BLOCK=8)
    with pytest.raises(TypeError):
        scaled[(1,)](torch.ones(8), torch.zeros(8), 8, 2.0, 8, 9)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(KeyError, match="num_wraps"):
        scaled[(1,)](torch.ones(8), torch.zeros(8), 8, 2.0, BLOCK=8, num_wraps=4)


def test_a_cooperative_grid_is_refused() -> None:
    with pytest.raises(CpuEngineError, match="cooperative"):
        waits[(2,)](torch.ones(1, dtype=torch.int32), launch_cooperative_grid=True)


def test_host_descriptors_of_three_dimensions_to_read_and_to_write() -> None:
    x, o = torch.randn(4, 8, 16).transpose(0, 1).contiguous().transpose(0, 1), torch.zeros(4, 8, 16)
    source = TensorDescriptor(x, [4, 8, 16], list(x.stride()), [2, 4, 16])
    target = TensorDescriptor.from_tensor(o, [2, 4, 16])
    moved[(1,)](source, target, 6, 3)
    expected = torch.zeros(4, 8, 16)
    expected[:2, :2] = x[:2, 6:] * 3
    assert torch.equal(o, expected)
