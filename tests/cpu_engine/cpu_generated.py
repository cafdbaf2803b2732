"""Random Triton kernels over tiles, from a seed: expressions, masks, broadcasts, loops, reductions,
transposed access.

Every kernel has the same parameters, so one launch fits all: ``x`` f32 [M, N], ``h`` bf16 [M, N], ``k`` i32
[M, N],
``row`` f32 [N], ``col`` f32 [M], ``o`` f32 [M, N], ``oi`` i32 [M, N], ``r`` f32 [M], ``c`` f32 [N].
"""

from __future__ import annotations

import random
from dataclasses import dataclass

HEADER = """import triton
import triton.language as tl


@triton.jit
def kernel(x, h, k, row, col, o, oi, r, c, M, N, scale, BM: tl.constexpr, BN: tl.constexpr):
"""
SIGNATURE = {
    "x": "*fp32",
    "h": "*bf16",
    "k": "*i32",
    "row": "*fp32",
    "col": "*fp32",
    "o": "*fp32",
    "oi": "*i32",
    "r": "*fp32",
    "c": "*fp32",
    "M": "i32",
    "N": "i32",
    "scale": "fp32",
}
FLOAT_UNARY = (
    "tl.abs({})",
    "-{}",
    "tl.exp(-tl.abs({}))",
    "tl.sqrt(tl.abs({}))",
    "tl.exp2(tl.minimum({}, 3.0))",
    "tl.floor({})",
    "tl.sigmoid({})",
    "tl.log(tl.abs({}) + 1.0)",
    "({}).to(tl.bfloat16).to(tl.float32)",
    "({}).to(tl.float16).to(tl.float32)",
    "({} * 4).to(tl.int32).to(tl.float32)",
)
FLOAT_BINARY = (
    "({} + {})",
    "({} - {})",
    "({} * {})",
    "tl.maximum({}, {})",
    "tl.minimum({}, {})",
    "({} / (tl.abs({}) + 1.0))",
)
INT_BINARY = (
    "({} + {})",
    "({} - {})",
    "({} * {})",
    "({} ^ {})",
    "({} & {})",
    "({} | {})",
    "tl.maximum({}, {})",
    "tl.minimum({}, {})",
    "({} // (tl.abs({}) + 1))",
    "({} % (tl.abs({}) + 3))",
)
INT_UNARY = (
    "({} >> 2)",
    "({} << 3)",
    "-{}",
    "tl.abs({})",
    "({} % 7)",
    "({} // 5)",
    "({}).to(tl.int8).to(tl.int32)",
)
COMPARE = ("({} < {})", "({} >= {})", "({} == {})", "({} != {})")
REDUCE = ("tl.sum({}, {})", "tl.max({}, {})", "tl.min({}, {})")


@dataclass
class _Writer:
    rng: random.Random
    floats: list[str]
    ints: list[str]

    def f(self, depth: int) -> str:
        rng = self.rng
        if depth == 0 or rng.random() < 0.1:
            return rng.choice([*self.floats, *self.floats, "scale", "0.75"])
        kind = rng.random()
        if kind < 0.35:
            return rng.choice(FLOAT_UNARY).format(self.tile_f(depth - 1))
        if kind < 0.8:
            return rng.choice(FLOAT_BINARY).format(self.tile_f(depth - 1), self.f(depth - 1))
        if kind < 0.9:
            return f"tl.where({self.b(depth - 1)}, {self.f(depth - 1)}, {self.f(depth - 1)})"
        return f"({self.i(depth - 1)} & 1023).to(tl.float32)"

    def tile_f(self, depth: int) -> str:
        """Like ``f``, but never a bare Python number or scalar."""
        text = self.f(depth)
        return self.rng.choice(self.floats) if text in ("scale", "0.75") else text

    def i(self, depth: int) -> str:
        rng = self.rng
        if depth == 0 or rng.random() < 0.15:
            return rng.choice(self.ints)
        if rng.random() < 0.4:
            return rng.choice(INT_UNARY).format(self.i(depth - 1))
        return rng.choice(INT_BINARY).format(self.i(depth - 1), self.i(depth - 1))

    def b(self, depth: int) -> str:
        rng = self.rng
        if rng.random() < 0.5:
            return rng.choice(COMPARE).format(self.i(depth), self.i(depth))
        return rng.choice(COMPARE[:2]).format(self.tile_f(depth), self.f(depth))


def source(seed: int) -> str:
    """Text of a module with one ``kernel``."""
    rng = random.Random(seed)
    flip = rng.random() < 0.25
    other = rng.choice(["0.0", "1.5", "-float('inf')"])
    where = "cc[None, :] * M + rr[:, None]" if flip else "rr[:, None] * N + cc[None, :]"
    loads = [
        f"at = {where}",
        "mask = (rr[:, None] < M) & (cc[None, :] < N)",
        f"vx = tl.load(x + at, mask=mask, other={other if other == '0.0' or rng.random() < 0.5 else '0.0'})",
        "vh = tl.load(h + at, mask=mask, other=0.0).to(tl.float32)",
        "vk = tl.load(k + at, mask=mask, other=3)",
        "vrow = tl.load(row + cc, mask=cc < N, other=0.0)[None, :]",
        "vcol = tl.load(col + rr, mask=rr < M, other=0.0)[:, None]",
    ]
    w = _Writer(
        rng,
        ["vx", "vh", "vrow + vx * 0", "vx * vcol"],
        ["vk", "(rr[:, None] + cc[None, :])", "vk * cc[None, :]"],
    )
    depth = rng.randint(2, 4)
    body = ["rr = tl.program_id(0) * BM + tl.arange(0, BM)"]
    if rng.random() < 0.5:  # one tile of the whole width
        body += ["cc = tl.arange(0, BN)", *loads]
        body += [f"e = {w.tile_f(depth)} + vx * 0.0", f"n = {w.i(depth)}"]
        body += [
            "e = tl.where(mask, e, 0.0)",
            "tl.store(o + at, e, mask=mask)",
            "tl.store(oi + at, n, mask=mask)",
        ]
        body += [f"tl.store(r + rr, {rng.choice(REDUCE).format('e', 1)}, mask=rr < M)"]
        if rng.random() < 0.5:
            body += [
                "p = tl.exp(e - tl.max(e, 1)[:, None])",
                "tl.store(o + at, p / tl.sum(p, 1)[:, None], mask=mask)",
            ]
        body += [f"tl.store(c + tl.program_id(0) * N + cc, {rng.choice(REDUCE).format('e', 0)}, mask=cc < N)"]
    else:  # a loop over the width with something carried
        carried = rng.choice(["row", "tile", "both"])
        body += ["total = tl.zeros((BM,), tl.float32)", "worst = tl.full((BM,), -1000.0, tl.float32)"]
        body += ["tile = tl.zeros((BM, BN), tl.float32)", "count = 0"]
        body += [
            "for start in range(0, N, BN):",
            "    cc = start + tl.arange(0, BN)",
            *("    " + s for s in loads),
        ]
        body += [
            f"    e = tl.where(mask, {w.tile_f(depth)} + vx * 0.0, 0.0)",
            "    tl.store(o + at, e, mask=mask)",
        ]
        body += [f"    tl.store(oi + at, {w.i(depth)}, mask=mask)", "    count += 1"]
        if carried != "tile":
            body += [
                "    new = tl.maximum(worst, tl.max(e, 1))",
                "    total = total * tl.exp(worst - new) + tl.sum(e, 1)",
            ]
            body += ["    worst = new"]
        if carried != "row":
            body += ["    tile = tile * 0.5 + e"]
        body += ["result = total + worst + tl.sum(tile, 1) + count", "tl.store(r + rr, result, mask=rr < M)"]
    return HEADER + "\n".join("    " + line for line in body) + "\n"


def sizes(seed: int) -> tuple[int, int, int, int]:
    """(M, N, BM, BN): ragged, and now and then exactly full."""
    rng = random.Random(seed + 10_000)
    bm, bn = rng.choice([1, 2, 4, 8, 16]), rng.choice([8, 16, 32, 64])
    whole = "cc = tl.arange(0, BN)" in source(seed)
    n = (
        rng.choice([bn, bn - rng.randint(1, bn - 1)])
        if whole
        else rng.choice([bn * 2, bn * 2 + rng.randint(1, bn - 1)])
    )
    return rng.choice([bm, bm * 2 + 1, bm * 3]), n, bm, bn


DOT_SIGNATURE = {
    "a": "*{}",
    "b": "*{}",
    "d": "*{}",
    "row": "*fp32",
    "o": "*fp32",
    "M": "i32",
    "N": "i32",
    "K": "i32",
}


@dataclass(frozen=True)
class DotCase:
    """A random product O = act(A B + row) [D]: sizes, tile sizes, element type, and the layout of B and A."""

    m: int
    n: int
    k: int
    bm: int
    bn: int
    bk: int
    element: str
    b_by_rows: bool
    a_transposed: bool
    text: str


def dot_case(seed: int) -> DotCase:
    """The case of a seed. B is [K, N] (``b_by_rows``) or [N, K]; A is [M, K] or stored as [K, M]."""
    rng = random.Random(seed + 50_000)
    bm, bn, bk = rng.choice([1, 4, 8, 16, 32]), rng.choice([8, 16, 32, 64]), rng.choice([8, 16, 32])
    element = rng.choice(["fp32", "bf16", "fp16"])
    b_by_rows, a_transposed = rng.random() < 0.5, rng.random() < 0.2
    second, update = rng.random() < 0.4, rng.random() < 0.5
    m, n, k = (max(1, b * rng.randint(1, 2) - rng.choice([0, 0, 1, 3])) for b in (bm, bn, bk))
    at_a = "kk[None, :] * M + rr[:, None]" if a_transposed else "rr[:, None] * K + kk[None, :]"
    if b_by_rows or rng.random() < 0.5:
        at_b = "kk[:, None] * N + cc[None, :]" if b_by_rows else "cc[None, :] * K + kk[:, None]"
        load_b = f"tl.load(b + {at_b}, mask=(kk[:, None] < K) & (cc[None, :] < N), other=0.0)"
    else:
        mask = "(cc[:, None] < N) & (kk[None, :] < K)"
        load_b = f"tl.trans(tl.load(b + cc[:, None] * K + kk[None, :], mask={mask}, other=0.0))"
    body = [
        "rr = tl.program_id(0) * BM + tl.arange(0, BM)",
        "cc = tl.program_id(1) * BN + tl.arange(0, BN)",
        "acc = tl.zeros((BM, BN), tl.float32)",
        *(["top = tl.zeros((BM, BN), tl.float32)"] if second else []),
        "for start in range(0, K, BK):",
        "    kk = start + tl.arange(0, BK)",
        f"    va = tl.load(a + {at_a}, mask=(rr[:, None] < M) & (kk[None, :] < K), other=0.0)",
        f"    vb = {load_b}",
        f"    acc = {'tl.dot(va, vb, acc)' if update else 'acc * 0.5 + tl.dot(va, vb)'}",
        *(["    top = tl.dot(va * 2, vb, top)"] if second else []),
        "mask = (rr[:, None] < M) & (cc[None, :] < N)",
        "acc += tl.load(row + cc, mask=cc < N, other=0.0)[None, :]",
    ]
    if rng.random() < 0.5:
        body += ["acc += tl.load(d + rr[:, None] * N + cc[None, :], mask=mask, other=0.0).to(tl.float32)"]
    if second:
        body += ["acc = acc * tl.sigmoid(top)"]
    body += [f"acc = {rng.choice(['acc', 'tl.maximum(acc, 0.0)', 'acc * tl.sigmoid(acc)'])}"]
    body += ["tl.store(o + rr[:, None] * N + cc[None, :], acc, mask=mask)"]
    header = HEADER.replace(
        "kernel(x, h, k, row, col, o, oi, r, c, M, N, scale, BM: tl.constexpr, BN: tl.constexpr)",
        "kernel(a, b, d, row, o, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr)",
    )
    text = header + "\n".join("    " + line for line in body) + "\n"
    return DotCase(m, n, k, bm, bn, bk, element, b_by_rows, a_transposed, text)
