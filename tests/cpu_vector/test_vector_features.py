"""The tests of the kernels again, with the engine held to AVX2, and to AVX-512 without bf16, VNNI or AMX."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from headrace.codegen.cpu import target

HERE = pathlib.Path(__file__).parent
LEVELS = {"avx2": 256, "avx512": 512}


def passes(level: str, folders: list[str], *arguments: str) -> None:
    """Run tests in a process whose engine may use nothing newer than the level."""
    if target.host().vector_bits < LEVELS[level]:
        pytest.skip(f"this processor has no {level}")
    paths = [str(HERE.parent / folder) for folder in folders]
    environment = {
        **os.environ,
        "HEADRACE_CPU_FEATURES": level,
        "PYTHONPATH": os.pathsep.join([str(HERE), *paths, *sys.path]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


SAMPLE = (
    "bfloat16 and (layer_norm or gemv_with_epilogue or whole_and_masked or matmul_block or layouts_and_tails)"
    " or special"
)


@pytest.mark.parametrize("level", LEVELS)
def test_a_sample_passes_on_fewer_features(level: str) -> None:
    passes(level, ["cpu_vector"], "-k", SAMPLE)


@pytest.mark.parametrize("level", LEVELS)
def test_the_templates_pass_on_fewer_features(level: str) -> None:
    passes(level, ["codegen"], "-k", "test_grouped_heads or test_product_of_odd_sizes or thread_counts")


@pytest.mark.soak
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("folder", ["cpu_vector", "codegen", "cpu_engine", "cpu_campaign"])
def test_everything_passes_on_fewer_features(level: str, folder: str) -> None:
    passes(level, [folder], "--deselect", str(pathlib.Path(__file__)))
