"""Results of a kernel in the layout that the graph was promised.

Inductor compiles the operations around a kernel for strides that it was told; a kernel (or the library in its
place) that returns others is wrapped in a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from headrace.ir.spec import Spec

if TYPE_CHECKING:
    import torch

Inputs = Sequence["torch.Tensor"]
Result = Any
Kernel = Callable[[Inputs], Result]


def same_layout(shape: Sequence[int], one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether strides address the same elements; those of dimensions of size 1 do not matter."""
    if 0 in shape:
        return True
    return all(extent == 1 or a == b for extent, a, b in zip(shape, one, other, strict=True))


class Restrided:
    """A kernel whose results are copied into the promised layout."""

    def __init__(self, kernel: Kernel, spec: Spec) -> None:
        self._kernel = kernel
        self._spec = spec

    def __call__(self, inputs: Inputs) -> Result:
        return self.arrange(self._kernel(inputs), inputs)

    def arrange(self, result: Result, inputs: Inputs) -> Result:
        from headrace.compiler.operators import output_strides

        made = result if isinstance(result, tuple) else (result,)
        strides = output_strides(self._spec, [tuple(value.shape) for value in made])
        arranged = tuple(
            value.new_empty_strided(value.shape, wanted).copy_(value)
            for value, wanted in zip(made, strides, strict=True)
        )
        return arranged if isinstance(result, tuple) else arranged[0]
