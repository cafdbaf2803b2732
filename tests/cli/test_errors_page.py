"""docs/errors.md shows every error of the catalogue, under the floor that raises it, and no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from headrace import errors

ROOT = Path(__file__).parents[2]


def catalogue() -> dict[str, str]:
    """Class name -> the comment line that heads its group in the module."""
    found, group = {}, ""
    for line in inspect.getsource(errors).splitlines():
        if re.fullmatch(r"# [a-z]+", line):
            group = line[2:]
        elif match := re.match(r"class (\w+)\(HeadraceError\)", line):
            found[match[1]] = group
    return found


def documented() -> dict[str, str]:
    found, group = {}, ""
    for line in (ROOT / "docs/errors.md").read_text().splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif match := re.match(r"\*\*`(\w+)`\*\*: \S", line):
            found[match[1]] = group
    return found


def test_every_error_has_an_example_in_the_docs():
    assert documented() == catalogue()


def test_every_error_says_what_it_is_about():
    for name in catalogue():
        assert len(inspect.getdoc(getattr(errors, name)) or "") > 20, name
