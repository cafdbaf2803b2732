"""Where a function jumps, kernels decide as eager PyTorch does: what it reads is rounded as eager rounds it.

Kernels run as compiled, everything else operator by operator, so that every difference is a kernel's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.compiler import backend, resolve
from headrace.compiler.options import read
from headrace.compiler.rewrite import Rewriting
from headrace.ir.spec import Spec, parse_spec

Function = Callable[..., torch.Tensor]
HALVES = [torch.bfloat16, torch.float16]


def compiled(function: Function, *inputs: torch.Tensor) -> tuple[torch.Tensor, list[Spec]]:
    """The value by kernels, and their Specs."""
    options = read(None, {"claim": "all", "strict": True}, base=resolve.default_options())
    rewriting = Rewriting("jumps", options, resolve.default_pipeline)

    def engine(graph: torch.fx.GraphModule, examples: Any) -> Callable[..., Any]:
        run = backend.interpreted(graph, examples, rewriting)
        return backend.Watched(run, "jumps", backend.RUNTIME.scope(options))

    torch._dynamo.reset()
    with torch.no_grad():
        value: torch.Tensor = torch.compile(function, backend=engine)(*inputs)
    assert rewriting.record is not None
    return value, [parse_spec(claim.spec) for claim in rewriting.record.claims]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers whose products have more digits than 16 bits hold."""
    made = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randint(-600, 601, shape, generator=made) / 64


def row(y: torch.Tensor) -> torch.Tensor:
    """Something that only a kernel of rows computes, and that shows every element of y."""
    y = y if y.is_floating_point() else y.float()
    return y - y.amax(-1, keepdim=True)


def same(function: Function, *inputs: torch.Tensor) -> None:
    found, specs = compiled(function, *inputs)
    assert specs
    torch.testing.assert_close(found, function(*inputs), rtol=0.0, atol=0.0, equal_nan=True)


ROUNDED: dict[str, Function] = {
    "floor": lambda x, y: (x * y).floor(),
    "ceil": lambda x, y: (x * y / 3.0).ceil(),
    "trunc": lambda x, y: (x * y * 0.1).trunc(),
    "frac": lambda x, y: torch.frac(x * y),
    "integers": lambda x, y: (x * y).to(torch.int32),
    "remainder": lambda x, y: torch.remainder(x * y, y.abs() + 1).floor(),
    "remainder_of_a_number": lambda x, y: torch.remainder(x + y * 0, 0.3),
    "floor_division": lambda x, y: torch.floor_divide(x * y * 0.05, 0.1),
    "truncating_division": lambda x, y: torch.div(x, y.abs() + 0.3, rounding_mode="trunc"),
    "truth": lambda x, y: torch.where(x * y == (x * y).neg() + 2 * x * y, x, y).floor(),
    "through_where": lambda x, y: torch.where(y > 0, x * y, x + 0.3).floor(),
    "through_sign": lambda x, y: (x * y).neg().floor(),
    "through_size": lambda x, y: (x * y).abs().clamp(max=20.0).floor(),
    "through_views": lambda x, y: (x * y).view(-1).view(x.shape).floor(),
    "up_and_back": lambda x, y: (x * y).float().to(x.dtype).float().floor(),
    "chain": lambda x, y: ((x * y + x) * 0.1 + y).floor(),
    "integers_beside": lambda x, y: (x + torch.full_like(x, 257, dtype=torch.int64)) == 264.0,
    "of_the_largest": lambda x, y: (x * y) == (x * y).amax(-1, keepdim=True),
    "of_a_sum": lambda x, y: (x * y).floor() > x.sum(-1, keepdim=True),
    "largest_of_quotients": lambda x, y: shared(x, y) == shared(x, y).amax(-1, keepdim=True),
}


def shared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x / (y.abs().sum(-1, keepdim=True) * 0.1 + 1)


@pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "f16"])
@pytest.mark.parametrize("name", ROUNDED)
def test_what_a_jump_reads_is_rounded_as_eager_rounds_it(name: str, dtype: torch.dtype) -> None:
    x, y = numbers(6, 40).to(dtype), numbers(6, 40, seed=1).to(dtype)
    same(lambda x, y: row(ROUNDED[name](x, y)), x, y)


def test_what_overflows_its_type_is_infinite() -> None:
    x = torch.tensor([[1.0, 65504.0, -40000.0, 3.0]], dtype=torch.float16)
    for test in (torch.isinf, torch.isfinite, lambda y: torch.isnan(y - y), lambda y: y.abs() > 65504.0):
        same(lambda x, test=test: row(test(x * 2)), x)


@pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "f16"])
def test_an_epilogue_jumps_where_eager_does(dtype: torch.dtype) -> None:
    x, w, y = (numbers(*shape).to(dtype) for shape in ((6, 32), (40, 32), (6, 40)))
    same(lambda x, w, y: (F.linear(x, w) * 0.1 + y).floor(), x, w, y)
    same(lambda x, w, y: torch.where(F.linear(x, w) * 0.7 > y * 3, y, 1.0), x, w, y)


def test_scores_are_compared_as_eager_compares_them() -> None:
    q, k, v = (numbers(1, 2, 12, 16, seed=at).bfloat16() for at in range(3))

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = q @ k.mT
        scores = torch.where(scores == scores.floor(), 1.0, scores * 0.01)
        return scores.float().softmax(-1).to(q.dtype) @ v

    exact, rounded = q.float() @ k.float().mT, q @ k.mT
    assert (rounded == rounded.floor()).sum() > (exact == exact.floor()).sum()
    found, specs = compiled(attend, q, k, v)
    assert [type(spec).__name__ for spec in specs] == ["Attention"]
    torch.testing.assert_close(found, attend(q, k, v), rtol=0.02, atol=0.02)


WIDE: dict[str, Function] = {
    "quotient_of_a_root": lambda x, y: (x / (y * y).sqrt()).floor(),
    "two_factors": lambda x, y: (x * 0.7 * 10.0).floor(),
    "times_a_reciprocal": lambda x, y: (x * y.reciprocal()).floor(),
    "product_in_a_sum": lambda x, y: x * 0.1 - y * 0.1 == 0.0,
    "floor_division": lambda x, y: torch.floor_divide(x * 0.1, 0.1),
}


@pytest.mark.parametrize("name", WIDE)
def test_what_a_jump_reads_keeps_the_last_bit_of_float32(name: str) -> None:
    x = torch.arange(1.0, 241.0).view(6, 40)
    same(lambda x, y: row(WIDE[name](x, y)), x, x.clone())


ASKED: dict[str, Function] = {
    "rest": lambda x: x - x.to(torch.bfloat16).float(),
    "promoted": lambda x: x * 3.0 - (x * 3.0).to(torch.bfloat16),
    "moved": lambda x: x.to(torch.bfloat16).neg().view(-1).view(x.shape).float() + x,
    "chosen": lambda x: torch.where(x > 0, x.to(torch.bfloat16), 0.0).float() - x.relu(),
    "scaled": lambda x: (x / 3.0).to(torch.float16).float() * 3.0 - x,
}


@pytest.mark.parametrize("name", ASKED)
def test_a_rounding_that_the_program_asks_for_is_made(name: str) -> None:
    """What is left of a number without its leading digits is no zero."""
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    found, specs = compiled(lambda x: row(ASKED[name](x)), x)
    assert specs
    torch.testing.assert_close(found, row(ASKED[name](x)), rtol=1e-5, atol=1e-7)


def test_what_is_continuous_keeps_float32_between_operations() -> None:
    """RMS norm, as models write it, asks for a rounding that only bfloat16 reads: no kernel makes it."""

    def norm(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return w * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    _, (spec,) = compiled(norm, numbers(6, 40).bfloat16(), numbers(40).bfloat16())
    assert str(spec) == (
        "Rows{inputs=[x0:bf16[rn], x1:bf16[n]]; reductions=[r0 = sum(mul(x0, x0))]; outputs=[bf16 = "
        "mul(x1, cast:bf16(mul(x0, rsqrt(add(div(r0, count), 1e-06)))))]; reduced=[]}"
    )
