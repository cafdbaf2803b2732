"""The same tests on code for AVX2: a sample of them in a process whose engine may use nothing newer."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from headrace.codegen.cpu import target

HERE = pathlib.Path(__file__).parent
SAMPLE = "bfloat16 and (layer_norm or gemv_with_epilogue or whole_and_masked or matmul_block) or special"


@pytest.mark.skipif(target.host().vector_bits < 256, reason="needs a processor with AVX2 and FMA")
def test_a_sample_passes_without_avx512():
    environment = {
        **os.environ,
        "HEADRACE_CPU_FEATURES": "avx2",
        "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SAMPLE, str(HERE)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
