"""What moves elements: sort, topk, gather, histogram, joins and splits, permutations, reshapes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from campaign_collective import data, index_of
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import integers


def _sorting(dtype: torch.dtype, shape: tuple[int, ...]) -> Unit:
    """sort both ways, topk, flip along the last dimension."""
    n = shape[-1]
    small = (*shape[:-1], 4)
    calls = {
        "up": ("tl.sort(x)", shape, lambda x: x.sort(-1).values),
        "down": ("tl.sort(x, descending=True)", shape, lambda x: x.sort(-1, descending=True).values),
        "topk": ("tl.topk(x, 4)", small, lambda x: x.sort(-1, descending=True).values[..., :4]),
        "flip": ("tl.flip(x)", shape, lambda x: x.flip(-1)),
    }
    lines = [f"tl.store(o_{c} + {index_of(s)}, {t})" for c, (t, s, _) in calls.items()]
    text = kernel_text(
        f"a, {', '.join('o_' + c for c in calls)}", f"x = tl.load(a + {index_of(shape)})", *lines
    )

    def make(g: torch.Generator) -> Args:
        out = {"o_" + c: torch.zeros(s, dtype=dtype) for c, (_, s, _) in calls.items()}
        return {"a": data(g, shape, dtype, "normal"), **out}

    checks = tuple(
        Check(c, lambda args, c=c: args["o_" + c], lambda args, rule=rule: rule(args["a"]))
        for c, (_, _, rule) in calls.items()
    )
    assert n >= 4
    return Unit(
        f"shape/sort_{TYPES[dtype]}_{'x'.join(map(str, shape))}", text, (Launch("all", make, checks),)
    )


def _gather(dtype: torch.dtype, axis: int) -> Unit:
    shape, picked = (8, 16), ((4, 16) if axis == 0 else (8, 32))
    text = kernel_text(
        "a, k, o",
        f"x = tl.load(a + {index_of(shape)})",
        f"i = tl.load(k + {index_of(picked)})",
        f"tl.store(o + {index_of(picked)}, tl.gather(x, i, {axis}))",
    )

    def make(g: torch.Generator) -> Args:
        k = torch.randint(0, shape[axis], picked, generator=g, dtype=torch.int32)
        return {"a": data(g, shape, dtype, "special"), "k": k, "o": torch.zeros(picked, dtype=dtype)}

    check = Check("o", lambda a: a["o"], lambda a: a["a"].gather(axis, a["k"].long()))
    return Unit(f"shape/gather_{TYPES[dtype]}_{axis}", text, (Launch("all", make, (check,)),))


def _histogram(dtype: torch.dtype, bins: int) -> Unit:
    text = kernel_text(
        "a, o, p, n, B: tl.constexpr",
        "i = tl.arange(0, 64)",
        "x = tl.load(a + i)",
        "tl.store(o + tl.arange(0, B), tl.histogram(x, B))",
        "tl.store(p + tl.arange(0, B), tl.histogram(x, B, mask=i < n))",
    )

    def launch(n: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            a = integers(torch.randint(0, bins + 3, (64,), generator=g).tolist(), dtype)
            z = torch.zeros(bins, dtype=torch.int32)
            return {"a": a, "o": z, "p": z.clone(), "n": n}

        def expect(args: Args, count: int) -> torch.Tensor:
            x = args["a"].view(torch.int32)[:count].long()
            return torch.bincount(x[x < bins], minlength=bins).int()

        checks = (
            Check("o", lambda a: a["o"], lambda a: expect(a, 64)),
            Check("masked", lambda a: a["p"], lambda a: expect(a, n)),
        )
        return Launch(str(n), make, checks)

    return Unit(f"shape/histogram_{TYPES[dtype]}_{bins}", text, (launch(0), launch(37)), {"B": bins})


def _shuffles(dtype: torch.dtype) -> Unit:
    calls: dict[str, tuple[str, tuple[int, ...], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
        "join": ("tl.join(x, y)", (8, 16, 2), lambda x, y: torch.stack([x, y], -1)),
        "interleave": ("tl.interleave(x, y)", (8, 32), lambda x, y: torch.stack([x, y], -1).reshape(8, 32)),
        "split": ("tl.split(tl.reshape(x, (8, 8, 2)))[1]", (8, 8), lambda x, y: x[:, 1::2]),
        "permute": ("tl.permute(x, (1, 0))", (16, 8), lambda x, y: x.T),
        "trans": ("tl.trans(x)", (16, 8), lambda x, y: x.T),
        "reshape": ("tl.reshape(x, (4, 32))", (4, 32), lambda x, y: x.reshape(4, 32)),
        "ravel": ("tl.ravel(x)", (128,), lambda x, y: x.reshape(128)),
        "cat": (
            "tl.cat(tl.ravel(x), tl.ravel(y), can_reorder=True)",
            (256,),
            lambda x, y: torch.cat([x.reshape(128), y.reshape(128)]),
        ),
        "broadcast": (
            "tl.broadcast_to(tl.reshape(tl.ravel(x), (128, 1)), (128, 4))",
            (128, 4),
            lambda x, y: x.reshape(128, 1).expand(128, 4),
        ),
        "expand": ("tl.expand_dims(x, 1)", (8, 1, 16), lambda x, y: x.unsqueeze(1)),
        "cube": (
            "tl.permute(tl.reshape(x, (2, 4, 16)), (2, 0, 1))",
            (16, 2, 4),
            lambda x, y: x.reshape(2, 4, 16).permute(2, 0, 1),
        ),
        "where": (
            "tl.where(tl.trans(x) == tl.trans(y), tl.trans(x), tl.trans(y))",
            (16, 8),
            lambda x, y: y.T,
        ),
    }
    lines = [f"tl.store(o_{c} + {index_of(s)}, {t})" for c, (t, s, _) in calls.items()]
    text = kernel_text(
        f"a, b, {', '.join('o_' + c for c in calls)}",
        f"x = tl.load(a + {index_of((8, 16))})",
        f"y = tl.load(b + {index_of((8, 16))})",
        *lines,
    )

    def make(g: torch.Generator) -> Args:
        out = {"o_" + c: torch.zeros(s, dtype=dtype) for c, (_, s, _) in calls.items()}
        return {"a": data(g, (8, 16), dtype, "normal"), "b": data(g, (8, 16), dtype, "normal"), **out}

    checks = tuple(
        Check(
            c,
            # The order of cat is Triton's to choose: as a bag of elements.
            (lambda args, c=c: args["o_" + c].sort().values)
            if c == "cat"
            else lambda args, c=c: args["o_" + c],
            (lambda args, r=rule: r(args["a"], args["b"]).sort().values)
            if c == "cat"
            else lambda args, r=rule: r(args["a"], args["b"]).contiguous(),
        )
        for c, (_, _, rule) in calls.items()
    )
    return Unit(f"shape/shuffles_{TYPES[dtype]}", text, (Launch("all", make, checks),))


def units() -> list[Unit]:
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.int8)
    found = [_sorting(d, s) for d in kinds for s in ((32,), (4, 16))]
    found += [_gather(d, a) for d in kinds for a in (0, 1)]
    found += [_histogram(d, b) for d in (torch.int32, torch.uint32) for b in (8, 32)]
    return found + [_shuffles(d) for d in (*kinds, torch.float64, torch.bool)]
