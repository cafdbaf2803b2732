"""The operators that stand for kernels in an FX graph: `headrace::run<n>x<o>(Tensor x0, ..., str spec)`.

An operator takes n tensors and a Spec's canonical text and returns o tensors. It carries no Schedule: the
runtime finds that when the compiled graph runs, so tuning never invalidates a compiled graph. One operator
per arity, because a list of tensors costs more to pass than the tensors (2.2 against 1.7 microseconds a
call), and functional ones, because an out variant costs more than the allocation it saves.

They are for inference. Under autograd they behave as a constant: no gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from headrace.compiler.restride import output_strides
from headrace.compiler.scopes import HERE, KINDS
from headrace.errors import EmitError
from headrace.ir.spec import parse_spec

NAMESPACE = "headrace"
MAX_INPUTS = 24
MAX_OUTPUTS = 4


def operator(inputs: int, outputs: int) -> Any:
    """The overload that takes `inputs` tensors and returns `outputs`.

    Raises:
        EmitError: no operator is that wide.
    """
    if not (1 <= inputs <= MAX_INPUTS and 1 <= outputs <= MAX_OUTPUTS):
        raise EmitError(
            f"no operator takes {inputs} tensors and returns {outputs}; "
            f"at most {MAX_INPUTS} and {MAX_OUTPUTS}"
        )
    return getattr(getattr(torch.ops, NAMESPACE), f"run{inputs}x{outputs}").default


def is_operator(target: object) -> bool:
    """Whether an FX node's target is one of ours."""
    return isinstance(target, torch._ops.OpOverload) and target.namespace == NAMESPACE


def _fake(*arguments: Any) -> Any:
    """Shapes, strides and dtypes of the results, for real or symbolic sizes."""
    *inputs, text = arguments
    spec = parse_spec(text)
    shapes = spec.output_shapes([tuple(value.shape) for value in inputs])
    made = tuple(
        inputs[0].new_empty_strided(shape, strides, dtype=dtype.to_torch())
        for shape, strides, dtype in zip(
            shapes, output_strides(spec, shapes), spec.output_dtypes, strict=True
        )
    )
    return made if len(made) > 1 else made[0]


def _launcher(kind: str) -> Callable[..., Any]:
    def launch(*arguments: Any) -> Any:
        return HERE.scope.tables[kind][arguments[-1]](arguments[:-1])

    return launch


def _define() -> Any:
    # The lightest of torch's ways to make an operator: 1.7 microseconds a call, `custom_op` takes 14.
    make: Any = torch.library.Library  # untyped
    library = make(NAMESPACE, "FRAGMENT")
    implementations = {kind: _launcher(kind) for kind in KINDS}
    tags = (torch.Tag.flexible_layout, torch.Tag.pt2_compliant_tag)
    for inputs in range(1, MAX_INPUTS + 1):
        for outputs in range(1, MAX_OUTPUTS + 1):
            name = f"run{inputs}x{outputs}"
            taken = ", ".join(f"Tensor x{at}" for at in range(inputs))
            given = ", ".join(["Tensor"] * outputs)
            library.define(f"{name}({taken}, str spec) -> ({given})", tags=tags)
            library.impl(name, _fake, "Meta")
            for key, implementation in implementations.items():
                library.impl(name, implementation, key)
                library.impl(name, torch.library.fallthrough_kernel, f"Autograd{key}")
    return library


_LIBRARY = _define()
