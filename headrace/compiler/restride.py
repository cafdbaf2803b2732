"""Results of a kernel in the layout that the graph was promised.

Inductor compiles the operations around a kernel for strides that it was told; a kernel (or the library in its
place) that returns others is wrapped in a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from headrace.ir.spec import Attention, Spec

if TYPE_CHECKING:
    import torch

Inputs = Sequence["torch.Tensor"]
Result = Any
Kernel = Callable[[Inputs], Result]


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
        made = result if isinstance(result, tuple) else (result,)
        strides = output_strides(self._spec, [tuple(value.shape) for value in made])
        arranged = tuple(
            value.new_empty_strided(value.shape, wanted).copy_(value)
            for value, wanted in zip(made, strides, strict=True)
        )
        return arranged if isinstance(result, tuple) else arranged[0]
