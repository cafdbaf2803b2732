"""What only ``kernel[grid](...)`` does: descriptors made on the host, tuples, numbers of all kinds."""

from __future__ import annotations

import torch
from campaign_core import TYPES, Args, Check, Launch, Unit, kernel_text
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, COLUMNS = 8, 16


def _described(dtype: torch.dtype, padding: str) -> Unit:
    """A tiled copy through two host descriptors, past the edges, with the padding stored as well."""
    text = kernel_text(
        "d, e, p, R: tl.constexpr, C: tl.constexpr",
        "r, c = tl.program_id(0) * R, tl.program_id(1) * C",
        "v = d.load([r, c])",
        "e.store([r, c], v)",
        "at = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * R * C",
        "tl.store(p + at + tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :], v)",
    )

    def launch(m: int, n: int) -> Launch:
        grid = (-(-m // ROWS), -(-n // COLUMNS), 1)

        def make(g: torch.Generator) -> Args:
            x = torch.randint(-9, 9, (m, n), generator=g).to(dtype)
            o = torch.zeros(m, n, dtype=dtype)
            p = torch.zeros(grid[0] * grid[1] * ROWS * COLUMNS, dtype=dtype)
            block = [ROWS, COLUMNS]
            d = TensorDescriptor.from_tensor(x, block, padding=padding)
            return {"d": d, "e": TensorDescriptor.from_tensor(o, block), "p": p, "x": x, "o": o}

        def tiles(args: Args) -> torch.Tensor:
            filler = 0 if padding == "zero" else float("nan")
            full = torch.full((grid[0] * ROWS, grid[1] * COLUMNS), filler).to(dtype)
            full[:m, :n] = args["x"]
            return full.reshape(grid[0], ROWS, grid[1], COLUMNS).transpose(1, 2).flatten()

        checks = (
            Check("stored", lambda a: a["o"], lambda a: a["x"]),
            Check("padded", lambda a: a["p"], tiles),
        )
        return Launch(f"{m}x{n}", make, checks, grid)

    sizes = ((8, 16), (9, 32), (13, 48), (3, 16))
    return Unit(
        f"host/descriptor_{TYPES[dtype]}_{padding}",
        text,
        tuple(launch(*s) for s in sizes),
        {"R": ROWS, "C": COLUMNS},
        launched=True,
    )


def _numbers() -> Unit:
    """Integers around every limit, booleans, floats, nothing at all, tuples with tensors in them."""
    text = kernel_text(
        "n, f, b, nothing, pair, o, q, B: tl.constexpr",
        "i = tl.arange(0, B)",
        "x, k = pair",
        "tl.store(o + i, tl.load(x + i) + n + k)",
        "if nothing is not None:",
        "    tl.store(nothing, 1)",
        "y = i * f",
        "if b:",
        "    y = y + 0.5",
        "tl.store(q + i, y)",
    )

    def launch(n: int, f: float, b: bool, k: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            x = torch.randint(-99, 99, (16,), generator=g)
            o, q = torch.zeros(16, dtype=torch.int64), torch.zeros(16)
            return {"n": n, "f": f, "b": b, "nothing": None, "pair": (x, k), "o": o, "q": q}

        def floats(args: Args) -> torch.Tensor:
            y = torch.arange(16) * torch.tensor(f)
            return y + 0.5 if b else y

        checks = (
            Check("integers", lambda a: a["o"], lambda a: a["pair"][0] + n + k),
            Check("floats", lambda a: a["q"], floats),
        )
        return Launch(f"{n}_{f}_{b}_{k}", make, checks)

    numbers = [0, 1, 16, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**40, -(2**62)]
    floats = [0.0, 1.0, -1.5, 3e38, float("inf"), 1e-40, 0.1, 2.0, 16.0, -0.0]
    launches = tuple(
        launch(n, f, at % 2 == 0, k)
        for at, (n, f, k) in enumerate(zip(numbers, floats, reversed(numbers), strict=True))
    )
    return Unit("host/numbers", text, launches, {"B": 16}, launched=True)


def units() -> list[Unit]:
    found = [_described(d, "zero") for d in (torch.float32, torch.float16, torch.bfloat16, torch.int32)]
    return [*found, *(_described(d, "nan") for d in (torch.float32, torch.bfloat16)), _numbers()]
