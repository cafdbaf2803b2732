"""Rows for tests."""

from __future__ import annotations

from headrace.autotune.db.rows import Check, Environment, Observation, Policy, Stage, Verdict

HERE = Environment("cpu/x86_64/avx512f", "Some CPU/units=2/memory=16GiB", "torch=2.13.0 triton=3.9.0")
CHECK = Check((1, 2, 3), "float64", 10, 1e-6, 1e-4)


def row(
    schedule: str = "tiled{block=16}",
    seconds: float | tuple[float, ...] = 1e-3,
    *,
    spec: str = "Gemm{x=f32}",
    sizes: tuple[int, ...] = (4,),
    where: Environment = HERE,
    verdict: Verdict = Verdict.OK,
    stage: Stage = Stage.SCREEN,
    baseline: bool = False,
    race: str = "",
    digest: str = "d0",
    numerics: str = "n",
    cause: str = "",
) -> Observation:
    samples = seconds if isinstance(seconds, tuple) else tuple(seconds * (1 + k / 1000) for k in range(9))
    return Observation(
        spec, sizes, numerics, schedule, digest, where, Policy(stage), verdict,
        samples if verdict is Verdict.OK else (),
        CHECK if verdict is Verdict.OK else None, cause, baseline, race,
    )  # fmt: skip


def some(count: int, tag: int = 0) -> list[Observation]:
    return [row(f"tiled{{block={tag * 100_000 + k}}}", 1e-3 + k * 1e-6) for k in range(count)]
