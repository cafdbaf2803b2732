"""The single place where headrace touches what torch keeps private.

Names without a stable promise (`torch._inductor`, `torch._functorch`, ...) are fetched here and nowhere
else, each by a function so that nothing is imported before it is needed. A name that has moved raises
`UnsupportedTorch`, which says what is missing; the backend turns that into plain Inductor and one warning.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from headrace.errors import UnsupportedTorch

OLDEST_TORCH = (2, 13)
NEWEST_TORCH = (2, 15)


def version_of(text: str) -> tuple[int, int]:
    """Major and minor of a version such as `2.13.0+cpu`."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def window_complaint(torch_version: str) -> str | None:
    """Why this torch lies outside the versions that headrace is tested with, or None when it does not."""
    version = version_of(torch_version)
    if version < OLDEST_TORCH:
        return (
            f"torch {torch_version} is older than {_text(OLDEST_TORCH)}, the oldest that headrace works with"
        )
    if version > NEWEST_TORCH:
        return f"torch {torch_version} is newer than {_text(NEWEST_TORCH)}, the newest that headrace knows"
    return None


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def fetch(module: str, *names: str) -> Any:
    """An attribute (dotted path given in parts) of a private module.

    Raises:
        UnsupportedTorch: the module or the name does not exist in this torch.
    """
    try:
        found: Any = importlib.import_module(module)
        for name in names:
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        import torch

        path = ".".join((module, *names))
        raise UnsupportedTorch(
            f"torch {torch.__version__} has no {path} ({error}); headrace works with torch "
            f"{_text(OLDEST_TORCH)} to {_text(NEWEST_TORCH)}"
        ) from error
    return found


def compile_fx() -> Callable[..., Any]:
    """Inductor's entry point."""
    found: Callable[..., Any] = fetch("torch._inductor.compile_fx", "compile_fx")
    return found


def inductor_config() -> Any:
    """The module that holds Inductor's configuration."""
    return fetch("torch._inductor.config")


def inductor_mode_options(mode: str, dynamic: bool | None = None) -> dict[str, Any]:
    """What Inductor itself does for a `mode=` of torch.compile."""
    return dict(fetch("torch._inductor", "list_mode_options")(mode, dynamic))


def many_recompilations() -> Any:
    """A context in which Dynamo does not give up on what was compiled for many sizes or backends."""
    return fetch("torch._dynamo.config").patch(recompile_limit=256, accumulated_recompile_limit=4096)


def custom_graph_pass() -> Any:
    """The base class of passes that take part in Inductor's cache keys."""
    return fetch("torch._inductor.custom_graph_pass", "CustomGraphPass")


def installed_passes(slot: str) -> list[Any]:
    """The passes that the user or another backend has put into a slot of Inductor's configuration."""
    listed = fetch("torch._inductor.custom_graph_pass", "get_custom_graph_passes")
    return list(listed(getattr(inductor_config(), slot)))


def lacks_cpp_compiler(error: BaseException) -> bool:
    """True when an Inductor failure comes from a missing or broken C++ compiler."""
    kinds = tuple(fetch("torch._inductor.exc", name) for name in ("InvalidCxxCompiler", "CppCompileError"))
    return any(isinstance(cause, kinds) for cause in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and everything that it wraps, by `raise from`, while handling, or as torch's wrappers do."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, current.__context__, getattr(current, "inner_exception", None)]


def aot_autograd(**arguments: Any) -> Callable[..., Any]:
    """AOTAutograd as a Dynamo backend."""
    made: Callable[..., Any] = fetch("torch._dynamo.backends.common", "aot_autograd")(**arguments)
    return made


def decompositions() -> Any:
    """Inductor's decomposition table."""
    return fetch("torch._inductor.decomposition", "select_decomp_table")()


def boxed(function: Callable[..., Any]) -> Any:
    """A callable that takes its arguments as one list, as AOTAutograd's compilers must return."""
    return fetch("functorch.compile", "make_boxed_func")(function)


def fake_mode_of(values: list[Any]) -> Any:
    """The FakeTensorMode that values belong to, or None."""
    return fetch("torch._guards", "detect_fake_mode")(values)


def free_symbols(value: Any) -> set[Any]:
    """The symbols in a SymInt, a size or a fake tensor."""
    return set(fetch("torch.fx.experimental.symbolic_shapes", "free_symbols")(value))


def statically_true(condition: Any) -> bool:
    """Whether a symbolic condition holds for every size, decided without installing a guard."""
    return bool(fetch("torch.fx.experimental.symbolic_shapes", "statically_known_true")(condition))


def empty_strided_cpu() -> Callable[..., Any]:
    """The allocator that Inductor's own generated code calls: (size, stride, dtype) -> Tensor."""
    found: Callable[..., Any] = fetch("torch._C", "_dynamo", "guards", "_empty_strided_cpu")
    return found


def is_control_flow(error: BaseException) -> bool:
    """Whether an exception is Dynamo's way to start over or to step aside, which must reach Dynamo."""
    exc = fetch("torch._dynamo.exc")
    kinds = tuple(
        getattr(exc, name)
        for name in ("RestartAnalysis", "SkipFrame", "TensorifyScalarRestartAnalysis", "RecompileError")
        if hasattr(exc, name)
    )
    return isinstance(error, kinds)
