"""Timings that others recorded on real GPUs, as numpy columns. The files stay outside of the repository."""

from __future__ import annotations

import csv
import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MIXED, PLAIN = "triton_mixed_mm_a100", "triton_mm_a100_m512"
LIBRARY, DECODE = "aiconfigurator_gemm_bf16_a100_l40s", "aiconfigurator_decode_attention_a100_l40s"
LAYERS, AITER = "vidur_layer_ops_a40_a100", "aiter_best_gemm_gfx942_m1024"


@dataclass(frozen=True)
class Columns:
    """A table by columns; `shape` numbers the problem that a row belongs to, from 0 without gaps."""

    values: dict[str, np.ndarray]
    shape: np.ndarray

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    def __len__(self) -> int:
        return len(self.shape)

    def where(self, keep: np.ndarray) -> Columns:
        _, shape = np.unique(self.shape[keep], return_inverse=True)
        return Columns({name: column[keep] for name, column in self.values.items()}, shape)

    def some(self, most: int, seed: int) -> Columns:
        """Whole shapes, drawn at random, of about `most` rows."""
        count = int(self.shape.max()) + 1
        share = min(1.0, most / len(self))
        drawn = np.random.default_rng(seed).random(count) < share
        return self.where(drawn[self.shape])

    def halves(self, seed: int) -> tuple[Columns, Columns]:
        """Two halves of the shapes."""
        count = int(self.shape.max()) + 1
        first = np.zeros(count, dtype=bool)
        first[np.random.default_rng(seed).permutation(count)[: count // 2]] = True
        return self.where(first[self.shape]), self.where(~first[self.shape])


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(folder / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbered(values: dict[str, np.ndarray], keys: tuple[str, ...]) -> Columns:
    ids = np.stack([np.unique(values[key], return_inverse=True)[1] for key in keys], axis=1)
    shape = np.unique(ids, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(shape, kind="stable")
    return Columns({name: column[order] for name, column in values.items()}, shape[order])


def _of(rows: list[dict[str, str]], names: dict[str, str]) -> dict[str, np.ndarray]:
    return {ours: np.array([float(row[theirs]) for row in rows]) for ours, theirs in names.items()}


def triton(folder: Path, name: str, most_rows: int = 64) -> Columns:
    """Inductor's matmul template on an A100: every configuration of every shape of 16-bit x."""
    rows = [
        row
        for row in _rows(folder, name)
        if row["library"] == "0" and row["t_mat1_dtype"] != "float32" and int(row["t_m"]) <= most_rows
        and np.isfinite(float(row["time_ms"]))
    ]  # fmt: skip
    values = _of(
        rows,
        {
            "m": "t_m", "n": "t_n", "k": "t_k", "x0": "t_mat1_stride_0", "x1": "t_mat1_stride_1",
            "w0": "t_mat2_stride_0", "w1": "t_mat2_stride_1", "block_m": "p_BLOCK_M",
            "block_n": "p_BLOCK_N", "block_k": "p_BLOCK_K", "stages": "p_numstages", "warps": "p_numwarps",
            "seconds": "time_ms",
        },
    )  # fmt: skip
    values["seconds"] *= 1e-3
    values["bytes_w"] = np.array([1.0 if "int8" in row["t_mat2_dtype"] else 2.0 for row in rows])
    values["types"] = np.array([row["t_mat1_dtype"] + row["t_mat2_dtype"] for row in rows])
    leading_x = np.where(
        values["m"] == 1, values["k"], np.where(values["x1"] == 1, values["x0"], values["x1"])
    )
    leading_w = np.where(values["w1"] == 1, values["w0"], values["w1"])
    values["copy_x"] = _copy(leading_x * 2)
    values["copy_w"] = _copy(leading_w * values["bytes_w"])
    values["by_columns"] = ((values["w1"] == 1) & (values["w0"] != 1)).astype(float)
    return _numbered(values, ("types", "m", "n", "k", "x0", "w0", "w1"))


def _copy(pitch: np.ndarray) -> np.ndarray:
    """Bytes of the widest asynchronous copy that rows of a pitch in bytes allow."""
    return np.select([pitch % 16 == 0, pitch % 8 == 0, pitch % 4 == 0], [16.0, 8.0, 4.0], 0.0)


def library(folder: Path, device: str, framework: str = "", most_rows: int = 64) -> Columns:
    """Library bf16 products; `framework` one of VLLM, TRTLLM, SGLang, or all."""
    rows = [
        row
        for row in _rows(folder, LIBRARY)
        if row["device"] == device and framework in row["framework"] and int(row["m"]) <= most_rows
    ]
    values = _of(rows, {"m": "m", "n": "n", "k": "k", "seconds": "latency_ms"})
    values["seconds"] *= 1e-3
    return _numbered(values, ("m", "n", "k"))


def decode(folder: Path, device: str, source: str, kv: str = "bfloat16") -> Columns:
    """Library decode attention of one kernel source."""
    rows = [
        row
        for row in _rows(folder, DECODE)
        if row["device"] == device and row["kernel_source"] == source and row["kv_cache_dtype"] == kv
    ]
    values = _of(
        rows,
        {"batch": "batch_size", "heads": "num_heads", "kv_heads": "num_key_value_heads", "dim": "head_dim",
         "window": "window_size", "length": "kv_len", "seconds": "latency_ms"},
    )  # fmt: skip
    values["seconds"] *= 1e-3
    values["kv_heads"] = np.where(values["kv_heads"] == 0, values["heads"], values["kv_heads"])
    windowed = (values["window"] > 0) & (values["window"] < values["length"])
    values["length"] = np.where(windowed, values["window"], values["length"])
    return _numbered(values, ("batch", "heads", "kv_heads", "dim", "window", "length"))


def layers(folder: Path, gpu: str, most_rows: int = 64) -> Columns:
    """The projections of eight models' layers (library, 16 bits), tensor-parallel shards included."""
    found: dict[str, list[float]] = {name: [] for name in ("m", "n", "k", "seconds")}
    for row in _rows(folder, LAYERS):
        tokens, shards = int(row["num_tokens"]), int(row["num_tensor_parallel_workers"])
        if row["gpu"] != gpu or tokens > most_rows:
            continue
        wide, hidden = int(row["n_embd"]), int(row["n_expanded_embd"])
        heads, kv = int(row["n_head"]), int(row["n_kv_head"])
        up = hidden * (2 if row["use_gated_mlp"] == "True" else 1)
        for column, n, k in (
            ("attn_pre_proj_ms", (heads + 2 * kv) * (wide // heads) // shards, wide),
            ("attn_post_proj_ms", wide, wide // shards),
            ("mlp_up_proj_ms", up // shards, wide),
            ("mlp_down_proj_ms", wide, hidden // shards),
        ):
            if row[column]:
                for name, value in zip(found, (tokens, n, k, float(row[column]) * 1e-3), strict=True):
                    found[name].append(value)
    return _numbered({name: np.array(column) for name, column in found.items()}, ("m", "n", "k"))


def aiter(folder: Path, units: int) -> Columns:
    """The best measured product of 8-bit operands per shape on MI300X (304 units) or MI308X (80)."""
    rows = [
        row
        for row in _rows(folder, AITER)
        if int(row["cu_num"]) == units and "a8w8" in row["file"] and "batched" not in row["file"]
    ]
    values = _of(rows, {"m": "M", "n": "N", "k": "K", "seconds": "us"})
    values["seconds"] *= 1e-6
    return _numbered(values, ("m", "n", "k"))


def published(folder: Path, gpu: str, kernel: str, rows: float = 2.0) -> Columns:
    """16-bit products of few rows from a pull request's table; M was 1, 2 or 4, which is not said there."""
    found: dict[str, list[float]] = {"m": [], "n": [], "k": [], "seconds": []}
    with (folder / "published_tables.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sizes = re.search(r"N=(\d+);K=(\d+)", row["shape"])
            if row["gpu"] == gpu and row["kernel"].endswith(kernel) and row["metric"] == "us" and sizes:
                values = (rows, float(sizes[1]), float(sizes[2]), float(row["value"]) * 1e-6)
                for name, value in zip(found, values, strict=True):
                    found[name].append(value)
    return _numbered({name: np.array(column) for name, column in found.items()}, ("m", "n", "k"))
