"""The command line's own words: help and version at once, verbs when they are called."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import headrace
from headrace.compiler.cli.app import VERBS, verb

PROGRAM = """
import sys
from headrace.compiler.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", [name for name in ("torch", "triton", "sympy", "sqlalchemy") if name in sys.modules])
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["-h"]], ids=" ".join)
def test_help_and_version_import_neither_torch_nor_the_database(words: list[str]) -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True
    ).stdout
    assert "LOADED []" in said
    shown = [headrace.__version__] if words == ["--version"] else VERBS
    assert all(word in said for word in shown)


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--version"], 0), (["tun"], 2)])
def test_the_module_is_the_script(words: list[str], code: int, headrace: Callable[..., Any]) -> None:
    ran = subprocess.run([sys.executable, "-m", "headrace", *words], capture_output=True, text=True)
    script = headrace(*words)
    assert ran.returncode == script.code == code
    assert (ran.stdout, ran.stderr) == (script.out, script.err)


@pytest.mark.parametrize("name", VERBS)
def test_the_help_page_says_of_a_verb_what_the_verb_says_of_itself(name: str) -> None:
    command = verb(name)
    assert (command.help or "").splitlines()[0] == VERBS[name][1]


def test_a_verb_that_does_not_exist_is_the_callers_mistake(headrace: Callable[..., Any]) -> None:
    ran = headrace("tun")
    assert ran.code == 2
    assert "tun" in ran.err


def test_a_verbs_own_help_names_its_options(headrace: Callable[..., Any]) -> None:
    ran = headrace("explain", "--help")
    assert ran.code == 0
    assert "--full" in ran.out
    assert "headrace explain" in ran.out
