"""Rendering: what may enter a template, and errors that show where."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.codegen.expr_triton import Code
from headrace.codegen.render import TEMPLATES, render, template_digest
from headrace.errors import RenderError


@pytest.fixture
def template(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "t.py.j2").write_text(text)
        return tmp_path

    return write


def test_an_undefined_name_shows_file_line_and_context(template) -> None:
    directory = template("one\ntwo\n{{ missing }}\nfour\n")
    with pytest.raises(RenderError) as caught:
        render("t", {}, directory=directory)
    assert "t.py.j2:3: 'missing' is undefined" in str(caught.value)
    assert ">    3 | {{ missing }}" in str(caught.value)
    assert "     2 | two" in str(caught.value)


def test_an_undefined_attribute_is_an_error(template) -> None:
    with pytest.raises(RenderError, match=r"t\.py\.j2:2"):
        render("t", {"job": {"n": 1}}, directory=template("x\n{{ job.m }}\n"))


def test_wrong_syntax_shows_its_line(template) -> None:
    with pytest.raises(RenderError, match=r"t\.py\.j2:2"):
        render("t", {}, directory=template("x\n{% if %}\n"))


def test_a_missing_template_is_named(template) -> None:
    with pytest.raises(RenderError, match=r"u\.py\.j2"):
        render("u", {}, directory=template("x"))


@pytest.mark.parametrize(
    "value", ["a b", "x; y", "1x", "import os\n", 1.5, 1 << 64, object(), ["ok", "not ok"], {"k": "f()"}]
)
def test_free_text_and_odd_values_are_refused(template, value: object) -> None:
    with pytest.raises(RenderError):
        render("t", {"v": value}, directory=template("{{ v }}"))


def test_checked_values_are_rendered(template) -> None:
    directory = template("{{ n }} {{ name }} {{ code }} {{ flags[0] }}")
    context = {"n": -3, "name": "w0_ptr", "code": Code("a + b"), "flags": (True, None)}
    assert render("t", context, directory=directory) == "-3 w0_ptr a + b True"


def test_every_dataflow_has_a_template_with_a_digest_of_its_own() -> None:
    from headrace.codegen.dataflows import DATAFLOWS

    names = {flow.template for flow in DATAFLOWS.values() if flow.template}
    assert names == {path.name.removesuffix(".py.j2") for path in TEMPLATES.glob("[!_]*.j2")}
    assert len({template_digest(name) for name in names}) == len(names)
