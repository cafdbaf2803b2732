"""Kernels that hypothesis writes: expressions over tiles, masks, loops and reductions, with torch as oracle.

A kernel is drawn together with the formula that computes it in torch, so the oracle is not the engine's. It
computes in the kernel's own type, f32 or f64, where all but exp and the sums are rounded the same; integers
wrap in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from campaign_core import Args, Check, Launch, Unit, Verdict, kernel_text
from campaign_shuffled import chains
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Env = dict[str, torch.Tensor]
Formula = Callable[[Env], torch.Tensor]


@dataclass(frozen=True)
class Node:
    """Source text with its meaning."""

    text: str
    value: Formula


def _i32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.int32)


def _quotient(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(
        b == 0, 0, torch.div(a.long(), torch.where(b == 0, 1, b).long(), rounding_mode="trunc")
    )


_FLOAT_TWO: list[tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = [
    ("({} + {})", lambda a, b: a + b),
    ("({} - {})", lambda a, b: a - b),
    ("({} * {})", lambda a, b: a * b),
    ("tl.maximum({}, {})", torch.fmax),
    ("tl.minimum({}, {})", torch.fmin),
    ("({} / (tl.abs({}) + 1.0))", lambda a, b: a / (b.abs() + 1)),
    ("tl.where({0} > {1}, {0}, {1} * 0.5)", lambda a, b: torch.where(a > b, a, b * 0.5)),
]
_FLOAT_ONE: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("(-{})", lambda a: -a),
    ("tl.abs({})", torch.abs),
    ("tl.floor({})", torch.floor),
    ("tl.sqrt(tl.abs({}))", lambda a: a.abs().sqrt()),
    ("tl.exp(-tl.abs({}))", lambda a: (-a.abs()).exp()),
]
_INT_TWO: list[tuple[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = [
    ("({} + {})", lambda a, b: a + b),
    ("({} - {})", lambda a, b: a - b),
    ("({} * {})", lambda a, b: a * b),
    ("({} & {})", lambda a, b: a & b),
    ("({} | {})", lambda a, b: a | b),
    ("({} ^ {})", lambda a, b: a ^ b),
    ("tl.maximum({}, {})", torch.maximum),
    ("tl.minimum({}, {})", torch.minimum),
    # Triton folds x // x to 1, so a divisor of zero would have two answers.
    ("({} // ({} | 1))", lambda a, b: _i32(_quotient(a, b | 1))),
    ("({} % ({} | 1))", lambda a, b: _i32(a.long() - _quotient(a, b | 1) * (b | 1).long())),
]
_INT_ONE: list[tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = [
    ("(-{})", lambda a: -a),
    ("(~{})", lambda a: ~a),
    ("({} >> 3)", lambda a: a >> 3),
    ("({} << 2)", lambda a: a << 2),
    ("({} // 7)", lambda a: _i32(_quotient(a, torch.full_like(a, 7)))),
    ("({} % 5)", lambda a: _i32(a.long() - _quotient(a, torch.full_like(a, 5)) * 5)),
    ("({}).to(tl.int8).to(tl.int32)", lambda a: a.to(torch.int8).to(torch.int32)),
]


def _leaf(name: str) -> Node:
    return Node(name, lambda env: env[name])


def _one(rule: tuple[str, Callable], a: Node) -> Node:
    return Node(rule[0].format(a.text), lambda env: rule[1](a.value(env)))


def _two(rule: tuple[str, Callable], a: Node, b: Node) -> Node:
    def value(env: Env) -> torch.Tensor:
        x, y = torch.broadcast_tensors(a.value(env), b.value(env))
        return rule[1](x, y)

    return Node(rule[0].format(a.text, b.text), value)


def _mixed(test: Node, a: Node) -> Node:
    """A float where an integer is even, else half of it."""
    return Node(
        f"tl.where(({test.text} & 1) == 0, {a.text}, {a.text} * 0.5)",
        lambda env: torch.where((test.value(env) & 1) == 0, a.value(env), a.value(env) * 0.5),
    )


_INTS: st.SearchStrategy[Node] = st.recursive(
    st.sampled_from(["k", "r", "c", "(r + c)"]).map(
        lambda n: Node("(r + c)", lambda env: env["r"] + env["c"]) if n == "(r + c)" else _leaf(n)
    ),
    lambda below: st.one_of(
        st.builds(_one, st.sampled_from(_INT_ONE), below),
        st.builds(_two, st.sampled_from(_INT_TWO), below, below),
    ),
    max_leaves=5,
)
_FLOATS: st.SearchStrategy[Node] = st.recursive(
    st.sampled_from(["x", "y", "u", "v"]).map(_leaf),
    lambda below: st.one_of(
        st.builds(_one, st.sampled_from(_FLOAT_ONE), below),
        st.builds(_two, st.sampled_from(_FLOAT_TWO), below, below),
        st.builds(_mixed, _INTS, below),
    ),
    max_leaves=6,
)
_MASKS: list[tuple[str, Callable[[Env, int, int], torch.Tensor]]] = [
    ("(r < M) & (c < N)", lambda e, m, n: (e["r"] < m) & (e["c"] < n)),
    ("(r < M) & (c < N) & (c != 2)", lambda e, m, n: (e["r"] < m) & (e["c"] < n) & (e["c"] != 2)),
    (
        "(r < M) & (c < N) & (c <= r + 1)",
        lambda e, m, n: (e["r"] < m) & (e["c"] < n) & (e["c"] <= e["r"] + 1),
    ),
    (
        "(r < M) & (c < N) & ((r ^ c) % 3 != 0)",
        lambda e, m, n: (e["r"] < m) & (e["c"] < n) & ((e["r"] ^ e["c"]) % 3 != 0),
    ),
]
_SUM = ("sum", lambda x, axis: x.sum(axis))
_REDUCE = [_SUM, ("max", lambda x, axis: x.amax(axis)), ("min", lambda x, axis: x.amin(axis))]


@st.composite
def kernels(draw: Any) -> Unit:
    """A unit with two launches: one size that fills the tile and one that does not."""
    rows, columns = (
        draw(st.sampled_from([1, 2, 4, 8, 16, 32])),
        draw(st.sampled_from([4, 8, 16, 32, 64, 128])),
    )
    first, second, whole = draw(_FLOATS), draw(_FLOATS), draw(_INTS)
    mask, other = draw(st.sampled_from(_MASKS)), draw(st.sampled_from([0.0, 1.5, -2.0]))
    axis, reduction = draw(st.sampled_from([0, 1])), draw(st.sampled_from(_REDUCE))
    by_columns, trips = draw(st.booleans()), draw(st.integers(0, 3))
    size = (rows - draw(st.integers(0, rows - 1)), columns - draw(st.integers(0, columns - 1)))
    in_place = draw(st.booleans())
    element = draw(st.sampled_from([torch.float32, torch.float64]))
    # What is loaded may be narrower: eighths below 5 fit every float type.
    narrow = element if in_place else draw(st.sampled_from([element, torch.float16, torch.bfloat16]))
    wide = f".to(tl.float{8 * element.itemsize})"
    at = "c * M + r" if by_columns else "r * N + c"
    kept = "tl.arange(0, R)" if axis == 1 else "tl.arange(0, C)"
    text = kernel_text(
        "xp, yp, kp, up, vp, o, w, s, t, M, N, T, R: tl.constexpr, C: tl.constexpr",
        "r = tl.arange(0, R)[:, None]",
        "c = tl.arange(0, C)[None, :]",
        f"at = {at}",
        f"m = {mask[0]}",
        f"x = tl.load(xp + at, mask=m, other={other}){wide}",
        f"y = tl.load(yp + at, mask=m, other=0.5){wide}",
        "k = tl.load(kp + at, mask=m, other=3)",
        "u = tl.load(up + r, mask=r < M, other=1.0)",
        "v = tl.load(vp + c, mask=c < N, other=-1.0)",
        f"e = {first.text} + x * 0.0",
        f"n = {whole.text} + k * 0",
        f"tl.store({'xp' if in_place else 'o'} + at, e, mask=m)",
        "tl.store(w + at, n, mask=m)",
        f"z = tl.{reduction[0]}(e, {axis})",
        f"tl.store(s + {kept}, z)",
        "g = x",
        "for i in range(T):",
        f"    g = g * 0.5 + ({second.text})",
        f"tl.store(t + {kept}, tl.sum(g, {axis}))",
    )
    eps = torch.finfo(element).eps

    def launch(m_size: int, n_size: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            def floats(*shape: int, kind: torch.dtype = element) -> torch.Tensor:
                return (torch.randint(-40, 40, shape, generator=g) / 8).to(kind)

            count = rows if axis == 1 else columns
            return {
                "xp": floats(m_size * n_size, kind=narrow), "yp": floats(m_size * n_size, kind=narrow),
                "kp": torch.randint(-(2**31), 2**31, (m_size * n_size,), generator=g).to(torch.int32),
                "up": floats(m_size), "vp": floats(n_size), "o": torch.full((m_size * n_size,), 7.0,
                dtype=element),
                "w": torch.full((m_size * n_size,), 7, dtype=torch.int32), "s": torch.zeros(count,
                dtype=element),
                "t": torch.zeros(count, dtype=element), "M": m_size, "N": n_size, "T": trips,
            }  # fmt: skip

        def env(args: Args) -> tuple[Env, torch.Tensor]:
            e: Env = {
                "r": torch.arange(rows, dtype=torch.int32)[:, None],
                "c": torch.arange(columns, dtype=torch.int32)[None, :],
            }
            mask_ = mask[1](e, m_size, n_size)

            def tile(flat: torch.Tensor, filler: float) -> torch.Tensor:
                part = flat.reshape(n_size, m_size).T if by_columns else flat.reshape(m_size, n_size)
                full = torch.full((rows, columns), filler, dtype=flat.dtype)
                full[:m_size, :n_size] = part
                return torch.where(mask_, full, torch.full_like(full, filler))

            e["x"], e["y"], e["k"] = (
                tile(args["xp"].to(element), other),
                tile(args["yp"].to(element), 0.5),
                tile(args["kp"], 3),
            )
            e["u"] = torch.cat([args["up"], torch.ones(rows - m_size, dtype=element)])[:, None]
            e["v"] = torch.cat([args["vp"], -torch.ones(columns - n_size, dtype=element)])[None, :]
            return e, mask_

        def stored(args: Args, name: str, values: torch.Tensor, mask_: torch.Tensor) -> torch.Tensor:
            flat = args[name].clone()
            old = flat.reshape(n_size, m_size).T if by_columns else flat.reshape(m_size, n_size)
            made = torch.where(mask_[:m_size, :n_size], values[:m_size, :n_size], old)
            return (made.T if by_columns else made).reshape(-1)

        def value(args: Args) -> torch.Tensor:
            e, mask_ = env(args)
            return stored(args, "xp" if in_place else "o", first.value(e) + e["x"] * 0, mask_)

        def integer(args: Args) -> torch.Tensor:
            e, mask_ = env(args)
            return stored(args, "w", whole.value(e) + e["k"] * 0, mask_)

        def reduced(args: Args) -> torch.Tensor:
            e, _ = env(args)
            return reduction[1](first.value(e) + e["x"] * 0, axis)

        def looped(args: Args) -> torch.Tensor:
            e, _ = env(args)
            g = e["x"]
            for _ in range(trips):
                g = g * 0.5 + second.value(e)
            return g.sum(axis)

        checks = (
            Check("tile", lambda a: a["xp" if in_place else "o"], value, 64, 32 * eps),
            Check("whole", lambda a: a["w"], integer),
            Check("reduced", lambda a: a["s"], reduced, 256, 256 * eps),
            Check("looped", lambda a: a["t"], looped, 256, 256 * eps),
        )
        return Launch(f"{m_size}x{n_size}", make, checks)

    launches = (launch(rows, columns), launch(*size)) if size != (rows, columns) else (launch(rows, columns),)
    kind = "f32" if element is torch.float32 else "f64"
    name = f"generated/{kind}_{hashlib.sha256(text.encode()).hexdigest()[:10]}_{'x'.join(map(str, size))}"
    return Unit(name, text, launches, {"R": rows, "C": columns})


def explore(run: Callable[[Unit], Iterable[Verdict]], count: int, start: int) -> None:
    """Draw and run ``count`` kernels; the first wrong one is reduced to its smallest form."""

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(st.one_of(kernels(), chains()))
    def every(unit: Unit) -> None:
        wrong = [v for v in run(unit) if v.status == "mismatch"]
        assert not wrong, f"{wrong[0].case}: {wrong[0].detail}\n{unit.text}"

    every()
