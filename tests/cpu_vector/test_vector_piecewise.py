"""Loads at quotients and remainders of the index: as the scalar reference lowering does them, bit by bit."""

from __future__ import annotations

import re

import pytest
import torch
import triton
import triton.language as tl

from headrace.codegen.cpu.backend import driver

pytestmark = pytest.mark.skipif(
    driver.why_inactive() is not None, reason=f"inactive: {driver.why_inactive()}"
)
BLOCK, PROGRAMS = 128, 3


@triton.jit
def channels(
    x,
    w,
    o,
    n,
    C: tl.constexpr,
    S: tl.constexpr,
    FIRST: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = at + FIRST
    c, r = i % C, i // C
    if MASKED:
        value = tl.load(x + r * S + c, mask=at < n, other=0.0) + tl.load(w + c, mask=at < n, other=1.0)
    else:
        value = tl.load(x + r * S + c) + tl.load(w + c) + tl.load(w + r)
    tl.store(o + at, value, mask=at < n)


@triton.jit
def bits(x, o, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(o + i, tl.load(x + (i & 31) + (i >> 5) * 40) + tl.load(x + ((i % 64) // 32) * 3))


@triton.jit
def two_divisors(x, o, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    nested = i % 64 + (i // 64 % 5) * 70 + i // 320 * 9
    crossed = i % 48 + (i + 7) % 32
    tl.store(o + i, tl.load(x + nested) + tl.load(x + crossed))


@triton.jit
def rounded_both_ways(x, o, FIRST: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = at + FIRST
    tl.store(o + at, tl.load(x + (i & 15) + (i // 16) * 16) + tl.load(x + ((i % 64) & 15) + (i >> 4) * 16))


@triton.jit
def moved_remainder(x, o, FIRST: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = at + FIRST
    tl.store(o + at, tl.load(x + ((i & 31) - 10) // 16))


@triton.jit
def scattered(x, v, o, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    c, r = i % 64, i // 64
    value = tl.load(v + 16 * r + 1024 * (c // 16) + c % 16)
    to = tl.load(x + 16 * r + 1024 * (c // 16) + c % 16)
    to = tl.where(to < 0, to + tl.full([BLOCK], 4, tl.int32), to)
    tl.device_assert((to >= 0) & (to < 4))
    tl.atomic_add(o + (to + 2 * (r % 8) + 14 * (to // 2) + 32 * (r // 8) + 256 * c), value)


def both(kernel: object, *args: object, **constants: object) -> tuple[torch.Tensor, torch.Tensor]:
    results = []
    for engine in ("vector", "reference"):
        o = torch.zeros(BLOCK * PROGRAMS)
        kernel[(PROGRAMS,)](*(o if a is None else a for a in args), **constants, BLOCK=BLOCK, engine=engine)
        results.append(o)
    return results[0], results[1]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("first", [0, 5, 16, -6])
@pytest.mark.parametrize(
    ("count", "stride"), [(16, 16), (16, 24), (32, 32), (48, 50), (8, 8), (20, 33), (64, 128)]
)
def test_rows_of_channels(count: int, stride: int, first: int, masked: bool) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(8192)[4096:], torch.randn(512)[256:]
    got, expected = both(
        channels, x, w, None, BLOCK * PROGRAMS - 37, C=count, S=stride, FIRST=first, MASKED=masked
    )
    assert torch.equal(got, expected)


def test_shifts_and_bit_masks_are_quotients_and_remainders() -> None:
    got, expected = both(bits, torch.randn(1000), None)
    assert torch.equal(got, expected)


def test_pieces_that_do_not_begin_together() -> None:
    got, expected = both(two_divisors, torch.randn(1000), None)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("first", [-40, -17, 0, 3, 20])
@pytest.mark.parametrize("kernel", [rounded_both_ways, moved_remainder], ids=str)
def test_steps_next_to_each_other_that_cancel_out(kernel, first: int) -> None:
    got, expected = both(kernel, torch.randn(1000)[300:], None, FIRST=first)
    assert torch.equal(got, expected)


def test_an_index_that_a_later_loop_needs_again_is_kept_whole() -> None:
    x, v = torch.randint(0, 4, (4099,), dtype=torch.int8)[3:], torch.randint(-9, 9, (4096,)).float()
    results = []
    for engine in ("vector", "reference"):
        o = torch.zeros(64 * 256 + 64)
        scattered[(16,)](x, v, o, BLOCK=256, engine=engine, debug=True, sanitize_overflow=False)
        results.append(o)
    assert torch.equal(*results)


def test_channels_can_be_read_without_a_gather() -> None:
    x, o = torch.randn(1024), torch.zeros(BLOCK * PROGRAMS)
    kernel = channels[(PROGRAMS,)](x, x, o, o.numel(), C=64, S=64, FIRST=0, MASKED=False, BLOCK=BLOCK)
    assert kernel.metadata.engine == "vector"
    assert re.search(r"load <\d+ x float>", kernel.asm["llir"])
