"""Kernels drawn as small programs: nested loops and branches that carry tiles of several types, while loops
with two conditions, early returns, loads and stores in between through views that overlap, masks whose
indices run past the ends of their type.

A program is drawn together with what it does to torch's tensors, statement by statement, so the oracle shares
nothing with the engine. All arithmetic is exact or rounded in one place only: every bit must be right, but
for the sign of a zero, which max and min leave open.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import torch
from campaign_core import Args, Check, Launch, Unit, kernel_text
from campaign_terms import NAMES, Env, Terms, Value

Run = Callable[[Env], None]
MEMORY = {"f": torch.float32, "k": torch.int32, "b": torch.bfloat16}  # a buffer for each
SIZE = 4096
FAR = {torch.int32: 2**31, torch.int64: 2**63}


class Left(Exception):
    """The program returned early."""


class Program(Terms):
    """A program that is being drawn."""

    # conditions, masks, places

    def condition(self) -> tuple[str, Value]:
        """A scalar one: of an argument, of a counter, or of what a tile holds."""
        rng = self.rng
        kind = rng.randrange(4)
        if kind == 0 and self.counters:
            name, bit = rng.choice(self.counters), rng.randint(0, 1)
            return f"({name} & 1) == {bit}", lambda e: (e[name] & 1) == bit
        whole = [n for n, t in self.tiles.items() if t is torch.int32]
        if kind <= 2 and whole:
            name = rng.choice(whole)
            if rng.random() < 0.5:
                return (
                    f"(tl.sum(tl.sum({name}, 1), 0) & 4) == 0",
                    lambda e: (int(e[name].sum(dtype=torch.int64)) & 4) == 0,
                )
            return f"tl.max(tl.max({name}, 1), 0) > 5", lambda e: int(e[name].max()) > 5
        limit = rng.randint(0, 4)
        return f"T > {limit}", lambda e: e["T"] > limit

    def mask(self) -> tuple[str, Value] | None:
        """None, bounds, bounds that wrap, or elements of a tile."""
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            return None
        if kind == 1:
            return "(r < M) & (c < N)", lambda e: (e["r"] < e["M"]) & (e["c"] < e["N"])
        if kind == 2:
            return "(c <= N) & (r + 0 * c < 3)", lambda e: (e["c"] <= e["N"]) & (e["r"] + 0 * e["c"] < 3)
        if kind == 3:
            name = rng.choice(list(self.tiles))
            return f"{name} > 1", lambda e: e[name] > 1
        wide = rng.choice(["32", "64"])
        dtype = torch.int32 if wide == "32" else torch.int64
        sign = rng.choice(["<", "<="])
        axis = rng.choice("rc")

        def value(e: Env) -> torch.Tensor:
            first = torch.tensor(e[f"P{wide}"], dtype=dtype)
            at = e[axis].to(dtype) + first
            below = at < e[f"Q{wide}"] if sign == "<" else at <= e[f"Q{wide}"]
            return below & (e["r"] >= 0) & (e["c"] >= 0)

        cast = "" if wide == "32" else ".to(tl.int64)"
        return f"({axis}{cast} + P{wide} {sign} Q{wide}) & (r >= 0) & (c >= 0)", value

    def place(self, store: bool) -> tuple[str, Value]:
        """Offsets within a buffer; those of a store differ from element to element."""
        rng = self.rng
        m, n = self.rows, self.columns
        views = [(n, 1), (1, m), (n + 3, 1), (2 * n, 2), (-n, 1), (n, -1)]
        if not store:
            views += [(1, 1), (0, 1), (1, 0), (3, 2)]
        down, along = rng.choice(views)
        start = rng.randint(0, 40) - min(0, down) * (m - 1) - min(0, along) * (n - 1)
        moves = bool(self.counters) and rng.random() < 0.5
        step, name = rng.choice([1, n, 2 * n + 1]), rng.choice(self.counters) if moves else ""

        def value(e: Env) -> torch.Tensor:
            at = e["r"] * down + e["c"] * along + start
            return at + step * e[name] if name else at

        return f"r * {down} + c * {along} + {start}" + (f" + {step} * {name}" if name else ""), value

    # statements

    def block(self, depth: int, budget: int) -> tuple[list[str], list[Run]]:
        lines, runs = [], []
        for _ in range(self.rng.randint(1, budget)):
            more, run = self._statement(depth)
            lines += more
            runs.append(run)
        return lines, runs

    def _statement(self, depth: int) -> tuple[list[str], Run]:
        kind = self.rng.random()
        if depth > 0 and kind < 0.22:
            return self._for(depth)
        if depth > 0 and kind < 0.42:
            return self._if(depth)
        if depth > 0 and kind < 0.52:
            return self._while(depth)
        if kind < 0.66:
            return self._store()
        if kind < 0.80:
            return self._load()
        name = self.rng.choice(list(self.tiles))
        term = self.term(self.tiles[name], 2)

        def run(e: Env) -> None:
            e[name] = term.value(e)

        return [f"{name} = {term.text}"], run

    def _store(self) -> tuple[list[str], Run]:
        buffer = self.rng.choice(list(MEMORY))
        pointer = self.rng.choice([f"{buffer}p", f"{buffer}q"])
        term = self.term(MEMORY[buffer], 1)
        (place, at), mask = self.place(True), self.mask()
        masked = f", mask=({mask[0]}) & (r * 0 + c * 0 == 0)" if mask else ""

        def run(e: Env) -> None:
            where = at(e) + e["shift"][pointer]
            values = term.value(e)
            keep = mask[1](e).expand(where.shape) if mask else torch.ones_like(where, dtype=torch.bool)
            e["memory"][buffer][where[keep].long()] = values[keep]

        return [f"tl.store({pointer} + {place}, {term.text}{masked})"], run

    def _load(self) -> tuple[list[str], Run]:
        buffer = self.rng.choice(list(MEMORY))
        same = [n for n, t in self.tiles.items() if t is MEMORY[buffer]]
        if not same:
            return self._store()
        name = self.rng.choice(same)
        pointer = self.rng.choice([f"{buffer}p", f"{buffer}q"])
        (place, at), mask = self.place(False), self.mask()
        masked = f", mask=({mask[0]}) & (r * 0 + c * 0 == 0), other=2" if mask else ""

        def run(e: Env) -> None:
            found = e["memory"][buffer][(at(e) + e["shift"][pointer]).long()]
            if mask:
                found = torch.where(mask[1](e).expand(found.shape), found, found.new_full((), 2))
            e[name] = found

        return [f"{name} = tl.load({pointer} + {place}{masked})"], run

    def _if(self, depth: int) -> tuple[list[str], Run]:
        text, condition = self.condition()
        yes, does = self.block(depth - 1, 3)
        no, otherwise = self.block(depth - 1, 2) if self.rng.random() < 0.5 else ([], [])
        lines = [f"if {text}:", *_deeper(yes), *(["else:", *_deeper(no)] if no else [])]

        def run(e: Env) -> None:
            for step in does if condition(e) else otherwise:
                step(e)

        return lines, run

    def _for(self, depth: int) -> tuple[list[str], Run]:
        counter = self.name("i")
        start, by = self.rng.choice([(0, 1), (0, 1), (1, 2), (2, 1)])
        end, value = self.rng.choice([("T", None), ("3", 3), ("M", None)])
        self.counters.append(counter)
        lines, runs = self.block(depth - 1, 4)
        self.counters.remove(counter)

        def run(e: Env) -> None:
            for k in range(start, min(e[end], 4) if value is None else value, by):
                e[counter] = k
                for step in runs:
                    step(e)

        bound = f"min({end}, 4)" if value is None else end
        return [f"for {counter} in range({start}, {bound}, {by}):", *_deeper(lines)], run

    def _while(self, depth: int) -> tuple[list[str], Run]:
        counter = self.name("w")
        text, condition = self.condition()
        self.counters.append(counter)
        lines, runs = self.block(depth - 1, 3)
        self.counters.remove(counter)

        def run(e: Env) -> None:
            e[counter] = 3
            while e[counter] > 0 and condition(e):
                for step in runs:
                    step(e)
                e[counter] -= 1

        head = [f"{counter} = T * 0 + 3", f"while ({counter} > 0) & ({text}):"]
        return [*head, *_deeper([*lines, f"{counter} -= 1"])], run


def _deeper(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def _ends(rng: random.Random, dtype: torch.dtype, size: int) -> tuple[int, int]:
    """Where an index begins and what it is compared with: next to the ends of the type."""
    far = FAR[dtype]
    places = [far - 1, far - size, far - size // 2 - 1, -far, -far + size // 2, 0, -2, far // 2]
    return rng.choice(places), rng.choice([*places, 3])


def unit(seed: int) -> Unit:
    """The program of this seed."""
    rng = random.Random(seed)
    rows, columns = rng.choice([1, 2, 4, 8]), rng.choice([2, 4, 8, 16, 32, 64])
    p = Program(rng, rows, columns)
    kinds = [torch.int32, torch.float32, *rng.choices(list(NAMES), k=rng.randint(1, 3))]
    starts: list[tuple[str, Run]] = []
    for dtype in kinds:
        name = p.name("v")
        down, along, more = rng.randint(-3, 3), rng.randint(-3, 3), rng.randint(-2, 2)

        def run(e: Env, name: str = name, dtype: torch.dtype = dtype, a: int = down, b: int = along,
                c: int = more) -> None:  # fmt: skip
            e[name] = (e["r"] * a + e["c"] * b + c).to(dtype)

        starts.append((f"{name} = (r * {down} + c * {along} + {more}).to({NAMES[dtype]})", run))
        p.tiles[name] = dtype
    lines, runs = p.block(2, 5)
    if rng.random() < 0.4:
        text, leave = p.condition()
        stored, does = p._store()

        def early(e: Env) -> None:
            if leave(e):
                does(e)
                raise Left

        lines += [f"if {text}:", *_deeper([*stored, "return"])]
        runs.append(early)
        more_lines, more_runs = p.block(2, 3)
        lines += more_lines
        runs += more_runs
    outs = ", ".join(f"o{name}" for name in p.tiles)
    text = kernel_text(
        f"fp, fq, kp, kq, bp, bq, {outs}, M, N, T, P32, Q32, P64, Q64, R: tl.constexpr, C: tl.constexpr",
        "r = tl.arange(0, R)[:, None]", "c = tl.arange(0, C)[None, :]",
        *[line for line, _ in starts], *lines,
        *[f"tl.store(o{name} + r * C + c, {name})" for name in p.tiles],
    )  # fmt: skip
    shifts = {b: rng.choice([0, 1, 5, columns]) for b in MEMORY}
    launches = []
    for turn in range(2):
        m, n, trips = rng.randint(0, rows), rng.randint(0, columns), rng.randint(0, 3)
        ends = [*_ends(rng, torch.int32, max(rows, columns)), *_ends(rng, torch.int64, max(rows, columns))]
        given = dict(zip(("M", "N", "T", "P32", "Q32", "P64", "Q64"), (m, n, trips, *ends), strict=True))

        def make(g: torch.Generator, given: Args = given) -> Args:
            args: Args = {}
            for b, dtype in MEMORY.items():
                whole = (torch.randint(-40, 40, (SIZE,), generator=g) / 8).to(dtype)
                args[f"{b}p"], args[f"{b}q"] = whole, whole[shifts[b] :]
            for name, dtype in p.tiles.items():
                args[f"o{name}"] = torch.full((rows, columns), 7, dtype=dtype)
            return {**args, **given}

        def after(args: Args) -> Env:
            e: Env = {k: args[k] for k in ("M", "N", "T", "P32", "Q32", "P64", "Q64")}
            e["r"] = torch.arange(rows, dtype=torch.int32)[:, None]
            e["c"] = torch.arange(columns, dtype=torch.int32)[None, :]
            e["memory"] = {b: args[f"{b}p"].clone() for b in MEMORY}
            e["shift"] = {f"{b}{x}": shifts[b] if x == "q" else 0 for b in MEMORY for x in "pq"}
            e["out"] = {name: args[f"o{name}"] for name in p.tiles}
            try:
                for _, run in starts:
                    run(e)
                for run in runs:
                    run(e)
            except Left:
                return e
            e["out"] = {name: e[name].expand(rows, columns) for name in p.tiles}
            return e

        near = 1e-30  # the sign of a zero is open
        checks = [
            Check(b, lambda a, b=b: a[f"{b}p"], lambda a, b=b: after(a)["memory"][b], scale=near)
            for b in MEMORY
        ]
        checks += [
            Check(n, lambda a, n=n: a[f"o{n}"], lambda a, n=n: after(a)["out"][n], scale=near)
            for n in p.tiles
        ]
        launches.append(Launch(f"{turn}_{m}x{n}x{trips}", make, tuple(checks)))
    name = f"flow/{seed}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    kinds_ = {"P32": "i32", "Q32": "i32", "P64": "i64", "Q64": "i64"}
    return Unit(name, text, tuple(launches), {"R": rows, "C": columns}, kinds_)
