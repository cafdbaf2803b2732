"""Numbers for the campaign: exact rounding into every format, special values, integers that wrap."""

from __future__ import annotations

import torch

# Bits of the significand with the hidden one, least exponent of a normal number, largest finite value.
FORMATS = {
    torch.float64: (53, -1022, torch.finfo(torch.float64).max),
    torch.float32: (24, -126, torch.finfo(torch.float32).max),
    torch.float16: (11, -14, 65504.0),
    torch.bfloat16: (8, -126, torch.finfo(torch.bfloat16).max),
    torch.float8_e4m3fn: (4, -6, 448.0),
    torch.float8_e5m2: (3, -14, 57344.0),
    torch.float8_e4m3fnuz: (4, -7, 240.0),
    torch.float8_e5m2fnuz: (3, -15, 57344.0),
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
SIGNED = (torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)
INTS = SIGNED + UNSIGNED


def ulp(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance of neighbours of ``dtype`` near each element of a float64 tensor."""
    bits, least, top = FORMATS[dtype]
    _, exponent = torch.frexp(x.nan_to_num(0, top, -top).clamp(-top, top))
    exponent = torch.where(x == 0, least, exponent - 1).clamp(min=least)
    return torch.ldexp(torch.ones_like(x), exponent - (bits - 1))


def rounded(x: torch.Tensor, dtype: torch.dtype, *, toward_zero: bool = False) -> torch.Tensor:
    """A float64 tensor rounded once to ``dtype``: to nearest, ties to even, or toward zero.

    The 8-bit formats saturate; the others overflow to infinity (toward zero: to the largest number).
    """
    top = FORMATS[dtype][2]
    step = ulp(x, dtype)
    scaled = x / step
    whole = scaled.trunc() if toward_zero else scaled.round()
    y = torch.where(x.isfinite(), whole * step, x)
    eight = dtype in FLOAT8
    limit = torch.full_like(y, top if eight or toward_zero else torch.inf)
    over = y.abs() > top
    if toward_zero and not eight:
        over = over & x.isfinite()
    y = torch.where(over, torch.copysign(limit, y), y)
    return torch.where(y == 0, torch.copysign(y, x), y).to(dtype)


def width(dtype: torch.dtype) -> int:
    return 1 if dtype is torch.bool else torch.iinfo(dtype).bits


def wrap(value: int, dtype: torch.dtype) -> int:
    """An integer reduced to the range of ``dtype``."""
    if dtype is torch.bool:
        return value & 1
    bits = width(dtype)
    value &= (1 << bits) - 1
    return value - (1 << bits) if dtype in SIGNED and value >> (bits - 1) else value


def integers(values: list[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of Python integers, wrapped."""
    if dtype is torch.bool:
        return torch.tensor([bool(v & 1) for v in values])
    signed = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[width(dtype)]
    return torch.tensor([wrap(v, signed) for v in values], dtype=signed).view(dtype)


def as_ints(x: torch.Tensor) -> list[int]:
    return [int(v) for v in x.flatten().tolist()]


def special_ints(dtype: torch.dtype) -> list[int]:
    if dtype is torch.bool:
        return [0, 1]
    info = torch.iinfo(dtype)
    return sorted({info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, wrap(-1, dtype)})


def special_floats(dtype: torch.dtype) -> torch.Tensor:
    info = torch.finfo(dtype)
    tiny = torch.tensor(info.tiny, dtype=torch.float64)
    small = float(ulp(torch.zeros(1, dtype=torch.float64), dtype))
    values = [0.0, small, small * 3, float(tiny) - small, float(tiny), 0.5, 1.0, 1.5, 2.0, 3.7, 100.0]
    values += [info.max, float("inf"), float("nan")]
    both = torch.tensor([s * v for v in values for s in (1.0, -1.0)], dtype=torch.float64)
    return rounded(both, dtype)


def any_ints(g: torch.Generator, n: int, dtype: torch.dtype, turn: int = 0) -> torch.Tensor:
    """Special values first, then random bits, every other one small; rotated by ``turn``."""
    special = special_ints(dtype)
    random = torch.randint(-(2**62), 2**62, (n,), generator=g).tolist()
    shift = max(0, 62 - width(dtype))
    made = special + [v >> (shift if k % 2 else 57) for k, v in enumerate(random)]
    made = made[:n]
    return integers(made[turn:] + made[:turn], dtype)


def pairs(values: torch.Tensor, n: int, random: tuple[torch.Tensor, torch.Tensor]) -> tuple:
    """Every pair of the values, filled up to ``n`` with random ones."""
    k = values.numel()
    a = torch.cat([values.repeat_interleave(k), random[0]])[:n]
    b = torch.cat([values.repeat(k), random[1]])[:n]
    return a.contiguous(), b.contiguous()


def any_floats(g: torch.Generator, n: int, dtype: torch.dtype) -> torch.Tensor:
    """Special values first, then random ones over many binades."""
    special = special_floats(dtype)
    x = torch.randn(n, generator=g, dtype=torch.float64)
    x *= torch.exp2(torch.randint(-6, 7, (n,), generator=g).double())
    return torch.cat([special, rounded(x, dtype)])[:n].contiguous()
