"""Kernels of these tests are written and compiled in a directory of their own."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # another folder of tests has the same option
        parser.addoption("--update-golden", action="store_true", help="rewrite the golden files that differ")


@pytest.fixture(scope="session", autouse=True)
def _own_kernel_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HEADRACE_CACHE_DIR"] = str(tmp_path_factory.mktemp("headrace"))


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """Compare a text with goldens/<name>; `--update-golden` writes it."""

    def check(name: str, text: str) -> None:
        path = Path(__file__).with_name("goldens") / name
        if request.config.getoption("--update-golden", default=False):
            path.write_text(text)
        assert path.is_file(), (
            f"{path.name} is missing; run pytest tests/codegen --update-golden and review it"
        )
        assert text == path.read_text()

    return check
