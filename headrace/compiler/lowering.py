"""Inductor's lowering of our operators: generated code calls the runtime directly.

The usual way through torch's dispatcher costs 2 to 3 microseconds a call. A compiled graph knows its Specs,
so its module binds each one once, when it is loaded, and then makes plain Python calls:

    from headrace.compiler.scopes import bind
    headrace_4f1c... = bind('CPU', 'Gemm{...}')
    ...
    buf3 = headrace_4f1c...(buf2, arg7_1)

Where Inductor writes C++ instead of Python the operator call stays as it is.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from headrace import upstream
from headrace.compiler.operators import MAX_INPUTS, MAX_OUTPUTS, operator
from headrace.errors import UnsupportedTorch
from headrace.ir.spec.operand import digest

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def install() -> bool:
    """Teach Inductor to lower our operators; False where this torch has another Inductor (calls then cost
    more).
    """
    try:
        register = upstream.fetch("torch._inductor.lowering", "register_lowering")
        lower = _lowering()
    except UnsupportedTorch as error:
        log.info("operators keep their usual lowering: %s", error)
        return False
    for inputs in range(1, MAX_INPUTS + 1):
        for outputs in range(1, MAX_OUTPUTS + 1):
            target = operator(inputs, outputs)
            register(target, type_promotion_kind=None)(functools.partial(lower, target))
    return True


def _lowering() -> Any:
    ir = upstream.fetch("torch._inductor.ir")
    base: Any = ir.ExternKernelAlloc
    virtual = upstream.fetch("torch._inductor.virtualized", "V")
    fallback = upstream.fetch("torch._inductor.lowering", "fallback_handler")

    class Call(base):  # type: ignore[misc]  # a private base class is untyped
        """One call of a bound kernel. The runtime checks that results are what the fake values promise."""

        def __init__(self, layout: Any, inputs: list[Any], kind: str, text: str) -> None:
            super().__init__(layout, inputs, python_kernel_name=_name(text))
            self.binding = f"{_name(text)} = headrace_bind({'CPU' if kind == 'cpu' else 'CUDA'!r}, {text!r})"

        def codegen(self, wrapper: Any) -> None:
            wrapper.add_import_once("from headrace.compiler.scopes import bind as headrace_bind")
            wrapper.add_import_once(self.binding)
            super().codegen(wrapper)

        def codegen_size_asserts(self, wrapper: Any) -> None:
            return None

        def codegen_alignment_asserts(self, wrapper: Any) -> None:
            return None

    def lower(target: Any, *arguments: Any) -> Any:
        graph = virtual.graph
        value = graph.current_node.meta.get("val")
        *tensors, text = arguments
        if graph.cpp_wrapper or getattr(graph, "aot_mode", False) or value is None:
            return fallback(target, add_to_fallback_set=False)(*arguments)
        inputs = [ir.ExternKernel.realize_input(tensor) for tensor in tensors]
        device = inputs[0].get_device()
        if not isinstance(value, (tuple, list)):
            layout = ir.FallbackKernel.tensor_to_layout(value)
            return ir.TensorBox.create(Call(layout, inputs, device.type, text))
        packed = Call(ir.MultiOutputLayout(device=device), inputs, device.type, text)
        packed.outputs = [
            ir.MultiOutput(
                ir.FallbackKernel.tensor_to_layout(part), packed, [(tuple, at)],
                skip_size_stride_alignment_checks=True,
            )
            for at, part in enumerate(value)
        ]  # fmt: skip
        return tuple(ir.TensorBox.create(part) for part in packed.outputs)

    return lower


def _name(text: str) -> str:
    """The name under which a generated module has a Spec's function."""
    return f"headrace_{digest(text)[:12]}"
