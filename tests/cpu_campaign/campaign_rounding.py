"""libdevice functions that round in a named direction, against exact fractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from campaign_core import Args, Check, Unit, kernel_text
from campaign_libdevice import F32, F64, I32, I64, U32, U64, N, launches
from campaign_numbers import any_ints, as_ints, integers


def directed(exact: Fraction, dtype: torch.dtype, mode: str) -> float:
    """An exact number rounded to ``dtype`` in direction rn, rz, rd or ru."""
    kind = np.float32 if dtype is F32 else np.float64
    near = kind(exact.numerator / exact.denominator) if exact else kind(0)
    candidates = [np.nextafter(near, kind(-np.inf)), near, np.nextafter(near, kind(np.inf))]
    pairs = [(Fraction(float(c)), float(c)) for c in candidates if np.isfinite(c)]
    if mode == "rz":
        mode = "rd" if exact > 0 else "ru"
    if mode == "rd":
        return max(v for f, v in pairs if f <= exact)
    if mode == "ru":
        return min(v for f, v in pairs if f >= exact)
    best = min(abs(f - exact) for f, _ in pairs)
    tied = [v for f, v in pairs if abs(f - exact) == best]
    even = [v for v in tied if int(np.array(v, kind).view(np.uint32 if dtype is F32 else np.uint64)) % 2 == 0]
    return (even or tied)[0]


_EXACT: dict[str, tuple[str, Callable[[Fraction, Fraction, Fraction], Fraction]]] = {
    "add": ("x, y", lambda x, y, z: x + y), "sub": ("x, y", lambda x, y, z: x - y),
    "mul": ("x, y", lambda x, y, z: x * y), "div": ("x, y", lambda x, y, z: x / y),
    "rcp": ("y", lambda x, y, z: 1 / y), "fma": ("x, y, z", lambda x, y, z: x * y + z),
    "sqrt": ("tl.abs(y)", lambda x, y, z: _root(abs(y))),
}  # fmt: skip


def _root(x: Fraction) -> Fraction:
    """A square root to 200 bits more than either type has, exact where it is rational."""
    scaled = (x.numerator << 600) // x.denominator
    root = math.isqrt(scaled)
    whole = Fraction(root, 1 << 300)
    return whole if whole * whole == x else whole + Fraction(1, 1 << 302)


def _directed(dtype: torch.dtype, mode: str) -> Unit:
    lines = [f"{v} = tl.load({p} + i)" for v, p in zip("xyz", "abc", strict=True)]
    lines += [f"tl.store(o_{n} + i, libdevice.{n}_{mode}({s[0]}))" for n, s in _EXACT.items()]
    text = kernel_text(f"a, b, c, {', '.join('o_' + n for n in _EXACT)}", f"i = tl.arange(0, {N})", *lines)

    def make(g: torch.Generator) -> Args:
        a, b, c = (torch.randn(N, generator=g, dtype=F64) * 3 for _ in range(3))
        a[:4] = torch.tensor([1.25, 3.0, -2.0, 1e-3])
        b[:4] = torch.tensor([1.0, 4.0, 3.0, 1e3])
        out = {"o_" + n: torch.zeros(N, dtype=dtype) for n in _EXACT}
        return {"a": a.to(dtype), "b": b.to(dtype), "c": c.to(dtype), **out}

    def check(name: str) -> Check:
        def expect(args: Args) -> torch.Tensor:
            rows = zip(*(args[k].tolist() for k in "abc"), strict=True)
            rule = _EXACT[name][1]
            made = [directed(rule(*(Fraction(v) for v in r)), dtype, mode) for r in rows]
            return torch.tensor(made, dtype=F64).to(dtype)

        return Check(name, lambda args: args["o_" + name], expect)

    kind = "f32" if dtype is F32 else "f64"
    return Unit(f"libdevice/directed_{kind}_{mode}", text, launches(make, [check(n) for n in _EXACT]))


def _converted(mode: str) -> Unit:
    """float and double to and from integers, and double to float, in one rounding."""
    names = {"float2int": (F32, I32), "float2uint": (F32, U32), "float2ll": (F32, I64), "float2ull": (F32,
    U64),
             "double2int": (F64, I32), "double2uint": (F64, U32), "double2ll": (F64, I64),
             "double2ull": (F64, U64),
             "int2float": (I32, F32), "uint2float": (U32, F32), "ll2float": (I64, F32), "ull2float": (U64,
             F32),
             "ll2double": (I64, F64), "ull2double": (U64, F64), "double2float": (F64, F32)}  # fmt: skip
    lines = [f"tl.store(o_{n} + i, libdevice.{n}_{mode}(tl.load(a_{n} + i)))" for n in names]
    parameters = ", ".join(f"a_{n}, o_{n}" for n in names)
    text = kernel_text(parameters, f"i = tl.arange(0, {N})", *lines)

    def make(g: torch.Generator) -> Args:
        found: Args = {}
        for n, (source, target) in names.items():
            if source in (F32, F64):
                x = torch.cat(
                    [torch.tensor([0.5, -0.5, 1.5, 2.5, 1e30, -1e30]), torch.randn(N, generator=g) * 1e4]
                )
                found["a_" + n] = x[:N].to(source) if target is not F32 else x[:N].double() * (1 + 2**-40)
            else:
                found["a_" + n] = any_ints(g, N, source)
            found["o_" + n] = torch.zeros(N, dtype=target)
        return found

    def check(name: str) -> Check:
        source, target = names[name]

        def expect(args: Args) -> torch.Tensor:
            x = args["a_" + name]
            if target in (F32, F64):
                exact = [Fraction(v) for v in (x.tolist() if source is F64 else as_ints(x))]
                return torch.tensor([directed(e, target, mode) for e in exact], dtype=F64).to(target)
            info = torch.iinfo(target)
            rules = {"rn": round, "rz": math.trunc, "rd": math.floor, "ru": math.ceil}
            made = [max(info.min, min(info.max, rules[mode](Fraction(v)))) for v in x.tolist()]
            return integers(made, target)

        return Check(name, lambda args: args["o_" + name], expect)

    return Unit(f"libdevice/convert_{mode}", text, launches(make, [check(n) for n in names]))


def units() -> list[Unit]:
    modes = ("rn", "rz", "rd", "ru")
    return [
        *(_directed(d, mode) for d in (F32, F64) for mode in modes),
        *(_converted(mode) for mode in modes),
    ]
