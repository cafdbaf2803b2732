"""Indices in masks that wrap around: bounds only where nothing wraps, elements where something does."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from headrace.codegen.cpu import target
from headrace.codegen.cpu.direct import compile_direct
from headrace.codegen.cpu.vector.analysis import ranges
from headrace.codegen.cpu.vector.analysis.ranges import Known
from headrace.codegen.cpu.vector.context import Context, Machine
from headrace.codegen.cpu.vector.expr import Range, Scalar, Uniform
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise

pytestmark = pytest.mark.skipif(
    target.host().vector_bits < 256 or not target.host().is_x86,
    reason="the vector lowering needs AVX2 or AVX-512",
)
B = 64
ENDS = {"i32": 2**31, "i64": 2**63, "i16": 2**15}


@triton.jit
def selected(o, start, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.where(start + i.to(start.dtype) < n, 1.0, 2.0))


@triton.jit
def loaded(o, start, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, tl.load(o + B + i, mask=start + i.to(start.dtype) <= n, other=-5.0))


@triton.jit
def stored(o, start, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(o + i, 3.0, mask=start + i.to(start.dtype) < n)


@triton.jit
def widened(o, start, n, B: tl.constexpr):
    i = tl.arange(0, B)
    at = (start.to(tl.int32) + i).to(tl.int64)  # wraps before it is widened
    tl.store(o + i, tl.load(o + B + i, mask=at < n, other=-5.0))


@triton.jit
def summed(o, start, n, B: tl.constexpr):
    i = start + tl.arange(0, B).to(start.dtype)
    total = tl.zeros((B,), tl.float32)
    for _ in range(3):
        total += tl.where(i < n, 1.0, 0.0)
        i += 7
    tl.store(o + tl.arange(0, B), total)


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("fn", [selected, loaded, stored, widened, summed], ids=lambda f: f.__name__)
def test_a_mask_is_right_where_its_index_wraps(fn, kind) -> None:
    end = ENDS[kind]
    signature = {"o": "*fp32", "start": kind, "n": kind}
    vector, reference = (
        compile_direct(fn, signature, {"B": B}, options={"engine": e}) for e in ("vector", "reference")
    )
    for start in (0, end - 1, end - B, end - B + 1, end - B // 2, -end, -end + 3, end // 2 - 2):
        for n in (0, -1, end - 1, end - 3, -end, -end + B // 4, end // 2, min(start + B // 2, end - 1)):
            wanted = torch.arange(2.0 * B)
            found = wanted.clone()
            reference(1, 1, 1, wanted, start, n)
            vector(1, 1, 1, found, start, n)
            assert torch.equal(found, wanted), (start, n)


@triton.jit
def grown(x, o, trips, B: tl.constexpr):
    v = tl.load(x + tl.arange(0, B))
    for k in range(trips):
        v += tl.max(v, 0) * k
    tl.store(o + tl.arange(0, B), v)


def test_a_tile_may_grow_by_what_the_loop_finds_in_it() -> None:
    kernel = compile_direct(
        grown, {"x": "*i32", "o": "*i32", "trips": "i32"}, {"B": 16}, options={"engine": "vector"}
    )
    x = torch.arange(-5, 11, dtype=torch.int32)
    wanted, found = x.clone(), torch.zeros_like(x)
    for k in range(4):
        wanted += wanted.max() * k
    kernel(1, 1, 1, x, found, 4)
    assert torch.equal(found, wanted)


def context() -> Context:
    return Context(Machine(lanes=16, avx512=True, bf16_dot=False))


def shifted(name: str, size: int, element: str = "i32") -> Elementwise:
    return Elementwise("arith.addi", (Uniform(name, element, (size,)), Range(0, size)), (size,), element, {})


def test_a_multiple_of_the_tile_never_wraps() -> None:
    g = context()
    g.known["%p0"] = Known(0, 2**31 - 1)
    block = Elementwise("arith.muli", (Scalar("%p0", "i32"), Scalar("128", "i32")), (), "i32", {})
    name = block.scalar(g)
    ranges.learn(g, block, name)
    assert g.known[name].modulus == 128
    assert ranges.straight(g, shifted(name, 128), 0) == "true"
    assert ranges.straight(g, shifted(name, 256), 0) != "true"


def test_a_loop_ends_a_step_before_its_type_does() -> None:
    g = context()
    g.known["%i"] = ranges.counter(g, "%a0", "64", "%a1", "i32", unsigned=False)
    assert ranges.straight(g, shifted("%i", 64), 0) == "true"
    assert ranges.straight(g, shifted("%i", 128), 0) != "true"
    g.known["%u"] = ranges.counter(g, "%a0", "64", "%a1", "i32", unsigned=True)
    assert ranges.straight(g, shifted("%u", 64), 0) != "true"


def test_an_argument_may_wrap_and_is_asked() -> None:
    g = context()
    condition = ranges.straight(g, shifted("%a0", 64), 0)
    assert condition.startswith("%")
    assert f"{condition} = icmp sle i32 %a0, {2**31 - 64}" in "\n".join(g.e.top.lines)


@pytest.mark.parametrize(
    ("op", "a", "b", "low", "high"),
    [
        ("arith.addi", Known(0, 2**31 - 1), Known(1, 1), -(2**31), 2**31 - 1),
        ("arith.subi", Known(0, 9), Known(2, 3), -3, 7),
        ("arith.muli", Known(-2, 3), Known(-5, 4), -15, 12),
        ("arith.divsi", Known(-7, 7), Known(2, 2), -3, 3),
        ("arith.remsi", Known(0, 99), Known(8, 8), 0, 7),
        ("arith.remsi", Known(-5, 99), Known(8, 8), -7, 7),
        ("arith.remui", Known(-5, 99), Known(8, 8), -(2**31), 2**31 - 1),
        ("arith.minsi", Known(0, 9), Known(4, 5), 0, 5),
        ("arith.maxsi", Known(0, 9), Known(4, 5), 4, 9),
    ],
)
def test_bounds_follow_arithmetic(op, a, b, low, high) -> None:
    g = context()
    g.known["%a"], g.known["%b"] = a, b
    made = Elementwise(op, (Scalar("%a", "i32"), Scalar("%b", "i32")), (), "i32", {})
    found = ranges.base_of(g, made)
    assert (found.low, found.high) == (low, high)
