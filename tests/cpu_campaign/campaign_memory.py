"""Loads and stores: masks, padding, strides, dimensions, guard pages behind masks, far addresses."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Callable

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from campaign_numbers import any_floats, any_ints

PAGE = mmap.PAGESIZE
DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
)
_LIBC = ctypes.CDLL(None, use_errno=True)
_KEPT: list[mmap.mmap] = []  # mappings live as long as the process: tensors point into them


def fenced(count: int, dtype: torch.dtype, at_end: bool = True) -> torch.Tensor:
    """A tensor that ends (or starts) where unreadable memory begins."""
    size = max(count, 1) * dtype.itemsize
    inner = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, inner + 2 * PAGE)
    _KEPT.append(memory)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for start in (base, base + PAGE + inner):
        assert _LIBC.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(PAGE), 0) == 0
    offset = PAGE + (inner - size if at_end else 0)
    return torch.frombuffer(memory, dtype=dtype, count=max(count, 1), offset=offset)[:count]


def values(g: torch.Generator, n: int, dtype: torch.dtype) -> torch.Tensor:
    if dtype is torch.bool:
        return torch.randint(0, 2, (n,), generator=g).bool()
    return any_floats(g, n, dtype) if dtype.is_floating_point else any_ints(g, n, dtype)


def _fill(tensor: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    tensor.copy_(source)
    return tensor


def _other(dtype: torch.dtype) -> tuple[str, float]:
    return ("1", 1) if dtype is torch.bool else ("3", 3)


def _line(dtype: torch.dtype) -> Unit:
    """One dimension: every size between nothing and the block, both arrays at a fence, three kinds of
    other."""
    n, block = (0, 1, 7, 16, 31, 63, 64), 64
    other, filler = _other(dtype)
    text = kernel_text(
        "x, o, p, n, B: tl.constexpr",
        "i = tl.program_id(0) * B + tl.arange(0, B)",
        "m = i < n",
        f"tl.store(o + i, tl.load(x + i, mask=m, other={other}))",
        "tl.store(p + i, tl.load(x + i, mask=m), mask=m)",
    )

    def launch(size: int, at_end: bool) -> Launch:
        def make(g: torch.Generator) -> Args:
            x = _fill(fenced(size, dtype, at_end), values(g, size, dtype))
            p = fenced(size, dtype, at_end)
            return {"x": x, "o": torch.zeros(block, dtype=dtype), "p": p, "n": size}

        def padded(args: Args) -> torch.Tensor:
            o = torch.full((block,), filler).to(dtype)
            o[:size] = args["x"]
            return o

        checks = (
            Check("other", lambda a: a["o"], padded),
            Check("masked", lambda a: a["p"], lambda a: a["x"]),
        )
        return Launch(f"{size}_{'end' if at_end else 'start'}", make, checks)

    launches = tuple(launch(s, e) for s in n for e in (True, False))
    return Unit(f"memory/line/{TYPES[dtype]}", text, launches, {"B": block})


def _strided(dtype: torch.dtype) -> Unit:
    """A tile through strides of either sign, masked at both edges; nothing outside is touched."""
    text = kernel_text(
        "x, o, M, N, sm, sn, tm, tn, R: tl.constexpr, C: tl.constexpr",
        "r = tl.program_id(0) * R + tl.arange(0, R)",
        "c = tl.program_id(1) * C + tl.arange(0, C)",
        "m = (r[:, None] < M) & (c[None, :] < N)",
        "v = tl.load(x + r[:, None] * sm + c[None, :] * sn, mask=m, other=0)",
        "tl.store(o + r[:, None] * tm + c[None, :] * tn, v, mask=m)",
    )
    rows, columns = 8, 16

    def launch(m: int, n: int, source: str, target: str) -> Launch:
        def strides(kind: str) -> tuple[int, int, int]:
            """(start, row stride, column stride) inside an array of exactly m * n elements."""
            row = {"row": (0, n, 1), "column": (0, 1, m)}
            if kind in row:
                return row[kind]
            if kind == "rows_back":
                return (m - 1) * n, -n, 1
            return n - 1, n, -1  # columns back

        s0, sm, sn = strides(source)
        t0, tm, tn = strides(target)

        def make(g: torch.Generator) -> Args:
            x = _fill(fenced(m * n, dtype), values(g, m * n, dtype))
            o = fenced(m * n, dtype)
            return {
                "x": x[s0:], "o": o[t0:], "M": m, "N": n, "sm": sm, "sn": sn, "tm": tm, "tn": tn,
                "whole_x": x, "whole_o": o,
            }  # fmt: skip

        def expect(args: Args) -> torch.Tensor:
            o = torch.zeros(m * n, dtype=dtype)
            for i, j in itertools.product(range(m), range(n)):
                o[t0 + i * tm + j * tn] = args["whole_x"][s0 + i * sm + j * sn]
            return o

        grid = (-(-m // rows), -(-n // columns), 1)
        return Launch(f"{m}x{n}_{source}_{target}", make, (Check("o", lambda a: a["whole_o"], expect),), grid)

    kinds = ("row", "column", "rows_back", "columns_back")
    launches = tuple(
        launch(m, n, s, t)
        for (m, n), (s, t) in zip(
            itertools.cycle([(8, 16), (5, 13), (9, 17), (1, 33), (17, 1)]),
            itertools.product(kinds, kinds),
            strict=False,
        )
    )
    return Unit(f"memory/strided/{TYPES[dtype]}", text, launches, {"R": rows, "C": columns})


def _cube(order: tuple[int, int, int], dtype: torch.dtype) -> Unit:
    """Three dimensions, loaded in one order and stored permuted."""
    text = kernel_text(
        "x, o, n, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr",
        "a = tl.arange(0, A)[:, None, None]",
        "b = tl.arange(0, B)[None, :, None]",
        "c = tl.arange(0, C)[None, None, :]",
        "m = (b < n) & (c != 1)",
        "v = tl.load(x + (a * B + b) * C + c, mask=m, other=2)",
        f"v = tl.permute(v, {order})",
        "i = tl.arange(0, A * B * C).reshape(v.shape)",
        "tl.store(o + i, v)",
    )
    shape = (4, 8, 2) if order[0] else (2, 4, 8)

    def make(g: torch.Generator) -> Args:
        return {"x": values(g, 64, dtype), "o": torch.zeros(64, dtype=dtype), "n": 3}

    def expect(args: Args) -> torch.Tensor:
        v = args["x"].reshape(shape).clone()
        v[:, 3:] = 2
        v[:, :, 1] = 2
        return v.permute(order).contiguous().flatten()

    check = Check("o", lambda a: a["o"], expect)
    constants = dict(zip("ABC", shape, strict=True))
    name = "".join(map(str, order))
    return Unit(f"memory/cube/{TYPES[dtype]}_{name}", text, (Launch("all", make, (check,)),), constants)


def _gathered(dtype: torch.dtype) -> Unit:
    """Addresses from memory, with repeats; the masked ones are wild."""
    text = kernel_text(
        "x, k, o, n, B: tl.constexpr",
        "i = tl.arange(0, B)",
        "m = i < n",
        "at = tl.load(k + i)",
        "tl.store(o + i, tl.load(x + at, mask=m, other=1))",
        "tl.store(o + B + B - 1 - i, tl.load(x + at, mask=m & (i % 3 != 0), other=0))",
    )

    def launch(n: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            k = torch.randint(0, 50, (64,), generator=g, dtype=torch.int32)
            k[n:] = torch.iinfo(torch.int32).max
            x = _fill(fenced(50, dtype), values(g, 50, dtype))
            return {"x": x, "k": k, "o": torch.zeros(128, dtype=dtype), "n": n}

        def expect(args: Args) -> torch.Tensor:
            k = args["k"].clone()
            k[n:] = 0
            picked = args["x"][k.long()]
            i = torch.arange(64)
            first = torch.where(i < n, picked, torch.ones((), dtype=dtype))
            second = torch.where((i < n) & (i % 3 != 0), picked, torch.zeros((), dtype=dtype))
            return torch.cat([first, second.flip(0)])

        return Launch(str(n), make, (Check("o", lambda a: a["o"], expect),))

    launches = tuple(launch(n) for n in (0, 1, 33, 64))
    return Unit(f"memory/gathered/{TYPES[dtype]}", text, launches, {"B": 64})


_ADDRESSES = {
    "i32_product_wraps": ("i * s", lambda i, s: (i * s + 2**31) % 2**32 - 2**31),
    "i32_sum_wraps": ("i + s + s", lambda i, s: (i + 2 * s + 2**31) % 2**32 - 2**31),
    "i64_product": ("i.to(tl.int64) * s", lambda i, s: i * s),
    "i64_scalar": ("tl.cast(s, tl.int64) * 4 + i", lambda i, s: 4 * s + i),
    "i64_below_zero": ("-(i.to(tl.int64) * s) - 1", lambda i, s: -i * s - 1),
    "late_widening": ("(i * s).to(tl.int64) + 1", lambda i, s: (i * s + 2**31) % 2**32 - 2**31 + 1),
}


def _address(name: str, element: torch.dtype) -> Unit:
    """Addresses are computed and stored as integers: none of the memory exists."""
    text, rule = _ADDRESSES[name]
    body = kernel_text(
        "x, o, s, B: tl.constexpr",
        "i = tl.program_id(0) * B + tl.arange(0, B)",
        f"p = x + ({text})",
        "tl.store(o + i, p.to(tl.int64))",
        "q = x + tl.arange(0, B) - 1",
        "tl.store(o + 128 + i, (q + 2).to(tl.int64))",
    )
    size = element.itemsize

    def launch(s: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            return {"x": torch.zeros(1, dtype=element), "o": torch.zeros(256, dtype=torch.int64), "s": s}

        def computed(args: Args) -> torch.Tensor:
            return args["o"] - args["x"].data_ptr()

        def expect(args: Args) -> torch.Tensor:
            i = torch.arange(128)
            return torch.cat([rule(i, s) * size, (i % 64 + 1) * size])

        return Launch(str(s), make, (Check("o", computed, expect),), (2, 1, 1))

    offsets = (2**31 - 1, 2**31 - 17, 2**30, -(2**31), 16843009)
    return Unit(f"address/{name}/{TYPES[element]}", body, tuple(launch(s) for s in offsets), {"B": 64})


def _sparse(dtype: torch.dtype) -> Unit:
    """Real memory on both sides of 2^31 bytes and 2^31 elements: a mapping of which few pages exist."""
    text = kernel_text(
        "x, base, o, B: tl.constexpr",
        "i = tl.arange(0, B)",
        "at = tl.load(base).to(tl.int64) + i",
        "v = tl.load(x + at)",
        "tl.store(x + at + B, v + 1)",
        "tl.store(o + i, tl.load(x + at + B) + v)",
    )
    size = dtype.itemsize
    length = (2**31 + 4096) * size

    def launch(offset: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
            x = torch.frombuffer(memory, dtype=dtype, count=length // size)
            x[offset : offset + 32] = torch.randint(0, 50, (32,), generator=g).to(dtype)
            return {
                "x": x,
                "base": torch.tensor([offset]),
                "o": torch.zeros(32, dtype=dtype),
                "window": x[offset : offset + 64],
            }

        def expect(args: Args) -> torch.Tensor:
            v = args["window"][:32]
            return torch.cat([v, v + 1])

        checks = (
            Check("window", lambda a: a["window"].clone(), expect),
            Check("o", lambda a: a["o"], lambda a: 2 * a["window"][:32] + 1),
        )
        return Launch(str(offset), make, checks)

    offsets = sorted({2**31 // size - 16, 2**31 - 16, 2**31 + 1})
    return Unit(f"address/sparse/{TYPES[dtype]}", text, tuple(launch(k) for k in offsets), {"B": 32})


def _grids() -> Unit:
    """Grids of odd sizes, and of none: every program runs exactly once."""
    text = kernel_text(
        "o, size, n",
        "x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)",
        "at = (z * tl.num_programs(1) + y) * tl.num_programs(0) + x",
        "tl.atomic_add(o + at, 1 + x + 10 * y + 100 * z)",
        "tl.store(size, tl.num_programs(0) + 1000 * tl.num_programs(1) + 1000000 * tl.num_programs(2))",
    )

    def launch(grid: tuple[int, int, int]) -> Launch:
        total = grid[0] * grid[1] * grid[2]

        def make(g: torch.Generator) -> Args:
            return {"o": torch.zeros(total + 8, dtype=torch.int32), "size": torch.zeros(1, dtype=torch.int32),
                    "n": 0}  # fmt: skip

        def expect(args: Args) -> torch.Tensor:
            o = torch.zeros(total + 8, dtype=torch.int32)
            for z, y, x in itertools.product(*(range(k) for k in reversed(grid))):
                o[(z * grid[1] + y) * grid[0] + x] += 1 + x + 10 * y + 100 * z
            return o

        sizes = grid[0] + 1000 * grid[1] + 1000000 * grid[2] if total else 0
        checks = (
            Check("o", lambda a: a["o"], expect),
            Check("size", lambda a: a["size"], lambda a: torch.tensor([sizes], dtype=torch.int32)),
        )
        return Launch("x".join(map(str, grid)), make, checks, grid)

    shapes = [(0, 1, 1), (1, 0, 3), (3, 5, 0), (0, 0, 0), (1, 1, 1), (7, 1, 1), (1, 13, 1), (1, 1, 11),
              (3, 5, 7), (17, 3, 2), (129, 1, 1)]  # fmt: skip
    return Unit("address/grids", text, tuple(launch(s) for s in shapes))


def units() -> list[Unit]:
    makers: list[Callable[[torch.dtype], Unit]] = [_line, _strided, _gathered]
    found = [make(dtype) for make in makers for dtype in DTYPES]
    orders = list(itertools.permutations(range(3)))[1:]
    dtypes = (torch.float32, torch.bfloat16, torch.int8, torch.int64)
    found += [_cube((a, b, c), d) for a, b, c in orders for d in dtypes]
    return found


def address_units() -> list[Unit]:
    found = [_address(n, d) for n in _ADDRESSES for d in (torch.int8, torch.bfloat16, torch.float32)]
    return [*found, _sparse(torch.int8), _sparse(torch.float16), _grids()]
