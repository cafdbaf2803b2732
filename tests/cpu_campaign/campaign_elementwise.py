"""Every elementwise operation in every type, on special values and random ones, whole and masked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import FLOATS, INTS, SIGNED, any_floats, any_ints, as_ints, integers, rounded, width

from campaign_numbers import pairs, special_floats, special_ints  # isort: skip

N = 1024
KEPT = 640  # elements that the masked launch computes
IntRule = Callable[[int, int, int, torch.dtype], int]


def _quotient(a: int, b: int, t: torch.dtype) -> int:
    if b == 0:
        return 0
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def _remainder(a: int, b: int, t: torch.dtype) -> int:
    return a if b == 0 else a - b * _quotient(a, b, t)


def _amount(b: int, t: torch.dtype) -> int:
    return b & ((1 << width(t)) - 1)


def _left(a: int, b: int, c: int, t: torch.dtype) -> int:
    return a << _amount(b, t) if _amount(b, t) < width(t) else 0


def _right(a: int, b: int, c: int, t: torch.dtype) -> int:
    if t in SIGNED or _amount(b, t) < width(t):
        return a >> min(_amount(b, t), width(t))
    return 0


def _high(a: int, b: int, c: int, t: torch.dtype) -> int:
    mask = (1 << width(t)) - 1
    return (a & mask) * (b & mask) >> width(t)


INT_OPS: dict[str, tuple[str, IntRule]] = {
    "add": ("x + y", lambda a, b, c, t: a + b),
    "sub": ("x - y", lambda a, b, c, t: a - b),
    "mul": ("x * y", lambda a, b, c, t: a * b),
    "div": ("x // y", lambda a, b, c, t: _quotient(a, b, t)),
    "rem": ("x % y", lambda a, b, c, t: _remainder(a, b, t)),
    "and": ("x & y", lambda a, b, c, t: a & b),
    "or": ("x | y", lambda a, b, c, t: a | b),
    "xor": ("x ^ y", lambda a, b, c, t: a ^ b),
    "shl": ("x << y", _left),
    "shr": ("x >> y", _right),
    "shl3": ("x << 3", lambda a, b, c, t: a << 3),
    "shr3": ("x >> 3", lambda a, b, c, t: a >> 3),
    "div7": ("x // 7", lambda a, b, c, t: _quotient(a, 7, t)),
    "rem7": ("x % 7", lambda a, b, c, t: _remainder(a, 7, t)),
    "not": ("~x", lambda a, b, c, t: ~a),
    "neg": ("-x", lambda a, b, c, t: -a),
    "abs": ("tl.abs(x)", lambda a, b, c, t: abs(a)),
    "min": ("tl.minimum(x, y)", lambda a, b, c, t: min(a, b)),
    "max": ("tl.maximum(x, y)", lambda a, b, c, t: max(a, b)),
    "where": ("tl.where(x > y, z, x)", lambda a, b, c, t: c if a > b else a),
    "add_mul": ("x * y + z", lambda a, b, c, t: a * b + c),
    "umulhi": ("tl.umulhi(x, y)", _high),
}
BOOL_OPS: dict[str, tuple[str, IntRule]] = {
    "and": ("x & y", lambda a, b, c, t: a & b),
    "or": ("x | y", lambda a, b, c, t: a | b),
    "xor": ("x ^ y", lambda a, b, c, t: a ^ b),
    "not": ("~x", lambda a, b, c, t: 1 - a),
    "eq": ("x == y", lambda a, b, c, t: int(a == b)),
    "where": ("tl.where(x, y, z)", lambda a, b, c, t: b if a else c),
}
COMPARISONS = {
    "lt": ("x < y", lambda a, b: a < b),
    "le": ("x <= y", lambda a, b: a <= b),
    "gt": ("x > y", lambda a, b: a > b),
    "ge": ("x >= y", lambda a, b: a >= b),
    "eq": ("x == y", lambda a, b: a == b),
    "ne": ("x != y", lambda a, b: a != b),
}
# name: (text, float64 rule, ulps; 0 is exact rounding); for f64 the rule is the operation itself.
_NONE, _ALL = "tl.PropagateNan.NONE", "tl.PropagateNan.ALL"


def _fmod(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """By the C library: torch's is wrong for denormals."""
    with np.errstate(all="ignore"):
        return torch.from_numpy(np.fmod(a.numpy(), b.numpy()))


def _clamp(x: torch.Tensor, y: torch.Tensor, all_: bool) -> torch.Tensor:
    low, high = torch.full_like(x, -1.0), torch.full_like(x, 2.0)
    if all_:
        return torch.minimum(torch.maximum(x, low), high)
    return torch.fmin(torch.fmax(x, low), high)


FLOAT_OPS = {
    "add": ("x + y", lambda a, b, c: a + b, 0),
    "sub": ("x - y", lambda a, b, c: a - b, 0),
    "mul": ("x * y", lambda a, b, c: a * b, 0),
    "div": ("x / y", lambda a, b, c: a / b, 0),
    "rem": ("x % y", lambda a, b, c: _fmod(a, b), 0),
    "neg": ("-x", lambda a, b, c: -a, 0),
    "abs": ("tl.abs(x)", lambda a, b, c: a.abs(), 0),
    "where": ("tl.where(x > y, z, x)", lambda a, b, c: torch.where(a > b, c, a), 0),
    "max_none": (f"tl.maximum(x, y, propagate_nan={_NONE})", lambda a, b, c: torch.fmax(a, b), 0.01),
    "min_none": (f"tl.minimum(x, y, propagate_nan={_NONE})", lambda a, b, c: torch.fmin(a, b), 0.01),
    "max_all": (f"tl.maximum(x, y, propagate_nan={_ALL})", lambda a, b, c: torch.maximum(a, b), 0.01),
    "min_all": (f"tl.minimum(x, y, propagate_nan={_ALL})", lambda a, b, c: torch.minimum(a, b), 0.01),
    "clamp_none": (f"tl.clamp(x, -1.0, 2.0, propagate_nan={_NONE})", lambda a, b, c: _clamp(a, b, False), 0),
    "clamp_all": (f"tl.clamp(x, -1.0, 2.0, propagate_nan={_ALL})", lambda a, b, c: _clamp(a, b, True), 0),
    "fma": ("tl.fma(x, y, z)", lambda a, b, c: a * b + c, 1),
}
# In f32 and f64 only. The oracle of f64 is the C library's double, so a few units are allowed there too.
MATH_OPS = {
    "sqrt": ("tl.sqrt(x)", lambda a, b, c: a.sqrt(), 0.5),
    "rsqrt": ("tl.rsqrt(x)", lambda a, b, c: a.rsqrt(), 2),
    "exp": ("tl.exp(x)", lambda a, b, c: a.exp(), 4),
    "exp2": ("tl.exp2(x)", lambda a, b, c: a.exp2(), 4),
    "log": ("tl.log(x)", lambda a, b, c: a.log(), 4),
    "log2": ("tl.log2(x)", lambda a, b, c: a.log2(), 4),
    "sin": ("tl.sin(x)", lambda a, b, c: a.sin(), 4),
    "cos": ("tl.cos(x)", lambda a, b, c: a.cos(), 4),
    "erf": ("tl.erf(x)", lambda a, b, c: a.erf(), 4),
    "floor": ("tl.floor(x)", lambda a, b, c: a.floor(), 0),
    "ceil": ("tl.ceil(x)", lambda a, b, c: a.ceil(), 0),
    "sigmoid": ("tl.sigmoid(x)", lambda a, b, c: a.sigmoid(), 8),
    "fdiv": ("tl.fdiv(x, y)", lambda a, b, c: a / b, 2),
}
ROUNDED_OPS = {
    "sqrt_rn": ("tl.sqrt_rn(x)", lambda a, b, c: a.sqrt(), 0),
    "div_rn": ("tl.div_rn(x, y)", lambda a, b, c: a / b, 0),
}


def _text(texts: list[str], outputs: list[str]) -> str:
    loads = [f"{v} = tl.load({p} + i, mask=m)" for v, p in zip("xyz", "abc", strict=True)]
    stores = [f"tl.store({o} + i, {t}, mask=m)" for o, t in zip(outputs, texts, strict=True)]
    parameters = f"a, b, c, {', '.join(outputs)}, n, N: tl.constexpr"
    return kernel_text(parameters, "i = tl.arange(0, N)", "m = i < n", *loads, *stores)


def _launches(make: Callable[[torch.Generator], Args], checks: list[Check]) -> tuple[Launch, ...]:
    def cut(n: int) -> Callable[[torch.Generator], Args]:
        return lambda g: {**make(g), "n": n}

    def masked(check: Check) -> Check:
        if check.expect is None:
            return check
        whole, name = check.expect, check.name

        def expect(args: Args) -> torch.Tensor:
            kept = args["o_" + name].clone()
            kept[:KEPT] = whole(args)[:KEPT]
            return kept

        return Check(check.name, check.pick, expect, check.ulps, check.scale, check.same)

    return (
        Launch("whole", cut(N), tuple(checks)),
        Launch("masked", cut(KEPT), tuple(masked(c) for c in checks)),
    )


def _unit(
    name: str, ops: dict[str, str], make: Callable[[torch.Generator], Args], checks: list[Check]
) -> Unit:
    outputs = ["o_" + op for op in ops]
    return Unit(name, _text(list(ops.values()), outputs), _launches(make, checks), {"N": N})


def _chunks(names: list[str], size: int) -> list[list[str]]:
    return [names[k : k + size] for k in range(0, len(names), size)]


def _int_unit(dtype: torch.dtype, table: dict[str, tuple[str, IntRule]], names: list[str], part: int) -> Unit:
    def make(g: torch.Generator) -> Args:
        a, b = pairs(
            integers(special_ints(dtype), dtype), N, (any_ints(g, N, dtype), any_ints(g, N, dtype, 300))
        )
        c = any_ints(g, N, dtype, 5)
        return {"a": a, "b": b, "c": c, **{"o_" + n: integers([1] * N, dtype) for n in names}}

    def check(name: str) -> Check:
        rule = table[name][1]

        def expect(args: Args) -> torch.Tensor:
            values = zip(*(as_ints(args[k]) for k in "abc"), strict=True)
            return integers([rule(a, b, c, dtype) for a, b, c in values], dtype)

        return Check(name, lambda args: args["o_" + name], expect)

    ops = {n: table[n][0] for n in names}
    return _unit(f"elementwise/{TYPES[dtype]}/{part}", ops, make, [check(n) for n in names])


def _compare_unit(dtype: torch.dtype) -> Unit:
    floating = dtype in FLOATS

    def make(g: torch.Generator) -> Args:
        if floating:
            a, b = pairs(special_floats(dtype), N, (any_floats(g, N, dtype), any_floats(g, N, dtype).flip(0)))
        else:
            values = integers(special_ints(dtype), dtype)
            a, b = pairs(values, N, (any_ints(g, N, dtype), any_ints(g, N, dtype, 300)))
        return {
            "a": a,
            "b": b,
            "c": a.clone(),
            **{"o_" + n: torch.zeros(N, dtype=torch.bool) for n in COMPARISONS},
        }

    def check(name: str) -> Check:
        rule = COMPARISONS[name][1]

        def expect(args: Args) -> torch.Tensor:
            if floating:
                return rule(args["a"].double(), args["b"].double())
            values = zip(as_ints(args["a"]), as_ints(args["b"]), strict=True)
            return torch.tensor([rule(a, b) for a, b in values])

        return Check(name, lambda args: args["o_" + name], expect)

    ops = {n: t for n, (t, _) in COMPARISONS.items()}
    return _unit(f"elementwise/{TYPES[dtype]}/compare", ops, make, [check(n) for n in COMPARISONS])


def _float_unit(dtype: torch.dtype, table: dict, names: list[str], part: str) -> Unit:
    def make(g: torch.Generator) -> Args:
        a, b = pairs(special_floats(dtype), N, (any_floats(g, N, dtype), any_floats(g, N, dtype).flip(0)))
        c = any_floats(g, N, dtype).roll(5)
        return {"a": a, "b": b, "c": c, **{"o_" + n: torch.full((N,), 7.0, dtype=dtype) for n in names}}

    def check(name: str) -> Check:
        _, rule, ulps = table[name]

        def expect(args: Args) -> torch.Tensor:
            return rounded(rule(*(args[k].double() for k in "abc")), dtype)

        exact = name not in MATH_OPS and not name.startswith(("max", "min"))
        # 1 / (1 + exp(-x)): where exp overflows the result is 0.
        scale = 1e-37 if name == "sigmoid" else 0.0
        return Check(name, lambda args: args["o_" + name], expect, ulps, scale, same=exact)

    ops = {n: table[n][0] for n in names}
    return _unit(f"elementwise/{TYPES[dtype]}/{part}", ops, make, [check(n) for n in names])


def units() -> list[Unit]:
    found = []
    for dtype in INTS:
        names = [n for n in INT_OPS if n != "umulhi" or width(dtype) >= 32]
        found += [_int_unit(dtype, INT_OPS, part, k) for k, part in enumerate(_chunks(names, 8))]
    found.append(_int_unit(torch.bool, BOOL_OPS, list(BOOL_OPS), 0))
    for dtype in FLOATS:
        table = {**FLOAT_OPS, **(MATH_OPS if dtype in (torch.float32, torch.float64) else {})}
        table |= ROUNDED_OPS if dtype is torch.float32 else {}
        found += [_float_unit(dtype, table, part, str(k)) for k, part in enumerate(_chunks(list(table), 8))]
    found += [_compare_unit(dtype) for dtype in (*INTS, *FLOATS)]
    return found
