"""Private names of torch in one place; and what importing headrace costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import headrace
from headrace import upstream
from headrace.errors import UnsupportedTorch


def test_this_torch_is_inside_the_window() -> None:
    assert upstream.window_complaint(torch.__version__) is None


@pytest.mark.parametrize(
    ("version", "said"), [("2.12.1", "older"), ("1.0", "older"), ("3.1.0+cu130", "newer")]
)
def test_other_versions_are_complained_about(version: str, said: str) -> None:
    complaint = upstream.window_complaint(version)
    assert complaint is not None
    assert said in complaint


def test_a_name_that_has_moved_is_named() -> None:
    with pytest.raises(UnsupportedTorch, match=r"torch\._inductor\.config\.no_such_thing"):
        upstream.fetch("torch._inductor.config", "no_such_thing")
    with pytest.raises(UnsupportedTorch, match=r"torch\.no_such_module"):
        upstream.fetch("torch.no_such_module")


def test_wrapped_causes_are_all_found() -> None:
    inner = torch._inductor.exc.InvalidCxxCompiler("g++")
    outer: Any = RuntimeError("outer")
    outer.inner_exception = inner
    last = ValueError("later")
    last.__cause__ = outer
    assert upstream.lacks_cpp_compiler(last)
    assert not upstream.lacks_cpp_compiler(RuntimeError("something else"))


def test_importing_headrace_imports_nothing_heavy() -> None:
    heavy = ("torch", "triton", "llvmlite", "optuna", "sqlalchemy", "rich", "pydantic", "numpy")
    program = (
        "import sys, headrace, headrace.settings, headrace.errors\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "assert 'freeze' in dir(headrace)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_exists() -> None:
    for name in headrace.__all__:
        assert getattr(headrace, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'frieze'"):
        _ = headrace.frieze


def test_private_torch_is_reached_from_one_module() -> None:
    root = Path(headrace.__file__).parent
    private = ("torch._inductor", "torch._functorch", "torch._dynamo", "torch._guards", "functorch.compile")
    allowed = {"upstream.py"}
    for path in (root / "compiler").glob("*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            imports = line.strip().startswith(("import ", "from "))
            used = any(f"{name}." in line and "upstream.fetch" not in line for name in private)
            if path.name not in allowed and "`" not in line and "#" not in line:
                assert not (imports and used), f"{path.name}:{number}: {line}"
