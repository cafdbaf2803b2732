"""The operators that stand for kernels in an FX graph: `headrace::run<n>x<o>(Tensor x0, ..., str spec)`.

An operator takes n tensors and a Spec's canonical text and returns o tensors. It carries no Schedule: the
runtime finds that when the compiled graph runs, so tuning never invalidates a compiled graph. One operator
per arity, because a list of tensors costs more to pass than the tensors (2.2 against 1.7 microseconds a
call), and functional ones, because an out variant costs more than the allocation it saves.

They are for inference. Under autograd they behave as a constant: no gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from headrace.compiler import runtime
from headrace.errors import EmitError
from headrace.ir.spec import Attention, Spec, parse_spec

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


def output_strides(spec: Spec, shapes: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    """The strides, in elements, of the tensors that an operator returns.

    Contiguous; but attention's `[B, H, I, d_v]` is the transpose of a contiguous `[B, I, H, d_v]`, since what
    follows an attention merges its heads.
    """
    if isinstance(spec, Attention):
        ((_, heads, queries, width),) = shapes
        return ((queries * heads * width, width, heads * width, 1),)
    return tuple(contiguous_strides(shape) for shape in shapes)


def contiguous_strides(shape: Sequence[Any]) -> tuple[Any, ...]:
    strides: list[Any] = []
    step: Any = 1
    for extent in reversed(shape):
        strides.append(step)
        step = step * extent
    return tuple(reversed(strides))


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


def _launcher(table: runtime.Table) -> Callable[..., Any]:
    def launch(*arguments: Any) -> Any:
        return table[arguments[-1]](arguments[:-1])

    return launch


def _define() -> Any:
    # The lightest of torch's ways to make an operator: 1.7 microseconds a call, `custom_op` takes 14.
    # Torch's class is untyped.
    library: Any = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
    implementations = {key: _launcher(runtime.TABLES[key]) for key in runtime.TABLES}
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
