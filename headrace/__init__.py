"""headrace: a graph optimizer and autotuner for PyTorch. Importing it imports neither torch nor Triton.

torch.compile(model, backend="headrace")      compile; see `headrace.Options` for `options={...}`
headrace.explain(compiled)(*inputs)           what was claimed, what was not, and why
headrace.tune(compiled)(*inputs)              measure schedules for what the model runs, and remember them
headrace.calibrate(model, data, name=...)     where attention may use a unified maximum
headrace.freeze(model)                        declare the weights constant
headrace.optimize(exported_program)           the same passes without Dynamo
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module that has it. Triton imports this package while it is being imported itself, so
# everything is fetched when first asked for.
_HOMES = {
    "GraphRecord": "headrace.compiler.records",
    "HeadraceError": "headrace.errors",
    "HeadraceWarning": "headrace.compiler.notices",
    "Options": "headrace.compiler.options",
    "Report": "headrace.compiler.report",
    "backend": "headrace.compiler.backend",
    "calibrate": "headrace.compiler.calibrate",
    "explain": "headrace.compiler.report",
    "freeze": "headrace.compiler.freeze",
    "load": "headrace.compiler.export",
    "optimize": "headrace.compiler.export",
    "save": "headrace.compiler.export",
    "tune": "headrace.compiler.tuning",
    "unfreeze": "headrace.compiler.freeze",
}

if TYPE_CHECKING:
    from headrace.compiler.backend import backend
    from headrace.compiler.calibrate import calibrate
    from headrace.compiler.export import load, optimize, save
    from headrace.compiler.freeze import freeze, unfreeze
    from headrace.compiler.notices import HeadraceWarning
    from headrace.compiler.options import Options
    from headrace.compiler.records import GraphRecord
    from headrace.compiler.report import Report, explain
    from headrace.compiler.tuning import tune
    from headrace.errors import HeadraceError

__all__ = [
    "GraphRecord", "HeadraceError", "HeadraceWarning", "Options", "Report", "backend", "calibrate", "explain",
    "freeze", "load", "optimize", "save", "tune", "unfreeze",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
