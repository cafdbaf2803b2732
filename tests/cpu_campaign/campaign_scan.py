"""Running combinations: every axis and direction, several operands."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from campaign_collective import HELPERS, data, index_of
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import as_ints, integers, rounded

_SCANS = {
    "cumsum": ("tl.cumsum(x, {a}, reverse={r})", lambda a, b: a + b),
    "cumprod": ("tl.cumprod(x, {a}, reverse={r})", lambda a, b: a * b),
    "xor": ("tl.associative_scan(x, {a}, exclusive, reverse={r})", lambda a, b: a ^ b),
    "left": ("tl.associative_scan(x, {a}, left, reverse={r})", lambda a, b: a),
}


def _accumulated(x: torch.Tensor, axis: int, reverse: bool, rule: Callable) -> torch.Tensor:
    moved = x.movedim(axis, 0)
    moved = moved.flip(0) if reverse else moved
    rows = [moved[0]]
    for k in range(1, moved.shape[0]):
        rows.append(rule(rows[-1], moved[k]))
    out = torch.stack(rows)
    return (out.flip(0) if reverse else out).movedim(0, axis)


def _scanned(dtype: torch.dtype, shape: tuple[int, ...], axis: int, reverse: bool) -> Unit:
    floating = dtype.is_floating_point
    names = [n for n in _SCANS if not (floating and n == "xor")]
    where = index_of(shape)
    lines = [
        f"tl.store(o_{n} + {where}, {_SCANS[n][0].format(a=axis, r=reverse)}.to(x.dtype))" for n in names
    ]
    text = kernel_text(
        f"a, {', '.join('o_' + n for n in names)}", f"x = tl.load(a + {where})", *lines, helpers=HELPERS
    )

    def make(g: torch.Generator) -> Args:
        return {
            "a": data(g, shape, dtype, "normal"),
            **{"o_" + n: torch.zeros(shape, dtype=dtype) for n in names},
        }

    def check(name: str) -> Check:
        rule = _SCANS[name][1]

        def expect(args: Args) -> torch.Tensor:
            x = args["a"].double() if floating else args["a"].to(torch.int64)
            out = _accumulated(x, axis, reverse, rule)
            return rounded(out, dtype) if floating else integers(as_ints(out), dtype).reshape(shape)

        inexact = floating and name != "left"
        eps = torch.finfo(dtype).eps if floating else 0.0
        return Check(
            name,
            lambda args: args["o_" + name],
            expect,
            2.0 * shape[axis] if inexact else 0,
            4 * eps if inexact else 0,
        )

    name = f"{TYPES[dtype]}_{'x'.join(map(str, shape))}_{axis}{'_reverse' if reverse else ''}"
    return Unit(f"scan/{name}", text, (Launch("all", make, tuple(check(n) for n in names)),))


def _two_scans(axis: int, reverse: bool) -> Unit:
    shape = (8, 16)
    text = kernel_text(
        "a, b, o, p",
        f"x = tl.load(a + {index_of(shape)})",
        f"y = tl.load(b + {index_of(shape)})",
        f"u, v = tl.associative_scan((x, y), {axis}, recurrence, reverse={reverse})",
        f"tl.store(o + {index_of(shape)}, u)",
        f"tl.store(p + {index_of(shape)}, v)",
        helpers=HELPERS,
    )

    def make(g: torch.Generator) -> Args:
        a, b = (torch.rand(shape, generator=g) for _ in range(2))
        return {"a": a, "b": b, "o": torch.zeros(shape), "p": torch.zeros(shape)}

    def expect(args: Args, which: int) -> torch.Tensor:
        x = torch.stack([args["a"].double(), args["b"].double()], -1)

        def rule(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.stack([s[..., 0] * t[..., 0], t[..., 0] * s[..., 1] + t[..., 1]], -1)

        return _accumulated(x, axis, reverse, rule)[..., which].float()

    checks = (
        Check("product", lambda a: a["o"], lambda a: expect(a, 0), 64),
        Check("state", lambda a: a["p"], lambda a: expect(a, 1), 64),
    )
    return Unit(f"scan/recurrence_{axis}_{reverse}", text, (Launch("all", make, checks),))


def units() -> list[Unit]:
    kinds = (torch.float32, torch.float64, torch.float16, torch.int32, torch.int64, torch.int8)
    shapes: tuple[tuple[tuple[int, ...], int], ...] = (((64,), 0), ((8, 16), 0), ((8, 16), 1), ((2, 8, 4), 1))
    found = [_scanned(d, s, a, r) for d in kinds for s, a in shapes for r in (False, True)]
    return found + [_two_scans(a, r) for a, r in itertools.product((0, 1), (False, True))]
