"""Random Triton kernels: trees over rows, columns and tiles, reductions, masks, loops, stores in place."""

from __future__ import annotations

import random

MASKS = (
    "m",
    "(r[:, None] < R) & (c[None, :] < C) & (c[None, :] != 3)",
    "(r[:, None] < R) & (c[None, :] <= D) & (c[None, :] < C)",
)
CHOICES = ("m", "c[None, :] < D", "(c[None, :] + r[:, None]) % 3 == 0", "c[None, :] <= r[:, None]")
TILE = "r[:, None] * C + c[None, :]"


class Writer:
    """Collects statements and the names of values by shape: tile, row, column, scalar."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.bm = self.rng.choice([1, 2, 4, 8, 16])
        self.bn = self.rng.choice([4, 8, 16, 32, 64, 128])
        self.lines: list[str] = []
        self.names: dict[str, list[str]] = {"tile": [], "row": [], "column": [], "scalar": []}
        self.count = 0

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def new(self, kind: str, text: str) -> None:
        name = self.fresh()
        self.lines.append(f"{name} = {text}")
        self.names[kind].append(name)

    def pick(self, kind: str) -> str:
        return self.rng.choice(self.names[kind])

    def any(self) -> str:
        draw = self.rng.random()
        if draw < 0.6 or (draw >= 0.9 and not self.names["scalar"]):
            return self.pick("tile")
        if draw < 0.75:
            return self.pick("row") + "[:, None]"
        return self.pick("column") + "[None, :]" if draw < 0.9 else self.pick("scalar")

    def load(self) -> None:
        other = self.rng.choice(["0.0", "1.0", "-float('inf')", "2.5"])
        source, mask = self.rng.choice("ab"), self.rng.choice(MASKS)
        self.new("tile", f"tl.load({source} + {TILE}, mask={mask}, other={other})")

    def loop(self) -> None:
        tile, row = self.fresh(), self.fresh()
        self.lines.append(f"{tile} = {self.pick('tile')}")
        self.lines.append(f"{row} = {self.pick('row')}")
        self.lines.append(f"for _ in range({self.rng.choice(['T', '3'])}):")
        self.lines.append(f"    {tile} = {tile} * 0.5 + {self.rng.choice([self.pick('tile'), self.any()])}")
        summed = self.rng.choice([tile, self.pick("tile")])
        self.lines.append(f"    {row} = {row} + tl.{self.rng.choice(['sum', 'max'])}({summed}, 1)")
        if self.rng.random() < 0.4:
            self.lines.append(f"    tl.store(y + {TILE}, {tile}, mask=m)")
        self.names["tile"].append(tile)
        self.names["row"].append(row)

    def step(self) -> None:
        rng = self.rng
        reduce = rng.choice(["sum", "max", "min"])
        actions = [
            (30, lambda: self.new("tile", f"{self.pick('tile')} {rng.choice('+-*')} {self.any()}")),
            (10, lambda: self.new("tile", f"tl.exp(tl.minimum({self.pick('tile')}, 3.0))")),
            (6, lambda: self.new("tile", f"tl.where({rng.choice(CHOICES)}, {self.pick('tile')}, 1.5)")),
            (8, lambda: self.new("row", f"tl.{reduce}({self.pick('tile')}, 1)")),
            (8, lambda: self.new("column", f"tl.{reduce}({self.pick('tile')}, 0)")),
            (4, lambda: self.new("scalar", f"tl.max({self.pick('column')}, 0)")),
            (6, lambda: self.new("tile", f"tl.maximum({self.pick('tile')}, {self.pick('tile')})")),
            (6, self.load),
            (6, lambda: self.new("row", f"tl.sqrt(tl.abs({self.pick('row')}))")),
            (10, lambda: self.store(rng.choice(["x", "y", "a", "b"]), rng.choice(MASKS))),
            (6, self.loop),
        ]
        rng.choices([a for _, a in actions], [w for w, _ in actions])[0]()

    def store(self, to: str, mask: str) -> None:
        self.lines.append(f"tl.store({to} + {TILE}, {self.pick('tile')}, mask={mask})")


def source(seed: int) -> tuple[str, int, int]:
    """Text of a module with one kernel ``k``, and the sizes of its tile."""
    w = Writer(seed)
    w.lines += [
        f"r = tl.program_id(0) * {w.bm} + tl.arange(0, {w.bm})",
        f"c = tl.arange(0, {w.bn})",
        "m = (r[:, None] < R) & (c[None, :] < C)",
    ]
    w.load()
    w.load()
    w.new("column", "tl.load(u + c, mask=c < C, other=0.5)")
    w.new("row", "tl.load(v + r, mask=r < R, other=-0.5)")
    for _ in range(w.rng.randint(5, 14)):
        w.step()
    w.lines += [
        f"tl.store(x + {TILE}, {w.names['tile'][-1]}, mask=m)",
        f"tl.store(p + r, {w.pick('row')}, mask=r < R)",
        f"tl.store(q + c, {w.pick('column')}, mask=c < C)",
    ]
    head = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
    head += "def k(a, b, u, v, x, y, p, q, R, C, D, T):\n"
    return head + "".join(f"    {line}\n" for line in w.lines), w.bm, w.bn
