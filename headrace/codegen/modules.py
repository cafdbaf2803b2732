"""A rendered text becomes a Python module, and its functions become what Triton or the engine compile."""

from __future__ import annotations

import contextlib
import hashlib
import linecache
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headrace import settings
from headrace.codegen.plan import Launch
from headrace.codegen.render import template_digest
from headrace.files import write_whole

CODEGEN_VERSION = 1
log = logging.getLogger(__name__)


def module_of(template: str, text: str) -> tuple[str, Mapping[str, Any]]:
    """Write a rendered text to the kernel directory (its name is its hash) and run it as a module.

    Where the directory cannot be written the text is only in memory, under the path that it would have had.

    Returns:
        The path, and the module's names.
    """
    digest = hashlib.sha256(f"{CODEGEN_VERSION}\0{template_digest(template)}\0{text}".encode()).hexdigest()[
        :20
    ]
    path = Path(settings.kernel_directory()) / f"{template}_{digest}.py"
    try:
        if not _is_whole(path, text.encode()):
            write_whole(path, text.encode())
    except OSError as error:
        log.debug("%s stays in memory: %s", path, error)
        # Where Triton and tracebacks look for source; without a time nobody looks for the file.
        linecache.cache[str(path)] = len(text), None, text.splitlines(keepends=True), str(path)
    scope: dict[str, Any] = {"__name__": f"headrace_kernels.{path.stem}", "__file__": str(path)}
    exec(compile(text, str(path), "exec"), scope)
    return str(path), MappingProxyType(scope)


def _is_whole(path: Path, text: bytes) -> bool:
    with contextlib.suppress(OSError):
        return path.read_bytes() == text
    return False


def constants_of(function: Any) -> dict[str, object]:
    """The defaults of a kernel's constexpr parameters."""
    return {p.name: p.default for p in function.params if p.is_constexpr}


def unspecialised(function: Any, launch: Launch) -> Any:
    """The kernel for any number of rows, queries and keys: else Triton compiles anew where one becomes 1 or a
    multiple of 16. A row's length decides how its rows are aligned, as strides do."""
    import triton

    sizes = [p.name for p in launch.params if p.type == "i32" and p.name != "N"]
    return triton.jit(function.fn, do_not_specialize=sizes)


def interpreted() -> bool:
    """Whether Triton's interpreter runs kernels instead of a compiler."""
    import triton

    return bool(triton.knobs.runtime.interpret)
