"""Control flow: loops that carry tiles, branches, early returns, calls, mapped functions, wide arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from campaign_core import Args, Check, Launch, Unit, kernel_text

I32 = torch.int32
Rule = Callable[[torch.Tensor, int], torch.Tensor]
HELPERS = """@triton.jit
def early(x, n):
    if n > 4:
        return x * 2
    return x + 1


@triton.jit(noinline=True)
def outlined(k, n):
    total = k
    for j in range(n):
        total += j
    if n > 5:
        return total * 2, k - n
    return total, k - n


@triton.jit
def later(a, b):
    if a > b:
        return a
    return b


@triton.jit
def branchy(a, b):
    if a > b:
        return a - b
    else:
        return b * 2


@triton.jit
def packed(a, b, c, d):
    return a + c, b + d, a - c, b - d


"""
# A kernel over x[64] and a scalar n that writes o[64]; the rule gives o.
_FLOW: dict[str, tuple[str, Rule]] = {
    "for_carried": (
        "acc = tl.zeros((B,), x.dtype)\nfor k in range(n):\n    acc = acc * 2 + x + k\no_ = acc",
        lambda x, n: _loop(x * 0, n, lambda a, k: a * 2 + x + k),
    ),
    "for_swapped": (
        "a = x\nb = x + 1\nfor k in range(n):\n    a, b = b, a + k\no_ = a * 3 + b",
        lambda x, n: _fib(x, n),
    ),
    "for_backward": (
        "acc = x\nfor k in range(n, 0, -1):\n    acc = acc - k\no_ = acc",
        lambda x, n: x - n * (n + 1) // 2 if n > 0 else x,
    ),
    "for_step": (
        "acc = x\nfor k in range(1, n * 3, 2):\n    acc = acc + k\no_ = acc",
        lambda x, n: x + sum(range(1, n * 3, 2)),
    ),
    "for_none": ("acc = x\nfor k in range(n, 0):\n    acc = acc + 1\no_ = acc", lambda x, n: x),
    "for_nested": (
        "acc = x\nfor k in range(n):\n    for j in range(k):\n        acc += j * k\no_ = acc",
        lambda x, n: x + sum(j * k for k in range(n) for j in range(k)),
    ),
    "for_static": (
        "acc = x\nfor k in tl.static_range(4):\n    acc = acc * 2 + k\no_ = acc",
        lambda x, n: _loop(x, 4, lambda a, k: a * 2 + k),
    ),
    "for_unrolled": (
        "acc = x\nfor k in tl.range(0, n, loop_unroll_factor=4):\n    acc = acc * 2 + k\no_ = acc",
        lambda x, n: _loop(x, n, lambda a, k: a * 2 + k),
    ),
    "for_stores": (
        "for k in range(n):\n    tl.store(o + i, x + k)\n    x = x + tl.load(o + i)\no_ = x",
        lambda x, n: _loop(x, n, lambda a, k: a + a + k),
    ),
    "for_loaded_bound": (
        "acc = x\nfor k in range(tl.load(p)):\n    acc += k\no_ = acc",
        lambda x, n: x + sum(range(n)),
    ),
    "while_scalar": (
        "acc = x\nk = n\nwhile k > 0:\n    acc = acc + k\n    k = k // 2\no_ = acc",
        lambda x, n: x + _halves(n),
    ),
    "while_reduced": (
        "acc = x\nwhile tl.max(acc, 0) < 500:\n    acc = acc * 2 + 7\no_ = acc",
        lambda x, n: _until(x, lambda a: int(a.max()) < 500, lambda a: a * 2 + 7),
    ),
    "while_tile_and_scalar": (
        "acc = x\nk = 0\nwhile (k < n) & (tl.sum(acc, 0) < 100000):\n    acc = acc + tl.abs(acc) + 1\n    "
        "k += 1\no_ = acc + k",
        lambda x, n: _both(x, n),
    ),
    "if_else": (
        "if n > 2:\n    y = x * 2\nelse:\n    y = x - 5\no_ = y",
        lambda x, n: x * 2 if n > 2 else x - 5,
    ),
    "if_only": ("y = x\nif n > 2:\n    y = x * 3\no_ = y", lambda x, n: x * 3 if n > 2 else x),
    "if_nested": (
        "y = x\nif n > 1:\n    if n > 5:\n        y = x + 1\n    else:\n        y = x + 2\n        "
        "tl.store(o, 9)\no_ = y",
        lambda x, n: x + 1 if n > 5 else x + 2 if n > 1 else x,
    ),
    "if_in_for": (
        "y = x\nfor k in range(n):\n    if k % 2 == 0:\n        y = y + k\n    else:\n        y = y * 2\n"
        "o_ = y",
        lambda x, n: _loop(x, n, lambda a, k: a * 2 if k % 2 else a + k),
    ),
    "if_two_values": (
        "a = x\nk = 0\nif n > 3:\n    a = x * 2\n    k = 7\no_ = a + k",
        lambda x, n: x * 2 + 7 if n > 3 else x,
    ),
    "if_loads": (
        "if n > 3:\n    y = tl.load(a + i)\nelse:\n    y = tl.load(a + B - 1 - i)\no_ = y",
        lambda x, n: x if n > 3 else x.flip(0),
    ),
    "early_return": ("tl.store(o + i, x)\nif n > 3:\n    return\no_ = x * 4", lambda x,
    n: x if n > 3 else x * 4),
    "early_return_twice": (
        "tl.store(o + i, x)\nif n == 0:\n    return\ny = x + 1\nif n > 3:\n    tl.store(o + i, y)\n    "
        "return\no_ = y * 4",
        lambda x, n: x if n == 0 else x + 1 if n > 3 else (x + 1) * 4,
    ),
    "call_early": ("o_ = early(x, n)", lambda x, n: x * 2 if n > 4 else x + 1),
    "call_outlined": (
        "p_, q_ = outlined(tl.load(a), n)\no_ = x + p_ * 10 + q_",
        lambda x, n: x + (int(x[0]) + sum(range(n))) * (20 if n > 5 else 10) + int(x[0]) - n,
    ),
    "reduce_early": ("o_ = x + tl.reduce(x, 0, later)", lambda x, n: x + x.max()),
    "scan_early": ("o_ = tl.associative_scan(x, 0, later)", lambda x, n: x.cummax(0).values),
    "mapped": ("o_ = tl.map_elementwise(branchy, x, x * 0 + n)", lambda x, n: torch.where(x > n, x - n,
    x * 0 + 2 * n)),
    "mapped_packs": (
        "u, v = tl.map_elementwise(packed, x, x * 0 + n, pack=2)\no_ = u * 100 + v",
        lambda x, n: (x + n) * 100 + x - n,
    ),
    "assume": ("tl.assume(n >= 0)\ntl.debug_barrier()\no_ = x + n", lambda x, n: x + n),
    "hints": (
        "j = tl.max_contiguous(tl.multiple_of(i, 16), 16)\no_ = tl.load(a + j, cache_modifier='.ca', "
        "eviction_policy='evict_first')",
        lambda x, n: x,
    ),
    "volatile": ("o_ = tl.load(a + i, volatile=True) + 1", lambda x, n: x + 1),
    "pointers_in_loop": (
        "q = a + i\nacc = x * 0\nfor k in range(n):\n    acc += tl.load(q - k, mask=i >= k, other=0)\n    "
        "q += 0\no_ = acc",
        lambda x, n: _windows(x, n),
    ),
    "pointer_moves": (
        "q = a\nacc = x * 0\nfor k in range(n):\n    acc = acc * 2 + tl.load(q)\n    q += 1\no_ = acc",
        lambda x, n: _loop(x * 0, n, lambda a, k: a * 2 + x[k]),
    ),
    "pointer_from_int": (
        "q = (a.to(tl.int64) + n * 4).to(tl.pointer_type(tl.int32))\no_ = tl.load(q + i % 8)",
        lambda x, n: x[n + torch.arange(64) % 8],
    ),
    "scalars": (
        "k = tl.load(a + n)\nj = tl.maximum(k, n) - tl.minimum(k, 3)\no_ = x + j * k",
        lambda x, n: x + (max(int(x[n]), n) - min(int(x[n]), 3)) * int(x[n]),
    ),
    "carried_mask": (
        "m = x > 0\nacc = x * 0\nfor k in range(n):\n    acc = tl.where(m, acc + x, acc - 1)\n"
        "    m = (acc + k) % 3 != 0\no_ = tl.where(m, acc, -acc)",
        lambda x, n: _carried_mask(x, n),
    ),
    "carried_pointers": (
        "q = a + i\nacc = x\nfor k in range(n):\n    acc += tl.load(q)\n    q = a + (i * 3 + k) % B\no_ = "
        "acc",
        lambda x, n: _carried_pointers(x, n),
    ),
    "select_pointers": (
        "q = tl.where(i % 2 == 0, a + i, p)\no_ = tl.load(q)",
        lambda x, n: torch.where(torch.arange(64) % 2 == 0, x, x * 0 + n),
    ),
    "mask_from_load": (
        "o_ = tl.load(a + (x & 31), mask=(x > 0) & (tl.load(a + B - 1 - i) > -10), other=x)",
        lambda x, n: torch.where((x > 0) & (x.flip(0) > -10), x[(x & 31).long()], x),
    ),
    "scalar_masked_load": (
        "k = tl.load(p, mask=n > 3, other=99)\ntl.store(o + 1, 7, mask=n > 100)\no_ = x + k",
        lambda x, n: x + (n if n > 3 else 99),
    ),
    "masked_without_other": (
        "o_ = tl.load(a + i, mask=i < n * 9) + 1",
        lambda x, n: torch.where(torch.arange(64) < n * 9, x, 0) + 1,
    ),
    "reduced_masks": (
        "any_ = tl.max((x > 40).to(tl.int32), 0)\nall_ = tl.min((x > -60).to(tl.int1), 0)\n"
        "o_ = x + any_ * 10 + all_.to(tl.int32) * n",
        lambda x, n: x + 10 * int((x > 40).any()) + n,
    ),
    "swizzled": (
        "u, v = tl.swizzle2d(n % 8, i // 8, 8, 8, 4)\no_ = u * 100 + v + tl.cdiv(x, 7) * 0 + tl.cdiv(i, 5)",
        lambda x, n: torch.tensor([_swizzled(n % 8, k // 8) + -(-k // 5) for k in range(64)]),
    ),
    "tile_if_chain": (
        "y = x\nif n > 0:\n    y = y + 1\n    if tl.sum(y, 0) > 0:\n        y = y * 2\nif n > 3:\n    y = "
        "tl.flip(y)\no_ = y",
        lambda x, n: _chain(x, n),
    ),
    "wide_induction": (
        "acc = x\nfor k in range(tl.cast(n, tl.int64) * 3000000000, tl.cast(n, tl.int64) * 3000000000 + 3):\n"
        "    acc += (k % 7).to(tl.int32)\no_ = acc",
        lambda x, n: x + sum(k % 7 for k in range(n * 3000000000, n * 3000000000 + 3)),
    ),
    "counted_down_pointer": (
        "acc = x * 0\nq = a + n + i\nwhile n >= 0:\n    acc = acc * 3 + tl.load(q - i + i % 8)\n    q -= "
        "1\n    n -= 1\no_ = acc",
        lambda x, n: _counted_down(x, n),
    ),
    "high_product": (
        "o_ = ((x.to(tl.int64) * (x + 77777).to(tl.int64)) >> 32).to(tl.int32)",
        lambda x, n: ((x.long() * (x.long() + 77777)) >> 32).int(),
    ),
}  # fmt: skip


def _loop(x: torch.Tensor, n: int, step: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
    for k in range(n):
        x = step(x, k)
    return x


def _fib(x: torch.Tensor, n: int) -> torch.Tensor:
    a, b = x, x + 1
    for k in range(n):
        a, b = b, a + k
    return a * 3 + b


def _halves(n: int) -> int:
    total = 0
    while n > 0:
        total, n = total + n, n // 2
    return total


def _until(
    x: torch.Tensor, test: Callable[[torch.Tensor], bool], step: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    while test(x):
        x = step(x)
    return x


def _both(x: torch.Tensor, n: int) -> torch.Tensor:
    k = 0
    while k < n and int(x.sum()) < 100000:
        x, k = x + x.abs() + 1, k + 1
    return x + k


def _windows(x: torch.Tensor, n: int) -> torch.Tensor:
    total = torch.zeros_like(x)
    for k in range(n):
        total[k:] += x[: x.numel() - k]
    return total


def _carried_mask(x: torch.Tensor, n: int) -> torch.Tensor:
    m, acc = x > 0, x * 0
    for k in range(n):
        acc = torch.where(m, acc + x, acc - 1)
        m = torch.fmod(acc + k, 3) != 0
    return torch.where(m, acc, -acc)


def _carried_pointers(x: torch.Tensor, n: int) -> torch.Tensor:
    i = torch.arange(64)
    at, acc = i, x.clone()
    for k in range(n):
        acc, at = acc + x[at], (i * 3 + k) % 64
    return acc


def _swizzled(i: int, j: int) -> int:
    """``swizzle2d`` of an 8 x 8 grid in groups of 4 rows, as 100 times the row plus the column."""
    ij = i * 8 + j
    group, rest = divmod(ij, 4 * 8)
    return (group * 4 + rest % 4) * 100 + rest // 4


def _chain(x: torch.Tensor, n: int) -> torch.Tensor:
    y = x
    if n > 0:
        y = y + 1
        if int(y.sum()) > 0:
            y = y * 2
    return y.flip(0) if n > 3 else y


def _counted_down(x: torch.Tensor, n: int) -> torch.Tensor:
    acc, i = x * 0, torch.arange(64) % 8
    for k in range(n, -1, -1):
        acc = acc * 3 + x[k + i]
    return acc


def _flow(name: str) -> Unit:
    body, rule = _FLOW[name]
    text = kernel_text(
        "a, p, o, n, B: tl.constexpr",
        "i = tl.arange(0, B)",
        "x = tl.load(a + i)",
        body,
        "tl.store(o + i, o_)",
        helpers=HELPERS,
    )

    def launch(n: int) -> Launch:
        def make(g: torch.Generator) -> Args:
            x = torch.randint(-50, 50, (64,), generator=g, dtype=I32)
            x[0] = 49  # so that loops that double a maximum end
            return {"a": x, "p": torch.tensor([n], dtype=I32), "o": torch.zeros(64, dtype=I32), "n": n}

        return Launch(str(n), make, (Check("o", lambda a: a["o"], lambda a: rule(a["a"], n).int()),))

    return Unit(f"control/{name}", text, tuple(launch(n) for n in (0, 1, 4, 7)), {"B": 64})


def control_units() -> list[Unit]:
    return [_flow(n) for n in _FLOW]
