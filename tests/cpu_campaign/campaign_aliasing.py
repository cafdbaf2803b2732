"""Results that overlap what they are computed from: every element is read before it is written."""

from __future__ import annotations

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text

_SHIFTS = {
    "in_place": ("tl.store(x + i, tl.load(x + i) * 2 + 1)", lambda x: x[:64] * 2 + 1, 0),
    "up": ("tl.store(x + i + 1, tl.load(x + i))", lambda x: x[:64], 1),
    "down": ("tl.store(x + i, tl.load(x + i + 1))", lambda x: x[1:65], 0),
    "far": ("tl.store(x + i + 64, tl.load(x + i))", lambda x: x[:64], 64),
    "reversed": ("tl.store(x + 63 - i, tl.load(x + i))", lambda x: x[:64].flip(0), 0),
    "kept": (
        "v = tl.load(x + i)\ntl.store(x + i, v * 0)\ntl.store(x + i + 64, v)",
        lambda x: torch.cat([x[:64] * 0, x[:64]]),
        0,
    ),
    "kept_sum": (
        "v = tl.load(x + i)\ns = tl.sum(v, 0)\ntl.store(x + i, v + s)\ntl.store(x + i + 64, v)",
        lambda x: torch.cat([x[:64] + x[:64].sum(), x[:64]]),
        0,
    ),
    "reloaded": (
        "v = tl.load(x + i)\ntl.store(x + i, v + 1)\nw = tl.load(x + i)\ntl.store(x + i + 64, v * 10 + w)",
        lambda x: torch.cat([x[:64] + 1, x[:64] * 11 + 1]),
        0,
    ),
    "swap": (
        "a = tl.load(x + i)\nb = tl.load(x + i + 64)\ntl.store(x + i, b)\ntl.store(x + i + 64, a)",
        lambda x: torch.cat([x[64:128], x[:64]]),
        0,
    ),
    "transposed": (
        "r = tl.arange(0, 8)[:, None]\nc = tl.arange(0, 8)[None, :]\n"
        "tl.store(x + c * 8 + r, tl.load(x + r * 8 + c))",
        lambda x: x[:64].reshape(8, 8).T.flatten(),
        0,
    ),
    "loop": (
        "for k in range(3):\n    tl.store(x + i + 1, tl.load(x + i))",
        lambda x: torch.cat([x[:1], x[:1], x[:1], x[:62]]),
        0,
    ),
    "column_sum": (
        "r = tl.arange(0, 8)[:, None]\nc = tl.arange(0, 8)\nv = tl.load(x + r * 8 + c[None, :])\n"
        "tl.store(x + c, tl.sum(v, 0))\ntl.store(x + 64 + c, tl.sum(v, 0))",
        lambda x: torch.cat([x[:64].reshape(8, 8).sum(0), x[8:64], x[:64].reshape(8, 8).sum(0)]),
        0,
    ),
    "scattered_back": (
        "v = tl.load(x + i)\ntl.store(x + (i * 5) % 64, v)\ntl.store(x + 64 + i, v)",
        lambda x: torch.cat([torch.zeros_like(x[:64]).index_copy(0, (torch.arange(64) * 5) % 64, x[:64]),
                             x[:64]]),
        0,
    ),
}  # fmt: skip


def _aliased(name: str, two_names: bool, dtype: torch.dtype) -> Unit:
    """In and out overlap, through one pointer or through two that the compiler cannot tell apart."""
    body, rule, start = _SHIFTS[name]
    if two_names:
        body = body.replace("tl.store(x", "tl.store(y")
    text = kernel_text("x, y, B: tl.constexpr", "i = tl.arange(0, B)", body)

    def make(g: torch.Generator) -> Args:
        x = torch.randint(-50, 50, (160,), generator=g).to(dtype)
        return {"x": x, "y": x}

    def expect(args: Args) -> torch.Tensor:
        x = args["x"].clone()
        made = rule(args["x"])
        x[start : start + made.numel()] = made
        return x

    check = Check("x", lambda a: a["x"], expect)
    kind = "two" if two_names else "one"
    return Unit(f"aliasing/{name}/{TYPES[dtype]}_{kind}", text, (Launch("all", make, (check,)),), {"B": 64})


def units() -> list[Unit]:
    kinds = (torch.float32, torch.int32)
    return [_aliased(n, two, d) for n in _SHIFTS for two in (False, True) for d in kinds]
