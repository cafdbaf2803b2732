"""Reductions: any combine function, every axis, ties, NaN."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import SIGNED, any_floats, any_ints, as_ints, integers, rounded

FLOAT = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INT = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint32)
HELPERS = """@triton.jit
def product(a, b):
    return a * b


@triton.jit
def exclusive(a, b):
    return a ^ b


@triton.jit
def left(a, b):
    return a


@triton.jit
def right(a, b):
    return b


@triton.jit
def both(s, m, t, n):
    return s + t, tl.maximum(m, n)


@triton.jit
def welford(m, s, w, n, t, v):
    d = n - m
    k = w + v
    f = v / k
    return m + d * f, s + t + d * d * w * f, k


@triton.jit
def recurrence(a, b, c, d):
    return a * c, c * b + d


@triton.jit
def first_largest(v, i, w, j):
    t = (v > w) | ((v == w) & (i < j))
    return tl.where(t, v, w), tl.where(t, i, j)


"""


def data(g: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, kind: str) -> torch.Tensor:
    n = functools.reduce(lambda a, b: a * b, shape)
    if not dtype.is_floating_point:
        if kind == "ties":
            return integers(torch.randint(0, 4, (n,), generator=g).tolist(), dtype).reshape(shape)
        return any_ints(g, n, dtype).reshape(shape)
    if kind == "ties":
        return torch.randint(-2, 3, (n,), generator=g).to(dtype).reshape(shape)
    if kind == "special":
        x = any_floats(g, max(n, 40), dtype)
        return x[torch.randperm(x.numel(), generator=g)[:n]].reshape(shape).contiguous()
    return torch.randn(n, generator=g, dtype=torch.float64).to(dtype).reshape(shape)


def index_of(shape: tuple[int, ...]) -> str:
    """Row-major offsets of a tile of constant shape."""
    terms = []
    stride = 1
    for k in range(len(shape) - 1, -1, -1):
        at = ", ".join(":" if j == k else "None" for j in range(len(shape)))
        terms.append(f"tl.arange(0, {shape[k]})[{at}] * {stride}")
        stride *= shape[k]
    return " + ".join(terms)


def _kept(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _fold(x: torch.Tensor, axis: int, rule: Callable[[int, int], int]) -> torch.Tensor:
    """Integers folded in Python, wrapped at the end."""
    moved = x.movedim(axis, 0)
    lists = [as_ints(moved[k].contiguous()) for k in range(moved.shape[0])]
    folded = [functools.reduce(rule, column) for column in zip(*lists, strict=True)]
    return integers(folded, x.dtype).reshape(moved.shape[1:])


_INT_REDUCE: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "sum": ("tl.sum(x, {a})", lambda a, b: a + b),
    "max": ("tl.max(x, {a})", max),
    "min": ("tl.min(x, {a})", min),
    "xor_sum": ("tl.xor_sum(x, {a})", lambda a, b: a ^ b),
    "product": ("tl.reduce(x, {a}, product)", lambda a, b: a * b),
    "right": ("tl.reduce(x, {a}, right)", lambda a, b: b),
    "left": ("tl.reduce(x, {a}, left)", lambda a, b: a),
}
_FLOAT_REDUCE = {
    "sum": ("tl.sum(x, {a})", lambda x, a: x.sum(a)),
    "max": ("tl.max(x, {a})", lambda x, a: _num(x, a, True)),
    "min": ("tl.min(x, {a})", lambda x, a: _num(x, a, False)),
    "product": ("tl.reduce(x, {a}, product)", lambda x, a: x.prod(a)),
    "left": ("tl.reduce(x, {a}, left)", lambda x, a: x.select(a, 0)),
    "right": ("tl.reduce(x, {a}, right)", lambda x, a: x.select(a, -1)),
}


def _num(x: torch.Tensor, axis: int, largest: bool) -> torch.Tensor:
    """Maximum or minimum that passes over NaN."""
    worst = -torch.inf if largest else torch.inf
    clean = torch.where(x.isnan(), worst, x)
    found = clean.amax(axis) if largest else clean.amin(axis)
    return torch.where(x.isnan().all(axis), torch.nan, found)


def _reduction(dtype: torch.dtype, shape: tuple[int, ...], axis: int, kind: str) -> Unit:
    table = _FLOAT_REDUCE if dtype.is_floating_point else _INT_REDUCE
    names = list(table)
    if not dtype.is_floating_point and dtype not in SIGNED:
        names.remove("sum")  # tl.sum widens
    if kind == "special":
        names = ["max", "min", "left", "right"]
    kept = _kept(shape, axis) or (1,)
    where = index_of(_kept(shape, axis)) if len(shape) > 1 else "0"
    small = dtype in (torch.int8, torch.int16, torch.uint8)

    def text_of(name: str) -> str:
        text = table[name][0].format(a=axis)
        own = f"tl.{'u' if dtype not in SIGNED else ''}int{8 * dtype.itemsize}"
        return text.replace(")", f", dtype={own})") if name == "sum" and small else text

    lines = [f"tl.store(o_{n} + {where}, {text_of(n)})" for n in names]
    text = kernel_text(
        f"a, {', '.join('o_' + n for n in names)}",
        f"x = tl.load(a + {index_of(shape)})",
        *lines,
        helpers=HELPERS,
    )

    def make(g: torch.Generator) -> Args:
        return {
            "a": data(g, shape, dtype, kind),
            **{"o_" + n: torch.zeros(kept, dtype=dtype) for n in names},
        }

    def check(name: str) -> Check:
        rule = table[name][1]

        def expect(args: Args) -> torch.Tensor:
            x = args["a"]
            if dtype.is_floating_point:
                return rounded(rule(x.double(), axis).reshape(kept), dtype)
            return _fold(x, axis, rule).reshape(kept)

        inexact = dtype.is_floating_point and name in ("sum", "product")
        steps = shape[axis] if name == "product" or dtype in (torch.float16, torch.bfloat16) else 8
        # max and min may give either zero
        ulps = 2.0 * steps if inexact else 0.01 if dtype.is_floating_point and name in ("max", "min") else 0
        # A sum may cancel: its error is measured against the sum of magnitudes.
        eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0
        return Check(
            name, lambda args: args["o_" + name], expect, ulps, 8 * eps * shape[axis] ** 0.5 if inexact else 0
        )

    name = f"{TYPES[dtype]}_{'x'.join(map(str, shape))}_{axis}_{kind}"
    return Unit(f"reduce/{name}", text, (Launch("all", make, tuple(check(n) for n in names)),))


def _extreme(dtype: torch.dtype, axis: int, kind: str) -> Unit:
    """argmax and argmin: the first of equals, or any of them; values with indices."""
    shape = (8, 16)
    calls = {
        "argmax": "tl.argmax(x, {a})",
        "argmin": "tl.argmin(x, {a})",
        "argmax_any": "tl.argmax(x, {a}, tie_break_left=False)",
        "argmin_any": "tl.argmin(x, {a}, tie_break_left=False)",
        "own": "tl.reduce((x, k), {a}, first_largest)[1]",
    }
    where = f"tl.arange(0, {_kept(shape, axis)[0]})"
    lines = [f"tl.store(o_{n} + {where}, {t.format(a=axis)})" for n, t in calls.items()]
    lines.append(f"v, at = tl.max(x, {axis}, return_indices=True)")
    lines += [f"tl.store(o_value + {where}, v)", f"tl.store(o_at + {where}, at)"]
    index = "tl.arange(0, 8)[:, None]" if axis == 0 else "tl.arange(0, 16)[None, :]"
    text = kernel_text(
        f"a, {', '.join('o_' + n for n in calls)}, o_value, o_at",
        f"x = tl.load(a + {index_of(shape)})",
        f"k = tl.broadcast_to({index}, (8, 16))",
        *lines,
        helpers=HELPERS,
    )
    count = _kept(shape, axis)[0]

    def make(g: torch.Generator) -> Args:
        i32 = {"o_" + n: torch.zeros(count, dtype=torch.int32) for n in calls}
        return {
            "a": data(g, shape, dtype, kind), **i32, "o_value": torch.zeros(count, dtype=dtype),
            "o_at": torch.zeros(count, dtype=torch.int32),
        }  # fmt: skip

    def first(args: Args, largest: bool) -> torch.Tensor:
        x = args["a"]
        x = x.double() if dtype.is_floating_point else x.to(torch.int64)
        best = x.amax(axis, keepdim=True) if largest else x.amin(axis, keepdim=True)
        return (x == best).int().argmax(axis).int()

    def holds(name: str, largest: bool) -> Callable[[Args], torch.Tensor]:
        """Whether the index points at an extreme."""

        def pick(args: Args) -> torch.Tensor:
            x = args["a"].double()
            best = x.amax(axis) if largest else x.amin(axis)
            return x.gather(axis, args["o_" + name].long().unsqueeze(axis)).squeeze(axis) == best

        return pick

    true = torch.ones(count, dtype=torch.bool)
    checks = (
        Check("argmax", lambda a: a["o_argmax"], lambda a: first(a, True)),
        Check("argmin", lambda a: a["o_argmin"], lambda a: first(a, False)),
        Check("argmax_any", holds("argmax_any", True), lambda a: true),
        Check("argmin_any", holds("argmin_any", False), lambda a: true),
        Check("own", lambda a: a["o_own"], lambda a: first(a, True)),
        Check("max_at", lambda a: a["o_at"], lambda a: first(a, True)),
        Check(
            "max_value",
            lambda a: a["o_value"],
            lambda a: a["a"].double().amax(axis).to(dtype) if dtype.is_floating_point else a["a"].amax(axis),
            0.01 if dtype.is_floating_point else 0,
        ),
    )
    return Unit(f"reduce/extreme_{TYPES[dtype]}_{axis}_{kind}", text, (Launch("all", make, checks),))


def _several(axis: int) -> Unit:
    """Reductions of several operands, whole tiles, kept dimensions."""
    shape = (8, 16)
    count = _kept(shape, axis)[0]
    kept = "(8, 1)" if axis == 1 else "(1, 16)"
    where = f"tl.arange(0, {count})"
    text = kernel_text(
        "a, b, s, m, mean, m2, keep, total, c",
        f"x = tl.load(a + {index_of(shape)})",
        f"y = tl.load(b + {index_of(shape)})",
        f"t, u = tl.reduce((x, y), {axis}, both)",
        f"tl.store(s + {where}, t)",
        f"tl.store(m + {where}, u)",
        f"p, q, w = tl.reduce((x, x * 0, x * 0 + 1), {axis}, welford)",
        f"tl.store(mean + {where}, p)",
        f"tl.store(m2 + {where}, q)",
        f"k = tl.sum(x, {axis}, keep_dims=True)",
        f"tl.store(keep + {index_of(shape)}, x - tl.broadcast_to(k, (8, 16)))",
        "tl.store(total, tl.sum(x))",
        "tl.store(total + 1, tl.max(x))",
        f"tl.store(c + {where}, tl.sum((x > 0).to(tl.int32), {axis}) + tl.reshape(k, "
        f"({count},)).to(tl.int32) * 0)",
        helpers=HELPERS,
    )
    assert kept

    def make(g: torch.Generator) -> Args:
        x, y = (torch.randn(shape, generator=g) for _ in range(2))
        out = {n: torch.zeros(count) for n in ("s", "m", "mean", "m2")}
        return {
            "a": x, "b": y, **out, "keep": torch.zeros(shape), "total": torch.zeros(2),
            "c": torch.zeros(count, dtype=torch.int32),
        }  # fmt: skip

    checks = (
        Check("sum", lambda a: a["s"], lambda a: a["a"].double().sum(axis).float(), 4, 1e-6),
        Check("max", lambda a: a["m"], lambda a: a["b"].amax(axis)),
        Check("mean", lambda a: a["mean"], lambda a: a["a"].double().mean(axis).float(), 8, 1e-6),
        Check(
            "m2",
            lambda a: a["m2"],
            lambda a: (a["a"].double().var(axis, correction=0) * shape[axis]).float(),
            32,
            1e-6,
        ),
        Check(
            "keep_dims",
            lambda a: a["keep"],
            lambda a: (a["a"] - a["a"].double().sum(axis, keepdim=True)).float(),
            8,
            1e-6,
        ),
        Check(
            "whole",
            lambda a: a["total"],
            lambda a: torch.stack([a["a"].double().sum(), a["a"].double().max()]).float(),
            8,
            1e-6,
        ),
        Check("count", lambda a: a["c"], lambda a: (a["a"] > 0).sum(axis).int()),
    )
    return Unit(f"reduce/several_{axis}", text, (Launch("all", make, checks),))


def units() -> list[Unit]:
    found = []
    for dtype in (*FLOAT, *INT):
        for shape, axis in (((64,), 0), ((8, 16), 0), ((8, 16), 1), ((4, 8, 16), 1)):
            found.append(_reduction(dtype, shape, axis, "normal"))
    found += [
        _reduction(d, s, a, "special") for d in FLOAT for s, a in (((32,), 0), ((4, 32), 1), ((32, 4), 0))
    ]
    found += [
        _extreme(d, a, k)
        for d in (torch.float32, torch.float16, torch.int32, torch.int8, torch.int64)
        for a in (0, 1)
        for k in ("ties", "normal")
    ]
    return [*found, _several(0), _several(1)]
