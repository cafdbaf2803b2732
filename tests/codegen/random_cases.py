"""Random cases of codegen, each its seed: operands in odd places of memory, and what is asked of all."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from codegen_cases import assert_close

from headrace.codegen.kernel import Kernel
from headrace.ir.spec import Spec


def check(spec: Spec, built: Kernel, inputs: Sequence[torch.Tensor], draw: random.Random) -> None:
    """Right by allocation, the same bits in the caller's memory however it lies, operands untouched."""
    before = [value.clone() for value in inputs]
    first = built(inputs)
    assert_close(spec, first, inputs)
    results = first if isinstance(first, tuple) else (first,)
    into = [torch.full_like(value, torch.nan) for value in results]
    into = [value if draw.random() < 0.5 else value.mT.clone().mT for value in into]
    built.into(inputs, into)
    for value, again in zip(results, into, strict=True):
        assert same(value, again)
    assert all(same(old, new) for old, new in zip(before, inputs, strict=True))


def failures(
    play: Callable[[int], None], spec_of: Callable[[random.Random], Spec], seeds: Sequence[int]
) -> list[str]:
    """What went wrong, with the seed that shows it."""
    found = []
    for seed in seeds:
        try:
            play(seed)
        except Exception as error:
            spec = spec_of(random.Random(seed))
            found.append(f"play({seed}): {type(error).__name__}: {str(error)[:300]}; {spec}")
    return found


def laid(value: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """The same values in another place: between NaN, rows apart, transposed, or spread from one row."""
    if value.dim() == 0 or value.numel() == 0:
        return value
    way = draw.choice(("plain", "offset", "padded", "turned", "spread"))
    if way == "spread":
        return value[..., :1, :].expand(value.shape) if value.dim() > 1 else value[:1].expand(value.shape)
    pad = draw.randint(1, 9)
    shape = list(value.shape)
    if way == "turned":
        shape[-1], shape[-2:-1] = (shape[-2], [shape[-1]]) if value.dim() > 1 else (shape[-1], [])
    if way == "padded":
        shape[-1] += pad
    filler = torch.nan if value.is_floating_point() else 77
    memory = torch.full((torch.Size(shape).numel() + 2 * pad,), filler, dtype=value.dtype)
    place = memory[pad : memory.numel() - pad].view(shape)
    if way == "turned" and value.dim() > 1:
        place = place.mT
    if way == "padded":
        place = place[..., : value.shape[-1]]
    if way == "plain":
        return value
    return place.copy_(value)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
