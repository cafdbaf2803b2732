"""The formula: seconds of one call of a GPU kernel, in sympy, compiled once for numbers and for numpy arrays.

A program (thread block) walks I iterations; each brings G bytes on chip (A: as if in 16-byte copies), moves X
bytes through shared memory, issues F matrix operations and V vector cycles. In cycles of one multiprocessor:

    busy  = ((F/m)^p + (V + X s/128 + A/128)^p + (G/64)^p)^(1/p)   that it occupies the multiprocessor
    alone = c0 (3/4 + H/16) + the same on W/4 of it      that it takes by itself; H: matrix steps in a row
    chain = (((l + alone)/n)^p + alone^p)^(1/p) + e      with n tiles in flight; e is what they cannot hide
    steps = max(chain + (q - 1) busy, chain ceil(q/o))   q programs on a multiprocessor, o at a time
    unit  = (I steps + l (z ceil(q/o) - 1) + c0 n) / f   z: latencies in a row outside of the loop
    dram  = bytes/(B b)                                  b: the share of B that is reached
    cache = programs I G / B2
    T     = (launches L + l)/f + (unit^p + dram^p + cache^p)^(1/p) + merge

The exponent p makes a limit of several resources soft: at p = infinity the slowest alone would decide.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sympy

# Bytes a cycle from the last-level cache to a multiprocessor. One program alone cannot draw more, so a last
# wave of few programs leaves main memory idle: the more, the more bandwidth there is per multiprocessor.
PORT = 64
SOFT = 2.7  # the exponent p: fitted once on the recorded A100 timings, the same for every device

# What a schedule does (see `headrace.codegen.work.Work`).
PROGRAMS, ITERATIONS, MATRIX, VECTOR, SHARED, LOADED, STAGES, WARPS, RESIDENT, UNIQUE = sympy.symbols(
    "programs I F V X G n W O bytes", nonnegative=True
)
EXPOSED, DEPTH, LAUNCHES, MERGED, PASSES, COPIED, CHAINED = sympy.symbols(
    "e z launches merged passes A H", nonnegative=True
)
# What a device is: operations a cycle and multiprocessor, multiprocessors, clock, bandwidths.
RATE, UNITS, CLOCK, BANDWIDTH, CACHE_BANDWIDTH = sympy.symbols("m units f B B2", positive=True)
# What is fitted per architecture (see `headrace.passes.cost.constants.Constants`).
LAUNCH, LATENCY, DRAM, SYNC, TRAFFIC = sympy.symbols("L l b c0 s", positive=True)
EXPONENT = sympy.Symbol("p", positive=True)

INPUTS = (
    PROGRAMS, ITERATIONS, MATRIX, VECTOR, SHARED, LOADED, STAGES, WARPS, RESIDENT, UNIQUE, EXPOSED, DEPTH,
    LAUNCHES, MERGED, PASSES, COPIED, CHAINED, RATE, UNITS, CLOCK, BANDWIDTH, CACHE_BANDWIDTH, LAUNCH,
    LATENCY, DRAM, SYNC, TRAFFIC,
)  # fmt: skip


def _soft(*limits: sympy.Expr) -> sympy.Expr:
    return sympy.Add(*(limit**EXPONENT for limit in limits)) ** (1 / EXPONENT)


_ACTIVE = sympy.Min(WARPS, 4) / 4
_MOVE = SHARED * TRAFFIC / 128 + COPIED / 128
BUSY = _soft(MATRIX / RATE, VECTOR + _MOVE, LOADED / PORT)
ALONE = SYNC * (sympy.Rational(3, 4) + CHAINED / 16) + _soft(
    MATRIX / RATE / _ACTIVE, VECTOR / _ACTIVE + _MOVE, LOADED / PORT
)
CHAIN = _soft((LATENCY + ALONE) / STAGES, ALONE) + EXPOSED
PER_UNIT = sympy.ceiling(PROGRAMS / UNITS)
ROUNDS = sympy.ceiling(PER_UNIT / RESIDENT)
STEPS = sympy.Max(CHAIN + (PER_UNIT - 1) * BUSY, CHAIN * ROUNDS)
ON_UNIT = (ITERATIONS * STEPS + LATENCY * (DEPTH * ROUNDS - 1) + SYNC * STAGES) / CLOCK
ON_DRAM = UNIQUE / (BANDWIDTH * DRAM)
ON_CACHE = PROGRAMS * ITERATIONS * LOADED / CACHE_BANDWIDTH
# Partial results pass through the last-level cache to further launches, each waiting for the one before.
ON_MERGE = PASSES * (LAUNCH + 2 * LATENCY) / CLOCK + 2 * MERGED / CACHE_BANDWIDTH
# Main memory and the units idle until the first answer is there.
SECONDS = (LAUNCHES * LAUNCH + LATENCY) / CLOCK + _soft(ON_UNIT, ON_DRAM, ON_CACHE) + ON_MERGE

PARTS = {
    "launch": LAUNCHES * LAUNCH / CLOCK,
    "programs": ON_UNIT,
    "latency": (ITERATIONS / STAGES + DEPTH) * LATENCY * ROUNDS / CLOCK,
    "matrix": ITERATIONS * PER_UNIT * MATRIX / RATE / CLOCK,
    "vector": ITERATIONS * PER_UNIT * VECTOR / CLOCK,
    "dram": ON_DRAM,
    "cache": ON_CACHE,
    "merge": ON_MERGE,
}


@lru_cache(maxsize=1)
def evaluator() -> Callable[..., Any]:
    """SECONDS as a function of INPUTS in order; numbers or numpy arrays."""
    function: Callable[..., Any] = _compiled(SECONDS, "numpy")
    return function


@lru_cache(maxsize=1)
def scalar() -> Callable[..., float]:
    """SECONDS of plain numbers, without numpy: ten times faster for a single call."""
    function: Callable[..., float] = _compiled(SECONDS, "math")
    return function


@lru_cache(maxsize=1)
def parts() -> Callable[..., Any]:
    """The seconds of PARTS, in order, as a function of INPUTS."""
    function: Callable[..., Any] = _compiled(list(PARTS.values()), "numpy")
    return function


def _compiled(expressions: sympy.Expr | list[sympy.Expr], modules: str) -> Any:
    several = expressions if isinstance(expressions, list) else [expressions]
    valued = [each.subs(EXPONENT, SOFT) for each in several]
    return sympy.lambdify(
        INPUTS, valued if isinstance(expressions, list) else valued[0], modules=modules, cse=True
    )


def printed() -> list[str]:
    """The formula line by line, each term in those above it."""
    terms = (
        ("w", _ACTIVE), ("move", _MOVE), ("busy", BUSY), ("alone", ALONE), ("chain", CHAIN), ("q", PER_UNIT),
        ("rounds", ROUNDS), ("steps", STEPS), ("unit", ON_UNIT), ("dram", ON_DRAM), ("cache", ON_CACHE),
        ("merge", ON_MERGE), ("T", SECONDS),
    )  # fmt: skip
    lines = []
    for at, (name, term) in enumerate(terms):
        for earlier, inner in reversed(terms[:at]):
            term = term.subs(inner, sympy.Symbol(earlier))
        lines.append(f"{name} = {term}")
    return lines
