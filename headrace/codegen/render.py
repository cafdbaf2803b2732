"""Templates to Triton text: strict about names, strict about values, precise about errors.

A template is a `.py.j2` file that reads as the kernel. What goes into it is checked before rendering:
booleans, integers of 64 bits, enum members, identifiers, `Code` made by `expr_triton`, and dataclasses,
tuples and mappings of these. Free text is refused, so nothing that came from a database can become source.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from headrace.codegen.expr_triton import Code
from headrace.errors import RenderError

TEMPLATES = Path(__file__).with_name("templates")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_CONTEXT_LINES = 3


def render(template: str, context: Mapping[str, Any], *, directory: Path = TEMPLATES) -> str:
    """The text of `<template>.py.j2` with the values of `context`.

    Raises:
        RenderError: a value is of a kind that may not be rendered, or the template is wrong or reads an
            undefined name; the message shows file, line and the lines around it.
    """
    for name, value in context.items():
        _check(name, value)
    file = f"{template}.py.j2"
    try:
        return _environment(directory).get_template(file).render(context)
    except jinja2.TemplateSyntaxError as error:
        raise RenderError(_located(directory, error.name or file, error.lineno, str(error.message))) from None
    except jinja2.TemplateNotFound as error:
        raise RenderError(f"there is no template {error.name} in {directory.name}/") from None
    except (jinja2.UndefinedError, TypeError, AttributeError) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".j2")]
        where = (Path(frames[-1].filename).name, frames[-1].lineno or 1) if frames else (file, 1)
        raise RenderError(_located(directory, *where, str(error))) from None


@lru_cache
def _environment(directory: Path) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def _check(path: str, value: object) -> None:
    if value is None or isinstance(value, (bool, Code, enum.Enum)):
        return
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise RenderError(f"{path} = {value} does not fit 64 bits")
    elif isinstance(value, str):
        if value and not _IDENTIFIER.match(value):
            raise RenderError(f"{path} = {value!r} is neither an identifier nor text made by expr_triton")
    elif isinstance(value, (tuple, list)):
        for at, item in enumerate(value):
            _check(f"{path}[{at}]", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check(f"{path} key", key)
            _check(f"{path}.{key}", item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _check(f"{path}.{field.name}", getattr(value, field.name))
    else:
        raise RenderError(f"{path} is a {type(value).__name__}, which no template may print")


def _located(directory: Path, name: str, line: int, message: str) -> str:
    lines = (directory / name).read_text().splitlines() if (directory / name).is_file() else []
    shown = [f"{name}:{line}: {message}"]
    for at in range(max(line - _CONTEXT_LINES, 1), min(line + _CONTEXT_LINES, len(lines)) + 1):
        shown.append(f"{'>' if at == line else ' '} {at:4d} | {lines[at - 1]}")
    return "\n".join(shown)


@lru_cache
def template_digest(template: str) -> str:
    """SHA-256 (16 hex digits) of a template, of the shared macros and of the functions that kernels call."""
    parts = [
        TEMPLATES / f"{template}.py.j2",
        *sorted(TEMPLATES.glob("_*.j2")),
        Path(__file__).with_name("functions.py"),
    ]
    found = hashlib.sha256()
    for part in parts:
        found.update(part.name.encode() + b"\0" + part.read_bytes() + b"\0")
    return found.hexdigest()[:16]
