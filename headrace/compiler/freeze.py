"""Weights as constants: the only licence to keep a packed copy of a parameter.

`freeze(model)` records identity and version counter of each parameter. Compiled graphs check both at every
call and raise `FrozenWeightChanged` when a frozen weight was written to or exchanged. Writes that torch's
version counter does not see go unnoticed: through `.data`, through NumPy, and into tensors made under
inference mode.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from headrace.errors import FrozenWeightChanged

Pack = Callable[[torch.Tensor], torch.Tensor]


class Constant:
    """A frozen weight, and the packed copies made of it.

    Attributes:
        name: the parameter's name in its model.
        version: torch's version counter when it was frozen; None for tensors that have none.
    """

    __slots__ = ("__weakref__", "_packed", "_weight", "name", "version")

    def __init__(self, name: str, weight: torch.Tensor) -> None:
        self.name = name
        self.version = _version(weight)
        self._weight = weakref.ref(weight)
        self._packed: dict[str, torch.Tensor] = {}

    def is_still(self, tensor: object) -> bool:
        """Whether a tensor is this very weight, unwritten."""
        return tensor is self._weight() and _version(tensor) == self.version

    def packed(self, layout: str, pack: Pack) -> torch.Tensor:
        """The weight in another layout, made by `pack` when first asked for and kept while frozen.

        Raises:
            FrozenWeightChanged: the weight is gone or was written to.
        """
        weight = self._weight()
        if weight is None or not self.is_still(weight):
            raise FrozenWeightChanged(_complaint(self.name))
        if layout not in self._packed:
            with torch.no_grad():
                self._packed[layout] = pack(weight.detach())
        return self._packed[layout]

    @property
    def packed_bytes(self) -> int:
        return sum(copy.nbytes for copy in self._packed.values())


def _version(tensor: Any) -> int | None:
    return None if tensor.is_inference() else int(tensor._version)


def _complaint(name: str) -> str:
    return (
        f"{name} was frozen by headrace.freeze and has been changed since; call headrace.unfreeze(model) "
        "before changing weights and headrace.freeze(model) after"
    )


class _Registry:
    """Frozen weights by identity. `revision` counts changes: compiled graphs look again when it moves."""

    def __init__(self) -> None:
        self._by_id: dict[int, Constant] = {}
        self._lock = threading.RLock()  # a finalizer may run while it is held
        self.revision = 0

    def add(self, name: str, weight: torch.Tensor) -> None:
        key = id(weight)
        constant = Constant(name, weight)
        with self._lock:
            self._by_id[key] = constant
            self.revision += 1
        weakref.finalize(weight, self._drop, key, constant)

    def _drop(self, key: int, constant: Constant) -> None:
        with self._lock:
            if self._by_id.get(key) is constant:
                del self._by_id[key]

    def remove(self, weight: torch.Tensor) -> None:
        with self._lock:
            if self._by_id.pop(id(weight), None) is not None:
                self.revision += 1

    def find(self, tensor: object) -> Constant | None:
        constant = self._by_id.get(id(tensor))
        return constant if constant is not None and constant._weight() is tensor else None

    def __len__(self) -> int:
        return len(self._by_id)


REGISTRY = _Registry()


def freeze(model: torch.nn.Module) -> torch.nn.Module:
    """Declare every parameter of a model constant until `unfreeze`; returns the model.

    Buffers are left out: KV caches and running statistics are meant to change. Call it before the model is
    compiled or after; graphs that already ran look again at their next call. Training a frozen model raises
    at the first call after an optimizer's step.
    """
    for name, parameter in model.named_parameters():
        REGISTRY.add(name, parameter)
    return model


def unfreeze(model: torch.nn.Module) -> torch.nn.Module:
    """Forget the promise for a model's parameters and drop the packed copies; returns the model."""
    for parameter in model.parameters():
        REGISTRY.remove(parameter)
    return model


def constant(weight: torch.Tensor) -> Constant | None:
    """The licence to keep copies of a weight, or None: then it may change at any time."""
    return REGISTRY.find(weight)


class Guard:
    """Checks the frozen weights among a graph's inputs at every call, without a Python loop over them."""

    __slots__ = ("_constants", "_ids", "_select", "_versions", "revision")

    def __init__(self, arguments: Sequence[object]) -> None:
        self.revision = REGISTRY.revision
        found = [(at, REGISTRY.find(value)) for at, value in enumerate(arguments)]
        self._constants = [(at, constant) for at, constant in found if constant is not None]
        # Tensors made under inference mode have no version; their identity is all that can be held.
        versioned = [at for at, constant in self._constants if constant.version is not None]
        self._select = _selector([at for at, _ in self._constants]), _selector(versioned)
        self._ids = [id(arguments[at]) for at, _ in self._constants]
        self._versions = [constant.version for _, constant in self._constants if constant.version is not None]

    def check(self, arguments: Sequence[object]) -> None:
        """Raises FrozenWeightChanged when an input that was frozen is another tensor, or was written to.

        Another frozen weight may take its place: blocks of one shape share one compiled graph.
        """
        if not self._constants:
            return
        every, versioned = self._select
        same = list(map(id, every(arguments))) == self._ids
        if same and list(map(_VERSION, versioned(arguments))) == self._versions:
            return
        for at, constant in self._constants:
            given = REGISTRY.find(arguments[at]) or constant
            if not given.is_still(arguments[at]):
                raise FrozenWeightChanged(_complaint(given.name))


_VERSION = operator.attrgetter("_version")


def _selector(places: Sequence[int]) -> Callable[[Sequence[object]], Sequence[object]]:
    """The values at some places of a sequence, as a sequence."""
    if len(places) < 2:
        return lambda values: [values[at] for at in places]
    return operator.itemgetter(*places)
