"""Seeded inputs for the kernels of ``cpu_kernels``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cpu_kernels as k
import cpu_tile_kernels as t
import torch
from cpu_case import Case


def _n(g: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=g).to(dtype)


def _i(
    g: torch.Generator, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int32
) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=g).to(dtype)


def _z(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


def _matmul(dtype: torch.dtype) -> Callable[[torch.Generator], dict[str, Any]]:
    def make(g: torch.Generator) -> dict[str, Any]:
        a, b = _n(g, 30, 40, dtype=dtype), _n(g, 40, 50, dtype=dtype)
        return {
            "a": a,
            "b": b,
            "c": _z(30, 50, dtype=dtype),
            "M": 30,
            "N": 50,
            "K": 40,
            "sam": 40,
            "sbk": 50,
            "scm": 50,
        }

    return make


def _flash(dtype: torch.dtype) -> Callable[[torch.Generator], dict[str, Any]]:
    def make(g: torch.Generator) -> dict[str, Any]:
        q, k_, v = (_n(g, 2, 40, 16, dtype=dtype) for _ in range(3))
        return {"Q": q, "K": k_, "V": v, "Out": _z(2, 40, 16, dtype=dtype), "scale": 0.25, "S": 40}

    return make


def _ties(g: torch.Generator) -> dict[str, Any]:
    return {"x": _i(g, 0, 4, 3, 32).float(), "o": _z(6), "oi": _z(6, dtype=torch.int32)}


def _nans(g: torch.Generator) -> dict[str, Any]:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5, -1.0, 2.0, 3.0, float("nan")])
    return {"x": special.repeat(4), "y": special.repeat_interleave(4), "o": _z(5 * 32)}


def _signs(g: torch.Generator) -> dict[str, Any]:
    a, b = _i(g, -(2**31), 2**31, 64), _i(g, -50, 50, 64)
    b[b == 0] = 7
    a[:4] = torch.tensor([-7, 7, -7, 7])
    b[:4] = torch.tensor([2, -2, -2, 2])
    return {"a": a, "b": b, "o": _z(640, dtype=torch.int32)}


def _expect_casts(a: dict[str, Any]) -> dict[str, torch.Tensor]:
    x, n = a["x"], a["k"]
    h, b = x.half(), x.bfloat16()
    o = h.float() + b.float() + n.float() + (n.view(torch.uint8).float() + (n > 0).float())
    return {"o": o, "h": h, "b": b, "q": x.int().to(torch.int8)}


def _casts(g: torch.Generator) -> dict[str, Any]:
    x = _n(g, 32) * 40
    x[0], x[1] = 1.0009765625, -1.0029296875  # ties of f16 and bf16
    return {
        "x": x,
        "k": _i(g, -128, 128, 32, dtype=torch.int8),
        "o": _z(32),
        "h": _z(32, dtype=torch.float16),
        "b": _z(32, dtype=torch.bfloat16),
        "q": _z(32, dtype=torch.int8),
    }


F16, BF16 = torch.float16, torch.bfloat16
CASES = [
    Case(
        "masked_add",
        k.masked_add,
        (8, 1, 1),
        lambda g: {"x": _n(g, 1000), "y": _n(g, 1000), "o": _z(1001), "n": 1000},
        {"BLOCK": 128},
    ),
    Case(
        "strided_2d",
        k.strided_2d,
        (3, 2, 1),
        lambda g: {"x": _n(g, 20, 30), "o": _z(30, 20), "M": 20, "N": 27, "sx": 30, "so": 20},
        {"BM": 8, "BN": 16},
    ),
    Case(
        "float_math",
        k.float_math,
        (1, 1, 1),
        lambda g: {"x": _n(g, 100), "o": _z(100), "n": 100},
        {"BLOCK": 128},
        1e-6,
    ),
    Case("int_math", k.int_math, (1, 1, 1), _signs, {"BLOCK": 64}),
    Case("casts", k.casts, (1, 1, 1), _casts, {"BLOCK": 32}, 1e-6, _expect_casts),
    Case(
        "half_math",
        k.half_math,
        (1, 1, 1),
        lambda g: {"x": _n(g, 64, dtype=F16), "y": _n(g, 64, dtype=F16), "o": _z(64, dtype=F16)},
        {"BLOCK": 64},
        1e-3,
    ),
    Case(
        "softmax",
        t.softmax_rows,
        (5, 1, 1),
        lambda g: {"x": _n(g, 5, 100), "o": _z(5, 100), "n": 100, "stride": 100},
        {"BLOCK": 128},
        1e-6,
    ),
    Case(
        "layer_norm",
        t.layer_norm,
        (3, 1, 1),
        lambda g: {"x": _n(g, 3, 70), "w": _n(g, 70), "o": _z(3, 70), "n": 70, "eps": 1e-5},
        {"BLOCK": 32},
        1e-5,
    ),
    Case(
        "reductions",
        t.reductions,
        (1, 1, 1),
        lambda g: {
            "x": _n(g, 8, 16),
            "k": _i(g, -99, 99, 8, 16),
            "o": _z(64),
            "oi": _z(64, dtype=torch.int32),
        },
        {"M": 8, "N": 16},
        1e-6,
    ),
    Case("arg_extremes_with_ties", t.arg_extremes, (3, 1, 1), _ties, {"N": 32}),
    Case("nan_rules", k.nan_rules, (1, 1, 1), _nans, {"BLOCK": 32}),
    Case(
        "scans",
        t.scans,
        (1, 1, 1),
        lambda g: {"x": _n(g, 8, 16), "o": _z(3, 8, 16)},
        {"R": 8, "C": 16},
        1e-5,
    ),
    Case(
        "linear_recurrence",
        t.linear_recurrence,
        (1, 1, 1),
        lambda g: {"a": _n(g, 16, 4), "b": _n(g, 16, 4), "o": _z(16, 4)},
        {"R": 16, "C": 4},
        1e-5,
    ),
    Case("matmul_f32", t.matmul, (2, 2, 1), _matmul(torch.float32), {"BM": 16, "BN": 32, "BK": 16}, 1e-6),
    Case("matmul_f16", t.matmul, (2, 2, 1), _matmul(F16), {"BM": 16, "BN": 32, "BK": 16}, 1e-3),
    Case(
        "matmul_bf16",
        t.matmul,
        (2, 2, 1),
        _matmul(BF16),
        {"BM": 16, "BN": 32, "BK": 16},
        8e-3,
        lambda a: {"c": a["a"].double() @ a["b"].double()},
    ),
    Case(
        "int8_dot",
        t.int8_dot,
        (1, 1, 1),
        lambda g: {
            "a": _i(g, -128, 128, 16, 32, dtype=torch.int8),
            "b": _i(g, -128, 128, 32, 16, dtype=torch.int8),
            "s": _n(g, 1),
            "o": _z(16, 16),
        },
        {"M": 16, "N": 16, "K": 32},
    ),
    Case(
        "batched_dot",
        t.batched_dot,
        (1, 1, 1),
        lambda g: {"a": _n(g, 2, 8, 16), "b": _n(g, 2, 16, 8), "o": _z(2, 8, 8)},
        {"B": 2, "M": 8, "K": 16},
        1e-6,
    ),
    Case(
        "flash_f32",
        t.flash,
        (3, 2, 1),
        _flash(torch.float32),
        {"D": 16, "BM": 16, "BN": 16, "CAUSAL": False},
        1e-5,
    ),
    Case(
        "flash_f16_causal",
        t.flash,
        (3, 2, 1),
        _flash(F16),
        {"D": 16, "BM": 16, "BN": 16, "CAUSAL": True},
        2e-3,
    ),
    Case(
        "flash_bf16",
        t.flash,
        (3, 2, 1),
        _flash(BF16),
        {"D": 16, "BM": 16, "BN": 16, "CAUSAL": False},
        1.6e-2,
        lambda a: {"Out": (a["Q"].double() @ a["K"].double().mT * 0.25).softmax(-1) @ a["V"].double()},
    ),
    Case(
        "atomics",
        k.atomics,
        (4, 1, 1),
        lambda g: {
            "x": _i(g, 0, 1000, 128),
            "hist": _z(16, dtype=torch.int32),
            "extremes": torch.tensor([0, 0, 9999, 9999, 0, 0, 0, -1, -1], dtype=torch.int32),
            "f": _z(5),
        },
        {"N": 32},
    ),
    Case(
        "exchange",
        k.exchange,
        (1, 1, 1),
        lambda g: {"x": _i(g, 0, 99, 32), "o": _z(64, dtype=torch.int32)},
        {"N": 32},
    ),
    Case(
        "spin_lock",
        k.spin_lock,
        (16, 1, 1),
        lambda g: {"lock": _z(1, dtype=torch.int32), "counter": _z(1, dtype=torch.int32), "n": 3},
        {},
    ),
    Case(
        "loads_before_stores",
        k.loads_before_stores,
        (1, 1, 1),
        lambda g: {"x": _n(g, 65), "y": _n(g, 64), "o": _z(128)},
        {"N": 64},
        1e-6,
    ),
    Case(
        "in_place_loop",
        k.in_place_loop,
        (1, 1, 1),
        lambda g: {"x": _n(g, 32).abs() + 1, "o": _z(32), "n": 3},
        {"N": 32},
        1e-5,
    ),
    Case("row_swap", t.row_swap, (1, 1, 1), lambda g: {"x": _n(g, 8, 32)}, {"M": 8, "N": 32}, 1e-6),
    Case(
        "conditional_store",
        k.conditional_store,
        (1, 1, 1),
        lambda g: {"x": _n(g, 32), "o": _z(32), "n": 5},
        {"N": 32},
    ),
    Case(
        "map_elementwise",
        k.mapped,
        (1, 1, 1),
        lambda g: {"x": _n(g, 32), "y": _n(g, 32), "o": _z(64)},
        {"N": 32},
        expect=lambda a: {"o": torch.cat([torch.minimum(a["x"], a["y"]), torch.maximum(a["x"], a["y"])])},
    ),
    Case(
        "programs_that_wait_for_each_other",
        k.turns,
        (16, 1, 1),
        lambda g: {"flag": _z(1, dtype=torch.int32), "o": _z(16, dtype=torch.int32), "f": _n(g, 16)},
        {},
        expect=lambda a: {
            "flag": torch.tensor([16], dtype=torch.int32),
            "o": torch.arange(16, dtype=torch.int32),
            "f": torch.cat([a["f"][:1] * 2, (a["f"][:1] * 4).expand(15)]),
        },
    ),
    Case(
        "shuffles",
        t.shuffles,
        (1, 1, 1),
        lambda g: {"x": _n(g, 32), "k": _i(g, 0, 99, 32), "o": _z(8 * 32), "oi": _z(8, dtype=torch.int32)},
        {"N": 32},
    ),
    Case(
        "gather_columns",
        t.gather_columns,
        (1, 1, 1),
        lambda g: {"x": _n(g, 8, 16), "k": _i(g, 0, 16, 8, 16), "o": _z(8, 16)},
        {"R": 8, "C": 16},
    ),
    Case(
        "branches_and_early_return",
        k.branches,
        (6, 1, 1),
        lambda g: {"x": _n(g, 64), "o": _z(64), "n": 64},
        {"BLOCK": 16},
    ),
    Case("while_loop", k.while_loop, (1, 1, 1), lambda g: {"x": _n(g, 16) * 50, "o": _z(17)}, {"N": 16}),
    Case("fibonacci", k.fibonacci, (1, 1, 1), lambda g: {"o": _z(2, dtype=torch.int32), "n": 50}, {}),
    Case(
        "swap_tensors", k.swap_tensors, (1, 1, 1), lambda g: {"x": _n(g, 32), "o": _z(32), "n": 5}, {"N": 16}
    ),
    Case("calls", k.calls, (1, 1, 1), lambda g: {"x": _n(g, 32), "o": _z(32)}, {"N": 32}, 1e-6),
    Case(
        "booleans",
        k.booleans,
        (1, 1, 1),
        lambda g: {"x": _n(g, 32), "b": _i(g, 0, 2, 32, dtype=torch.bool), "o": _z(96, dtype=torch.bool)},
        {"N": 32},
    ),
    Case(
        "persistent",
        k.persistent,
        (3, 1, 1),
        lambda g: {"x": _n(g, 10 * 16), "o": _z(10 * 16), "n": 10},
        {"BLOCK": 16},
    ),
    Case(
        "unpack_int4",
        k.unpack_int4,
        (1, 1, 1),
        lambda g: {"w": _i(g, -128, 128, 8, 16, dtype=torch.int8), "s": _n(g, 16), "o": _z(16, 16)},
        {"K": 8, "N": 16},
    ),
    Case(
        "random_numbers", k.random_numbers, (1, 1, 1), lambda g: {"o": _z(128), "seed": 77}, {"N": 64}, 1e-5
    ),
    Case(
        "wide_index",
        k.wide_index,
        (1, 1, 1),
        lambda g: {"x": _n(g, 160), "o": _z(16), "stride": 10},
        {"N": 16},
    ),
    Case(
        "double_math",
        k.double_math,
        (1, 1, 1),
        lambda g: {"x": _n(g, 32, dtype=torch.float64), "o": _z(32, dtype=torch.float64)},
        {"N": 32},
        1e-12,
    ),
]
BY_NAME = {c.name: c for c in CASES}
