"""libdevice, but for directed roundings: against mpmath and Python's integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import torch
from campaign_core import Args, Check, Launch, Unit, kernel_text
from campaign_numbers import any_ints, as_ints, integers

N = 64
F32, F64, I32, I64 = torch.float32, torch.float64, torch.int32, torch.int64
U32, U64 = torch.uint32, torch.uint64
REAL = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.3, 7.7, 12.5, 1e-5, 1e-3, 0.1, 0.3, 0.9, 25.0]
mpmath.mp.prec = 120


def _reals(low: float, high: float) -> Callable[[torch.Generator], torch.Tensor]:
    def make(g: torch.Generator) -> torch.Tensor:
        fixed = torch.tensor([s * v for v in REAL for s in (1, -1)], dtype=F64)
        fixed = fixed[(fixed >= low) & (fixed <= high)]
        return torch.cat([fixed, torch.rand(N, generator=g, dtype=F64) * (high - low) + low])[:N]

    return make


ANY, UNIT, POSITIVE, ABOVE, SMALL = (
    _reals(-25, 25), _reals(-0.999, 0.999), _reals(1e-5, 25), _reals(1, 25), _reals(-5, 5)
)  # fmt: skip
OPEN = _reals(1e-5, 0.999)
TWO = _reals(1e-5, 1.999)
mp = mpmath


def _round_half(x: Any, away: bool) -> Any:
    return mp.sign(x) * mp.floor(abs(x) + 0.5) if away else mp.nint(x)


# name: (domain, rule in mpmath, units in the last place allowed in f32, in f64)
ONE: dict[str, tuple[Callable, Callable, float, float]] = {
    "abs": (ANY, abs, 0, 0), "floor": (ANY, mp.floor, 0, 0), "ceil": (ANY, mp.ceil, 0, 0),
    "trunc": (ANY, lambda x: mp.sign(x) * mp.floor(abs(x)), 0, 0), "rint": (ANY, mp.nint, 0, 0),
    "nearbyint": (ANY, mp.nint, 0, 0), "round": (ANY, lambda x: _round_half(x, True), 0, 0),
    "exp": (ANY, mp.exp, 2, 2), "exp2": (ANY, lambda x: mp.mpf(2) ** x, 2, 2),
    "exp10": (ANY, lambda x: mp.mpf(10) ** x, 2, 2), "expm1": (ANY, mp.expm1, 2, 2), "log": (POSITIVE,
    mp.log, 2, 2),
    "log2": (POSITIVE, lambda x: mp.log(x, 2), 2, 2), "log10": (POSITIVE, mp.log10, 2, 2),
    "log1p": (POSITIVE, mp.log1p, 2, 2), "sqrt": (POSITIVE, mp.sqrt, 0.5, 0.5),
    "rsqrt": (POSITIVE, lambda x: 1 / mp.sqrt(x), 2, 2), "cbrt": (ANY,
    lambda x: mp.sign(x) * mp.cbrt(abs(x)), 2, 2),
    "rcbrt": (POSITIVE, lambda x: 1 / mp.cbrt(x), 2, 2), "sin": (ANY, mp.sin, 2, 2), "cos": (ANY, mp.cos, 2,
    2),
    "tan": (ANY, mp.tan, 2, 2), "sinpi": (ANY, mp.sinpi, 2, 3), "cospi": (ANY, mp.cospi, 2, 3),
    "asin": (UNIT, mp.asin, 2, 2), "acos": (UNIT, mp.acos, 2, 2), "atan": (ANY, mp.atan, 2, 2),
    "sinh": (SMALL, mp.sinh, 3, 3), "cosh": (SMALL, mp.cosh, 3, 3), "tanh": (SMALL, mp.tanh, 3, 3),
    "asinh": (ANY, mp.asinh, 3, 3), "acosh": (ABOVE, mp.acosh, 3, 3), "atanh": (UNIT, mp.atanh, 3, 3),
    "erf": (SMALL, mp.erf, 2, 2), "erfc": (SMALL, mp.erfc, 3, 6),
    "erfcx": (SMALL, lambda x: mp.exp(x * x) * mp.erfc(x), 2, 16),
    "erfinv": (UNIT, mp.erfinv, 2, 8), "erfcinv": (TWO, lambda x: mp.erfinv(1 - x), 2, 16),
    "normcdf": (SMALL, mp.ncdf, 2, 64), "normcdfinv": (OPEN, lambda x: mp.sqrt(2) * mp.erfinv(2 * x - 1), 2,
    16),
    "lgamma": (POSITIVE, lambda x: mp.log(abs(mp.gamma(x))), 2, 8), "tgamma": (_reals(0.1, 12), mp.gamma, 2,
    8),
    "j0": (ANY, lambda x: mp.besselj(0, x), 2, 64), "j1": (ANY, lambda x: mp.besselj(1, x), 2, 64),
    "y0": (POSITIVE, lambda x: mp.bessely(0, x), 2, 64), "y1": (POSITIVE, lambda x: mp.bessely(1, x), 2, 64),
    "cyl_bessel_i0": (ANY, lambda x: mp.besseli(0, x), 2, 16),
    "cyl_bessel_i1": (ANY, lambda x: mp.besseli(1, x), 2, 16),
    "logb": (POSITIVE, lambda x: mp.floor(mp.log(x, 2)), 0, 0),
}  # fmt: skip
FAST: dict[str, tuple[Callable, Callable, float]] = {
    "fast_sinf": (ANY, mp.sin, 2), "fast_cosf": (ANY, mp.cos, 2), "fast_tanf": (ANY, mp.tan, 2),
    "fast_tanhf": (SMALL, mp.tanh, 3), "fast_expf": (ANY, mp.exp, 2), "fast_exp10f": (ANY,
    lambda x: mp.mpf(10) ** x, 2),
    "fast_logf": (POSITIVE, mp.log, 2), "fast_log2f": (POSITIVE, lambda x: mp.log(x, 2), 2),
    "fast_log10f": (POSITIVE, mp.log10, 2), "saturatef": (ANY, lambda x: min(max(x, mp.mpf(0)), mp.mpf(1)),
    0),
}  # fmt: skip
SEVERAL: dict[str, tuple[str, Callable, float, float]] = {
    "pow": ("abs(x), y", lambda x, y, z: abs(x) ** y, 2, 4), "atan2": ("x, y", lambda x, y, z: mp.atan2(x,
    y), 2, 2),
    "fmod": ("x, y", lambda x, y, z: mp.sign(x) * mp.fmod(abs(x), abs(y)) if y else mp.nan, 0, 0),
    "remainder": ("x, y", lambda x, y, z: x - y * mp.nint(x / y) if y else mp.nan, 0, 0),
    "hypot": ("x, y", lambda x, y, z: mp.hypot(x, y), 2, 2),
    "rhypot": ("x, y + 30", lambda x, y, z: 1 / mp.hypot(x, y + 30), 3, 3),
    "copysign": ("x, y", lambda x, y, z: abs(x) * (-1 if math.copysign(1, float(y)) < 0 else 1), 0, 0),
    "fdim": ("x, y", lambda x, y, z: max(x - y, mp.mpf(0)), 1, 1),
    "fma": ("x, y, z", lambda x, y, z: x * y + z, 0.5, 0.5),
    "norm3d": ("x, y, z", lambda x, y, z: mp.sqrt(x * x + y * y + z * z), 2, 3),
    "rnorm3d": ("x, y, z + 30", lambda x, y, z: 1 / mp.sqrt(x * x + y * y + (z + 30) ** 2), 3, 4),
    "norm4d": ("x, y, z, x", lambda x, y, z: mp.sqrt(2 * x * x + y * y + z * z), 2, 3),
    "rnorm4d": ("x, y, z + 30, x", lambda x, y, z: 1 / mp.sqrt(2 * x * x + y * y + (z + 30) ** 2), 3, 4),
}  # fmt: skip
_NEXT_TO = "libdevice.nextafter(x, y)"


def _nan_where(call: Callable[[], Any]) -> float:
    try:
        value = call()
    except (ZeroDivisionError, ValueError):
        return math.nan
    return math.nan if isinstance(value, mp.mpc) else float(value)


def launches(make: Callable[[torch.Generator], Args], checks: list[Check]) -> tuple[Launch, ...]:
    return (Launch("all", make, tuple(checks)),)


def _one(dtype: torch.dtype, names: list[str], part: int) -> Unit:
    lines = [f"tl.store(o_{n} + i, libdevice.{n}(tl.load(a_{n} + i)))" for n in names]
    parameters = ", ".join(f"a_{n}, o_{n}" for n in names)
    text = kernel_text(parameters, f"i = tl.arange(0, {N})", *lines)

    def make(g: torch.Generator) -> Args:
        found: Args = {}
        for n in names:
            domain = ONE[n][0] if n in ONE else FAST[n][0]
            found["a_" + n], found["o_" + n] = domain(g).to(dtype), torch.zeros(N, dtype=dtype)
        return found

    def check(name: str) -> Check:
        rule = ONE[name][1] if name in ONE else FAST[name][1]
        ulps = FAST[name][2] if name in FAST else ONE[name][2 if dtype is F32 else 3]

        def expect(args: Args) -> torch.Tensor:
            exact = [_nan_where(lambda v=v: rule(mp.mpf(v))) for v in args["a_" + name].tolist()]
            return torch.tensor(exact, dtype=F64).to(dtype)

        # Next to a zero the error is that of the argument's reduction.
        scale = 1e-15 if dtype is F64 and ulps else 0.0
        return Check(name, lambda args: args["o_" + name], expect, max(ulps, 0.01), scale)

    kind = "f32" if dtype is F32 else "f64"
    return Unit(f"libdevice/{kind}_{part}", text, launches(make, [check(n) for n in names]))


def _several(dtype: torch.dtype) -> Unit:
    lines = [f"{v} = tl.load({p} + i)" for v, p in zip("xyz", "abc", strict=True)]
    lines += [
        f"tl.store(o_{n} + i, libdevice.{n}({s[0].replace('abs(x)', 'tl.abs(x)')}))"
        for n, s in SEVERAL.items()
    ]
    lines.append(f"tl.store(o_nextafter + i, {_NEXT_TO})")
    names = [*SEVERAL, "nextafter"]
    text = kernel_text(f"a, b, c, {', '.join('o_' + n for n in names)}", f"i = tl.arange(0, {N})", *lines)

    def make(g: torch.Generator) -> Args:
        out = {"o_" + n: torch.zeros(N, dtype=dtype) for n in names}
        # Small powers, so that no result overflows; few digits, so that sums such as y + 30 are exact;
        # no -0, which mpmath does not have.
        a, b, c = (torch.round(ANY(g) * 8) / 8 / s + 0.0 for s in (1, 4, 2))
        return {"a": a.to(dtype), "b": b.roll(3).to(dtype), "c": c.roll(7).to(dtype), **out}

    def check(name: str) -> Check:
        def expect(args: Args) -> torch.Tensor:
            if name == "nextafter":
                return torch.nextafter(args["a"], args["b"])
            rows = zip(*(args[k].tolist() for k in "abc"), strict=True)
            rule = SEVERAL[name][1]
            exact = [_nan_where(lambda r=r: rule(*(mp.mpf(v) for v in r))) for r in rows]
            return torch.tensor(exact, dtype=F64).to(dtype)

        ulps = 0.0 if name == "nextafter" else SEVERAL[name][2 if dtype is F32 else 3]
        return Check(name, lambda args: args["o_" + name], expect, max(ulps, 0.01))

    return Unit(
        f"libdevice/several_{'f32' if dtype is F32 else 'f64'}",
        text,
        launches(make, [check(n) for n in names]),
    )


def _reverse(x: int, bits: int) -> int:
    return int(f"{x & ((1 << bits) - 1):0{bits}b}"[::-1], 2)


def _permuted(x: int, y: int, s: int) -> int:
    data = [(((y & 0xFFFFFFFF) << 32 | x & 0xFFFFFFFF) >> (8 * k)) & 255 for k in range(8)]
    return sum(data[(s >> (4 * k)) & 7] << (8 * k) for k in range(4))


def _low24(x: int, signed: bool) -> int:
    x &= 0xFFFFFF
    return x - 0x1000000 if signed and x >> 23 else x


def _whole(dtype: torch.dtype) -> Unit:
    bits = 8 * dtype.itemsize
    signed = dtype in (I32, I64)
    mask = (1 << bits) - 1
    table: dict[str, tuple[str, torch.dtype, Callable[[int, int, int], int]]] = {
        "mulhi": ("x, y", dtype, lambda x, y, z: x * y >> bits),
    }
    if signed:
        table |= {
            "clz": ("x", I32, lambda x, y, z: bits - (x & mask).bit_length()),
            "popc": ("x", I32, lambda x, y, z: (x & mask).bit_count()),
            "brev": ("x", dtype, lambda x, y, z: _reverse(x, bits)),
            "ffs": ("x", I32, lambda x, y, z: ((x & mask) & -(x & mask)).bit_length()),
            "abs": ("x", dtype, lambda x, y, z: abs(x)),
        }
    if bits == 32:
        table |= {
            "mul24": ("x, y", dtype, lambda x, y, z: _low24(x, signed) * _low24(y, signed)),
            "hadd": ("x, y", dtype, lambda x, y, z: x + y >> 1),
            "rhadd": ("x, y", dtype, lambda x, y, z: x + y + 1 >> 1),
            "sad": (
                "x, y, z.to(tl.uint32, bitcast=True)" if signed else "x, y, z",
                dtype,
                lambda x, y, z: abs(x - y) + z,
            ),
        }
    if dtype is I32:
        table["byte_perm"] = ("x, y, z", dtype, lambda x, y, z: _permuted(x, y, z & mask))
    lines = [f"{v} = tl.load({p} + i)" for v, p in zip("xyz", "abc", strict=True)]
    lines += [f"tl.store(o_{n} + i, libdevice.{n}({s[0]}))" for n, s in table.items()]
    text = kernel_text(f"a, b, c, {', '.join('o_' + n for n in table)}", f"i = tl.arange(0, {N})", *lines)

    def make(g: torch.Generator) -> Args:
        out = {"o_" + n: torch.zeros(N, dtype=t) for n, (_, t, _) in table.items()}
        return {k: any_ints(g, N, dtype, turn) for k, turn in zip("abc", (0, 3, 11), strict=True)} | out

    def check(name: str) -> Check:
        _, target, rule = table[name]

        def expect(args: Args) -> torch.Tensor:
            rows = zip(*(as_ints(args[k]) for k in "abc"), strict=True)
            return integers([rule(*r) for r in rows], target)

        return Check(name, lambda args: args["o_" + name], expect)

    kind = {I32: "i32", I64: "i64", U32: "u32", U64: "u64"}[dtype]
    return Unit(f"libdevice/{kind}", text, launches(make, [check(n) for n in table]))


def _bits_and_tests() -> Unit:
    """Bit casts, predicates, exponents, Bessel functions of integer order."""
    table: dict[str, tuple[str, torch.dtype, Callable[[Args], torch.Tensor], float]] = {
        "float_as_int": ("x", I32, lambda a: a["a"].view(I32), 0),
        "int_as_float": ("k", F32, lambda a: a["k"].view(F32), 0),
        "double_as_longlong": ("d", I64, lambda a: a["d"].view(I64), 0),
        "double2loint": ("d", I32, lambda a: a["d"].view(I32)[0::2], 0),
        "double2hiint": ("d", I32, lambda a: a["d"].view(I32)[1::2], 0),
        "hiloint2double": ("k, k", F64, lambda a: a["k"].repeat_interleave(2).view(F64), 0),
        "isnan": ("x", I32, lambda a: a["a"].isnan().int(), 0),
        "isinf": ("d", I32, lambda a: a["d"].isinf().int(), 0),
        "finitef": ("x", I32, lambda a: a["a"].isfinite().int(), 0),
        "isfinited": ("d", I32, lambda a: a["d"].isfinite().int(), 0),
        "signbit": ("x", I32, lambda a: a["a"].signbit().int(), 0),
        "llrint": ("r", I64, lambda a: a["r"].round().long(), 0),
        "llround": (
            "r",
            I64,
            lambda a: torch.tensor([int(_round_half(mp.mpf(v), True)) for v in a["r"].tolist()]),
            0,
        ),
        "ldexp": ("r, n", F64, lambda a: torch.ldexp(a["r"], a["n"]), 0),
        "scalbn": ("r, n", F64, lambda a: torch.ldexp(a["r"], a["n"]), 0),
        "ilogb": ("tl.abs(r) + 1", I32, lambda a: (a["r"].abs() + 1).log2().floor().int(), 0),
        "jn": ("n, r", F64, lambda a: _orders(a, mp.besselj), 64),
        "yn": ("n, tl.abs(r) + 1", F64, lambda a: _orders(a, mp.bessely, True), 64),
        "rcp64h": ("tl.abs(r) + 1", F64, lambda a: _high_half(1 / (a["r"].abs() + 1)), 0),
    }
    lines = [
        f"{v} = tl.load({p} + i)" for v, p in (("x", "a"), ("k", "k"), ("d", "d"), ("r", "r"), ("n", "n"))
    ]
    lines += [f"tl.store(o_{n} + i, libdevice.{n}({s[0]}))" for n, s in table.items()]
    text = kernel_text(
        f"a, k, d, r, n, {', '.join('o_' + n for n in table)}", f"i = tl.arange(0, {N})", *lines
    )

    def make(g: torch.Generator) -> Args:
        special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.5, 1e-42])
        a = torch.cat([special, torch.randn(N, generator=g)])[:N]
        d = torch.cat([special.double(), torch.randn(N, generator=g, dtype=F64)])[:N]
        # Integers whose bits are ordinary floats: a NaN need not keep its payload through a register.
        k = torch.randint(1 << 24, 1 << 30, (N,), generator=g, dtype=I32)
        r = torch.cat([torch.tensor([0.5, 1.5, -0.5, -2.5]), torch.randn(N, generator=g) * 5])[:N].double()
        n = torch.randint(0, 6, (N,), generator=g, dtype=I32)
        out = {"o_" + m: torch.zeros(N, dtype=t) for m, (_, t, _, _) in table.items()}
        return {"a": a, "k": k, "d": d, "r": r, "n": n, **out}

    checks = [
        Check(
            n,
            lambda args, n=n: args["o_" + n],
            lambda args, f=f: f(args).contiguous(),
            ulps,
            1e-15 if ulps else 0,
        )
        for n, (_, _, f, ulps) in table.items()
    ]
    return Unit("libdevice/bits", text, launches(make, checks))


def _orders(args: Args, rule: Callable, shifted: bool = False) -> torch.Tensor:
    rows = zip(args["n"].tolist(), args["r"].tolist(), strict=True)
    return torch.tensor(
        [float(rule(n, mp.mpf(abs(x) + 1 if shifted else x)).real) for n, x in rows], dtype=F64
    )


def _high_half(x: torch.Tensor) -> torch.Tensor:
    return (x.view(I64) & -(1 << 32)).view(F64)


def units() -> list[Unit]:
    found = []
    for dtype in (F32, F64):
        names = list(ONE)
        found += [_one(dtype, names[k : k + 8], k // 8) for k in range(0, len(names), 8)]
        found.append(_several(dtype))
    found.append(_one(F32, list(FAST), 99))
    return [*found, *(_whole(d) for d in (I32, I64, U32, U64)), _bits_and_tests()]
