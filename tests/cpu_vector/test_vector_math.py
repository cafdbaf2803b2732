"""Math functions over the whole range of their type: errors in units of the last place, special values; and
integer division."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import vector_math_kernels as k
from vector_support import run

from headrace.codegen.cpu.backend import libdevice

ONE = {
    "exp": np.exp, "exp2": np.exp2, "exp10": lambda x: np.power(x.dtype.type(10), x), "expm1": np.expm1,
    "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "erf": lambda x: np.array([math.erf(v) for v in x]),
    "erfc": lambda x: np.array([math.erfc(v) for v in x]),
}  # fmt: skip
TWO = {"pow": np.power, "atan2": np.arctan2, "hypot": np.hypot}
WHOLE = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint}
LIMIT = {"rsqrt": 1.5, "sqrt": 0.5, "log2": 1.5, "tanh": 1.5, "sinh": 2.0, "cosh": 2.0, "asinh": 2.0,
         "acosh": 2.0, "erfc": 3.5}  # fmt: skip
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40, 1e-45, 3e38,
           88.72, 88.73, 89.2, -87.3, -103.9, -104.0, 128.0, -149.0, -150.0, 709.7, 710.2,
           -745.0]  # fmt: skip
FLOATS = {torch.float32: (np.float32, np.int32, 23, -126), torch.float64: (np.float64, np.int64, 52, -1022)}


def _range(dtype: torch.dtype, seed: int) -> np.ndarray:
    """Numbers of every exponent, ordinary ones, neighbours of 1 and of multiples of pi / 2, special ones."""
    kind, bits, _, _ = FLOATS[dtype]
    random = np.random.default_rng(seed)
    info = np.iinfo(bits)
    parts = [random.integers(info.min, info.max, 6000, dtype=bits).view(kind)]
    parts += [
        random.standard_normal(700) * scale for scale in (1e-3, 0.1, 1.0, 3.0, 10.0, 50.0, 100.0, 700.0)
    ]
    parts += [1 + random.standard_normal(700) * scale for scale in (1e-3, 0.3)]
    parts += [np.round(random.standard_normal(700) * 100) * np.pi / 2, np.array(SPECIAL)]
    with np.errstate(over="ignore"):
        return np.concatenate([p.astype(kind) for p in parts])


def _check(name: str, result: np.ndarray, exact: np.ndarray, dtype: torch.dtype) -> None:
    kind, _, mantissa, least = FLOATS[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(kind)
    assert np.array_equal(np.isnan(result), np.isnan(rounded))
    keep = ~np.isnan(rounded)
    assert np.array_equal(result[keep & np.isinf(rounded)], rounded[keep & np.isinf(rounded)])
    keep &= np.isfinite(rounded)
    assert np.isfinite(result[keep]).all()
    e = exact[keep].astype(np.longdouble)
    exponent = np.floor(np.log2(np.maximum(np.abs(e), np.longdouble(2.0) ** least)))
    error = np.abs(result[keep].astype(np.longdouble) - e) / np.longdouble(2.0) ** (exponent - mantissa)
    assert error.max() <= LIMIT.get(name, 1.05), f"{error.max()} at {np.flatnonzero(keep)[error.argmax()]}"
    zero = (result == 0) & (rounded == 0)
    assert np.array_equal(np.signbit(result[zero]), np.signbit(rounded[zero]))


def _exact(function: Callable[..., np.ndarray], *operands: np.ndarray) -> np.ndarray:
    wide = np.longdouble if operands[0].dtype == np.float64 else np.float64
    with np.errstate(all="ignore"):
        return function(*(x.astype(wide) for x in operands))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", [*ONE, *WHOLE])
def test_function_of_one_operand_over_its_whole_range(name: str, dtype: torch.dtype):
    x = _range(dtype, len(name))
    y = torch.empty(len(x), dtype=dtype)
    function = getattr(libdevice, name)
    run(k.one_operand, [-(-len(x) // 256)], torch.from_numpy(x), y, len(x), FUNCTION=function, BLOCK=256)
    if name in WHOLE:
        with np.errstate(invalid="ignore"):
            expected = WHOLE[name](x)
        assert np.array_equal(y.numpy(), expected, equal_nan=True)
        assert np.array_equal(np.signbit(y.numpy())[expected == 0], np.signbit(expected)[expected == 0])
    else:
        _check(name, y.numpy(), _exact(ONE[name], x), dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", TWO)
def test_function_of_two_operands_over_its_whole_range(name: str, dtype: torch.dtype):
    x = _range(dtype, 3)
    y = np.random.default_rng(4).permutation(x)
    z = torch.empty(len(x), dtype=dtype)
    run(k.two_operands, [-(-len(x) // 256)], torch.from_numpy(x), torch.from_numpy(y), z, len(x),
        FUNCTION=getattr(libdevice, name), BLOCK=256)  # fmt: skip
    _check(name, z.numpy(), _exact(TWO[name], x, y), dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["sin", "exp", "tanh", "log1p", "cosh"])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_vectors_narrower_than_the_processors(name: str, dtype: torch.dtype, block: int):
    x = _range(dtype, 9)[-400:]
    y = torch.empty(len(x), dtype=dtype)
    function = getattr(libdevice, name)
    if block == 1:
        run(k.on_scalars, [len(x)], torch.from_numpy(x), y, FUNCTION=function)
    else:
        run(
            k.one_operand,
            [-(-len(x) // block)],
            torch.from_numpy(x),
            y,
            len(x),
            FUNCTION=function,
            BLOCK=block,
        )
    _check(name, y.numpy(), _exact(ONE[name], x), dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["sin", "log2", "expm1"])
def test_functions_of_16_bit_floats_are_computed_in_f32_and_rounded_once(name: str, dtype: torch.dtype):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = torch.empty(len(x))
    run(k.one_operand, [len(x) // 512], x.float(), wide, len(x), FUNCTION=getattr(libdevice, name), BLOCK=512)
    y = torch.empty_like(x)
    run(k.through_f32, [len(x) // 512], x, y, len(x), FUNCTION=getattr(libdevice, name), BLOCK=512)
    assert torch.equal(y.isnan(), wide.isnan())
    keep = ~wide.isnan()
    assert torch.equal(y[keep].float(), wide[keep].to(dtype).float())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_remainder_of_floats_is_exact(dtype: torch.dtype):
    x = _range(dtype, 5)
    y = np.random.default_rng(6).permutation(x)
    with np.errstate(all="ignore"):
        y[::5] = x[::5] / 7
    z = torch.empty(len(x), dtype=dtype)
    run(k.remainder, [-(-len(x) // 128)], torch.from_numpy(x), torch.from_numpy(y), z, len(x), BLOCK=128)
    with np.errstate(all="ignore"):
        expected = np.fmod(x, y)
    assert np.array_equal(z.numpy(), expected, equal_nan=True)
    zero = expected == 0
    assert np.array_equal(np.signbit(z.numpy()[zero]), np.signbit(expected[zero]))


def _quotients(a: list[int], b: list[int], info: torch.iinfo) -> tuple[list[int], list[int]]:
    """Division that truncates; x / 0 is 0 and x % 0 is x; the lowest number divided by -1 wraps."""
    quotients, remainders = [], []
    for x, y in zip(a, b, strict=True):
        q = 0 if y == 0 else abs(x) // abs(y)
        q = -q if (x < 0) != (y < 0) else q
        quotients.append(q - 2**info.bits if q > info.max else q)
        remainders.append(x - q * y)
    return quotients, remainders


INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32]


@pytest.mark.parametrize("how", ["tensor", 0, 1, 7, -1, 97])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_division_never_traps_and_truncates(dtype: torch.dtype, how: str | int):
    info = torch.iinfo(dtype)
    if how == -1 and info.min == 0:
        how = min(info.max, 2**31 - 1)
    torch.manual_seed(8)
    a, b = torch.randint(info.min, info.max, (2, 900))
    b[::3] = torch.randint(-5 if info.min else 0, 9, (300,))
    b[:40] = 0
    a[40:300] = (b[40:300] * torch.randint(0, 4, (260,))).clamp(info.min, info.max)
    a[300:310], a[310:320] = info.min, info.max
    b[300] = b[310] = -1 if info.min else 1
    x, y = a.to(dtype), b.to(dtype)
    ways = [("tensor", 0)] if how == "tensor" else [("scalar", how), (how, 0)]
    for way, by in ways:
        q, r = torch.empty_like(x), torch.empty_like(x)
        run(k.divide, [8], x, y, q, r, 900, int(by), HOW=way, BLOCK=128)
        divisors = y.tolist() if way == "tensor" else [int(by) if way == "scalar" else int(way)] * 900
        expected = _quotients(x.tolist(), divisors, info)
        assert (q.tolist(), r.tolist()) == expected
