"""Conversions between all pairs of types, with both roundings, and bit casts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import FLOAT8, FLOATS, FORMATS, INTS, any_floats, any_ints, as_ints, integers, rounded

N = 256
ALL = (torch.bool, *INTS, *FLOATS, *FLOAT8)


def _source(g: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    if dtype in FLOAT8:
        return torch.arange(256).to(torch.uint8).view(dtype)
    if dtype in FLOATS:
        x = any_floats(g, N, dtype)
        if dtype in (torch.float32, torch.float64):  # ties of the narrower formats, and next to them
            k = torch.arange(48, dtype=torch.float64)
            ties = torch.cat([(2 * k + 1) * 2.0**-e for e in (3, 4, 8, 11)])
            off = torch.exp2(-24 - 20 * (k.repeat(4) % 2)) * ((k.repeat(4) % 3) - 1)
            x[-192:] = (ties + ties * off).to(dtype)
        return x
    return any_ints(g, N, dtype)


def _to_int(values: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    """Floats are truncated and saturated, NaN gives 0; i1 is the test against zero."""
    if target is torch.bool:
        return values != 0
    info = torch.iinfo(target)
    found = []
    for v in values.tolist():
        if v != v:
            found.append(0)
        elif v in (float("inf"), -float("inf")):
            found.append(info.max if v > 0 else info.min)
        else:
            found.append(max(info.min, min(info.max, int(v))))
    return integers(found, target)


def convert(x: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    source = x.dtype
    if source in FORMATS and target in FORMATS:
        return rounded(x.double(), target)
    if source in FORMATS:
        return _to_int(x.double(), target)
    values = as_ints(x)
    if target in FORMATS:
        if target in (torch.float64, torch.float32):
            import numpy as np

            kind = np.float64 if target is torch.float64 else np.float32
            return torch.tensor([_nearest(v, kind) for v in values], dtype=torch.float64).to(target)
        # Through f64, which holds every integer that does not overflow these formats anyway.
        return rounded(torch.tensor([float(v) for v in values], dtype=torch.float64), target)
    if target is torch.bool:
        return torch.tensor([v != 0 for v in values])
    return integers(values, target)


def _nearest(value: int, kind: type) -> float:
    """An integer rounded once: numpy would go through f64."""
    exact = float(value)  # Python rounds correctly to f64
    if exact == value or kind(exact) == exact:
        return float(kind(exact))
    import fractions

    import numpy as np

    near = kind(exact)
    around = [np.nextafter(near, kind(-np.inf)), near, np.nextafter(near, kind(np.inf))]
    distance = [abs(fractions.Fraction(float(c)) - value) for c in around]
    best = min(distance)
    ties = [c for c, d in zip(around, distance, strict=True) if d == best]
    even = [c for c in ties if int(c.view(np.uint32 if kind is np.float32 else np.uint64)) % 2 == 0]
    return float((even or ties)[0])


def _unit(
    name: str, source: torch.dtype, texts: dict[str, tuple[str, torch.dtype, Callable[[Args], torch.Tensor]]]
) -> Unit:
    def make(g: torch.Generator) -> Args:
        zeros = {"o_" + n: torch.zeros(N, dtype=torch.uint8).view(t) if t in FLOAT8 else torch.zeros(N,
        dtype=t)
                 for n, (_, t, _) in texts.items()}  # fmt: skip
        return {"a": _source(g, source), **zeros}

    checks = tuple(Check(n, lambda args, n=n: args["o_" + n], expect) for n, (_, _, expect) in texts.items())
    parameters = "a, " + ", ".join("o_" + n for n in texts) + ", N: tl.constexpr"
    lines = [f"tl.store(o_{n} + i, {t})" for n, (t, _, _) in texts.items()]
    text = kernel_text(parameters, "i = tl.arange(0, N)", "x = tl.load(a + i)", *lines)
    return Unit(name, text, (Launch("all", make, checks),), {"N": N})


_TL = {
    "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64", "i1": "int1",
    "fp8e4nv": "float8e4nv", "fp8e5": "float8e5", "fp8e4b8": "float8e4b8", "fp8e5b16": "float8e5b16",
} | {f"{s}{b}": f"{'u' if s == 'u' else ''}int{b}" for s in "iu" for b in (8, 16, 32, 64)}  # fmt: skip


def _value(source: torch.dtype, target: torch.dtype) -> str:
    """8-bit floats and integers meet in f32; the frontend has no direct cast."""
    eight_and_int = (source in FLOAT8 and target not in FORMATS) or (
        target in FLOAT8 and source not in FORMATS
    )
    if source in FLOAT8 and target in FLOAT8:
        return f"x.to(tl.float32).to(tl.{_TL[TYPES[target]]})"
    via = ".to(tl.float32)" if eight_and_int else ""
    return f"x{via}.to(tl.{_TL[TYPES[target]]})"


def _expect(source: torch.dtype, target: torch.dtype) -> Callable[[Args], torch.Tensor]:
    def expect(args: Args) -> torch.Tensor:
        x = args["a"]
        if target in FLOAT8 and source not in FORMATS:
            x = convert(x, torch.float32)
        if (source, target) in ((torch.float64, torch.bfloat16), (torch.float64, torch.float16)):
            return rounded(x, target)
        return convert(x, target)

    return expect


def units() -> list[Unit]:
    found = []
    for source in ALL:
        targets = [t for t in ALL if t is not source]
        for k in range(0, len(targets), 8):
            texts = {TYPES[t]: (_value(source, t), t, _expect(source, t)) for t in targets[k : k + 8]}
            found.append(_unit(f"conversion/{TYPES[source]}/{k // 8}", source, texts))
    for source in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        narrower = [t for t in (*FLOATS, *FLOAT8) if t.itemsize < source.itemsize]
        texts = {
            f"rtz_{TYPES[t]}": (
                f"x.to(tl.{_TL[TYPES[t]]}, fp_downcast_rounding='rtz')",
                t,
                lambda args, t=t: rounded(args["a"].double(), t, toward_zero=True),
            )
            for t in narrower
        }
        found.append(_unit(f"conversion/{TYPES[source]}/rtz", source, texts))
    for source in ALL[1:]:
        same = [t for t in ALL[1:] if t.itemsize == source.itemsize and t is not source]
        texts = {
            f"bits_{TYPES[t]}": (
                f"x.to(tl.{_TL[TYPES[t]]}, bitcast=True)",
                t,
                lambda args, t=t: args["a"].view(t),
            )
            for t in same
        }
        found.append(_unit(f"conversion/{TYPES[source]}/bits", source, texts))
    return found
