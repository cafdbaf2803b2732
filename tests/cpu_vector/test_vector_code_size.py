"""How much a kernel gives LLVM to do: compile time follows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from vector_support import run, worst

from headrace.codegen.cpu import jit
from headrace.codegen.cpu.direct import compile_direct
from headrace.codegen.cpu.vector.analysis import masks
from headrace.codegen.cpu.vector.context import Context
from headrace.codegen.cpu.vector.memory.transfer import Load


@triton.jit
def _seen(x, y, first, n, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows see columns up to a quarter of their number."""
    r, c = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    last = ((first + r) // 4)[:, None]
    total = tl.zeros([ROWS], tl.float32)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    for at in range(0, n, COLUMNS):
        tile = tl.load(x + r[:, None] * n + at + c[None, :])
        seen = tl.where(at + c[None, :] <= last, tile, float("-inf"))
        best = tl.maximum(best, tl.max(seen, 1))
        total += tl.sum(tl.exp(seen - best[:, None]), 1)
    tl.store(y + r, best)
    tl.store(y + ROWS + r, total)


@triton.jit
def _exp(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(y + i, tl.exp(tl.load(x + i)))


@triton.jit
def _exp_of_columns(x, y, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    tl.store(y + j, tl.sum(tl.exp(tl.load(x + i[:, None] * N + j[None, :])), 0))


@triton.jit
def _tiles(x, y, apart, n, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    start = tl.program_id(0).to(tl.int64) * M * apart
    for at in range(0, n, N):
        tl.store(y + start + i * apart + at + j, tl.load(x + start + i * apart + at + j) * 2.0)


@triton.jit
def _roots(x, y, n, STEPS: tl.constexpr, N: tl.constexpr):
    """Each step uses the one before three times."""
    i = tl.arange(0, N)
    a = tl.load(x + i, mask=i < n, other=1.0)
    r = a * 0 + 0.7
    for _ in tl.static_range(STEPS):
        r = r * (1.5 - 0.5 * a * r * r)
    tl.store(y, tl.sum(r))


def _elements_kept(ir: str) -> int:
    """Elements of all tiles that are in memory."""
    return sum(int(count) for count in re.findall(r"alloca \[(\d+) x", ir))


def test_what_a_tile_only_repeats_is_kept_once():
    rows, columns, n, first = 32, 64, 128, 200
    x, y = torch.randn(rows, n), torch.empty(2, rows)
    kernel = run(_seen, (1,), x, y, first, n, ROWS=rows, COLUMNS=columns)
    # The bound of each row, and no matrix of it: tiles of the scores and of what was loaded are the rest.
    assert f"alloca [{rows * columns} x i32]" not in kernel.llvm_ir
    assert _elements_kept(kernel.llvm_ir) < 3 * rows * columns
    last = (first + torch.arange(rows)) // 4
    seen = x.double().masked_fill(torch.arange(n) > last[:, None], -torch.inf)
    assert torch.equal(y[0].double(), seen.amax(1))
    before = torch.exp(seen[:, :columns] - seen[:, :columns].amax(1, keepdim=True)).sum(1)
    after = torch.exp(seen[:, columns:] - seen.amax(1, keepdim=True)).sum(1)
    assert worst(y[1], before + after) < 1e-6


def test_long_computations_are_written_a_few_times_only():
    def count(ir: str) -> int:
        return len(re.findall(r"= call .*@llvm\.fma\.", ir))

    x, y = torch.randn(64, 64), torch.empty(64)
    one = run(_exp, (1,), x[0], y, N=4)
    many = run(_exp_of_columns, (1,), x, y, M=64, N=64)
    assert 0 < count(many.llvm_ir) <= 8 * count(one.llvm_ir)
    assert worst(y, x.double().exp().sum(0)) < 1e-6


def test_addresses_from_outside_of_a_loop_are_single_values_inside():
    x, y = torch.randn(3 * 16, 192), torch.empty(3 * 16, 192)
    kernel = run(_tiles, (3,), x, y, 192, 192, M=16, N=64)
    block, made, sums, split = "", {}, set(), []
    for line in kernel.llvm_ir.splitlines():
        block = line.removesuffix(":") if re.fullmatch(r"\w+:", line) else block
        if (name := re.match(r"  (%\w+) = ", line)) is not None:
            made[name[1]] = (len(made), block)
        found = re.fullmatch(r"  (%\w+) = getelementptr \S+, ptr (%\w+), i64 (%\w+)", line)
        if found is None:
            continue
        result, base, index = found.groups()
        sums.add(result)
        if base in sums and index in made and made[base] < made[index]:
            # The base is older than what is added to it: if it is from another block, from further out.
            split += [line] if made[base][1] != made[index][1] else []
    assert "freeze ptr" in kernel.llvm_ir
    assert len(sums) > 2
    assert not split
    assert torch.equal(y, x * 2)


def test_llvm_reads_the_text_of_a_kernel_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    read: list[str] = []
    parsed = jit._parsed

    def reading(ir: str) -> object:
        read.append(ir)
        return parsed(ir)

    monkeypatch.setattr(jit, "_parsed", reading)
    kernel = compile_direct(_exp, {"x": "*fp32", "y": "*fp32"}, {"N": 64})
    assert read.count(kernel.llvm_ir) == 1
    x, y = torch.randn(64), torch.empty(64)
    kernel(1, 1, 1, x, y)
    assert worst(y, x.double().exp()) < 1e-6


def test_what_is_used_again_is_looked_at_once(monkeypatch: pytest.MonkeyPatch):
    seen = 0

    def box(self: Load, g: Context) -> masks.Box:
        nonlocal seen
        seen += 1
        return asked(self, g)

    asked = Load.box
    monkeypatch.setattr(Load, "box", box)
    x, y = torch.rand(1000) + 1, torch.empty(1)
    run(_roots, [1], x, y, 1000, STEPS=9, N=1024)
    assert worst(y, (x.double().rsqrt().sum() + 24).reshape(1)) < 1e-5
    assert seen < 1000
