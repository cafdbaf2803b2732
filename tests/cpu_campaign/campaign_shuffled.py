"""Kernels that hypothesis writes as chains of shape operations on one tile of integers, each followed in
torch.

Everything is exact, so every element must be right: reshapes, transposes, joins and splits, scans, sorts,
gathers, reductions that are broadcast back, loops that carry the tile, stores in the middle.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from hypothesis import strategies as st

Step = Callable[[torch.Tensor], torch.Tensor]
HELPERS = """@triton.jit
def add_(a, b):
    return a + b


@triton.jit
def last(a, b):
    return b


"""


@dataclass
class Chain:
    """Lines of the kernel with what they do; the tile is ``v``."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    lines: list[str]
    steps: list[Step]

    def add(self, line: str, step: Step, shape: tuple[int, ...] | None = None) -> None:
        # Reductions widen small integers.
        self.lines.append(f"{line}\nv = v.to(tl.int{8 * self.dtype.itemsize})")
        self.steps.append(step)
        self.shape = self.shape if shape is None else shape

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def _reshape(draw: Any, c: Chain) -> None:
    left, shape = c.numel, []
    for _ in range(draw(st.integers(0, 3))):
        d = draw(st.sampled_from([k for k in (1, 2, 4, 8, 16) if k <= left]))
        shape.append(d)
        left //= d
    new = (*shape, left)
    c.add(f"v = tl.reshape(v, {new})", lambda v: v.reshape(new), new)


def _permute(draw: Any, c: Chain) -> None:
    order = tuple(draw(st.permutations(range(len(c.shape)))))
    shape = tuple(c.shape[k] for k in order)
    c.add(f"v = tl.permute(v, {order})", lambda v: v.permute(order).contiguous(), shape)


def _join(draw: Any, c: Chain) -> None:
    if c.numel > 256:
        return
    c.add("v = tl.join(v, v * 2 + 1)", lambda v: torch.stack([v, v * 2 + 1], -1), (*c.shape, 2))


def _split(draw: Any, c: Chain) -> None:
    if c.numel < 16:
        return
    half = (c.numel // 2,)
    which = draw(st.sampled_from(["p", "q", "p * 3 - q"]))

    def step(v: torch.Tensor) -> torch.Tensor:
        p, q = v.reshape(-1, 2).unbind(-1)
        return {"p": p, "q": q}.get(which, p * 3 - q).contiguous()

    c.add(f"p, q = tl.split(tl.reshape(v, ({half[0]}, 2)))\nv = {which}", step, half)


def _scan(draw: Any, c: Chain) -> None:
    axis, back = draw(st.integers(0, len(c.shape) - 1)), draw(st.booleans())

    def step(v: torch.Tensor) -> torch.Tensor:
        v = v.flip(axis) if back else v
        v = v.cumsum(axis, dtype=c.dtype)
        return (v.flip(axis) if back else v).contiguous()

    c.add(f"v = tl.associative_scan(v, {axis}, add_, reverse={back})", step)


def _fold(draw: Any, c: Chain) -> None:
    """A reduction that is not commutative, broadcast back."""
    axis, name = draw(st.integers(0, len(c.shape) - 1)), draw(st.sampled_from(["last", "sum", "max", "min"]))
    text = f"tl.reduce(v, {axis}, last, keep_dims=True)" if name == "last" else (
        f"tl.reduce(v, {axis}, add_, keep_dims=True)" if name == "sum" else f"tl.{name}(v, {axis}, "
            f"keep_dims=True)"
    )  # fmt: skip

    def step(v: torch.Tensor) -> torch.Tensor:
        r = {
            "last": lambda: v.narrow(axis, v.shape[axis] - 1, 1),
            "sum": lambda: v.sum(axis, keepdim=True, dtype=c.dtype),
            "max": lambda: v.amax(axis, keepdim=True),
            "min": lambda: v.amin(axis, keepdim=True),
        }[name]()
        return v - r

    c.add(f"v = v - {text}", step)


def _sort(draw: Any, c: Chain) -> None:
    down = draw(st.booleans())
    c.add(f"v = tl.sort(v, descending={down})", lambda v: v.sort(-1, descending=down).values.contiguous())


def _gather(draw: Any, c: Chain) -> None:
    axis, flip = draw(st.integers(0, len(c.shape) - 1)), draw(st.integers(0, 7))
    size = c.shape[axis]
    c.add(
        f"v = tl.gather(v, (v ^ {flip}).to(tl.int32) & {size - 1}, {axis})",
        lambda v: v.gather(axis, (v ^ flip).long() & (size - 1)),
    )


def _flip(draw: Any, c: Chain) -> None:
    axis = draw(st.integers(0, len(c.shape) - 1))
    c.add(f"v = tl.flip(v, {axis})", lambda v: v.flip(axis).contiguous())


def _loop(draw: Any, c: Chain) -> None:
    axis = draw(st.integers(0, len(c.shape) - 1))

    def step(v: torch.Tensor) -> torch.Tensor:
        for k in range(3):
            v = v + v.amax(axis, keepdim=True) * k
        return v

    c.add(f"for k in range(T):\n    v = (v + tl.max(v, {axis}, keep_dims=True) * k).to(v.dtype)", step)


def _branch(draw: Any, c: Chain) -> None:
    taken = draw(st.booleans())
    line = f"if T {'==' if taken else '!='} 3:\n    v = tl.flip(v)\nelse:\n    v = (v * 5).to(v.dtype)"
    c.add(line, lambda v: v.flip(-1).contiguous() if taken else v * 5)


def _memory(draw: Any, c: Chain) -> None:
    """Through memory: stored in one order, loaded in the opposite one."""
    n = c.numel
    shape = c.shape
    line = f"i = tl.arange(0, {n})\ntl.store(w + i, tl.reshape(v, ({n},)))\n"
    line += f"v = tl.reshape(tl.load(w + {n - 1} - i), {shape})"
    c.add(line, lambda v: v.reshape(-1).flip(0).reshape(shape))


_STEPS = [_reshape, _permute, _join, _split, _scan, _fold, _sort, _gather, _flip, _loop, _branch, _memory]


@st.composite
def chains(draw: Any) -> Unit:
    """A unit with one launch of a chain of three to eight steps."""
    dtype = draw(st.sampled_from([torch.int32, torch.int32, torch.int64, torch.int16]))
    size = draw(st.sampled_from([16, 32, 64, 128]))
    chain = Chain((size,), dtype, [], [])
    _reshape(draw, chain)
    for step in draw(st.lists(st.sampled_from(_STEPS), min_size=3, max_size=8)):
        step(draw, chain)
    total = chain.numel
    kind = TYPES[dtype]
    text = kernel_text(
        "a, o, w, T",
        f"v = tl.load(a + tl.arange(0, {size}))",
        *chain.lines,
        f"tl.store(o + tl.arange(0, {total}), tl.reshape(v, ({total},)))",
        helpers=HELPERS,
    )

    def make(g: torch.Generator) -> Args:
        a = torch.randint(-20, 20, (size,), generator=g).to(dtype)
        return {"a": a, "o": torch.zeros(total, dtype=dtype), "w": torch.zeros(1024, dtype=dtype), "T": 3}

    def expect(args: Args) -> torch.Tensor:
        v = args["a"]
        for step in chain.steps:
            v = step(v).to(dtype)
        return v.reshape(-1)

    check = Check("o", lambda a: a["o"], expect)
    name = f"generated/{kind}_chain_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return Unit(name, text, (Launch("all", make, (check,)),))
