"""Run the command line in this process, over a database and settings of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace import configuration
from headrace.compiler.cli.app import main


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with nothing in it, where the default database would be made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_DATABASE", str(tmp_path / "results.db"))
    configuration.current.cache_clear()
    yield tmp_path
    configuration.current.cache_clear()


@pytest.fixture
def headrace(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: str) -> Ran:
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run
