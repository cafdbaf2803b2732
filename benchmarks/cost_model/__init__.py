"""The cost model against timings recorded on GPUs: `python -m benchmarks cost_model --data FOLDER [--fit]`.

Constants are fitted on one half of the shapes and scored on the other, and the other way round; the rows are
the two halves. Other cards and kernels are predicted with the A100's constants, and with their own.
Without `--data` and without the setting `recorded_data` there is nothing to judge.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from benchmarks.common import Bar, Result
from benchmarks.cost_model import recorded
from benchmarks.cost_model.fit import RECORDER, fitted
from benchmarks.cost_model.recorded import Columns
from benchmarks.cost_model.scores import (
    Errors,
    Ranking,
    beyond_cache,
    decode_seconds,
    errors,
    library_seconds,
    ranking,
    triton_seconds,
)
from headrace.ir.device import Device
from headrace.ir.devices import named
from headrace.passes.cost.constants import SM_80, Constants, of

A100, L40S, A40, MI300X = (
    "NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "NVIDIA A40", "AMD Instinct MI300X",
)  # fmt: skip
Modelled = Callable[[Columns, Device, Constants], np.ndarray]
COLUMNS = ("recorded", "rows", "first", "of three", "10th %", "rank corr.", "median error", "90th %", "bias")


def run_with(arguments: Namespace) -> Result:
    """Scores as the command line asks for them."""
    return run(arguments.rounds, data=arguments.data, refit=arguments.fit, seed=arguments.seed)


def run(rounds: int = 0, *, data: Path | None = None, refit: bool = False, seed: int = 0) -> Result:
    """Scores on the recorded tables; `rounds` limits the fit's iterations (0: 260)."""
    result = Result("Cost model against recorded GPU timings", COLUMNS)
    folder = data or _configured()
    if folder is None or not folder.is_dir():
        result.notes.append("no recorded timings: give --data FOLDER or set HEADRACE_RECORDED_DATA")
        return result
    device = named(A100)
    tables = {
        "mixed": recorded.triton(folder, recorded.MIXED),
        "plain": recorded.triton(folder, recorded.PLAIN),
        "library": recorded.library(folder, A100),
        "decode": recorded.decode(folder, A100, "vllm_flash_attn"),
    }
    halves = {name: table.halves(seed) for name, table in tables.items()}
    found: list[dict[str, Ranking | Errors]] = []
    for side in (0, 1):
        constants, extra = SM_80, RECORDER
        if refit:
            train = {name: half[side] for name, half in halves.items()}
            constants, extra = fitted(SM_80, RECORDER, train, device, iterations=rounds or 260, seed=seed)
            result.notes.append(f"half {side + 1}: {_text(constants)}; recorder {extra:.3g} s")
        test = {name: half[1 - side] for name, half in halves.items()}
        found.append(dict(judged(test, device, constants, extra)))
        word = f"fitted on half {side + 1}" if refit else "the package's constants"
        result.rows += [_row(f"{name}, half {2 - side}, {word}", each) for name, each in found[-1].items()]
    result.bars += list(_bars(found))
    result.rows += [_row(name, each) for name, each in transfer(folder)]
    result.notes.append(
        "below the halves: with the A100's constants nothing of a table was fitted; a card's own constants "
        "were fitted on half of its rows (L40S; MI300X: hipBLASLt alone)"
    )
    return result


def judged(
    tables: dict[str, Columns], device: Device, constants: Constants, recorder: float
) -> Iterator[tuple[str, Ranking | Errors]]:
    for name, title in (("mixed", "Triton 16-bit x int8"), ("plain", "Triton 16-bit")):
        yield title, ranking(triton_seconds(tables[name], device, constants) + recorder, tables[name])
    products, beyond = tables["library"], beyond_cache(tables["library"], device)
    yield "library bf16 > L2", errors(library_seconds(beyond, device, constants), beyond["seconds"])
    yield "library bf16, all", errors(library_seconds(products, device, constants), products["seconds"])
    attention = tables["decode"]
    yield "decode attention", errors(decode_seconds(attention, device, constants), attention["seconds"])


def transfer(folder: Path) -> Iterator[tuple[str, Errors]]:
    """Predictions of other cards and kernels: with the A100's constants, and with their own."""
    for title, device, table, modelled in _others(folder):
        for word, constants in (("A100's constants", SM_80), ("own constants", of(device))):
            if word.startswith("A100") or constants != SM_80:
                yield f"{title}, {word}", errors(modelled(table, device, constants), table["seconds"])


def _others(folder: Path) -> Iterator[tuple[str, Device, Columns, Modelled]]:
    card = named(L40S)
    for framework in ("VLLM", "TRTLLM"):
        table = beyond_cache(recorded.library(folder, L40S, framework), card)
        yield f"L40S library bf16 > L2, {framework}", card, table, library_seconds
    for source in ("vllm_flash_attn_fa2", "torch_flow"):
        table = recorded.decode(folder, L40S, source)
        yield f"L40S decode attention, {source}", card, table.where(table["window"] == 0), decode_seconds
    for gpu, name in (("A40", A40), ("A100", A100)):
        for most in (64, 1024):
            title = f"{gpu} layers' products, M <= {most}"
            yield title, named(name), recorded.layers(folder, gpu, most), _cold
    card = named(MI300X)
    yield "MI300X hipBLASLt 16-bit, M <= 4", card, recorded.published(folder, "MI300X", "hipBLASLt"), _cold
    table = recorded.aiter(folder, 304)
    yield "MI300X aiter 8-bit, M <= 64", card, table.where(table["m"] <= 64), _cold_bytes


def _cold(table: Columns, device: Device, constants: Constants) -> np.ndarray:
    return library_seconds(table, device, constants, False)


def _cold_bytes(table: Columns, device: Device, constants: Constants) -> np.ndarray:
    return library_seconds(table, device, constants, False, 1)


def _bars(found: list[dict[str, Ranking | Errors]]) -> Iterator[Bar]:
    """The bars hold on the mean of the two halves."""

    def mean(title: str, field: str) -> float:
        return sum(float(getattr(half[title], field)) for half in found) / len(found)

    for title, field, bound in (
        ("Triton 16-bit x int8", "first", 0.93),
        ("Triton 16-bit x int8", "three", 0.985),
        ("Triton 16-bit x int8", "tenth", 0.85),
        ("Triton 16-bit x int8", "spearman", 0.85),
        ("Triton 16-bit", "first", 0.96),
    ):
        yield Bar(f"{title}: {field}", mean(title, field), bound)
    yield Bar("library bf16 > L2: median error", mean("library bf16 > L2", "median"), 0.05, at_most=True)
    yield Bar("decode attention: median error", mean("decode attention", "median"), 0.12, at_most=True)


def _row(name: str, score: Ranking | Errors) -> tuple[object, ...]:
    if isinstance(score, Ranking):
        shares = (score.first, score.three, score.tenth, score.spearman)
        return (name, score.shapes, *(f"{value:.3f}" for value in shares), f"{score.error:.1%}", "", "")
    return (
        name,
        score.rows,
        "",
        "",
        "",
        "",
        f"{score.median:.1%}",
        f"{score.ninetieth:.1%}",
        f"{score.bias:+.1%}",
    )


def _text(constants: Constants) -> str:
    return ", ".join(f"{field.name}={getattr(constants, field.name):.4g}" for field in fields(constants))


def _configured() -> Path | None:
    from headrace.configuration import current

    return current().settings.recorded_data
