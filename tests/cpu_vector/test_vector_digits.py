"""Sums of bf16 times int8 by whole numbers: exact where x permits it, the usual way where it does not."""

from __future__ import annotations

import pytest
import torch
import vector_narrow_kernels as k
from vector_support import Guarded, run, worst

from headrace.codegen.cpu import target
from headrace.codegen.cpu.vector.reduction.digits import CAPACITY

BK = 128


def by_digits(kernel) -> bool:
    """Whether a kernel can multiply by digits: it is for processors with VNNI."""
    return "vpdpbusd.512" in kernel.llvm_ir


def gemv(x: torch.Tensor, w: torch.Tensor, bn: int = 32, bk: int = BK) -> torch.Tensor:
    n, kk = w.shape
    y = torch.empty(n)
    made = run(k.weight_gemv, [-(-n // bn)], x, w, torch.ones(n), y, n, kk, BN=bn, BK=bk)
    assert not made.metadata["outlined"]
    assert by_digits(made) == target.host().has("avx512vnni", "avx512bw")
    return y


def exact(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return w.double() @ x.double()


def weights(n: int, kk: int) -> torch.Tensor:
    return torch.randint(-128, 128, (n, kk), dtype=torch.int8)


def cancelling(spread: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Large numbers that cancel in every f32 lane, and small ones that it loses meanwhile; the sum is small.

    The numbers of an iteration are up to `spread` powers of two apart.
    """
    x = torch.full((8 * BK,), 1 + 2.0**-7)
    w = weights(40, 8 * BK)
    for at in range(0, 8 * BK, 2 * BK):
        for start, large in ((at, 2.0**spread), (at + BK, -(2.0**spread))):
            x[start : start + BK : 2] = large
            w[:, start : start + BK : 2] = 127
    return x.bfloat16(), w


needs_vnni = pytest.mark.skipif(
    not target.host().has("avx512vnni", "avx512bw"), reason="this processor has no AVX-512 VNNI"
)


def test_a_kernel_that_takes_little_of_k_at_a_time_looks_bytes_up():
    x, w, y = torch.randn(256).bfloat16(), weights(40, 256), torch.empty(40)
    made = run(k.weight_gemv, [2], x, w, torch.ones(40), y, 40, 256, BN=32, BK=64)
    assert not by_digits(made)
    assert worst(y, exact(x, w)) < 2e-6


@needs_vnni
@pytest.mark.parametrize("spread", [14, 15])
def test_sums_of_numbers_up_to_15_powers_of_two_apart_are_exact(spread: int):
    x, w = cancelling(spread)
    assert torch.equal(gemv(x, w).double(), exact(x, w))


@needs_vnni
def test_an_iteration_with_a_number_that_is_too_small_is_summed_in_f32():
    x, w = cancelling(14)
    x[5 * BK + 41] = 2.0**-9
    w[:, 5 * BK + 41] = 0
    y = gemv(x, w)
    assert not torch.equal(y.double(), exact(x, w))
    scale = float((w.double().abs() @ x.double().abs()).max())
    assert float((y - exact(x, w)).abs().max()) < 1e-6 * scale


@needs_vnni
@pytest.mark.parametrize("steps", [1, 5, 12, 16])
@pytest.mark.parametrize("places", ["one", "many", "all"])
def test_lowest_digits_of_a_few_numbers_count_exactly(steps: int, places: str):
    """Only numbers in so many of 16 steps of 64 have any: in one place of each, in changing places that
    return, or in every other place."""
    x, w = cancelling(15)
    x[1::2] = 0
    chosen = torch.randperm(16)[:steps]
    for step in chosen.tolist():
        odd = {"one": [1], "many": [2 * (step % 3) + 1, 2 * (step % 5) + 21, 63], "all": range(1, 64, 2)}
        for place in odd[places]:
            x[64 * step + place] = (1 + 2.0**-7) * (-1) ** (place // 2)
    assert torch.equal(gemv(x, w).double(), exact(x, w))


@needs_vnni
def test_merged_digits_beside_an_iteration_that_is_left_out():
    x, w = cancelling(15)
    x[1::2] = 0
    x[1], x[3 * 64 + 1], x[5 * 64 + 7] = 1.5, -1.0078125, 1.0078125
    x[6 * BK : 8 * BK] = 0
    x[6 * BK + 9] = 2.0**-12
    w[:, 6 * BK + 9] = 64
    assert torch.equal(gemv(x, w).double(), exact(x, w))


@needs_vnni
def test_a_largest_number_with_a_significand_of_ones():
    """Its highest digit would be one too large, had the digits no power of two to spare."""
    x, w = cancelling(15)
    x[1::2] = 0
    x[4], w[:, 4] = (2 - 2.0**-7) * 2.0**15, 1
    x[2 * BK + 7], w[:, 2 * BK + 7] = 3.0, 5
    assert torch.equal(gemv(x, w).double(), exact(x, w))


@needs_vnni
def test_a_fourth_digit_where_many_iterations_want_it():
    x, w = cancelling(23)
    assert torch.equal(gemv(x, w).double(), exact(x, w))
    x, w = cancelling(24)
    assert not torch.equal(gemv(x, w).double(), exact(x, w))


@pytest.mark.parametrize("span", [0, 7, 13, 14, 15, 21, 22, 23, 40, 200])
@pytest.mark.parametrize("lowest", [-126, -20, 0])
def test_every_span_of_exponents(span: int, lowest: int):
    """With the widest significand at both ends."""
    if lowest + span > 110:
        lowest = 110 - span
    exponents = torch.randint(0, span + 1, (640,))
    exponents[::7], exponents[3::7] = 0, span
    sign = torch.randint(0, 2, (640,)) * 2.0 - 1
    x = (sign * (2 - 2.0**-7) * torch.exp2((exponents + lowest).double())).bfloat16()
    w = weights(45, 640)
    assert worst(gemv(x, w), exact(x, w)) < 2e-6


@pytest.mark.parametrize("outlier", [300.0, 1e4, 1e6, 1e30])
@pytest.mark.parametrize("bk", [128, 256])
def test_outliers(outlier: float, bk: int):
    x = torch.randn(1024).bfloat16()
    x[100], x[700] = outlier, -outlier
    w = weights(70, 1024)
    w[::2, 100] = w[::2, 700] = 0  # rows that must not notice
    y, expected = gemv(x, w, bk=bk), exact(x, w)
    assert worst(y, expected) < 2e-6
    assert worst(y[::2], expected[::2]) < 2e-6


def test_zeros_and_the_ends_of_the_range():
    w = weights(40, 256)
    zero = torch.zeros(256).bfloat16()
    assert torch.equal(gemv(zero, w), torch.zeros(40))
    assert torch.equal(gemv(-zero, w).abs(), torch.zeros(40))
    least = torch.finfo(torch.bfloat16).smallest_normal
    x = (zero + least) * torch.randint(-1, 2, (256,))
    assert torch.equal(gemv(x, w).double(), exact(x, w))
    few = torch.zeros(40, 256, dtype=torch.int8)
    few[:, 3], few[:, 70] = 1, -1
    x = zero + torch.finfo(torch.bfloat16).max
    x[70] = -1e38
    assert worst(gemv(x, torch.where(few < 0, 1, few).to(torch.int8)), exact(x, few.abs())) < 2e-6


def test_subnormal_numbers_count_as_no_more_than_they_are():
    x = torch.zeros(256).bfloat16()
    x[10], x[200] = 2.0**-130, 1.0
    w = weights(40, 256)
    assert worst(gemv(x, w), exact(x, w)) < 2e-6


@pytest.mark.parametrize("special", [float("inf"), float("-inf"), float("nan")])
def test_only_iterations_with_infinities_and_nan_are_left_out(special: float):
    x, w = torch.randn(512).bfloat16(), weights(70, 512)
    x[300] = special
    w[:35, 300] = 0
    expected = (w.float() * x.float()).sum(1)
    y = gemv(x, w)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y[y.isinf()], expected[expected.isinf()])


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(("n", "bn"), [(70, 32), (64, 64), (9, 8), (37, 16)])
def test_moving_pointers_rows_apart_and_several_x(n: int, bn: int, later: bool):
    kk = 4 * BK
    x, w = torch.randn(3, kk).bfloat16(), weights(n, kk + 24)
    expected = x.double() @ w[:, :kk].double().T + torch.arange(n)
    for row, first in ((kk + 24, w), (-(kk + 24), w.flip(0).contiguous())):
        y = torch.full((3 * n + 8,), 7.0)
        start = first if row > 0 else first.view(-1)[(n - 1) * (kk + 24) :]
        made = run(k.digit_gemv, [-(-n // bn), 3], x, start, y, n, row, K=kk, BN=bn, BK=BK, LATER=later)
        assert by_digits(made) == target.host().has("avx512vnni", "avx512bw")
        assert worst(y[: 3 * n].view(3, n), expected) < 2e-6
        assert bool((y[3 * n :] == 7).all())


@pytest.mark.parametrize("constant", [False, True])
def test_more_of_x_than_digits_are_kept_of(constant: bool):
    kk = CAPACITY + (512 if constant else 333)
    x, w = torch.randn(kk).bfloat16(), weights(37, kk)
    if not constant:
        assert worst(gemv(x, w, bk=256), exact(x, w)) < 2e-6
        return
    y = torch.empty(37)
    run(k.digit_gemv, [2, 1], x, w, y, 37, kk, K=kk, BN=32, BK=256, LATER=False)
    assert worst(y, exact(x, w) + torch.arange(37)) < 2e-6


@pytest.mark.parametrize("kk", [1, 127, 129, 200, 641])
@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_beyond_the_masks_is_touched(kk: int, at_end: bool):
    with Guarded(kk, torch.bfloat16, at_end) as x, Guarded(37 * kk, torch.int8, at_end) as w:
        x.copy_(torch.randn(kk))
        w.copy_(weights(37, kk).view(-1))
        assert worst(gemv(x, w.view(37, kk)), exact(x, w.view(37, kk))) < 2e-6


def test_digits_of_numbers_that_a_program_has_overwritten_are_made_again():
    w, x, programs = weights(32, 256), torch.zeros(256).bfloat16(), 5
    y = torch.empty(programs, 32)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # programs that write to one place may not run side by side
    try:
        run(k.gemv_of_its_own_x, [programs], x, w, y, N=32, K=256, BK=128)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(y, torch.arange(1, programs + 1)[:, None] * w.float().sum(1))


@pytest.mark.parametrize("masked", ["x", "w", "both"])
def test_programs_that_take_more_or_less_of_one_x(masked: str):
    """The numbers lie at one address, but a mask ends elsewhere for each program."""
    x, w = torch.randn(640).bfloat16(), weights(32, 640)
    lengths = torch.tensor([640, 512, 0, 500, 640, 130, 128, 640], dtype=torch.int32)
    y = torch.empty(len(lengths), 32)
    run(
        k.gemv_of_lengths, [len(lengths)], x, w, lengths, y,
        N=32, K=640, BK=BK, MASK_X=masked != "w", MASK_W=masked != "x",
    )  # fmt: skip
    for got, length in zip(y, lengths.tolist(), strict=True):
        assert worst(got, exact(x[:length], w[:, :length])) < 2e-6


def test_numbers_that_a_program_writes_between_two_loops_are_read_again():
    x, w = torch.zeros(4, 256).bfloat16(), weights(32, 256)
    y = torch.empty(4, 2, 32)
    run(k.gemv_before_and_after, [4], x, w, y, N=32, K=256, BK=BK)
    assert torch.equal(y[:, 0], torch.zeros(4, 32))
    assert torch.equal(y[:, 1], torch.arange(1, 5)[:, None] * w.float().sum(1))


def test_launches_share_no_digits():
    """The second kernel's x begins as the first one's does, but it has other digits in the same memory."""
    x, w = torch.randn(512).bfloat16(), weights(32, 512)
    x[300] = 2.0**12
    first = gemv(x, w)
    assert worst(first, exact(x, w)) < 2e-6
    part, rest = x[:256].contiguous(), w[:, :256].contiguous()
    assert worst(gemv(part, rest, bk=256), exact(part, rest)) < 2e-6
    assert torch.equal(gemv(x, w), first)


def test_results_do_not_depend_on_the_number_of_threads():
    x, w = torch.randn(1024).bfloat16(), weights(1000, 1024)
    x[77], x[900] = 2.0**-20, 500.0
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gemv(x, w))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
