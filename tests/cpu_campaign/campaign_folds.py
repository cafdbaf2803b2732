"""Kernels drawn at random around what folds tiles: reductions and scans with unusual combine functions over
tiles that were permuted, broadcast or narrowed first, and products whose accumulator a loop carries and
changes under conditions.

Integers wrap in the oracle as in the kernel, and floats are small whole numbers, so every bit must be right.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from campaign_core import Args, Check, Launch, Unit, kernel_text

Tiles = tuple[torch.Tensor, ...]
Combine = Callable[[Tiles, Tiles], Tiles]
NAMES = {torch.int8: "int8", torch.int16: "int16", torch.int32: "int32", torch.int64: "int64",
         torch.float32: "float32", torch.float64: "float64"}  # fmt: skip
# Parameters of both sides, the body, the rule, and whether a reduction may use it in any order.
_FUNCTIONS: dict[str, tuple[int, str, Combine, bool]] = {
    "weigh": (
        2, "return a0 * b0, a1 * b0 + b1",
        lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), False,
    ),
    "last_set": (
        1, "return tl.where(b0 != 0, b0, a0)", lambda a, b: (torch.where(b[0] != 0, b[0], a[0]),), False,
    ),
    "first": (1, "return a0", lambda a, b: (a[0],), False),
    "sum_and_peak": (
        2, "return a0 + b0, tl.maximum(a1, b1)",
        lambda a, b: (a[0] + b[0], torch.maximum(a[1], b[1])), True,
    ),
    "largest_first": (
        2,
        "take = (b0 > a0) | ((b0 == a0) & (b1 < a1))\n"
        "    return tl.where(take, b0, a0), tl.where(take, b1, a1)",
        lambda a, b: _pick((b[0] > a[0]) | ((b[0] == a[0]) & (b[1] < a[1])), a, b), True,
    ),
    "least_size": (
        1, "return tl.where(tl.abs(a0) <= tl.abs(b0), a0, b0)",
        lambda a, b: (torch.where(a[0].abs() <= b[0].abs(), a[0], b[0]),), False,
    ),
    "three": (
        3, "return a0 + b0, tl.minimum(a1, b1), a2 - (-b2)",
        lambda a, b: (a[0] + b[0], torch.minimum(a[1], b[1]), a[2] + b[2]), True,
    ),
}  # fmt: skip


def _pick(take: torch.Tensor, a: Tiles, b: Tiles) -> Tiles:
    return tuple(torch.where(take, y, x) for x, y in zip(a, b, strict=True))


def _folded(tiles: Tiles, axis: int, rule: Combine, backward: bool) -> list[Tiles]:
    """All partial results in order."""
    parts = [t.unbind(axis) for t in tiles]
    order = range(len(parts[0]))
    steps = [tuple(p[k] for p in parts) for k in (reversed(order) if backward else order)]
    return list(itertools.accumulate(steps, rule))


def _helper(name: str) -> str:
    count, body, _, _ = _FUNCTIONS[name]
    names = ", ".join(f"{side}{k}" for side in "ab" for k in range(count))
    return f"@triton.jit\ndef {name}({names}):\n    {body}\n\n\n"


def fold(seed: int) -> Unit:
    """A reduction or a scan of tiles that were moved about."""
    rng = random.Random(seed)
    rank = rng.choice([1, 2, 2, 3])
    shape = [rng.choice([2, 4, 8, 16, 32] if rank > 1 else [16, 64, 256]) for _ in range(rank)]
    dtype = rng.choice(list(NAMES))
    name = rng.choice(list(_FUNCTIONS))
    count, _, rule, commutes = _FUNCTIONS[name]
    if dtype.is_floating_point and name == "weigh":
        dtype = torch.int32
    scan = not commutes or rng.random() < 0.5
    masked = rng.random() < 0.5
    lines, moves = [], []
    begin = list(shape)
    lines.append(f"at = {_index(shape)}")
    for k in range(count):
        tail = ", mask=at % 5 != 1, other=3" if masked else ""
        lines.append(f"x{k} = tl.load(x{k}p + at{tail})")
    for _ in range(rng.randint(0, 3)):
        _move(rng, shape, count, lines, moves)
    axis, backward = rng.randrange(len(shape)), scan and rng.random() < 0.5
    operands = "x0" if count == 1 else "(" + ", ".join(f"x{k}" for k in range(count)) + ")"
    keep = not scan and rng.random() < 0.3
    more = f", reverse={backward}" if scan else f", keep_dims={keep}"
    call = f"tl.{'associative_scan' if scan else 'reduce'}({operands}, {axis}, {name}{more})"
    outs = ", ".join(f"z{k}" for k in range(count))
    lines.append(f"{outs} = {call}")
    final = list(shape)
    if not scan:
        final[axis : axis + 1] = [1] if keep else []
    # What was folded may be spread again and folded a second time with what it came from.
    again = not scan and keep and rng.random() < 0.7
    if again:
        lines.append("y = tl.sum(tl.where(x0 == z0, 1, 0), " + str(axis) + ", keep_dims=True)")
    lines.append(f"to = {_index(final)}")
    lines += [f"tl.store(z{k}p + to, z{k})" for k in range(count)]
    if again:
        lines.append("tl.store(yp + to, y)")
    pointers = ", ".join([*(f"x{k}p" for k in range(count)), *(f"z{k}p" for k in range(count))])
    text = kernel_text(f"{pointers}{', yp' if again else ''}, n", *lines, helpers=_helper(name))

    def make(g: torch.Generator) -> Args:
        args: Args = {}
        for k in range(count):
            args[f"x{k}p"] = torch.randint(-4, 5, begin, generator=g).to(dtype)
        for k in range(count):
            args[f"z{k}p"] = torch.zeros(final, dtype=dtype)
        if again:
            args["yp"] = torch.zeros(final, dtype=torch.int32)
        return {**args, "n": 1}

    def tiles(args: Args) -> Tiles:
        found = []
        for k in range(count):
            x = args[f"x{k}p"]
            if masked:
                at = torch.arange(x.numel()).reshape(x.shape)
                x = torch.where(at % 5 != 1, x, torch.tensor(3, dtype=dtype))
            for step in moves:
                x = step(x)
            found.append(x)
        return tuple(found)

    def expect(args: Args, k: int) -> torch.Tensor:
        partial = _folded(tiles(args), axis, rule, backward)
        if scan:
            made = [p[k] for p in (reversed(partial) if backward else partial)]
            return torch.stack(made, axis)
        return partial[-1][k].reshape(final)

    def counted(args: Args) -> torch.Tensor:
        x = tiles(args)[0]
        return (x == expect(args, 0)).sum(axis, keepdim=True).to(torch.int32)

    checks = [
        Check(f"z{k}", lambda a, k=k: a[f"z{k}p"], lambda a, k=k: expect(a, k), scale=1e-30)
        for k in range(count)
    ]
    if again:
        checks.append(Check("y", lambda a: a["yp"], counted))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Unit(f"folds/{name}_{NAMES[dtype]}_{seed}_{digest}", text, (Launch("all", make, tuple(checks)),))


def _stride(shape: Sequence[int], d: int) -> int:
    return int(torch.tensor(shape[d + 1 :]).prod())


def _index(shape: Sequence[int]) -> str:
    """Row-major offsets of a tile."""
    spread = [", ".join(":" if k == d else "None" for k in range(len(shape))) for d in range(len(shape))]
    parts = [f"tl.arange(0, {n})[{spread[d]}] * {_stride(shape, d)}" for d, n in enumerate(shape)]
    return " + ".join(parts) or "0"


def _move(rng: random.Random, shape: list[int], count: int, lines: list[str], moves: list[Any]) -> None:
    """One operation that moves elements, on every tile alike."""
    kind = rng.choice(["permute", "reshape", "spread", "flip"])
    if kind == "permute" and len(shape) > 1:
        order = rng.sample(range(len(shape)), len(shape))
        lines += [f"x{k} = tl.permute(x{k}, {tuple(order)})" for k in range(count)]
        moves.append(lambda x: x.permute(order))
        shape[:] = [shape[d] for d in order]
    elif kind == "reshape" and len(shape) > 1:
        d = rng.randrange(len(shape) - 1)
        new = [*shape[:d], shape[d] * shape[d + 1], *shape[d + 2 :]]
        lines += [f"x{k} = tl.reshape(x{k}, {new})" for k in range(count)]
        moves.append(lambda x: x.reshape(new))
        shape[:] = new
    elif kind == "spread" and len(shape) < 4 and torch.tensor(shape).prod() <= 1024:
        d, times = rng.randint(0, len(shape)), rng.choice([2, 4])
        new = [*shape[:d], times, *shape[d:]]
        lines += [f"x{k} = tl.broadcast_to(tl.expand_dims(x{k}, {d}), {tuple(new)})" for k in range(count)]
        moves.append(lambda x: x.unsqueeze(d).expand(new))
        shape[:] = new
    elif kind == "flip":
        d = rng.randrange(len(shape))
        lines += [f"x{k} = tl.flip(x{k}, {d})" for k in range(count)]
        moves.append(lambda x: x.flip(d))


OPERANDS = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int8: "i8",
    torch.float8_e4m3fn: "fp8e4nv", torch.float8_e5m2: "fp8e5",
}  # fmt: skip


def product(seed: int) -> Unit:
    """A loop over products: operands as they lie or turned, sums carried and now and then changed."""
    rng = random.Random(seed)
    dtype = rng.choice(list(OPERANDS))
    m, n = (rng.choice([4, 16, 32, 64]) for _ in range(2))
    k = rng.choice([16, 32, 64])
    total = torch.int32 if dtype is torch.int8 else torch.float32
    name = "tl.int32" if dtype is torch.int8 else "tl.float32"
    # By columns in memory, or turned in the kernel, or both.
    a_by, a_turned, b_by, b_turned = (rng.random() < 0.4 for _ in range(4))
    masked, second = rng.random() < 0.5, rng.random() < 0.4
    start = rng.choice(["zero", "loaded", "row"])
    rule = rng.choice(["always", "odd", "data", "else", "swap", "after"])
    body = [
        *_operand("a", "i", "k", m, k, a_by, a_turned, masked),
        *_operand("b", "k", "j", k, n, b_by, b_turned, masked),
    ]
    dot = f"tl.dot(a, b, acc, input_precision='ieee', out_dtype={name})"
    test = {"odd": "s % 2 == 1", "data": "tl.load(flags + s) > 0", "else": "s != 1"}.get(rule, "")
    half = "acc - 1" if total is torch.int32 else "acc * 0.5"
    if rule == "always":
        body.append(f"acc = {dot}")
    elif rule == "else":
        body += [f"if {test}:", f"    acc = {dot}", "else:", f"    acc = {half}"]
    elif rule == "swap":
        body += ["acc, other = other, acc", f"acc = {dot}"]
    elif rule == "after":
        body += [f"acc = {dot}", "acc = tl.where(acc > 3, acc - 3, acc)"]
    else:
        body += [f"if {test}:", f"    acc = {dot}"]
    if second:
        body.append("rows += tl.sum(acc, 1)")
    starts = {
        "zero": f"acc = tl.zeros(({m}, {n}), {name})",
        "loaded": f"acc = tl.load(c + i[:, None] * {n} + j[None, :])",
        "row": f"acc = tl.load(c + j)[None, :] + tl.zeros(({m}, {n}), {name})",
    }
    text = kernel_text(
        "ap, bp, c, flags, o, o2, o3, M, N, K, S",
        f"i = tl.arange(0, {m})", f"j = tl.arange(0, {n})", f"k = tl.arange(0, {k})", starts[start],
        f"other = tl.zeros(({m}, {n}), {name}) + 1", f"rows = tl.zeros(({m},), {name})",
        "for s in range(S):", *("    " + line for line in body),
        f"tl.store(o + i[:, None] * {n} + j[None, :], acc)",
        f"tl.store(o2 + i[:, None] * {n} + j[None, :], other)", "tl.store(o3 + i, rows)",
    )  # fmt: skip
    launches = []
    for _ in range(2):
        steps = rng.choice([0, 1, 2, 4])
        sizes = tuple(rng.randint(1, d) if masked else d for d in (m, n, k))
        launches.append(_launch(dtype, total, (m, n, k), sizes, steps, (a_by, b_by), start, rule, second))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Unit(f"folds/dot_{OPERANDS[dtype]}_{seed}_{digest}", text, tuple(launches))


def _operand(
    x: str, r: str, c: str, rows: int, columns: int, by_columns: bool, turned: bool, masked: bool
) -> list[str]:
    """Step s of an operand; ``turned``: loaded as its transpose and transposed in registers."""
    first, second = (c, r) if turned else (r, c)
    strides = {r: 1, c: rows} if by_columns else {r: columns, c: 1}
    at = f"{first}[:, None] * {strides[first]} + {second}[None, :] * {strides[second]}"
    sizes = {"i": "M", "j": "N", "k": "K"}
    mask = (
        f", mask=({first}[:, None] < {sizes[first]}) & ({second}[None, :] < {sizes[second]}), other=0.0"
        if masked
        else ""
    )
    line = f"{x} = tl.load({x}p + s * {rows * columns} + {at}{mask})"
    return [line, f"{x} = tl.trans({x})"] if turned else [line]


def _launch(
    dtype: torch.dtype, total: torch.dtype, tile: tuple[int, ...], sizes: tuple[int, ...], steps: int,
    by: tuple[bool, bool], start: str, rule: str, second: bool,
) -> Launch:  # fmt: skip
    m, n, k = tile

    def make(g: torch.Generator) -> Args:
        def whole(count: int) -> torch.Tensor:
            return torch.randint(-2, 3, (max(1, count),), generator=g)

        return {
            "ap": whole(steps * m * k).float().to(dtype), "bp": whole(steps * k * n).float().to(dtype),
            "c": whole(m * n).to(total), "flags": whole(steps).to(torch.int32),
            "o": torch.full((m, n), 9, dtype=total), "o2": torch.full((m, n), 9, dtype=total),
            "o3": torch.full((m,), 9, dtype=total), "M": sizes[0], "N": sizes[1], "K": sizes[2], "S": steps,
        }  # fmt: skip

    def matrix(flat: torch.Tensor, s: int, rows: int, columns: int, by_columns: bool, bounds: Any) -> Any:
        part = flat.float().double()[s * rows * columns : (s + 1) * rows * columns]
        found = part.reshape(columns, rows).T if by_columns else part.reshape(rows, columns)
        kept = torch.zeros_like(found)
        kept[: bounds[0], : bounds[1]] = found[: bounds[0], : bounds[1]]
        return kept

    def after(args: Args) -> Tiles:
        c = args["c"].double()
        zero = torch.zeros(m, n).double()
        acc = {"zero": zero, "loaded": c.reshape(m, n), "row": c[:n].expand(m, n)}[start]
        other, rows = torch.ones(m, n).double(), torch.zeros(m).double()
        for s in range(steps):
            a = matrix(args["ap"], s, m, k, by[0], (sizes[0], sizes[2]))
            b = matrix(args["bp"], s, k, n, by[1], (sizes[2], sizes[1]))
            does = {"odd": s % 2 == 1, "data": int(args["flags"][s]) > 0, "else": s != 1}.get(rule, True)
            if rule == "swap":
                acc, other = other, acc
            if does:
                acc = acc + a @ b
            elif rule == "else":
                acc = acc - 1 if total is torch.int32 else acc * 0.5
            if rule == "after":
                acc = torch.where(acc > 3, acc - 3, acc)
            if second:
                rows = rows + acc.sum(1)
        return acc.to(total), other.to(total), rows.to(total)

    checks = tuple(
        Check(name, lambda a, name=name: a[name], lambda a, at=at: after(a)[at], scale=1e-30)
        for at, name in enumerate(("o", "o2", "o3"))
    )
    return Launch(f"{'x'.join(map(str, sizes))}x{steps}", make, checks)


def unit(seed: int) -> Unit:
    """The kernel of this seed."""
    return fold(seed) if seed % 2 else product(seed)
