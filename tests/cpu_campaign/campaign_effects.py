"""Atomics of all types and orders, descriptors made on the device, random numbers: programs with effects."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import as_ints, integers

I32, I64, F32, F64, F16, BF16 = (
    torch.int32, torch.int64, torch.float32, torch.float64, torch.float16, torch.bfloat16
)  # fmt: skip
# name: (Triton's call, how two integers combine)
_ATOMIC: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "add": ("tl.atomic_add", lambda a, b: a + b),
    "max": ("tl.atomic_max", max),
    "min": ("tl.atomic_min", min),
    "and": ("tl.atomic_and", lambda a, b: a & b),
    "or": ("tl.atomic_or", lambda a, b: a | b),
    "xor": ("tl.atomic_xor", lambda a, b: a ^ b),
}
_ORDERS = ("relaxed", "acquire", "release", "acq_rel")


def _atomic(dtype: torch.dtype, name: str, order: str) -> Unit:
    """Many programs and duplicate addresses into eight cells, half of the elements masked off."""
    call, rule = _ATOMIC[name]
    text = kernel_text(
        "a, k, o, w, n, B: tl.constexpr",
        "i = tl.program_id(0) * B + tl.arange(0, B)",
        "at = tl.load(k + i)",
        f"v = {call}(o + at, tl.load(a + i), mask=i % 2 == 0, sem='{order}')",
        "tl.store(w + i, v)",
        f"{call}(o + 8, tl.load(a + tl.program_id(0)), sem='{order}', scope='sys')",
    )
    floating = dtype.is_floating_point

    def make(g: torch.Generator) -> Args:
        a = torch.randint(-20 if dtype not in (torch.uint32, torch.uint64) else 0, 20, (256,), generator=g)
        k = torch.randint(0, 8, (256,), generator=g, dtype=I32)
        values = a.to(dtype) if floating else integers(a.tolist(), dtype)
        start = torch.full((9,), 5.0).to(dtype) if floating else integers([5] * 9, dtype)
        return {"a": values, "k": k, "o": start, "w": values.clone(), "n": 4}

    def expect(args: Args) -> torch.Tensor:
        a = [int(v) for v in args["a"].tolist()] if floating else as_ints(args["a"])
        cells = [5] * 9
        for i, at in enumerate(args["k"].tolist()):
            if i % 2 == 0:
                cells[at] = rule(cells[at], a[i])
        for program in range(4):
            cells[8] = rule(cells[8], a[program])
        return torch.tensor(cells, dtype=F64).to(dtype) if floating else integers(cells, dtype)

    checks = [Check("cells", lambda a: a["o"], expect)]
    return Unit(
        f"atomics/{name}_{TYPES[dtype]}_{order}",
        text,
        (Launch("all", make, tuple(checks), (4, 1, 1)),),
        {"B": 64},
    )


_ONCE: dict[str, tuple[str, Callable[[Args], torch.Tensor]]] = {
    "old_values": ("r = tl.atomic_add(o + i, x)", lambda a: torch.cat([a["o"][:64] + a["a"], a["o"][:64]])),
    "masked_old": (
        "r = tl.where(i < 20, tl.atomic_add(o + i, x, mask=i < 20), 0)",
        lambda a: _masked_old(a),
    ),
    "exchange": ("r = tl.atomic_xchg(o + i, x)", lambda a: torch.cat([a["a"], a["o"][:64]])),
    "exchange_reversed": ("r = tl.atomic_xchg(o + 63 - i, x)", lambda a: torch.cat([a["a"].flip(0),
    a["o"][:64].flip(0)])),
    "swap_if_equal": (
        "r = tl.atomic_cas(o + i, x - x + 5, x)",
        lambda a: torch.cat([torch.where(a["o"][:64] == 5, a["a"], a["o"][:64]), a["o"][:64]]),
    ),
    "add_then_load": (
        "v = tl.load(o + i)\ntl.atomic_add(o + i, x)\nr = tl.load(o + i) * 100 + v",
        lambda a: torch.cat([a["o"][:64] + a["a"], (a["o"][:64] + a["a"]) * 100 + a["o"][:64]]),
    ),
    "load_acquire": ("r = tl.atomic_load(o + i) + x", lambda a: torch.cat([a["o"][:64],
    a["o"][:64] + a["a"]])),
    "store_release": ("tl.atomic_store(o + i, x * 2, mask=i != 3)\nr = x", lambda a: _stored(a)),
    "poll": ("tl.atomic_store(o, 7)\nr = tl.atomic_poll(o, 7).to(tl.int32) + x", lambda a: _polled(a)),
    "poll_timeout": (
        "r = tl.atomic_poll(o, 12345678, timeout_ns=1000).to(tl.int32) + x",
        lambda a: torch.cat([a["o"][:64], a["a"]]),
    ),
    "duplicates_in_order": ("r = x\ntl.atomic_xchg(o + i % 4, x)", lambda a: _last(a)),
}  # fmt: skip


def _masked_old(args: Args) -> torch.Tensor:
    o, kept = args["o"][:64].clone(), torch.arange(64) < 20
    return torch.cat([torch.where(kept, o + args["a"], o), torch.where(kept, o, 0)])


def _stored(args: Args) -> torch.Tensor:
    made = args["a"] * 2
    made[3] = args["o"][3]
    return torch.cat([made, args["a"]])


def _polled(args: Args) -> torch.Tensor:
    o = args["o"][:64].clone()
    o[0] = 7
    return torch.cat([o, args["a"] + 1])


def _last(args: Args) -> torch.Tensor:
    o = args["o"][:64].clone()
    o[:4] = args["a"][60:]
    return torch.cat([o, args["a"]])


def _once(name: str, dtype: torch.dtype) -> Unit:
    body, rule = _ONCE[name]
    text = kernel_text(
        "a, o, B: tl.constexpr", "i = tl.arange(0, B)", "x = tl.load(a + i)", body, "tl.store(o + B + i, r)"
    )

    def make(g: torch.Generator) -> Args:
        a, o = (torch.randint(0, 9, (k,), generator=g).to(dtype) for k in (64, 128))
        return {"a": a, "o": o}

    check = Check("o", lambda a: a["o"], lambda a: rule(a).to(dtype))
    return Unit(f"atomics/{name}_{TYPES[dtype]}", text, (Launch("all", make, (check,)),), {"B": 64})


def _descriptor(dtype: torch.dtype, padding: str) -> Unit:
    """Tiles through descriptors made on the device, past every edge; a copy, a transpose, an atomic sum."""
    pad = "" if padding == "zero" else ", padding_option='nan'"
    text = kernel_text(
        "x, o, p, q, M, N, R: tl.constexpr, C: tl.constexpr",
        f"d = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[R, C]{pad})",
        "e = tl.make_tensor_descriptor(o, shape=[M, N], strides=[N, 1], block_shape=[R, C])",
        "r = tl.program_id(0) * R",
        "c = tl.program_id(1) * C",
        "v = d.load([r, c])",
        "e.store([r, c], v + v)",
        "at = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * R * C",
        "tl.store(p + at + tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :], v)",
        "f = tl.make_tensor_descriptor(q, shape=[M, N], strides=[N, 1], block_shape=[R, C])",
        "f.atomic_add([r, c], v)",
    )
    rows, columns = 8, 16

    def launch(m: int, n: int) -> Launch:
        grid = (-(-m // rows), -(-n // columns), 1)

        def make(g: torch.Generator) -> Args:
            x, q = (torch.randint(-9, 9, (m, n), generator=g).to(dtype) for _ in range(2))
            p = torch.zeros(grid[0] * grid[1] * rows * columns, dtype=dtype)
            return {"x": x, "o": torch.zeros(m, n, dtype=dtype), "p": p, "q": q, "M": m, "N": n}

        def tiles(args: Args) -> torch.Tensor:
            filler = 0 if padding == "zero" else float("nan")
            full = torch.full((grid[0] * rows, grid[1] * columns), filler).to(dtype)
            full[:m, :n] = args["x"]
            return full.reshape(grid[0], rows, grid[1], columns).transpose(1, 2).flatten()

        checks = (
            Check("stored", lambda a: a["o"], lambda a: a["x"] + a["x"]),
            Check("padded", lambda a: a["p"], tiles),
            Check("reduced", lambda a: a["q"], lambda a: a["q"] + a["x"]),
        )
        return Launch(f"{m}x{n}", make, checks, grid)

    sizes = ((8, 16), (9, 32), (13, 48), (3, 16))
    return Unit(
        f"descriptor/{TYPES[dtype]}_{padding}",
        text,
        tuple(launch(*s) for s in sizes),
        {"R": rows, "C": columns},
    )


def _descriptor_gather(dtype: torch.dtype) -> Unit:
    text = kernel_text(
        "x, k, o, p, M, N, C: tl.constexpr",
        "d = tl.make_tensor_descriptor(x, shape=[M, N], strides=[N, 1], block_shape=[1, C])",
        "rows = tl.load(k + tl.arange(0, 8))",
        "v = d.gather(rows, 16)",
        "tl.store(o + tl.arange(0, 8)[:, None] * C + tl.arange(0, C)[None, :], v)",
        "e = tl.make_tensor_descriptor(p, shape=[M, N], strides=[N, 1], block_shape=[1, C])",
        "e.scatter(v + v, rows, 16)",
    )
    m, n, c = 12, 40, 16

    def make(g: torch.Generator) -> Args:
        x = torch.randint(-9, 9, (m, n), generator=g).to(dtype)
        k = torch.randperm(m, generator=g)[:8].int()
        return {
            "x": x,
            "k": k,
            "o": torch.zeros(8, c, dtype=dtype),
            "p": torch.zeros(m, n, dtype=dtype),
            "M": m,
            "N": n,
        }

    def scattered(args: Args) -> torch.Tensor:
        p = torch.zeros(m, n, dtype=dtype)
        p[args["k"].long(), 16:32] = args["x"][args["k"].long(), 16:32] * 2
        return p

    checks = (
        Check("gathered", lambda a: a["o"], lambda a: a["x"][a["k"].long(), 16:32]),
        Check("scattered", lambda a: a["p"], scattered),
    )
    return Unit(f"descriptor/rows_{TYPES[dtype]}", text, (Launch("all", make, checks),), {"C": c})


def _philox(seed: int, offset: int, rounds: int = 10) -> list[int]:
    """Four words of Philox 4x32 (Salmon et al., 2011) for one counter."""
    c = [offset & 0xFFFFFFFF, 0, 0, 0]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(rounds):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def _random() -> Unit:
    text = kernel_text(
        "o, u, w, v, seed, B: tl.constexpr",
        "i = tl.program_id(0) * B + tl.arange(0, B)",
        "tl.store(o + i, tl.randint(seed, i))",
        "tl.store(u + i, tl.rand(seed, i))",
        "tl.store(w + i, tl.randn(seed, i))",
        "a, b, c, d = tl.randint4x(seed, i)",
        "tl.store(v + i, a ^ (b + c) ^ d)",
    )

    def launch(seed: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            return {"o": torch.zeros(96, dtype=I32), "u": torch.zeros(96), "w": torch.zeros(96),
                    "v": torch.zeros(96, dtype=I32), "seed": seed}  # fmt: skip

        words = [_philox(seed, i) for i in range(96)]

        def uniform(word: int) -> float:
            x = word - (1 << 32) if word >> 31 else word
            x = -x - 1 if x < 0 else x
            return float(torch.tensor(float(x), dtype=F32) * torch.tensor(4.6566127342e-10, dtype=F32))

        def normal(words_: list[int]) -> float:
            first = torch.tensor(max(1e-7, uniform(words_[0])), dtype=F64)
            return float(
                (-2 * first.log()).sqrt()
                * (6.283185307179586 * uniform(words_[1]) * torch.ones((), dtype=F64)).cos()
            )

        mixed = [w[0] ^ ((w[1] + w[2]) & 0xFFFFFFFF) ^ w[3] for w in words]
        checks = (
            Check("randint", lambda a: a["o"], lambda a: integers([w[0] for w in words], I32)),
            Check("rand", lambda a: a["u"], lambda a: torch.tensor([uniform(w[0]) for w in words])),
            Check("randn", lambda a: a["w"], lambda a: torch.tensor([normal(w) for w in words]), 8, 1e-6),
            Check("randint4x", lambda a: a["v"], lambda a: integers(mixed, I32)),
        )
        return Launch(str(seed), make, checks, (3, 1, 1))

    return Unit("random/philox", text, tuple(launch(s) for s in (0, 7, 2**31 - 1)), {"B": 32})


def atomic_units() -> list[Unit]:
    kinds = {"add": (I32, I64, torch.uint32, torch.uint64, F32, F64, F16, BF16)}
    kinds |= dict.fromkeys(("max", "min"), (I32, I64, torch.uint32, torch.uint64, F32, F64))
    kinds |= dict.fromkeys(("and", "or", "xor"), (I32, I64, torch.uint32))
    orders = itertools.cycle(_ORDERS)
    found = [_atomic(d, n, next(orders)) for n, ds in kinds.items() for d in ds]
    found += [_atomic(I32, "add", o) for o in _ORDERS]
    for name in _ONCE:
        types = (I32, I64) if "poll" in name or "equal" in name else (I32, I64, F32)
        found += [_once(name, d) for d in types]
    return list({u.name: u for u in found}.values())


def other_units() -> list[Unit]:
    found = [_descriptor(d, "zero") for d in (F32, F16, BF16, I32)]
    found += [_descriptor(d, "nan") for d in (F32, BF16)]
    return [*found, *(_descriptor_gather(d) for d in (F32, F16, I32)), _random()]
