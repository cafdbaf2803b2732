"""Matrix products: every type, layout and size, carried accumulators, batches, and block-scaled operands."""

from __future__ import annotations

import itertools

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import rounded

F32, F64, F16, BF16, I8 = torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
TILES = ((16, 16, 16), (16, 32, 64), (32, 16, 32), (4, 64, 32), (1, 16, 32), (64, 32, 16), (8, 8, 8))


def _matrix(g: torch.Generator, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    if dtype in (I8, torch.uint8):
        low = -128 if dtype is I8 else 0
        return torch.randint(low, low + 256, (rows, columns), generator=g).to(dtype)
    return rounded(torch.randn(rows, columns, generator=g, dtype=F64), dtype)


def _ones(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, 7.0).to(dtype)


def _looped(
    dtype: torch.dtype, out: torch.dtype, a_t: bool, b_t: bool, tile: tuple[int, int, int], fused: bool
) -> Unit:
    """C = A B over a loop along K with masks on every edge; A and B by rows or by columns."""
    bm, bn, bk = tile
    at_a = "kk[None, :] * M + rr[:, None]" if a_t else "rr[:, None] * K + kk[None, :]"
    at_b = "cc[None, :] * K + kk[:, None]" if b_t else "kk[:, None] * N + cc[None, :]"
    acc = {I8: "tl.int32", F64: "tl.float64"}.get(dtype, "tl.float32")
    step = f"acc = tl.dot(x, y, acc, out_dtype={acc})" if fused else f"acc += tl.dot(x, y, out_dtype={acc})"
    zero = "0" if dtype is I8 else "0.0"
    text = kernel_text(
        "a, b, o, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr",
        "rr = tl.program_id(0) * BM + tl.arange(0, BM)",
        "cc = tl.program_id(1) * BN + tl.arange(0, BN)",
        f"acc = tl.zeros((BM, BN), {acc})",
        "for k in range(0, K, BK):",
        "    kk = k + tl.arange(0, BK)",
        f"    x = tl.load(a + {at_a}, mask=(rr[:, None] < M) & (kk[None, :] < K), other={zero})",
        f"    y = tl.load(b + {at_b}, mask=(kk[:, None] < K) & (cc[None, :] < N), other={zero})",
        f"    {step}",
        "m = (rr[:, None] < M) & (cc[None, :] < N)",
        "tl.store(o + rr[:, None] * N + cc[None, :], acc, mask=m)",
    )

    def launch(m: int, n: int, k: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            a = _matrix(g, *((k, m) if a_t else (m, k)), dtype)
            b = _matrix(g, *((n, k) if b_t else (k, n)), dtype)
            return {"a": a, "b": b, "o": _ones((m, n), out), "M": m, "N": n, "K": k}

        def expect(args: Args) -> torch.Tensor:
            a, b = args["a"].double(), args["b"].double()
            exact = (a.T if a_t else a) @ (b.T if b_t else b)
            return exact.to(out) if out is torch.int32 else rounded(exact, out)

        scale = {torch.int32: 0.0, F32: 2e-6, F64: 1e-15}.get(
            out, torch.finfo(out).eps if out.is_floating_point else 0
        )
        check = Check("o", lambda args: args["o"], expect, 2.0 if out.is_floating_point else 0, scale)
        return Launch(f"{m}x{n}x{k}", make, (check,), (-(-m // bm), -(-n // bn), 1))

    sizes = [(bm, bn, bk), (bm + 3, max(1, bn - 3), bk * 2 - 5), (max(1, bm - 1), bn + 1, bk * 3)]
    layout = f"{'t' if a_t else 'n'}{'t' if b_t else 'n'}{'_fused' if fused else ''}"
    name = f"{TYPES[dtype]}_{TYPES[out]}_{layout}_{bm}x{bn}x{bk}"
    return Unit(f"dot/{name}", text, tuple(launch(*s) for s in sizes), {"BM": bm, "BN": bn, "BK": bk})


def _batched(dtype: torch.dtype) -> Unit:
    text = kernel_text(
        "a, b, o, B: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr",
        "z = tl.arange(0, B)[:, None, None]",
        "m = tl.arange(0, M)[None, :, None]",
        "x = tl.load(a + (z * M + m) * K + tl.arange(0, K)[None, None, :])",
        "y = tl.load(b + (z * K + tl.arange(0, K)[None, :, None]) * N + tl.arange(0, N)[None, None, :])",
        "v = tl.dot(x, y" + (", out_dtype=tl.int32)" if dtype is I8 else ")"),
        "tl.store(o + (z * M + m) * N + tl.arange(0, N)[None, None, :], v)",
    )
    b, m, n, k = 2, 16, 16, 32
    out = torch.int32 if dtype is I8 else F32

    def make(g: torch.Generator) -> Args:
        return {
            "a": _matrix(g, b * m, k, dtype).reshape(b, m, k),
            "b": _matrix(g, b * k, n, dtype).reshape(b, k, n),
            "o": torch.zeros(b, m, n, dtype=out),
        }

    def expect(args: Args) -> torch.Tensor:
        return (args["a"].double() @ args["b"].double()).to(out)

    check = Check("o", lambda a: a["o"], expect, 0 if dtype is I8 else 2, 0 if dtype is I8 else 2e-6)
    constants = {"B": b, "M": m, "N": n, "K": k}
    return Unit(f"dot/batched_{TYPES[dtype]}", text, (Launch("all", make, (check,)),), constants)


def _chained(dtype: torch.dtype) -> Unit:
    """(A B) C with the first product rounded in between, an epilogue, and a product in each branch of an
    if."""
    text = kernel_text(
        "a, b, c, o, p, n, B: tl.constexpr",
        "i = tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]",
        "x, y, z = tl.load(a + i), tl.load(b + i), tl.load(c + i)",
        "u = tl.dot(x, y)",
        "v = tl.dot(u.to(x.dtype), tl.trans(z))",
        "tl.store(o + i, v + tl.sum(u, 1)[:, None])",
        "if n > 3:",
        "    w = tl.dot(x, z)",
        "else:",
        "    w = tl.dot(tl.trans(x), y) * 2",
        "tl.store(p + i, w)",
    )

    def launch(n: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            m = {k: _matrix(g, 16, 16, dtype) for k in "abc"}
            return {**m, "o": torch.zeros(16, 16), "p": torch.zeros(16, 16), "n": n}

        def chain(args: Args) -> torch.Tensor:
            a, b, c = (args[k].double() for k in "abc")
            u = a @ b
            return (rounded(u, dtype).double() @ c.T + u.sum(1, keepdim=True)).float()

        def branch(args: Args) -> torch.Tensor:
            a, b, c = (args[k].double() for k in "abc")
            return (a @ c if n > 3 else a.T @ b * 2).float()

        loose = 2e-6 if dtype is F32 else 8 * torch.finfo(dtype).eps
        checks = (
            Check("chain", lambda a: a["o"], chain, 4, loose),
            Check("branch", lambda a: a["p"], branch, 2, 2e-6),
        )
        return Launch(str(n), make, checks)

    return Unit(f"dot/chained_{TYPES[dtype]}", text, (launch(1), launch(5)), {"B": 16})


def _precision(name: str) -> Unit:
    """Lower input precisions are computed as in f32, never worse."""
    text = kernel_text(
        "a, b, o, B: tl.constexpr",
        "i = tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]",
        f"tl.store(o + i, tl.dot(tl.load(a + i), tl.load(b + i), input_precision='{name}'))",
    )

    def make(g: torch.Generator) -> Args:
        return {"a": _matrix(g, 32, 32, F32), "b": _matrix(g, 32, 32, F32), "o": torch.zeros(32, 32)}

    check = Check("o", lambda a: a["o"], lambda a: (a["a"].double() @ a["b"].double()).float(), 2, 2e-6)
    return Unit(f"dot/precision_{name}", text, (Launch("all", make, (check,)),), {"B": 32})


_E2M1 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
_STORED = {"e4m3": E4M3, "e5m2": E5M2, "bf16": BF16, "fp16": F16}


def _operand(
    g: torch.Generator, rows: int, columns: int, form: str, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(as stored, in f64); e2m1 is packed along ``axis``, low half first."""
    if form != "e2m1":
        x = _matrix(g, rows, columns, _STORED[form])
        return (x.view(torch.uint8) if x.itemsize == 1 else x), x.double()
    codes = torch.randint(0, 16, (rows, columns), generator=g)
    value = (_E2M1[codes & 7] * (1 - 2 * (codes >> 3))).double()
    low, high = (codes.unflatten(axis, (-1, 2)).select(axis + 1, k) for k in (0, 1))
    return (low | high << 4).to(torch.uint8).contiguous(), value


def _scaled(left: str, right: str, scales: str, k_pack: tuple[bool, bool] = (True, True)) -> Unit:
    m, n, k = 16, 16, 64
    a_axis, b_axis = (1 if k_pack[0] else 0), (0 if k_pack[1] else 1)
    shapes = [[m, k], [k, n]]
    for shape, form, axis in ((shapes[0], left, a_axis), (shapes[1], right, b_axis)):
        if form == "e2m1":
            shape[axis] //= 2
    sa, sb = "a" in scales, "b" in scales

    def tile(pointer: str, shape: list[int]) -> str:
        return (
            f"tl.load({pointer} + tl.arange(0, {shape[0]})[:, None] * {shape[1]} + tl.arange(0, "
            f"{shape[1]})[None, :])"
        )

    text = kernel_text(
        "a, b, s, t, o",
        f"x = {tile('a', shapes[0])}",
        f"y = {tile('b', shapes[1])}",
        f"u = {tile('s', [m, k // 32]) if sa else None}",
        f"w = {tile('t', [n, k // 32]) if sb else None}",
        f"v = tl.dot_scaled(x, u, '{left}', y, w, '{right}', lhs_k_pack={k_pack[0]}, rhs_k_pack={k_pack[1]})",
        f"tl.store(o + tl.arange(0, {m})[:, None] * {n} + tl.arange(0, {n})[None, :], v)",
    )

    def make(g: torch.Generator) -> Args:
        a, exact_a = _operand(g, m, k, left, a_axis)
        b, exact_b = _operand(g, k, n, right, b_axis)
        s, t = (torch.randint(120, 134, (z, k // 32), generator=g).to(torch.uint8) for z in (m, n))
        return {"a": a, "b": b, "s": s, "t": t, "o": torch.zeros(m, n), "exact": (exact_a, exact_b)}

    def expect(args: Args) -> torch.Tensor:
        a, b = args["exact"]
        if sa:
            a = a * torch.exp2(args["s"].double() - 127).repeat_interleave(32, 1)
        if sb:
            b = b * torch.exp2(args["t"].double() - 127).repeat_interleave(32, 1).T
        return (a @ b).float()

    check = Check("o", lambda a: a["o"], expect, 4, 2e-6)
    packs = "" if all(k_pack) else f"_pack{int(k_pack[0])}{int(k_pack[1])}"
    return Unit(
        f"dot/scaled_{left}_{right}_{scales or 'plain'}{packs}", text, (Launch("all", make, (check,)),)
    )


def units() -> list[Unit]:
    layouts = list(itertools.product((False, True), (False, True)))
    found = []
    turn = itertools.cycle(TILES)
    for dtype, out in ((F32, F32), (F16, F32), (BF16, F32), (F64, F64), (I8, torch.int32), (E4M3, F32),
    (E5M2, F32),
                       (F16, F16), (BF16, BF16)):  # fmt: skip
        for (a_t, b_t), fused in itertools.product(layouts, (False, True)):
            tile = next(turn)
            found.append(_looped(dtype, out, a_t, b_t, tile, fused))
    found += [_looped(d, F32, a, b, (16, 128, 32), True) for d in (F32, BF16) for a, b in layouts]
    found += [_batched(d) for d in (F32, F16, BF16, I8)]
    found += [_chained(d) for d in (F32, F16, BF16)]
    found += [_precision(p) for p in ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")]
    forms = ("e4m3", "e5m2", "e2m1", "bf16", "fp16")
    for left, right in itertools.product(forms, forms):
        if "fp16" in (left, right) and left != right:
            continue
        found.append(_scaled(left, right, "ab" if left in _STORED and left[0] == "e" else ""))
    found += [_scaled("e4m3", "e4m3", s) for s in ("a", "b", "")]
    found += [_scaled("e2m1", "e2m1", "ab", p) for p in ((False, True), (True, False), (False, False))]
    unique = {u.name: u for u in found}
    return list(unique.values())
